"""One sample, read and checked: an image, and its target as tensors with one row per box.

Shapes: C channels, H, W pixels of this image, n boxes, K keypoints per box.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fixshape.collate._values import pair_of_ints, plain, row_values, whole_number
from fixshape.errors import DtypeError, ShapeError, TargetError

# A resize multiplies boxes and rounds image sizes: less than this, in pixels, is rounding and not a box outside its image.
_ROUNDING = 0.01


@dataclass(frozen=True, slots=True)
class Sample:
    """What :func:`read_sample` found.

    ``rows`` holds ``boxes`` [n, 4] and ``labels`` [n], and of ``area`` [n], ``iscrowd`` [n], ``masks`` [n, H, W] and
    ``keypoints`` [n, K, 3] what the target has. ``name`` says which sample it is, for messages. ``bucket`` is the index into
    the plan's shapes that a :class:`fixshape.BucketBatchSampler` gave its batch, if one did.
    """

    name: str
    image: Tensor
    rows: dict[str, Tensor]
    image_id: int | None
    orig_size: tuple[int, int]
    bucket: int | None = None
    dropped: int = 0

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image, in pixels."""
        return self.image.shape[1], self.image.shape[2]

    @property
    def boxes(self) -> Tensor:
        """[n, 4] XYXY, float32 or float64."""
        return self.rows["boxes"]

    def keep(self, index: Tensor) -> Sample:
        """The sample with the boxes of ``index`` [m] only; the others are counted in ``dropped``."""
        rows = {key: value[index] for key, value in self.rows.items()}
        return replace(self, rows=rows, dropped=self.dropped + len(self.boxes) - len(index))

    def outside(self) -> int:
        """How many boxes reach outside the image by more than rounding."""
        height, width = self.size
        low, high = self.boxes[:, :2], self.boxes[:, 2:]
        over = high > torch.tensor([width + _ROUNDING, height + _ROUNDING])
        return int(((low < -_ROUNDING) | over).any(1).sum())


def read_sample(position: int, sample: Any, *, num_classes: int | None, drop_invalid: bool) -> Sample:
    """Reads the sample at ``position`` of a batch's list.

    Args:
        position: where it stands in the list, for messages.
        sample: ``(image [C, H, W], target dict)``.
        num_classes: labels must lie in 0..num_classes-1; ``None``: be 0 or more.
        drop_invalid: whether degenerate and non-finite boxes are dropped and counted, or an error.

    Raises:
        TargetError: the sample is not a pair, or its target does not hold together or holds values that cannot be trained on.
        ShapeError: the image is not [C, H, W], or the boxes are not [n, 4].
        DtypeError: a value has a type that it cannot have.
    """
    where = f"PadToBucket: sample {position}"
    if not isinstance(sample, tuple | list) or len(sample) != 2:
        length = f" of {len(sample)}" if isinstance(sample, tuple | list) else ""
        raise TargetError(f"{where} is a {type(sample).__name__}{length}, expected a pair (image, target).")
    image, target = sample
    if not isinstance(target, Mapping):
        raise TargetError(
            f"{where}: the target is a {type(target).__name__}, expected a dict with boxes and labels."
            " Wrap a torchvision data set with torchvision.datasets.wrap_dataset_for_transforms_v2."
        )
    image_id = None if target.get("image_id") is None else whole_number(where, "image_id", target["image_id"])
    name = f"sample {position}" if image_id is None else f"sample {position} (image_id {image_id})"
    where = f"PadToBucket: {name}"
    image = _image(where, image)
    size = (image.shape[1], image.shape[2])
    orig_size = size if target.get("orig_size") is None else pair_of_ints(where, "orig_size", target["orig_size"])
    bucket = None if target.get("bucket") is None else whole_number(where, "bucket", target["bucket"])
    read = Sample(name, image, row_values(where, target, size), image_id, orig_size, bucket)
    _check_labels(where, read.rows["labels"], num_classes)
    return _without_invalid(where, read, drop_invalid)


def _image(where: str, image: Any) -> Tensor:
    if not isinstance(image, Tensor):
        raise DtypeError(
            f"{where}: the image is a {type(image).__name__}, expected a tensor [C, H, W]."
            " Convert it in the data set's transform (torchvision.transforms.v2.ToImage, or fixshape.detection.host_transform)."
        )
    if image.ndim != 3 or 0 in image.shape:
        raise ShapeError(
            f"{where}: the image has shape {tuple(image.shape)}, expected [C, H, W] with at least one pixel."
            " A gray image is [1, H, W]; a batch is not a sample."
        )
    return plain(image)


def _check_labels(where: str, labels: Tensor, num_classes: int | None) -> None:
    bad = labels < 0 if num_classes is None else (labels < 0) | (labels >= num_classes)
    if bad.any():
        row = int(bad.nonzero()[0])
        allowed = "0 or more" if num_classes is None else f"0 to {num_classes - 1} (num_classes={num_classes})"
        raise TargetError(
            f"{where}: the label of box {row} is {int(labels[row])}, expected {allowed}."
            " Map the data set's category ids to the model's classes, or build the model with more classes."
        )


def _without_invalid(where: str, sample: Sample, drop: bool) -> Sample:
    boxes = sample.boxes
    good = boxes.isfinite().all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1)
    if good.all():
        return sample
    if drop:
        return sample.keep(good.nonzero().flatten())
    row = int((~good).nonzero()[0])
    box = [round(value, 4) for value in boxes[row].tolist()]
    fault = "has no area" if boxes[row].isfinite().all() else "is not finite"
    raise TargetError(
        f"{where}: box {row} {fault}: {box}, expected finite [x1, y1, x2, y2] with x2 > x1 and y2 > y1."
        ' Correct the annotation, or give PadToBucket invalid="drop", which drops such boxes and counts them.'
    )
