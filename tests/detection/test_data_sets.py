"""The drawn and the COCO samples: exact, the same each time, and clear about every broken file."""

import json
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as pycoco_mask
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2

from fixshape.collate import PadToBucket
from fixshape.detection import CocoSamples, DrawnShapes, HostTransform
from fixshape.detection._coco_values import check_masks
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


def test_drawn_keypoints_are_the_ends_of_their_shapes():
    samples = DrawnShapes(40, seed=5)
    seen = covered = outside = 0
    for index in range(len(samples)):
        _, target = samples[index]
        assert target["keypoints"].shape == (len(target["boxes"]), samples.num_keypoints, 3)
        assert target["keypoints"].dtype == torch.float32
        for (x1, y1, x2, y2), mask, points in zip(target["boxes"], target["masks"], target["keypoints"], strict=True):
            # How far the shape goes by its keypoint, and how far it is seen by its box: from the top, bottom, left and right.
            ends = torch.stack([points[0, 1] - 0.5, -points[1, 1] - 0.5, points[2, 0] - 0.5, -points[3, 0] - 0.5])
            sides = torch.stack([y1, -y2, x1, -x2])
            pixels = points[:, :2].floor().long()
            is_seen = points[:, 2] == 2
            assert torch.equal(mask[pixels[:, 1], pixels[:, 0]].bool(), is_seen)
            assert torch.equal(ends[is_seen], sides[is_seen]) and (ends <= sides).all()
            assert (points[~is_seen, 2] == 1).all()
            seen, covered, outside = seen + is_seen.sum(), covered + (~is_seen).sum(), outside + (ends < sides).sum()
    assert seen > 300 and covered > 100 and outside > 50


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


def test_masks_of_real_images_are_torchvisions(data_folder):
    folder = data_folder / "coco_permissive"
    samples = CocoSamples(folder / "images", folder / "instances.json", masks=True)
    theirs = wrap_dataset_for_transforms_v2(
        CocoDetection(folder / "images", folder / "instances.json"), target_keys=("masks", "iscrowd")
    )
    empty = 0
    for index in (index for index, (_, _, boxes) in enumerate(samples.sizes()) if index % 4 == 0 or boxes == 0):
        image, target = samples[index]
        wanted = theirs[index][1]
        kept = ~torch.tensor(wanted.get("iscrowd", []), dtype=torch.bool)
        empty += not kept.any()
        if "masks" in wanted:
            assert torch.equal(target["masks"], wanted["masks"][kept].as_subclass(torch.Tensor))
        assert target["masks"].shape == (int(kept.sum()), image.height, image.width)
        assert target["masks"].dtype == torch.uint8 and target["masks"].is_contiguous()
        areas = target["masks"].sum((1, 2))
        assert ((areas - target["area"]).abs() <= 0.2 * target["area"] + 40).all()  # of the polygon, by the file
    assert empty >= 1


def test_keypoints_of_real_images_are_the_file_s(data_folder):
    folder = data_folder / "coco_permissive"
    samples = CocoSamples(folder / "images", folder / "person_keypoints.json", masks=True, keypoints=True)
    assert samples.num_keypoints == 17
    content = json.loads((folder / "person_keypoints.json").read_text())
    empty = annotated = 0
    for index in range(len(samples)):
        _, target = samples[index]
        kept = [a for a in content["annotations"] if a["image_id"] == target["image_id"] and not a["iscrowd"]]
        assert target["keypoints"].dtype == torch.float32
        assert target["keypoints"].flatten(1).tolist() == [annotation["keypoints"] for annotation in kept]
        assert target["keypoints"].shape == (len(target["boxes"]), 17, 3) and len(target["masks"]) == len(kept)
        assert (target["keypoints"][..., 2] > 0).sum(1).tolist() == [annotation["num_keypoints"] for annotation in kept]
        empty, annotated = empty + (not kept), annotated + sum(annotation["num_keypoints"] > 0 for annotation in kept)
    assert empty >= 20 and annotated == 43


