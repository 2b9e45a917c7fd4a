"""Sizes of data sets: those that the samples themselves have, and no image decoded where something else tells."""

import inspect
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, IterableDataset, Subset
from torchvision import datasets
from torchvision.datasets import CocoDetection, ImageFolder, VOCDetection, wrap_dataset_for_transforms_v2
from torchvision.transforms import v2

from fixshape.collate import _dataset_sizes, dataset_sizes
from fixshape.detection import DrawnShapes
from fixshape.errors import DatasetError, ShapeError


def _by_indexing(dataset):
    """The slow truth."""
    return [[sample[0].height, sample[0].width, len(sample[1])] for sample in (dataset[i] for i in range(len(dataset)))]


@pytest.fixture
def opened(monkeypatch):
    """Names of the images that were decoded."""
    names, load = [], Image.Image.load

    def spy(self, *arguments):
        names.append(getattr(self, "filename", None))
        return load(self, *arguments)

    monkeypatch.setattr(Image.Image, "load", spy)
    from PIL import ImageFile

    decode = ImageFile.ImageFile.load
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: (names.append(self.filename), decode(self))[1])
    return names


@pytest.fixture
def turned(tmp_path):
    """A folder in which one image is to be shown turned by a quarter, as a camera writes it."""
    (tmp_path / "one").mkdir()
    orientation = Image.Exif()
    orientation[0x0112] = 6
    Image.new("RGB", (40, 30)).save(tmp_path / "one" / "a.jpg", exif=orientation)
    Image.new("L", (20, 10)).save(tmp_path / "one" / "b.png")
    return tmp_path


def test_image_folders_are_read_from_headers(turned, opened):
    dataset = ImageFolder(turned)
    sizes = dataset_sizes(dataset)
    assert opened == []
    assert sizes.dtype == np.int64 and sizes.tolist() == [[30, 40], [10, 20]]  # no target has boxes
    # torchvision's loader does not turn the image either.
    assert [[image.height, image.width] for image, _ in dataset] == sizes.tolist()
    assert opened != []


def test_a_loader_or_a_transform_of_one_s_own_is_asked(turned):
    from PIL import ImageOps

    shown = ImageFolder(turned, loader=lambda path: ImageOps.exif_transpose(Image.open(path)))
    assert dataset_sizes(shown).tolist() == [[40, 30], [10, 20]]
    assert dataset_sizes(ImageFolder(turned, transform=v2.Resize((7, 9)))).tolist() == [[7, 9], [7, 9]]


@pytest.fixture
def coco(data_folder):
    folder = data_folder / "coco_permissive"
    return CocoDetection(folder / "images", folder / "instances.json")


def test_coco_is_read_from_its_annotations(coco, opened):
    sizes = dataset_sizes(coco)
    assert opened == []
    assert sizes.tolist() == _by_indexing(coco)
    assert sizes[:, 2].sum() == 1041  # with the crowds, which its targets have


def test_coco_with_transforms_is_indexed(coco):
    part = [*range(0, 104, 26)]
    coco.transforms = v2.Resize(100, max_size=120)
    sizes = dataset_sizes(Subset(coco, part))
    assert sizes.tolist() == [_by_indexing(Subset(coco, [index]))[0] for index in part]
    assert sizes[:, :2].max() <= 120
    coco.transforms = None
    wrapped = wrap_dataset_for_transforms_v2(coco, target_keys=("boxes", "labels"))
    assert dataset_sizes(Subset(wrapped, part)).tolist() == dataset_sizes(Subset(coco, part)).tolist()


def test_a_subclass_that_gives_other_samples_is_indexed(coco):
    class Halved(CocoDetection):
        def __getitem__(self, index):
            image, target = super().__getitem__(index)
            return image.reduce(2), target

    halved = Halved(coco.root, coco.root / "../instances.json")
    assert dataset_sizes(Subset(halved, [3])).tolist() == _by_indexing(Subset(halved, [3]))


