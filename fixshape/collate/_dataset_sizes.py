"""How large is each sample of a data set, and how many boxes has it? From headers where these tell, else by indexing.

Shapes: N samples.

Headers tell only where the data set hands the image on as it is in the file: a data set with a transform is indexed. None of
torchvision's own data sets turns an image by its EXIF orientation, so the header's height and width are those of the sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset
from torchvision.datasets import CocoDetection, DatasetFolder, VOCDetection
from torchvision.datasets.folder import default_loader
from tqdm import tqdm

from fixshape._check import check_at_least
from fixshape.collate._size_checks import is_side, no_image, not_a_size
from fixshape.errors import DatasetError

_Row = tuple[int, int, int | None]  # height, width, boxes: None where the data set has no notion of boxes
_BATCH = 32  # samples that a worker sends at a time


def dataset_sizes(dataset: Dataset[Any], *, num_workers: int = 0, progress: bool = False) -> NDArray[np.int64]:
    """The size, and where there are boxes their number, of every sample that a map-style data set gives.

    No image is decoded for a data set with a method ``get_height_and_width(index)`` (as torchvision's detection reference has
    it: boxes are then not counted), nor for torchvision's ``CocoDetection``, ``VOCDetection``, ``ImageFolder`` and
    ``DatasetFolder`` without transforms: there annotations and image headers tell. A ``Subset`` or ``ConcatDataset`` is what it
    is made of. All else is indexed, sample by sample, transforms and all, because only so its sizes are known. Sizes that a
    transform draws are those of one drawing: resize by a fixed rule, or plan with :func:`fixshape.plan.resize_sizes`.

    An image is a PIL image, a tensor [..., H, W] or an array [H, W, C]; a sample is an image, or a tuple that begins with image
    and target, or a mapping with ``image`` or ``pixel_values``. Boxes are counted in ``target["boxes"]``, or a target is COCO's
    list of annotations (crowds too: the sample has them), or VOC's ``target["annotation"]["object"]``.

    Args:
        dataset: with ``len()`` and an index from 0.
        num_workers: processes of a ``DataLoader`` that do the work; 0: this one does.
        progress: whether a progress bar is shown, on stderr.

    Returns:
        [N, 3] int64, (height, width, boxes) in pixels, in the order of the data set; [N, 2] where no sample has boxes or lacks
        them. A sample without ``boxes`` among others with them counts as 0.

    Raises:
        DatasetError: the data set has no length or is empty, an image has no size or cannot be opened, or a sample is none of
            the above; the message says which one.
        ShapeError: ``num_workers`` is below 0.

    Example:
        >>> samples = [(torch.zeros(3, 48, 64), {"boxes": torch.zeros(2, 4)}), (torch.zeros(3, 32, 20), {})]
        >>> dataset_sizes(samples).tolist()
        [[48, 64, 2], [32, 20, 0]]
    """
    where = f"dataset_sizes: {type(dataset).__name__}"
    check_at_least("dataset_sizes", "num_workers", num_workers, 0)
    if not isinstance(dataset, Sized) or not hasattr(dataset, "__getitem__"):
        raise DatasetError(
            f"{where}: expected a map-style data set, with len() and indexing. Give its sizes as an array instead."
        )
    if len(dataset) == 0:
        raise no_image(where)
    loader: DataLoader[Any] = DataLoader(
        _Rows(where, len(dataset), _reader(dataset)),
        _BATCH,
        num_workers=num_workers,
        collate_fn=list,
        generator=torch.Generator(),  # else it draws from the generator that the training's numbers come from
    )
    rows: list[_Row] = []
    with tqdm(total=len(dataset), desc="sizes", unit="image", disable=not progress) as bar:
        for batch in loader:
            rows += batch
            bar.update(len(batch))
    table = np.array([(height, width, boxes or 0) for height, width, boxes in rows], np.int64)
    return table if any(boxes is not None for _, _, boxes in rows) else table[:, :2].copy()


class _Rows(Dataset[_Row]):
    """The rows of another data set, checked."""

    def __init__(self, where: str, length: int, read: Callable[[int], _Row]) -> None:
        self._where = where
        self._length = length
        self._read = read

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> _Row:
        height, width, boxes = self._read(index)
        if not (is_side(height) and is_side(width)):
            raise not_a_size(self._where, f"sample {index}", (height, width))
        return height, width, boxes


def _reader(dataset: Any) -> Callable[[int], _Row]:
    """The quickest way that is right, which can be pickled where the data set can."""
    if isinstance(dataset, Subset):
        return _Part(_reader(dataset.dataset), dataset.indices)
    if isinstance(dataset, ConcatDataset):
        return _Parts([_reader(part) for part in dataset.datasets], dataset.cumulative_sizes)
    if callable(getattr(dataset, "get_height_and_width", None)):
        return _Told(dataset)
    # A subclass that gives samples in its own way (torchvision's reference has one that transforms) is not known.
    gives = getattr(type(dataset), "__getitem__", None)
    if getattr(dataset, "transforms", None) is None and getattr(dataset, "transform", None) is None:
        if gives is CocoDetection.__getitem__:
            return _Coco(dataset)
        if gives is VOCDetection.__getitem__:
            return _Voc(dataset.images, dataset.annotations)
        if gives is DatasetFolder.__getitem__ and dataset.loader is default_loader:
            return _Files([path for path, _ in dataset.samples])
    return _Indexed(dataset)


@dataclass(frozen=True, slots=True)
class _Part:
    """Of a ``Subset``."""

    read: Callable[[int], _Row]
    indices: Sequence[int]

    def __call__(self, index: int) -> _Row:
        return self.read(int(self.indices[index]))


@dataclass(frozen=True, slots=True)
class _Parts:
    """Of a ``ConcatDataset``."""

    reads: Sequence[Callable[[int], _Row]]
    ends: Sequence[int]

    def __call__(self, index: int) -> _Row:
        part = int(np.searchsorted(self.ends, index, side="right"))
        return self.reads[part](index - (self.ends[part - 1] if part else 0))


@dataclass(frozen=True, slots=True)
class _Told:
    """Of a data set that says it by itself."""

    dataset: Any

    def __call__(self, index: int) -> _Row:
        height, width = self.dataset.get_height_and_width(index)
        return int(height), int(width), None


@dataclass(frozen=True, slots=True)
class _Coco:
    """Of ``CocoDetection``: as its annotations say."""

    dataset: CocoDetection

    def __call__(self, index: int) -> _Row:
        coco, image_id = self.dataset.coco, self.dataset.ids[index]
        image = coco.imgs[image_id]
        if not (is_side(image.get("height")) and is_side(image.get("width"))):
            name = f"image {image.get('file_name')!r:.60} (sample {index}, id {image_id})"
            raise not_a_size("dataset_sizes: CocoDetection", name, (image.get("height"), image.get("width")))
        return image["height"], image["width"], len(coco.getAnnIds(image_id))


@dataclass(frozen=True, slots=True)
class _Voc:
    """Of ``VOCDetection``: images, and an XML file for each."""

    images: Sequence[str]
    annotations: Sequence[str]

    def __call__(self, index: int) -> _Row:
        try:
            boxes = len(ElementTree.parse(self.annotations[index]).getroot().findall("object"))
        except (OSError, ElementTree.ParseError) as error:
            raise DatasetError(f"dataset_sizes: {self.annotations[index]} cannot be read ({error}). Fetch it again.") from error
        return *_of_header(self.images[index]), boxes


@dataclass(frozen=True, slots=True)
class _Files:
    """Of image files."""

    paths: Sequence[str]

    def __call__(self, index: int) -> _Row:
        return *_of_header(self.paths[index]), None


def _of_header(path: str) -> tuple[int, int]:
    """(height, width) as stored: the EXIF orientation is not applied, as torchvision's loaders do not apply it."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DatasetError(f"dataset_sizes: image {path} cannot be read ({error}). Fetch it again, or leave it out.") from error


