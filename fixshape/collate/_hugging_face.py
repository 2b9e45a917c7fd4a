"""Make the batch in the format of Hugging Face's detection models: padded pixels, their mask, and labels per image.

Shapes: B images in the batch (fillers included), C channels, H, W pixels of the canvas, M box slots; h, w pixels and n boxes of
one sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fixshape._check import check_at_least, shown
from fixshape.collate._canvas import stack_padded
from fixshape.collate._images import check_images
from fixshape.collate._masks import valid_mask
from fixshape.collate._ragged import collate
from fixshape.collate._rule import Pad
from fixshape.collate._size import Size, choose_size
from fixshape.collate._values import as_tensor, dtype_name, whole_number
from fixshape.errors import BucketError, ShapeError, TargetError
from fixshape.plan import Bucket, ShapePlan

_WHERE = "PadPixelValues"
_CONVERT = ". Convert it in the data set."
_ROWS = {
    "class_labels": "[n]",
    "boxes": "[n, 4]",
    "area": "[n]",
    "iscrowd": "[n]",
    "masks": "[n, h, w]",
    "keypoints": "[n, K, 3]",
}


class PadPixelValues:
    """A ``collate_fn`` for samples as transformers' detection image processors return them, one image each.

    The batch is what the processor's own ``pad`` with ``pad_size`` gives: the image at the top left, boxes scaled to the canvas,
    ``size`` the canvas. Nothing is resized or normalised. By default ``labels`` is a list, for transformers' losses match lists;
    those losses do not know padded rows, so that with ``max_boxes`` it is one dict, for losses that read ``valid_mask``. It works
    on the host and may be sent to DataLoader workers; there, pixels are built in shared memory.

    Args:
        plan: a :class:`~fixshape.plan.ShapePlan`, of which the bucket that the samples carry is taken, or where they carry none,
            the smallest that covers all images of a batch (box slots are not looked at); or one
            :class:`~fixshape.plan.Bucket`; or ``(height, width)`` in pixels.
        max_boxes: M, the rows that boxes are padded to. ``None``: they are not padded.
        batch_size: B. A shorter list is completed with fillers: black images without boxes, ``image_id`` -1 and ``orig_size``
            (0, 0) where the samples have them. Their ``pixel_mask`` is 1, for models divide by the share of real pixels. Where
            the plan has a batch size for the bucket, that is B. ``None``: B is the length of the list.

    Raises:
        ShapeError: an argument is not one of the above.

    Example:
        >>> labels = {"class_labels": torch.tensor([5]), "boxes": torch.tensor([[0.5, 0.5, 1.0, 1.0]])}
        >>> samples = [{"pixel_values": torch.rand(3, 24, 32), "labels": labels}]
        >>> batch = PadPixelValues((32, 64))(samples)  # model(**batch)
        >>> batch["pixel_values"].shape, batch["pixel_mask"].sum().item()
        (torch.Size([1, 3, 32, 64]), 768)
        >>> batch["labels"][0]["boxes"].tolist()
        [[0.25, 0.375, 0.5, 0.75]]
        >>> PadPixelValues((32, 64), max_boxes=2)(samples)["labels"]["valid_mask"].tolist()
        [[True, False]]
    """

    def __init__(
        self, plan: ShapePlan | Bucket | tuple[int, int], *, max_boxes: int | None = None, batch_size: int | None = None
    ) -> None:
        for name, value in (("max_boxes", max_boxes), ("batch_size", batch_size)):
            if value is not None:
                check_at_least(_WHERE, name, value, 1)
        if isinstance(plan, tuple | list) and len(plan) == 2:
            plan = Bucket(*plan, max_boxes=1)
        if isinstance(plan, Bucket):
            plan = ShapePlan([plan])
        if not isinstance(plan, ShapePlan):
            raise ShapeError(f"{_WHERE}: plan is {shown(plan)}, expected a ShapePlan, a Bucket or (height, width).")
        self.plan = plan
        self.max_boxes = max_boxes
        self.batch_size = batch_size

    def __repr__(self) -> str:
        shapes = "; ".join(f"{bucket.height}x{bucket.width}" for bucket in self.plan.shapes)
        return f"{_WHERE}({shapes}; max_boxes={self.max_boxes}, batch_size={self.batch_size})"

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Pads one batch.

        Args:
            samples: dicts with ``pixel_values`` [C, h, w]; where there, ``pixel_mask`` [h, w], 1 where real; and in all samples
                or in none, ``labels``: a dict with ``class_labels`` [n] and ``boxes`` [n, 4] (cx, cy, width, height, as fractions
                of the image), and where there, ``area``, ``iscrowd`` [n], ``masks`` [n, h, w], ``keypoints`` [n, K, 3] in pixels,
                ``image_id``, ``orig_size``, ``size`` and others, which are handed on. ``bucket``, an index into
                ``plan.shapes``, is read from the sample or its labels. Other keys of a sample are not read. A sample is not
                changed.

        Returns:
            A dict: ``pixel_values`` [B, C, H, W], dtype kept, padding 0; ``pixel_mask`` [B, H, W] int64, 1 where real; and
            where samples have them ``labels``: a list of B dicts with the samples' entries, boxes as fractions of the canvas,
            ``masks`` [n, H, W], ``size`` [2] int64 (H, W). With ``max_boxes`` one dict, of ``class_labels`` [B, M], ``boxes``
            [B, M, 4] and so on, padding 0; other entries stacked [B, ...]; ``valid_mask`` [B, M] bool; ``image_valid`` [B] bool.

        Raises:
            BucketError: an image is larger than every bucket, no bucket holds all images, there are more boxes than
                ``max_boxes``, or samples carry different buckets, or one that does not hold them.
            TargetError: the list is empty; a sample is not such a dict, lacks what others have, has entries of different length
                or boxes that are no fractions.
            ShapeError: there are more samples than B; an image is not [C, h, w]; channel counts differ; boxes are not [n, 4].
            DtypeError: dtypes of images differ, or a value is no tensor and makes none.
        """
        if len(samples) == 0:
            raise TargetError(f"{_WHERE}: got an empty batch, expected at least one sample. Check the batch sampler.")
        read = [_read(position, sample) for position, sample in enumerate(samples)]
        _check_alike(read)
        index = self._choose(read)
        canvas = (self.plan.shapes[index].height, self.plan.shapes[index].width)
        rows = len(read) if self.batch_size is None else self.plan.batch_size(index, self.batch_size)
        if len(read) > rows:
            raise ShapeError(f"{_WHERE}: got {len(read)} samples, expected at most batch_size={rows}.")
        images = [sample.image for sample in read]
        fillers = [torch.ones((), dtype=torch.int64).expand(canvas)] * (rows - len(read))
        batch: dict[str, Any] = {
            "pixel_values": stack_padded(images, rows, (len(images[0]), *canvas)),
            "pixel_mask": stack_padded([*(sample.mask for sample in read), *fillers], rows, canvas),
        }
        if read[0].labels is not None:
            labels = [_on_canvas(sample, canvas) for sample in read]
            labels += [_filler(labels[0], canvas) for _ in fillers]
            batch["labels"] = labels if self.max_boxes is None else self._stacked(labels, len(read))
        return batch

    def _choose(self, read: Sequence[_Sample]) -> int:
        """The index into ``plan.shapes`` of the bucket that the samples carry, or of the smallest that covers them all."""
        shapes = [(bucket.height, bucket.width) for bucket in self.plan.shapes]
        measured = [(f"the image of {sample.name}", sample.size) for sample in read]
        return choose_size(_WHERE, shapes, measured, [sample.bucket for sample in read])

    def _stacked(self, labels: Sequence[Mapping[str, Any]], real: int) -> dict[str, Any]:
        """The labels of all images as one dict of tensors with M rows."""
        assert self.max_boxes is not None
        for position, own in enumerate(labels):
            if len(own["boxes"]) > self.max_boxes:
                raise BucketError(
                    f"{_WHERE}: sample {position} has {len(own['boxes'])} boxes, expected at most max_boxes={self.max_boxes}."
                    " Give more slots, or drop boxes in the data set."
                )
        rules = {key: Pad(self.max_boxes) for key in _ROWS if key in labels[0]}
        stacked, lengths = collate(labels, where=f"{_WHERE}: labels", rules=rules, batch_size=None)
        valid = valid_mask(lengths["boxes"], self.max_boxes)
        return {**stacked, "valid_mask": valid, "image_valid": torch.arange(len(labels)) < real}