def test_coco_without_sizes_names_the_image(coco):
    coco.coco.imgs[coco.ids[2]]["height"] = 0
    with pytest.raises(DatasetError, match=rf"image '.*\.jpg' \(sample 2, id {coco.ids[2]}\) is 0 x \d+ \(height x width\)"):
        dataset_sizes(coco)


@pytest.fixture
def voc(tmp_path):
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for folder in ("ImageSets/Main", "JPEGImages", "Annotations"):
        (root / folder).mkdir(parents=True)
    (root / "ImageSets/Main/train.txt").write_text("a\nb\n")
    for name, size, objects in (("a", (40, 30), 2), ("b", (20, 10), 0)):
        Image.new("RGB", size).save(root / f"JPEGImages/{name}.jpg")
        inner = "<object><name>cat</name><part><name>head</name></part></object>" * objects
        (root / f"Annotations/{name}.xml").write_text(f"<annotation><size><width>1</width></size>{inner}</annotation>")
    return VOCDetection(tmp_path, "2012", "train")


def test_voc_is_read_from_headers_and_its_xml(voc, opened):
    assert dataset_sizes(voc).tolist() == [[30, 40, 2], [10, 20, 0]]
    assert opened == []
    voc.transforms = lambda image, target: (image, target)  # changes nothing, but who knows: indexed
    assert dataset_sizes(voc).tolist() == [[30, 40, 2], [10, 20, 0]]
    assert opened != []


def test_a_broken_file_is_named(voc):
    with open(voc.images[1], "w") as file:
        file.write("not an image")
    with pytest.raises(
        DatasetError, match=r"dataset_sizes: image .*b\.jpg cannot be read \(.*\)\. Fetch it again, or leave it out"
    ):
        dataset_sizes(voc)
    with open(voc.annotations[0], "w") as file:
        file.write("<annotation>")
    with pytest.raises(DatasetError, match=r"dataset_sizes: .*a\.xml cannot be read \(.*\)"):
        dataset_sizes(voc)


