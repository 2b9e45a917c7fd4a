"""Make the batch: a list of samples of any size becomes tensors of one bucket's shape.

Shapes: B images in the batch, C channels, H, W pixels of the bucket's canvas, M box slots, K keypoints per box, S the side of a
box mask; h, w pixels and n boxes of one sample.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor

from fixshape._check import check_at_least, check_choice
from fixshape.collate._box_masks import with_box_masks
from fixshape.collate._choose import choose_bucket, cut_boxes
from fixshape.collate._images import batch_images
from fixshape.collate._sample import Sample, read_sample
from fixshape.collate._targets import batch_targets
from fixshape.errors import FixshapeWarning, ShapeError, TargetError
from fixshape.plan import Bucket, ShapePlan


class PadToBucket:
    """A ``collate_fn`` that pads a list of samples to one bucket of a plan.

    Images sit at the top left of the canvas, so that boxes, masks and keypoints keep their coordinates. Nothing is resized,
    normalised, clipped or reordered, and no box is dropped unless a policy asks for it. It does not choose which samples share a
    batch (:class:`fixshape.BucketBatchSampler` does). It works on the host and may be sent to DataLoader workers; there, a batch
    is built in shared memory.

    Args:
        plan: a :class:`~fixshape.plan.ShapePlan`, of which the bucket that the samples carry is taken
            (``plan.shapes[target["bucket"]]``), or where they carry none, the smallest that covers all the samples of a batch;
            or one :class:`~fixshape.plan.Bucket`; or ``(height, width)`` in pixels, with ``max_boxes``.
        max_boxes: box slots M per image. Needed for ``(height, width)``; otherwise it replaces the slots of every bucket.
        batch_size: B. A shorter list is completed with fillers: all-padding images with ``image_valid`` False, sizes (0, 0) and
            ``image_id`` -1. Where the plan has a batch size for the bucket, that is B. ``None``: B is the length of the list.
        num_classes: labels must lie in 0..num_classes-1 (torchvision counts the background as class 0). ``None``: 0 or more.
        overflow: for an image with more boxes than slots: ``"error"``; ``"sample"``, keep a random subset, drawn from torch's
            default generator; ``"largest"``, keep the boxes of largest area, of equal areas the earlier. The order of the kept
            boxes stays, and ``boxes_dropped`` counts the others.
        invalid: for boxes that are NaN or infinite, or have no width or no height: ``"error"``; ``"drop"``, which comes before
            ``overflow`` and is counted in ``boxes_dropped`` too.
        mask_size: S. ``None``: masks keep their pixels. A number: each mask is stored as S x S cells of its box, far smaller and
            not exactly equal; :func:`fixshape.ops.project_box_masks_on_boxes` reads them, and says what it costs in precision.

    Raises:
        ShapeError: an argument is not one of the above.

    Example:
        >>> import torch
        >>> from fixshape.plan import Bucket
        >>> image = torch.rand(3, 30, 40)
        >>> target = {"boxes": torch.tensor([[1.0, 2.0, 11.0, 22.0]]), "labels": torch.tensor([5])}
        >>> images, targets = PadToBucket(Bucket(32, 64, max_boxes=3))([(image, target), (image, {})])
        >>> images.shape, targets["boxes"].shape
        (torch.Size([2, 3, 32, 64]), torch.Size([2, 3, 4]))
        >>> targets["valid_mask"].tolist()
        [[True, False, False], [False, False, False]]
    """

    def __init__(
        self,
        plan: ShapePlan | Bucket | tuple[int, int],
        *,
        max_boxes: int | None = None,
        batch_size: int | None = None,
        num_classes: int | None = None,
        overflow: Literal["error", "sample", "largest"] = "error",
        invalid: Literal["error", "drop"] = "error",
        mask_size: int | None = None,
    ) -> None:
        check_choice("PadToBucket", "overflow", overflow, ("error", "sample", "largest"))
        check_choice("PadToBucket", "invalid", invalid, ("error", "drop"))
        sizes = {"max_boxes": max_boxes, "batch_size": batch_size, "num_classes": num_classes, "mask_size": mask_size}
        for name, value in sizes.items():
            if value is not None:
                check_at_least("PadToBucket", name, value, 1)
        self.plan = _as_plan(plan, max_boxes)
        self.batch_size = batch_size
        self.num_classes = num_classes
        self.overflow = overflow
        self.invalid = invalid
        self.mask_size = mask_size
        self._warned_of_outside = False

    def __repr__(self) -> str:
        names = ("batch_size", "num_classes", "overflow", "invalid", "mask_size")
        options = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"PadToBucket({'; '.join(map(str, self.plan.shapes))}; {options})"

    def __call__(self, samples: Sequence[tuple[Tensor, Mapping[str, Any]]]) -> tuple[Tensor, dict[str, Tensor]]:
        """Pads one batch.

        Args:
            samples: pairs ``(image, target)``. ``image`` is a tensor [C, h, w] of any dtype. ``target`` is a dict; its values may
                be tensors, tv_tensors, arrays or lists: ``boxes`` [n, 4] XYXY pixels and ``labels`` [n] (both absent: no boxes),
                and where there, ``area`` [n], ``iscrowd`` [n], ``masks`` [n, h, w] bool or uint8, ``keypoints`` [n, K, 3],
                ``image_id`` (a whole number), ``orig_size``, the (height, width) before the host resize (absent: h, w), and
                ``bucket``, an index into ``plan.shapes``: in every sample of a batch the same, or in none.
                Other keys are not read. A target is not changed.

        Returns:
            ``(images, targets)``: plain, contiguous CPU tensors. ``images`` [B, C, H, W], dtype kept. ``targets``:
            ``boxes`` [B, M, 4] float32, or float64 when any sample has it; ``labels`` [B, M] int64; ``valid_mask`` [B, M] bool;
            ``image_sizes`` and ``orig_sizes`` [B, 2] int64; ``image_valid`` [B] bool; ``boxes_dropped`` [B] int64, by the
            policies; ``boxes_outside`` [B] int64, boxes that reach outside their image, which are kept as torchvision keeps them
            (more than 0.01 pixel; one warning per object). Where any sample has them: ``image_id`` [B] int64 (-1 where
            missing), ``area`` [B, M], ``iscrowd`` [B, M] int64, ``masks`` [B, M, H, W] uint8, or with ``mask_size``
            ``box_masks`` [B, M, S, S] uint8 (the means of what is not 0 over the cells of the box and one pixel more on each
            side, in 255ths), and ``keypoints`` [B, M, K, 3]. A batch in which no sample has a key does not have it either, and
            so a batch of images without boxes has the others' keys only if its samples have them, with n = 0. All padding is
            zero.

        Raises:
            BucketError: an image is larger than every bucket, no bucket holds all images, or there are more boxes than slots;
                or samples carry different buckets, or one that does not hold them.
            TargetError: the list is empty; a sample is not a pair; a target has entries of different length, values that cannot
                be trained on, or lacks an entry that others have; masks or keypoints do not fit.
            ShapeError: there are more samples than B; an image is not [C, h, w]; channel counts differ; boxes are
                not [n, 4].
            DtypeError: dtypes of images differ, or a value has a type that it cannot have.
        """
        if len(samples) == 0:
            raise TargetError("PadToBucket: got an empty batch, expected at least one sample. Check the batch sampler.")
        drop_invalid = self.invalid == "drop"
        read = [
            read_sample(position, sample, num_classes=self.num_classes, drop_invalid=drop_invalid)
            for position, sample in enumerate(samples)
        ]
        index = choose_bucket(self.plan, read, self.overflow)
        bucket = self.plan.shapes[index]
        rows = len(samples) if self.batch_size is None else self.plan.batch_size(index, self.batch_size)
        if len(samples) > rows:
            raise ShapeError(f"PadToBucket: got {len(samples)} samples, expected at most batch_size={rows}.")
        read = [cut_boxes(sample, bucket.max_boxes, self.overflow) for sample in read]
        if self.mask_size is not None:
            read = [with_box_masks(sample, self.mask_size) for sample in read]
        images = batch_images(read, rows, bucket)
        targets = batch_targets(read, rows, bucket)
        self._warn_of_outside(read, targets["boxes_outside"])
        return images, targets

    def _warn_of_outside(self, samples: Sequence[Sample], outside: Tensor) -> None:
        if self._warned_of_outside or not outside.any():
            return
        self._warned_of_outside = True
        first = int(outside.nonzero()[0])
        warnings.warn(
            f"PadToBucket: {samples[first].name} has {int(outside[first])} box(es) that reach outside the image"
            f" ({samples[first].size[0]}x{samples[first].size[1]}, height x width). They are kept, as torchvision keeps them, and"
            ' counted in targets["boxes_outside"]; clip them in the transform (torchvision.transforms.v2.ClampBoundingBoxes) if'
            " that is not meant. Further ones are only counted.",
            FixshapeWarning,
            stacklevel=3,
        )


def _as_plan(plan: ShapePlan | Bucket | tuple[int, int], max_boxes: int | None) -> ShapePlan:
    if isinstance(plan, Bucket):
        plan = ShapePlan([plan])
    if isinstance(plan, ShapePlan):
        return plan if max_boxes is None else _with_slots(plan, max_boxes)
    if not isinstance(plan, tuple | list) or len(plan) != 2:
        raise ShapeError(f"PadToBucket: plan is {plan!r}, expected a ShapePlan, a Bucket or (height, width).")
    if max_boxes is None:
        raise ShapeError(f"PadToBucket: {tuple(plan)!r} says nothing of box slots. Give max_boxes=, or a Bucket or a ShapePlan.")
    return ShapePlan([Bucket(*plan, max_boxes)])


def _with_slots(plan: ShapePlan, max_boxes: int) -> ShapePlan:
    """The plan's shapes with other box slots; buckets that differ in nothing else become one, so that batch sizes go."""
    fallback = plan.fallback and replace(plan.fallback, max_boxes=max_boxes)
    return ShapePlan([replace(bucket, max_boxes=max_boxes) for bucket in plan.buckets], fallback=fallback)
