"""The drawn and the COCO samples: exact, the same each time, and clear about every broken file."""

import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from fixshape.detection import CocoSamples, DrawnShapes
from fixshape.errors import DatasetError, ExtraError, ShapeError


def test_drawn_shapes_are_the_same_for_the_same_seed():
    one, other = DrawnShapes(6, seed=1)[3], DrawnShapes(9, seed=1)[3]
    assert torch.equal(one[0], other[0])
    assert all(torch.equal(torch.as_tensor(one[1][key]), torch.as_tensor(other[1][key])) for key in one[1])
    assert not torch.equal(one[1]["area"], DrawnShapes(6, seed=2)[3][1]["area"])


def test_drawn_boxes_are_exactly_around_the_masks():
    samples = DrawnShapes(40, seed=5)
    sizes, counts = set(), set()
    for index in range(len(samples)):
        image, target = samples[index]
        assert image.shape[0] == 3 and 0 <= image.min() and image.max() <= 1
        sizes.add(tuple(image.shape[-2:]))
        counts.add(len(target["boxes"]))
        assert (target["masks"].sum(0) <= 1).all()  # a pixel belongs to what is seen there, and to nothing else
        for box, mask, area in zip(target["boxes"], target["masks"], target["area"], strict=True):
            rows, columns = np.nonzero(mask.numpy())
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert area == mask.sum() >= 16
        assert ((target["labels"] >= 1) & (target["labels"] < samples.num_classes)).all()
    assert len(sizes) > 30 and 0 in counts and max(counts) > 8


def test_drawn_shapes_pickle_and_end():
    samples = pickle.loads(pickle.dumps(DrawnShapes(2)))
    assert len(list(iter(samples))) == 2
    with pytest.raises(IndexError, match=r"index 2 is outside of 0..1"):
        samples[2]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"length": 0}, "DrawnShapes: length is 0, expected a whole number of at least 1"),
        ({"max_boxes": -1}, "DrawnShapes: max_boxes is -1"),
        ({"sides": (8, 9)}, r"DrawnShapes: sides\[0\] is 8, expected a whole number of at least 32"),
        ({"sides": (90, 80)}, r"DrawnShapes: sides is \(90, 80\), expected \(smallest, largest\)"),
    ],
)
def test_drawn_shapes_refuse_what_cannot_be_drawn(arguments, text):
    with pytest.raises(ShapeError, match=text):
        DrawnShapes(**arguments)


def test_coco_samples_of_real_images(data_folder):
    folder = data_folder / "coco_permissive"
    samples = CocoSamples(folder / "images", folder / "instances.json")
    content = json.loads((folder / "instances.json").read_text())
    by_image = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    assert len(samples) == 104
    crowds = empty = 0
    for index, (height, width, boxes) in enumerate(samples.sizes()):
        image, target = samples[index]
        annotations = by_image[target["image_id"]]
        kept = [annotation for annotation in annotations if not annotation["iscrowd"]]
        crowds += len(annotations) - len(kept)
        empty += not kept
        assert (image.height, image.width) == (height, width)
        assert image.mode == "RGB"
        assert len(target["boxes"]) == len(target["labels"]) == boxes == len(kept)
        assert target["labels"].tolist() == [annotation["category_id"] for annotation in kept]
        expected = torch.tensor([annotation["bbox"] for annotation in kept]).reshape(-1, 4)
        expected[:, 2:] += expected[:, :2]
        torch.testing.assert_close(target["boxes"], expected)
    assert crowds == 13
    assert empty >= 2  # images without boxes are kept


@pytest.fixture
def small(tmp_path):
    """A COCO folder of two images, the second without annotations; returns a function that writes the annotation file."""
    for name, size in (("a.jpg", (40, 30)), ("b.jpg", (20, 10))):
        Image.new("RGB", size, (90, 120, 30)).save(tmp_path / name)
    content = {
        "images": [
            {"id": 1, "file_name": "a.jpg", "height": 30, "width": 40},
            {"id": 2, "file_name": "b.jpg", "height": 10, "width": 20},
        ],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 2, 10, 20], "area": 200, "iscrowd": 0}],
        "categories": [{"id": 7, "name": "seven"}],
    }

    def write(change=lambda content: content):
        text = change(json.loads(json.dumps(content)))
        (tmp_path / "a.json").write_text(text if isinstance(text, str) else json.dumps(text))
        return tmp_path, tmp_path / "a.json"

    return write


