"""The targets of a batch: one tensor for each key, one row for each box slot.

Shapes: B images in the batch (fillers included), H, W pixels of the canvas, M box slots, K keypoints per
box, S the side of a box mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from fixshape.collate._memory import zeros
from fixshape.collate._sample import Sample
from fixshape.collate._values import OPTIONAL_ROWS
from fixshape.errors import TargetError
from fixshape.plan import Bucket


def batch_targets(samples: Sequence[Sample], rows: int, bucket: Bucket) -> dict[str, Tensor]:
    """The targets of :meth:`PadToBucket.__call__`.

    Raises:
        TargetError: a sample with boxes lacks an entry that another has, or keypoint counts differ.
    """
    counts = _column([len(sample.boxes) for sample in samples], rows)
    targets = {
        "boxes": _padded("boxes", samples, (rows, bucket.max_boxes, 4)),
        "labels": _padded("labels", samples, (rows, bucket.max_boxes)),
        "valid_mask": torch.arange(bucket.max_boxes) < counts[:, None],
        "image_sizes": _column([sample.size for sample in samples], rows),
        "orig_sizes": _column([sample.orig_size for sample in samples], rows),
        "image_valid": torch.arange(rows) < len(samples),
        "boxes_dropped": _column([sample.dropped for sample in samples], rows),
        "boxes_outside": _column([sample.outside() for sample in samples], rows),
    }
    if any(sample.image_id is not None for sample in samples):
        _check_present("image_id", samples, [sample.image_id is not None for sample in samples])
        ids = [-1 if sample.image_id is None else sample.image_id for sample in samples]
        targets["image_id"] = torch.tensor(ids + [-1] * (rows - len(ids)))
    trailing = {"masks": (bucket.height, bucket.width), "keypoints": (_keypoints_per_box(samples), 3)}
    for key in (*OPTIONAL_ROWS, "box_masks"):
        present = [key in sample.rows for sample in samples]
        if any(present):
            _check_present(key.removeprefix("box_"), samples, present)  # the name that samples give it
            sizes = trailing.get(key, samples[present.index(True)].rows[key].shape[1:])
            targets[key] = _padded(key, samples, (rows, bucket.max_boxes, *sizes))
    return targets


def _column(values: Sequence[int | tuple[int, int]], rows: int) -> Tensor:
    """[B] or [B, 2] int64: one entry per sample, zeros for the fillers."""
    column = torch.tensor(values)
    return torch.cat([column, column.new_zeros(rows - len(values), *column.shape[1:])])


def _padded(key: str, samples: Sequence[Sample], shape: Sequence[int]) -> Tensor:
    """The samples' rows of ``key`` in one tensor, each at the origin of its slot's place."""
    values = [(row, sample.rows[key]) for row, sample in enumerate(samples) if key in sample.rows]
    # What has no boxes has no say: an empty array is float64 by habit, and its other sizes mean nothing.
    filled = [(row, value) for row, value in values if len(value)]
    padded = zeros(shape, reduce(torch.promote_types, (value.dtype for _, value in filled or values)))
    for row, value in filled:
        padded[row][tuple(slice(size) for size in value.shape)].copy_(value)
    return padded


def _check_present(key: str, samples: Sequence[Sample], present: Sequence[bool]) -> None:
    for sample, there in zip(samples, present, strict=True):
        if not there and len(sample.boxes):
            other = samples[present.index(True)].name
            raise TargetError(
                f"PadToBucket: {sample.name} has {len(sample.boxes)} boxes but no {key}, which {other} has. Give {key} for every"
                " image that has boxes, or for none."
            )


def _keypoints_per_box(samples: Sequence[Sample]) -> int:
    having = [sample for sample in samples if "keypoints" in sample.rows]
    if not having:
        return 0
    first = max(having, key=lambda sample: len(sample.boxes) > 0)
    count = first.rows["keypoints"].shape[1]
    for sample in having:
        if len(sample.boxes) and sample.rows["keypoints"].shape[1] != count:
            raise TargetError(
                f"PadToBucket: {first.name} has {count} keypoints per box, {sample.name} has"
                f" {sample.rows['keypoints'].shape[1]}, expected one count in a batch."
            )
    return count
