"""Which bucket a batch goes to, and what happens to the boxes that have no slot there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fixshape.collate._sample import Sample
from fixshape.errors import BucketError
from fixshape.plan import ShapePlan


def choose_bucket(plan: ShapePlan, samples: Sequence[Sample], overflow: str) -> int:
    """The index into ``plan.shapes`` of the bucket that the samples carry, or of the smallest that covers them all.

    With an ``overflow`` policy other than ``"error"`` boxes are cut to the most slots that a large enough bucket has, and the
    smallest bucket with that many slots is taken.

    Raises:
        BucketError: the samples carry different buckets, or one that does not hold them; an image is larger than every bucket;
            or no one bucket holds all images; or an image has more boxes than the buckets that hold the images have slots, and
            ``overflow`` is ``"error"``.
    """
    if any(sample.bucket is not None for sample in samples):
        return _carried(plan, samples, overflow)
    height = max(sample.size[0] for sample in samples)
    width = max(sample.size[1] for sample in samples)
    slots = [bucket.max_boxes for bucket in plan.shapes if bucket.covers(height, width)]
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
    return plan.bucket_for(height, width, boxes)


def _carried(plan: ShapePlan, samples: Sequence[Sample], overflow: str) -> int:
    """The one bucket that all samples carry, if it holds them: what fits a smaller one too stays with its batch."""
    first = samples[0]
    for sample in samples:
        if sample.bucket != first.bucket:
            raise BucketError(
                f"PadToBucket: {first.name} carries bucket {first.bucket}, {sample.name} {sample.bucket}, expected one bucket in"
                " a batch. Take batches from fixshape.BucketBatchSampler (fixshape.make_loader wires it), or leave"
                ' target["bucket"] out: the smallest bucket that covers the batch is then taken.'
            )
    assert first.bucket is not None
    if not 0 <= first.bucket < len(plan.shapes):
        raise BucketError(
            f"PadToBucket: {first.name} carries bucket {first.bucket}, but the plan has shapes 0 to {len(plan.shapes) - 1}."
            " Give PadToBucket the plan that the sampler has."
        )
    bucket = plan.shapes[first.bucket]
    for sample in samples:
        if not bucket.covers(*sample.size):
            raise BucketError(
                f"PadToBucket: the image of {sample.name} is {sample.size[0]}x{sample.size[1]} (height x width), larger than the"
                f" bucket that its batch was given ({bucket}). Give the sampler the sizes after the host resize, one row per"
                " sample in the data set's order; with scales=, the sizes before it, and the transform's own max_size."
            )
        if overflow == "error" and not bucket.covers(*sample.size, len(sample.boxes)):
            raise BucketError(
                f"PadToBucket: {sample.name} has {len(sample.boxes)} boxes, but the bucket that its batch was given has"
                f" {bucket.max_boxes} box slots. Give the sampler sizes with box counts, [N, 3]; or choose a policy:"
                ' overflow="sample" keeps a random subset, overflow="largest" the largest boxes; both count what they drop.'
            )
    return first.bucket


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
    known = "; ".join(str(bucket) for bucket in plan.shapes)
    for sample in samples:
        if not any(bucket.covers(*sample.size) for bucket in plan.shapes):
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