def test_absent_annotations_mean_no_boxes(small):
    samples = CocoSamples(*small())
    assert samples[0][1]["boxes"].tolist() == [[1, 2, 11, 22]]
    assert samples[1][1]["boxes"].shape == (0, 4)
    assert samples[1][1]["labels"].dtype == torch.int64
    assert samples.sizes() == [(30, 40, 1), (10, 20, 0)]


def _set(path, value):
    def change(content):
        place = content
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        return content

    return change


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda _: "{", r"a.json: not JSON \(.*\). Give a COCO annotation file"),
        (lambda _: "[" * 100_000, "a.json: not JSON"),
        (lambda _: "[1]", "a.json: not COCO"),
        (lambda _: "{}", "a.json: not COCO: there is no list 'images' in it"),
        (lambda content: {**content, "images": 5}, "not COCO"),
        (_set(["images", 0, "file_name"], 3), r"not COCO: images\[0\]\['file_name'\] is 3"),
        (_set(["annotations", 0, "bbox"], [1, 2]), r"annotations\[0\]\['bbox'\] is \[1, 2\], expected \[x, y, width, height\]"),
        (_set(["annotations", 0, "bbox"], None), r"not COCO: annotations\[0\]\['bbox'\] is None"),
        (_set(["annotations", 0, "iscrowd"], "no"), r"not COCO: annotations\[0\]\['iscrowd'\] is 'no'"),
        (_set(["annotations", 0, "image_id"], 9), r"annotations\[0\] is of image 9, which the file does not list"),
        (
            _set(["images", 1, "file_name"], "c.jpg"),
            r"it names the image 'c.jpg', which is not in .*Give the folder with --images",
        ),
        (_set(["images", 1, "file_name"], "../../etc/passwd"), r"names the image '../../etc/passwd', which is not in"),
    ],
)
def test_a_broken_annotation_file_is_a_clear_error(small, change, text):
    with pytest.raises(DatasetError, match=text):
        CocoSamples(*small(change))


def test_missing_files_and_folders(small, tmp_path):
    images, annotations = small()
    with pytest.raises(DatasetError, match=r"none.json: the annotation file cannot be read \(No such file"):
        CocoSamples(images, tmp_path / "none.json")
    with pytest.raises(DatasetError, match=r"the image folder .*none cannot be read"):
        CocoSamples(tmp_path / "none", annotations)


def test_a_truncated_image_is_named(small):
    images, annotations = small()
    whole = (images / "a.jpg").read_bytes()
    samples = CocoSamples(images, annotations)
    (images / "a.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match=r"image 'a.jpg' in .* cannot be read \(.*\). Fetch it again"):
        samples[0]
    (images / "a.jpg").write_text("not an image")
    with pytest.raises(DatasetError, match="image 'a.jpg'"):
        samples[0]
    (images / "a.jpg").unlink()
    with pytest.raises(DatasetError, match="image 'a.jpg'"):
        samples[0]


def test_a_truncated_image_is_named_from_a_worker_too(small):
    images, annotations = small()
    samples = CocoSamples(images, annotations)
    (images / "a.jpg").write_bytes((images / "a.jpg").read_bytes()[:200])
    loader = torch.utils.data.DataLoader(samples, collate_fn=list, num_workers=1)
    with pytest.raises(DatasetError, match="image 'a.jpg'"):
        next(iter(loader))


def test_without_pycocotools_the_error_has_the_command(small, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ExtraError, match=r"pycocotools is not installed: python -m pip install 'fixshape\[coco\]'"):
        CocoSamples(*small())
