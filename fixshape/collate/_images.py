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
    check_images(
        "PadToBucket",
        [(sample.name, sample.image) for sample in samples],
        "in the transform (torchvision.transforms.v2.ToDtype)",
        "in the transform (torchvision.transforms.v2.RGB or Grayscale)",
    )
    images = [sample.image for sample in samples]
    return stack_padded(images, rows, (len(images[0]), bucket.height, bucket.width))


def check_images(where: str, images: Sequence[tuple[str, Tensor]], dtype_there: str, channels_there: str) -> None:
    """Whether images [C, h, w], each with a name for messages, can be of one batch; the rest says where to convert them.

    Raises:
        DtypeError: their dtypes differ.
        ShapeError: their channel counts differ.
    """
    name, first = images[0]
    for other, image in images[1:]:
        if image.dtype != first.dtype:
            raise DtypeError(
                f"{where}: the image of {name} is {dtype_name(first)}, that of {other} {dtype_name(image)}, expected one dtype in"
                f" a batch. Convert {dtype_there}."
            )
        if len(image) != len(first):
            raise ShapeError(
                f"{where}: the image of {name} has {len(first)} channel(s), that of {other} {len(image)}, expected one count in a"
                f" batch. Convert {channels_there}."
            )