@dataclass(frozen=True, slots=True)
class _Sample:
    """One sample, read and checked: ``image`` [C, h, w], ``mask`` [h, w] int64, ``labels`` with tensors for what has rows."""

    name: str
    image: Tensor
    mask: Tensor
    labels: dict[str, Any] | None
    bucket: int | None

    @property
    def size(self) -> Size:
        return tuple(self.image.shape[1:])


def _read(position: int, sample: Any) -> _Sample:
    name = f"sample {position}"
    where = f"{_WHERE}: {name}"
    if not isinstance(sample, Mapping) or "pixel_values" not in sample:
        got = f"a {type(sample).__name__}" if not isinstance(sample, Mapping) else f"a dict of {shown(list(sample))}"
        raise TargetError(f"{where} is {got}, expected a dict with pixel_values and labels. For pairs, use PadToBucket.")
    image, labels = as_tensor(where, "pixel_values", sample["pixel_values"], _CONVERT), sample.get("labels")
    if image.ndim != 3 or 0 in image.shape:
        raise ShapeError(
            f"{where}: pixel_values has shape {tuple(image.shape)}, expected [C, h, w] with at least one pixel."
            " An image processor returns a batch of one: take its first, and labels[0]."
        )
    size = tuple(image.shape[1:])
    mask = torch.ones((), dtype=torch.int64).expand(size)
    if sample.get("pixel_mask") is not None:
        mask = as_tensor(where, "pixel_mask", sample["pixel_mask"], _CONVERT).long()
        if tuple(mask.shape) != size:
            raise ShapeError(f"{where}: pixel_mask has shape {tuple(mask.shape)}, expected that of the image, {size}.")
    if labels is not None and not isinstance(labels, Mapping):
        raise TargetError(
            f"{where}: labels is a {type(labels).__name__}, expected a dict with class_labels and boxes."
            " An image processor returns a list of one: take labels[0]."
        )
    carried = sample.get("bucket", None if labels is None else labels.get("bucket"))
    bucket = None if carried is None else whole_number(where, "bucket", carried)
    return _Sample(name, image, mask, None if labels is None else _labels(where, labels, size), bucket)