class Told:
    """A data set as torchvision's detection reference has it: it says its sizes, and must not be indexed for them."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        raise AssertionError("indexed")

    def get_height_and_width(self, index):
        return 10 + index, torch.tensor(20)


def test_a_data_set_that_tells_is_not_indexed():
    assert dataset_sizes(Told()).tolist() == [[10 + index, 20] for index in range(5)]


def test_parts_and_sums_of_data_sets_are_told_too(coco):
    sizes = dataset_sizes(coco)
    part = Subset(Subset(coco, [5, 3, 9, 9]), torch.tensor([3, 0]))
    assert np.array_equal(dataset_sizes(part), sizes[[9, 5]])
    both = ConcatDataset([part, Told(), Subset(coco, [1])])
    expected = [*sizes[[9, 5]].tolist(), *([10 + index, 20, 0] for index in range(5)), sizes[1].tolist()]
    assert dataset_sizes(both).tolist() == expected


@pytest.mark.parametrize(
    ("sample", "row"),
    [
        (torch.zeros(3, 4, 5), [4, 5]),
        (np.zeros((4, 5, 3), np.uint8), [4, 5]),
        ((Image.new("L", (5, 4)), 3), [4, 5]),
        ((torch.zeros(3, 4, 5), {"boxes": torch.zeros(6, 4)}, "more"), [4, 5, 6]),
        ([torch.zeros(1, 4, 5), [{"bbox": []}, {"bbox": []}]], [4, 5, 2]),
        ((torch.zeros(1, 4, 5), []), [4, 5, 0]),
        ({"image": Image.new("L", (5, 4)), "boxes": [1, 2, 3]}, [4, 5, 3]),
        ({"pixel_values": torch.zeros(3, 4, 5), "labels": {"boxes": torch.zeros(2, 4)}}, [4, 5, 2]),
        ((torch.zeros(3, 4, 5), {"annotation": {"object": [{}, {}]}}), [4, 5, 2]),
        ((torch.zeros(3, 4, 5), [1, 2]), [4, 5]),
    ],
)
def test_samples_of_every_kind(sample, row):
    assert dataset_sizes([sample]).tolist() == [row]


def test_workers_give_the_same_and_take_no_random_numbers():
    samples = DrawnShapes(70, seed=1)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    alone = dataset_sizes(samples)
    assert np.array_equal(dataset_sizes(samples, num_workers=2), alone)
    assert torch.rand(1) == expected
    assert alone.tolist() == [[*image.shape[1:], len(target["boxes"])] for image, target in (samples[i] for i in range(70))]


def test_an_error_of_a_worker_says_which_sample():
    with pytest.raises(DatasetError, match=r"sample 2 of list has int where its image is expected"):
        dataset_sizes([torch.zeros(1, 2, 2)] * 2 + [3], num_workers=1)


def test_progress_is_on_stderr_and_only_where_asked_for(capsys):
    dataset_sizes([torch.zeros(1, 2, 2)] * 40)
    assert capsys.readouterr() == ("", "")
    dataset_sizes([torch.zeros(1, 2, 2)] * 40, progress=True)
    said = capsys.readouterr()
    assert said.out == "" and "sizes: 100%" in said.err and "40/40" in said.err


class _Stream(IterableDataset):
    def __iter__(self):
        yield torch.zeros(1, 2, 2)


@pytest.mark.parametrize(
    ("dataset", "text"),
    [
        ([], r"dataset_sizes: list: there is no image in it"),
        (_Stream(), r"dataset_sizes: _Stream: expected a map-style data set, with len\(\) and indexing\. Give its sizes"),
        ([torch.zeros(1, 2, 0)], r"dataset_sizes: list: sample 0 is 2 x 0 \(height x width\)"),
        ([torch.zeros(3)], r"sample 0 of list has Tensor where its image is expected: a PIL image, a tensor"),
        ([{"img": torch.zeros(1, 2, 2)}], r"sample 0 of list has NoneType where its image is expected"),
    ],
)
def test_what_has_no_sizes_is_a_clear_error(dataset, text):
    with pytest.raises(DatasetError, match=text):
        dataset_sizes(dataset)
    with pytest.raises(ShapeError, match=r"dataset_sizes: num_workers is -1, expected a whole number of at least 0"):
        dataset_sizes(dataset, num_workers=-1)


@pytest.mark.parametrize("name", ["turned", "coco", "voc"])
def test_what_is_sent_to_workers_can_be_pickled(name, request):
    dataset = ImageFolder(request.getfixturevalue(name)) if name == "turned" else request.getfixturevalue(name)
    both = ConcatDataset([Subset(dataset, [1]), dataset])
    sent = pickle.loads(pickle.dumps(_dataset_sizes._reader(both)))
    assert [sent(index)[:2] for index in range(3)] == [tuple(row[:2]) for row in dataset_sizes(both)[:3].tolist()]


@pytest.mark.slow
def test_a_data_set_crosses_to_spawned_workers(tmp_path, turned):
    """As on a Mac, and with devices that do not survive a fork: what is sent must be picklable."""
    code = f"""
import torch.multiprocessing as mp
from torchvision.datasets import ImageFolder
from fixshape.collate import _dataset_sizes, dataset_sizes
if __name__ == "__main__":
    mp.set_start_method("spawn")
    print(dataset_sizes(ImageFolder({str(turned)!r}), num_workers=1).tolist())
"""
    (tmp_path / "program.py").write_text(code)
    done = subprocess.run([sys.executable, str(tmp_path / "program.py")], capture_output=True, text=True, check=False)
    assert (done.returncode, json.loads(done.stdout or "0")) == (0, [[30, 40], [10, 20]]), done.stderr


def test_every_data_set_of_torchvision_with_its_own_shortcut_is_exercised():
    """The three classes above; a new shortcut needs a test of its own."""
    named = {name for name, thing in vars(_dataset_sizes).items() if inspect.isclass(thing) and thing in vars(datasets).values()}
    assert named == {"CocoDetection", "DatasetFolder", "VOCDetection"}