def test_a_batch_of_empty_images_has_the_shapes_of_any_batch(data_folder):
    folder = data_folder / "coco_permissive"
    samples = CocoSamples(folder / "images", folder / "person_keypoints.json", masks=True, keypoints=True)
    counts = [boxes for _, _, boxes in samples.sizes()]
    transform, pad = HostTransform([80], 128, None, training=False), PadToBucket((128, 128), max_boxes=16)
    empty, full = ([index for index, count in enumerate(counts) if (count > 0) == wanted][:2] for wanted in (False, True))
    shapes = []
    for batch in (empty, full):
        resized = [transform(*samples[index]) for index in batch]
        for image, target in resized:
            assert target["masks"].shape == (len(target["boxes"]), *image.shape[1:])
            assert target["keypoints"].shape == (len(target["boxes"]), 17, 3)
        _, targets = pad(resized)
        shapes.append({key: (value.shape, value.dtype) for key, value in targets.items()})
        assert targets["masks"].any() == targets["keypoints"].any() == (batch is full)
    assert shapes[0] == shapes[1]
    assert shapes[0]["masks"][0] == (2, 16, 128, 128) and shapes[0]["keypoints"][0] == (2, 16, 17, 3)


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
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 7,
                "bbox": [1, 2, 10, 20],
                "area": 200,
                "iscrowd": 0,
                "segmentation": [[1, 2, 11, 2, 11, 22, 1, 22]],
                "keypoints": [1, 2, 2, 0, 0, 0],
            }
        ],
        "categories": [{"id": 7, "name": "seven", "keypoints": ["head", "foot"]}],
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


RUNS = {"size": [30, 40], "counts": [62, 20, 1118]}  # rows 2 to 21 of column 2: pixels are counted down the columns
POLYGONS = r"\.json: annotations\[0\]\['segmentation'\] is .*, expected polygons .* on the image's 30x40 pixels"
POINTS = r"\.json: annotations\[0\]\['keypoints'\] is .*, expected \[x, y, visibility, ...\] of 2 keypoints on the image's 30x40"
NAMES = r"\.json: its categories name {} keypoints, expected one number of them\. Give a person_keypoints_\*\.json"


def _as_text(runs):
    encoded = pycoco_mask.frPyObjects(runs, *runs["size"])
    return {"size": runs["size"], "counts": encoded["counts"].decode()}


@pytest.mark.parametrize("segmentation", [RUNS, _as_text(RUNS), [[1.5, 2, 2.5, 2, 2.5, 22, 1.5, 22]]])
def test_a_mask_has_three_ways_to_be_written(small, segmentation):
    samples = CocoSamples(*small(_set(["annotations", 0, "segmentation"], segmentation)), masks=True, keypoints=True)
    masks = samples[0][1]["masks"]
    assert masks.shape == (1, 30, 40)
    if segmentation == RUNS or isinstance(segmentation, dict):
        assert masks[0, :, 2].nonzero().flatten().tolist() == [*range(2, 22)] and masks.sum() == 20
    assert masks.any()
    assert samples[0][1]["keypoints"].tolist() == [[[1, 2, 2], [0, 0, 0]]]
    assert samples[1][1]["masks"].shape == (0, 10, 20) and samples[1][1]["masks"].dtype == torch.uint8
    assert samples[1][1]["keypoints"].shape == (0, 2, 3) and samples[1][1]["keypoints"].dtype == torch.float32


def test_masks_and_keypoints_are_read_only_if_asked_for(small):
    samples = CocoSamples(*small(_set(["annotations", 0, "segmentation"], "none")))
    assert samples[0][1].keys() == {"image_id", "boxes", "labels", "area", "iscrowd"}
    assert samples.num_keypoints == 0


