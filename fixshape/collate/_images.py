"""The images of a batch, which have to be alike.

Shapes: B images in the batch (fillers included), C channels, H, W pixels of the canvas.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fixshape.collate._canvas import stack_padded
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
    images = [sample.image for sample in samples]
    return stack_padded(images, rows, (len(images[0]), bucket.height, bucket.width))


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
