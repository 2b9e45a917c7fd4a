"""COCO annotations as samples, through torchvision's own data set, with every way a file can be wrong said clearly.

Shapes: n boxes, H x W image, K keypoints per box.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2

from fixshape._check import shown
from fixshape.detection._coco_values import check_keypoints, check_masks
from fixshape.errors import DatasetError, ExtraError

_MOST_BYTES = 4 << 30  # instances_train2017.json is a ninth of this
_PER_BOX = ("boxes", "labels", "area", "iscrowd")


class CocoSamples(Dataset[tuple[Any, dict[str, Any]]]):
    """Images and training targets of a COCO annotation file.

    Read by ``torchvision.datasets.CocoDetection`` and ``wrap_dataset_for_transforms_v2``. A label is the ``category_id`` as it
    stands. Crowd annotations are left out, as torchvision's training reference leaves them out
    (``references/detection/coco_utils.py``); images without boxes are kept, and so is a box of which no keypoint is annotated.

    Args:
        images: folder of the images.
        annotations: the JSON file.
        masks: whether targets have ``masks``. Every annotation that is no crowd must then have a segmentation.
        keypoints: whether targets have ``keypoints``. The file must be one of keypoints (``person_keypoints_*.json``).

    Attributes:
        num_keypoints: K, as the file's categories name them; 0 if they are not read.

    Raises:
        ExtraError: pycocotools is not installed.
        DatasetError: the file is missing, no JSON, not COCO, names an image that is not in the folder, or lacks masks or
            keypoints that are asked for.
    """

    def __init__(
        self,
        images: str | os.PathLike[str],
        annotations: str | os.PathLike[str],
        *,
        masks: bool = False,
        keypoints: bool = False,
    ) -> None:
        if importlib.util.find_spec("pycocotools") is None:
            raise ExtraError("CocoSamples: pycocotools is not installed: python -m pip install 'fixshape[coco]'.")
        self._folder = Path(images)
        self._dataset = _load(self._folder, Path(annotations))
        self._wrapped = wrap_dataset_for_transforms_v2(self._dataset, target_keys=("image_id", *_PER_BOX))
        where, content = _where(annotations), self._dataset.coco.dataset
        self._masks = masks
        if masks:
            check_masks(where, content)
        self.num_keypoints = check_keypoints(where, content) if keypoints else 0

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> tuple[Any, dict[str, Any]]:
        """The image as PIL gives it (RGB), and ``image_id``, ``boxes`` [n, 4] XYXY pixels, ``labels``, ``area``, ``iscrowd`` [n];
        where asked for, ``masks`` [n, H, W] uint8 and ``keypoints`` [n, K, 3] float32 (x, y in pixels, visibility 0, 1 or 2),
        with n = 0 too.

        Raises:
            DatasetError: the image is missing, truncated, or no image; or it has another size than its annotations say, and
                masks are asked for.
        """
        try:
            image, target = self._wrapped[index]
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            name = self._dataset.coco.loadImgs(self._dataset.ids[index])[0]["file_name"]
            raise DatasetError(
                f"CocoSamples: image {name!r} in {self._folder} cannot be read ({error})."
                " Fetch it again, or take it out of the annotations."
            ) from error
        if "labels" not in target:
            target = {
                **target,
                "boxes": torch.zeros(0, 4),
                "labels": torch.zeros(0, dtype=torch.int64),
                "area": [],
                "iscrowd": [],
            }
        crowd = torch.as_tensor(target["iscrowd"], dtype=torch.bool)
        rows: dict[str, Any] = {key: torch.as_tensor(target[key]).as_subclass(Tensor)[~crowd] for key in _PER_BOX}
        coco, image_id = self._dataset.coco, self._dataset.ids[index]
        kept = [annotation for annotation in coco.loadAnns(coco.getAnnIds(image_id)) if not annotation["iscrowd"]]
        if self._masks:
            rows["masks"] = self._masks_of(kept, coco.imgs[image_id], image)
        if self.num_keypoints:
            values = [annotation["keypoints"] for annotation in kept]
            rows["keypoints"] = torch.tensor(values, dtype=torch.float32).reshape(-1, self.num_keypoints, 3)
        return image, {"image_id": target["image_id"], **rows}

    def _masks_of(self, annotations: list[dict[str, Any]], entry: dict[str, Any], image: Image.Image) -> Tensor:
        """[n, H, W] uint8."""
        size = entry["height"], entry["width"]
        if size != (image.height, image.width):
            raise DatasetError(
                f"CocoSamples: image {entry['file_name']!r} in {self._folder} is {image.height}x{image.width}, its annotations"
                f" are for {size[0]}x{size[1]} (height x width). Fetch the image again, or read the file without masks."
            )
        masks = [_drawn(annotation["segmentation"], *size) for annotation in annotations]
        return torch.from_numpy(np.stack(masks)) if masks else torch.zeros(0, *size, dtype=torch.uint8)

    def sizes(self) -> list[tuple[int, int, int]]:
        """(height, width, boxes without crowd) of every image, from the annotation file alone."""
        coco = self._dataset.coco
        found = []
        for image in self._dataset.ids:
            boxes = sum(not annotation["iscrowd"] for annotation in coco.imgToAnns[image])
            found.append((int(coco.imgs[image]["height"]), int(coco.imgs[image]["width"]), boxes))
        return found


def _drawn(segmentation: Any, height: int, width: int) -> NDArray[np.uint8]:
    """The mask [H, W] of polygons or run lengths."""
    from pycocotools import mask

    if isinstance(segmentation, list):
        runs = mask.merge(mask.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        runs = mask.frPyObjects(segmentation, height, width)
    else:
        runs = segmentation
    return np.ascontiguousarray(mask.decode(runs), np.uint8)  # it counts pixels down the columns


def _where(annotations: str | os.PathLike[str]) -> str:
    return f"CocoSamples: {os.fspath(annotations)}"


def _load(folder: Path, annotations: Path) -> CocoDetection:
    where = _where(annotations)
    try:
        size = annotations.stat().st_size
    except OSError as error:
        raise DatasetError(f"{where}: the annotation file cannot be read ({error.strerror}). Give its path.") from None
    if size > _MOST_BYTES:
        raise DatasetError(f"{where}: the annotation file has {size:,} bytes, at most {_MOST_BYTES:,} are read.")
    try:
        # pycocotools prints its progress on stdout, which belongs to results.
        with contextlib.redirect_stdout(io.StringIO()):
            dataset = CocoDetection(os.fspath(folder), os.fspath(annotations))
        content = dataset.coco.dataset
        for part, keys in (("images", _IMAGE_KEYS), ("annotations", _ANNOTATION_KEYS)):
            if not isinstance(content.get(part), list):
                raise DatasetError(f"{where}: not COCO: there is no list {part!r} in it.")
            for row, entry in enumerate(content[part]):
                _check_entry(where, part, row, entry, keys)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DatasetError(f"{where}: not JSON ({error}). Give a COCO annotation file.") from None
    except (AssertionError, KeyError, TypeError, AttributeError, OSError) as error:
        raise DatasetError(f"{where}: not COCO ({type(error).__name__}: {error}). Give an instances_*.json.") from None
    known = {image["id"] for image in content["images"]}
    for row, annotation in enumerate(content["annotations"]):
        if annotation["image_id"] not in known:
            raise DatasetError(f"{where}: annotations[{row}] is of image {annotation['image_id']}, which the file does not list.")
    _check_images(where, folder, [image["file_name"] for image in content["images"]])
    return dataset


_NUMBER = (int, float)
_IMAGE_KEYS: dict[str, Any] = {"id": int, "file_name": str, "height": int, "width": int}
_ANNOTATION_KEYS: dict[str, Any] = {"image_id": int, "category_id": int, "bbox": list, "area": _NUMBER, "iscrowd": int}


def _check_entry(where: str, part: str, row: int, entry: Any, keys: dict[str, Any]) -> None:
    for key, kind in keys.items():
        if not isinstance(entry, dict) or not isinstance(entry.get(key), kind):
            got = shown(entry.get(key) if isinstance(entry, dict) else entry)
            raise DatasetError(f"{where}: not COCO: {part}[{row}][{key!r}] is {got}.")
    if part == "annotations" and not (len(entry["bbox"]) == 4 and all(isinstance(number, _NUMBER) for number in entry["bbox"])):
        raise DatasetError(
            f"{where}: not COCO: annotations[{row}]['bbox'] is {shown(entry['bbox'])}, expected [x, y, width, height]."
        )


def _check_images(where: str, folder: Path, names: list[str]) -> None:
    try:
        present = {entry.name for entry in os.scandir(folder)}
    except OSError as error:
        raise DatasetError(f"{where}: the image folder {folder} cannot be read ({error.strerror}).") from None
    inside = folder.resolve()
    for name in names:
        # A name may lie in a sub-folder, but an annotation file may not make us open files elsewhere.
        if name not in present and not ((folder / name).resolve().is_relative_to(inside) and (folder / name).is_file()):
            raise DatasetError(f"{where}: it names the image {name!r}, which is not in {folder}. Give the folder with --images.")