@dataclass(frozen=True, slots=True)
class _Indexed:
    """Of any data set."""

    dataset: Any

    def __call__(self, index: int) -> _Row:
        sample = self.dataset[index]
        image, target = sample, None
        if isinstance(sample, Mapping):
            image, target = sample.get("image", sample.get("pixel_values")), sample
        elif isinstance(sample, Sequence) and len(sample):
            image, target = sample[0], sample[1] if len(sample) > 1 else None
        size = _of_image(image)
        if size is None:
            raise DatasetError(
                f"dataset_sizes: sample {index} of {type(self.dataset).__name__} has {type(image).__name__} where its image is"
                " expected: a PIL image, a tensor [..., H, W] or an array [H, W, C], first in a tuple, or under 'image' or"
                " 'pixel_values'. Give the sizes as an array instead."
            )
        return *size, _boxes(target)


def _of_image(image: Any) -> tuple[int, int] | None:
    if isinstance(image, Image.Image):
        return image.height, image.width
    if isinstance(image, Tensor) and image.dim() >= 2:
        return int(image.shape[-2]), int(image.shape[-1])
    if isinstance(image, np.ndarray) and image.ndim in (2, 3):
        return int(image.shape[0]), int(image.shape[1])
    return None


def _boxes(target: Any) -> int | None:
    """How many boxes a target has, or ``None`` if it is none that has boxes."""
    if isinstance(target, Mapping):
        if isinstance(target.get("labels"), Mapping):  # as transformers has it
            return _boxes(target["labels"])
        if isinstance(target.get("annotation"), Mapping):
            return len(target["annotation"].get("object", ()))
        return len(target["boxes"]) if "boxes" in target else None
    if isinstance(target, list) and all(isinstance(annotation, Mapping) for annotation in target):
        return len(target)
    return None
