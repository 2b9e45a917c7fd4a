"""The images of a batch: one allocation, slice copies, and of the padding only what is not zero already is written.

Shapes: B images in the batch (fillers included), C channels, H, W pixels of the canvas, h, w pixels of one image.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from fixshape.collate._memory import empty, shared_zeros
from fixshape.collate._sample import Sample
from fixshape.collate._values import dtype_name
from fixshape.errors import DtypeError, ShapeError
from fixshape.plan import Bucket


def batch_images(samples: Sequence[Sample], rows: int, bucket: Bucket) -> Tensor:
    """[B, C, H, W]: each image at the top left of its canvas; in a DataLoader worker in shared memory.

    Raises:
        DtypeError: the images' dtypes differ.
        ShapeError: their channel counts differ.
    """
    _check_alike(samples)
    first = samples[0].image
    shape = (rows, len(first), bucket.height, bucket.width)
    if get_worker_info() is None:
        images, is_zero = empty(shape, first.dtype)
    else:
        (images, file), is_zero = shared_zeros(shape, first.dtype), True
        if file is not None:
            _write(file, samples, bucket)
            return images
    for canvas, sample in zip(images, samples, strict=False):
        _place(canvas, sample.image, is_zero)
    if not is_zero:
        images[len(samples) :].zero_()
    return images


def _place(canvas: Tensor, image: Tensor, is_zero: bool) -> None:
    """Writes ``image`` [..., h, w] to ``canvas`` [..., H, W], and zeros around it unless they are there already."""
    height, width = image.shape[-2:]
    canvas[..., :height, :width].copy_(image)
    if not is_zero:
        canvas[..., :height, width:].zero_()
        canvas[..., height:, :].zero_()


def _write(file: int, samples: Sequence[Sample], bucket: Bucket) -> None:
    """Writes the images to the file behind a batch of zeros, one channel at a time.

    Through the mapping each of its pages would fault once more, which costs more than a second copy of a channel that is still in
    the cache.
    """
    canvas = torch.empty(bucket.height, bucket.width, dtype=samples[0].image.dtype)
    data = canvas.view(torch.uint8).numpy().data.cast("B")
    at = 0
    for sample in samples:
        for channel in sample.image:
            _place(canvas, channel, False)
            written = 0
            while written < len(data):
                written += os.pwrite(file, data[written:], at + written)
            at += len(data)


def _check_alike(samples: Sequence[Sample]) -> None:
    first = samples[0]
    for sample in samples[1:]:
        if sample.image.dtype != first.image.dtype:
            raise DtypeError(
                f"PadToBucket: the image of {first.name} is {dtype_name(first.image)}, that of {sample.name}"
                f" {dtype_name(sample.image)}, expected one dtype in a batch. Convert in the transform"
                " (torchvision.transforms.v2.ToDtype)."
            )
        if len(sample.image) != len(first.image):
            raise ShapeError(
                f"PadToBucket: the image of {first.name} has {len(first.image)} channel(s), that of {sample.name}"
                f" {len(sample.image)}, expected one count in a batch. Convert in the transform"
                " (torchvision.transforms.v2.RGB or Grayscale)."
            )