def _labels(where: str, labels: Mapping[str, Any], size: Size) -> dict[str, Any]:
    """A copy, with tensors for what has one row per box."""
    for key in ("class_labels", "boxes"):
        if key not in labels:
            raise TargetError(f"{where}: labels has no {key} (it has {shown(list(labels))}), expected class_labels and boxes.")
    read = {key: value.clone() if isinstance(value, Tensor) else value for key, value in labels.items() if key != "bucket"}
    read |= {key: as_tensor(where, key, labels[key], _CONVERT).clone() for key in _ROWS if key in labels}
    boxes = read["boxes"]
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
        raise ShapeError(
            f"{where}: boxes are {dtype_name(boxes)} of shape {tuple(boxes.shape)}, expected floating-point [n, 4]: cx, cy,"
            " width, height. An image without boxes has torch.zeros(0, 4)."
        )
    if boxes.numel() and boxes.abs().max() > 2:
        raise TargetError(
            f"{where}: boxes reach {boxes.abs().max().item():g}, expected fractions of the image (cx, cy, width, height)."
            " Let the image processor convert them (do_convert_annotations=True), or divide pixels by the image's size."
        )
    for key, wanted in _ROWS.items():
        if key in read and (read[key].ndim != wanted.count(",") + 1 or len(read[key]) != len(boxes)):
            raise TargetError(
                f"{where}: {key} has shape {tuple(read[key].shape)} for {len(boxes)} boxes, expected {wanted}: one entry per box."
            )
    if "masks" in read and tuple(read["masks"].shape[1:]) != size:
        raise TargetError(
            f"{where}: masks has shape {tuple(read['masks'].shape)}, expected [n, {size[0]}, {size[1]}], as the image has."
        )
    return read


def _check_alike(read: Sequence[_Sample]) -> None:
    check_images(_WHERE, [(sample.name, sample.image) for sample in read], "in the data set", "in the data set")
    first = read[0]
    for sample in read:
        if (sample.labels is None) != (first.labels is None):
            there, missing = (first, sample) if sample.labels is None else (sample, first)
            raise TargetError(
                f"{_WHERE}: {there.name} has labels, {missing.name} has none. Give them for all samples, or for none."
            )


def _on_canvas(sample: _Sample, canvas: Size) -> dict[str, Any]:
    """The labels after padding: boxes as fractions of the canvas, masks of its size."""
    labels = dict(sample.labels or {})
    ratios = [own / end for own, end in zip(sample.size, canvas, strict=True)]
    labels["boxes"] = labels["boxes"] * torch.tensor([ratios[1], ratios[0]] * 2, dtype=labels["boxes"].dtype)
    if "masks" in labels:
        masks = labels["masks"]
        labels["masks"] = stack_padded(list(masks), len(masks), canvas) if len(masks) else masks.new_zeros(0, *canvas)
    labels["size"] = torch.tensor(canvas)
    return labels


def _filler(labels: Mapping[str, Any], canvas: Size) -> dict[str, Any]:
    """The labels of an image that is not there: the keys of ``labels``, no rows, ``image_id`` -1."""
    filler: dict[str, Any] = {key: value[:0] if key in _ROWS else _like(value, 0) for key, value in labels.items()}
    if "image_id" in labels:
        filler["image_id"] = _like(labels["image_id"], -1)
    return filler | {"size": torch.tensor(canvas)}


def _like(value: Any, number: int) -> Any:
    """``number`` with the type and the shape of ``value``; ``None`` for what is no number."""
    if isinstance(value, tuple | list):
        return type(value)(_like(part, number) for part in value)
    if isinstance(value, np.ndarray | np.number):
        value = torch.as_tensor(value)
    return torch.full_like(value, number) if isinstance(value, Tensor) else number if isinstance(value, int | float) else None