@pytest.mark.parametrize("value", [None, "text", 3])
@pytest.mark.parametrize("key", ["segmentation", "keypoints"])
def test_what_a_crowd_has_is_not_read(small, key, value):
    def change(content):
        content["annotations"][0] |= {"iscrowd": 1, key: value}
        return content

    target = CocoSamples(*small(change), masks=True, keypoints=True)[0][1]
    assert target["masks"].shape == (0, 30, 40) and target["keypoints"].shape == (0, 2, 3)


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        [],
        "polygon",
        [1, 2, 3, 4, 5, 6],
        [[]],
        [[1, 2, 3, 4]],  # a box, to pycocotools
        [[1, 2, 3, 4, 5, 6, 7]],
        [[1, 2, 3, 4, 5, "6"]],
        [[1, 2, 3, 4, 5, float("nan")]],
        [[1, 2, 3, 4, 5, float("inf")]],
        [[1, 2, 3, 4, 5, 10**400]],
        [[1, 2, 3, 4, 5, 1e9]],
        [[1, 2, 3, 4, 5, 6], [1]],
        {},
        {"size": [30, 40]},
        {"counts": RUNS["counts"]},
        {**RUNS, "size": [40, 30]},
        {**RUNS, "size": [1 << 20, 1 << 20]},
        {**RUNS, "counts": [62, 20, 1119]},
        {**RUNS, "counts": [-1, 1201]},
        {**RUNS, "counts": [600.0, 600.0]},
        {**RUNS, "counts": ""},
        {**RUNS, "counts": "zzzz"},
        {**RUNS, "counts": "\N{SNOWMAN}"},
        {**RUNS, "counts": _as_text(RUNS)["counts"][:-1]},
        {**RUNS, "counts": _as_text(RUNS)["counts"] + "o"},  # says that more follows
        {**RUNS, "counts": "o" * 1_000_000},
    ],
)
def test_a_broken_mask_is_a_clear_error(small, segmentation):
    with pytest.raises(DatasetError, match=POLYGONS + r".*Correct it, or read the file without masks\."):
        CocoSamples(*small(_set(["annotations", 0, "segmentation"], segmentation)), masks=True)


@pytest.mark.parametrize(
    "keypoints",
    [
        None,
        [],
        {},
        [1, 2, 2],
        [1, 2, 2] * 3,
        [1, 2, 3, 0, 0, 0],
        [1, 2, None, 0, 0, 0],
        [1, "2", 2, 0, 0, 0],
        [1, float("nan"), 2, 0, 0, 0],
        [1, 2, 2, 10**400, 0, 0],
    ],
)
def test_broken_keypoints_are_a_clear_error(small, keypoints):
    with pytest.raises(DatasetError, match=POINTS + r".*Correct it, or read the file without keypoints\."):
        CocoSamples(*small(_set(["annotations", 0, "keypoints"], keypoints)), keypoints=True)


@pytest.mark.parametrize(
    ("categories", "named"),
    [
        ([{"id": 7}], "no"),
        ([{"id": 7, "keypoints": 2}], "no"),
        ([{"id": 7, "keypoints": []}], r"\[0\]"),
        ([{"id": 7, "keypoints": ["a", "b"]}, {"id": 8, "keypoints": ["a"]}], r"\[1, 2\]"),
    ],
)
def test_a_file_without_keypoints_is_a_clear_error(small, categories, named):
    with pytest.raises(DatasetError, match=NAMES.format(named)):
        CocoSamples(*small(_set(["categories"], categories)), keypoints=True)


def test_masks_of_an_image_of_another_size_are_a_clear_error(small):
    samples = CocoSamples(*small(), masks=True)
    Image.new("RGB", (41, 30)).save(small()[0] / "a.jpg")
    with pytest.raises(
        DatasetError, match=r"image 'a.jpg' in .* is 30x41, its annotations are for 30x40 \(height x width\)\. Fetch"
    ):
        samples[0]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 1000), st.integers(1, 60), st.integers(1, 60))
def test_every_mask_that_pycocotools_writes_is_accepted(seed, height, width):
    rng = np.random.default_rng(seed)
    mask = rng.random((height, width)).cumsum(0) % 9 < rng.integers(0, 10)
    encoded = pycoco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    runs = {"size": [height, width], "counts": encoded["counts"].decode()}
    image = {"id": 1, "height": height, "width": width}
    annotation = {"image_id": 1, "iscrowd": 0, "segmentation": runs}
    check_masks("here", {"images": [image], "annotations": [annotation]})
    with pytest.raises(DatasetError):
        check_masks("here", {"images": [{**image, "height": height + 1}], "annotations": [annotation]})
    shorter = {**runs, "size": [height + 1, width]}
    with pytest.raises(DatasetError):
        check_masks(
            "here", {"images": [{**image, "height": height + 1}], "annotations": [{**annotation, "segmentation": shorter}]}
        )


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
