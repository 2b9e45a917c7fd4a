"""Which bucket a batch goes to, and what happens to the boxes that have no slot there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fixshape.collate._sample import Sample
from fixshape.errors import BucketError
from fixshape.plan import Bucket, ShapePlan


def choose_bucket(plan: ShapePlan, samples: Sequence[Sample], overflow: str) -> Bucket:
    """The smallest bucket that covers every sample.

    With an ``overflow`` policy other than ``"error"`` boxes are cut to the most slots that a large enough bucket has, and the
    smallest bucket with that many slots is taken.

    Raises:
        BucketError: an image is larger than every bucket; or no one bucket holds all images; or an image has more boxes than
            the buckets that hold the images have slots, and ``overflow`` is ``"error"``.
    """
    height = max(sample.size[0] for sample in samples)
    width = max(sample.size[1] for sample in samples)
    slots = [bucket.max_boxes for bucket in plan.buckets if bucket.covers(height, width)]
    if not slots:
        raise _too_large(plan, samples, height, width)
    fullest = max(samples, key=lambda sample: len(sample.boxes))
    boxes = len(fullest.boxes)
    if boxes > max(slots):
        if overflow == "error":
            raise BucketError(
                f"PadToBucket: {fullest.name} has {boxes} boxes, but the buckets that hold {height}x{width} pixels have at most"
                f' {max(slots)} box slots. Plan with max_boxes={boxes} or more, or choose a policy: overflow="sample" keeps a'
                ' random subset, overflow="largest" the largest boxes; both count what they drop.'
            )
        boxes = max(slots)
    return plan.buckets[plan.bucket_for(height, width, boxes)]


def cut_boxes(sample: Sample, slots: int, overflow: str) -> Sample:
    """The sample with at most ``slots`` boxes: a random subset for ``"sample"``, the largest areas otherwise; in their order."""
    if len(sample.boxes) <= slots:
        return sample
    order = torch.randperm(len(sample.boxes)) if overflow == "sample" else _by_area(sample.boxes)
    return sample.keep(order[:slots].sort().values)


def _by_area(boxes: Tensor) -> Tensor:
    """[n] indices, largest first; of equal areas the earlier first."""
    sides = boxes[:, 2:].double() - boxes[:, :2].double()
    return sides.prod(1).sort(descending=True, stable=True).indices


def _too_large(plan: ShapePlan, samples: Sequence[Sample], height: int, width: int) -> BucketError:
    known = "; ".join(str(bucket) for bucket in plan.buckets)
    for sample in samples:
        if not any(bucket.covers(*sample.size) for bucket in plan.buckets):
            return BucketError(
                f"PadToBucket: the image of {sample.name} is {sample.size[0]}x{sample.size[1]} (height x width), larger than"
                f" every bucket ({known}). Resize it before padding (fixshape.detection.host_transform), or plan a bucket that"
                " covers it."
            )
    tallest = max(samples, key=lambda sample: sample.size[0])
    widest = max(samples, key=lambda sample: sample.size[1])
    return BucketError(
        f"PadToBucket: no bucket holds all images of this batch: {tallest.name} is {height} high and {widest.name} is {width}"
        f" wide (buckets: {known}). Batch samples of one bucket together, or plan a bucket of at least {height}x{width}."
    )
