"""The part of a detection model's transform that belongs on the host: the resize, whose result varies with the image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms.v2 import functional

from fixshape._check import check_at_least
from fixshape.errors import DtypeError, ModelError, ShapeError
from fixshape.plan import resize_sizes, resized_size


class HostTransform:
    """Resizes an image and its target as a model's own transform does. Made by :func:`host_transform`; can be pickled.

    It does not normalise: the static model does, on the device. Resizing first and normalising after differs from
    torchvision's order by rounding only (2e-7 in float32).

    Args:
        min_size: what the shorter side becomes; several: one is drawn per image while training, as torchvision draws it.
        max_size: the most that the longer side becomes.
        fixed_size: the (width, height) that every image becomes, or ``None``.
        dtype: of the result: a floating one, with images in [0, 1], or ``torch.uint8``, a quarter of the bytes; the resize then
            rounds to 8 bits, so that the losses are no longer exactly torchvision's.
        training: whether the size is drawn (True) or the last of ``min_size`` is taken.
    """

    def __init__(
        self,
        min_size: Sequence[int],
        max_size: int,
        fixed_size: tuple[int, int] | None,
        *,
        dtype: torch.dtype = torch.float32,
        training: bool = True,
    ) -> None:
        if not (dtype.is_floating_point or dtype == torch.uint8):
            raise DtypeError(f"host_transform: dtype is {dtype}, expected a floating dtype or torch.uint8.")
        self.dtype = dtype
        self.fixed_size = fixed_size
        self._resize = GeneralizedRCNNTransform(list(min_size), max_size, [0.0], [1.0], fixed_size=fixed_size).train(training)

    def __call__(
        self, image: Any, target: dict[str, Any] | None = None, *, min_size: int | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Resizes one sample.

        Args:
            image: a PIL image, or a tensor [C, H, W], uint8 or floating in [0, 1].
            target: ``boxes`` [n, 4] XYXY pixels, ``masks`` [n, H, W] and ``keypoints`` [n, K, 3] are resized with it, all
                else is handed on; ``None`` or no ``boxes``: an image without boxes.
            min_size: what the shorter side becomes of this image, drawn elsewhere: by :class:`fixshape.BucketBatchSampler`.
                ``None``: one of the transform's own.

        Returns:
            The image [C, h, w] in ``dtype``, and a new target with ``orig_size`` (H, W) added.

        Raises:
            ShapeError: the image is not [C, H, W]; ``min_size`` is below 1, or given where every image becomes ``fixed_size``.
        """
        resize = self._resize if min_size is None else self._at(min_size)
        pixels = functional.to_dtype(functional.to_image(image), self.dtype, scale=True).as_subclass(Tensor)
        if pixels.dim() != 3:
            raise ShapeError(f"host_transform: the image has shape {tuple(pixels.shape)}, expected [C, H, W].")
        # as_subclass: a tv_tensor would carry the old canvas size along, and costs a dispatch at every later op.
        resized: dict[str, Any] = {
            key: value.as_subclass(Tensor) if isinstance(value, Tensor) else value for key, value in (target or {}).items()
        }
        resized["orig_size"] = (int(pixels.shape[-2]), int(pixels.shape[-1]))
        if "boxes" in resized:
            return resize.resize(pixels, resized)  # type: ignore[no-any-return]
        return resize.resize(pixels, None)[0], resized

    def size(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) that an image of that size becomes, without the image; the largest scale where one is drawn."""
        return resized_size(height, width, max(self._resize.min_size), self._resize.max_size, fixed_size=self.fixed_size)

    def sizes(self, sizes: Iterable[Sequence[int]] | NDArray[np.int64]) -> NDArray[np.int64]:
        """What many images become, for :func:`fixshape.plan_buckets`.

        Args:
            sizes: [N, 2] or [N, 3] whole numbers, (height, width) or (height, width, boxes) per image, before the resize.

        Returns:
            [N * S, 2] or [N * S, 3] int64, with the boxes handed on: the S scales that are drawn from while training, all of
            the first image first, so that a plan covers whatever is drawn; else S is 1.

        Raises:
            PlanError: there is no row.
            ShapeError: a row is no size, or a side would become 0 pixels.
        """
        scales = self._resize.min_size if self._resize.training else self._resize.min_size[-1:]
        return resize_sizes(sizes, tuple(scales), self._resize.max_size, fixed_size=self.fixed_size)

    def _at(self, min_size: int) -> GeneralizedRCNNTransform:
        """The model's transform with one scale instead of its own, not drawn: that takes a random number for one scale too."""
        check_at_least("host_transform", "min_size", min_size, 1)
        if self.fixed_size is not None:
            width, height = self.fixed_size
            raise ShapeError(
                f"host_transform: got min_size={min_size}, but every image becomes {height}x{width} (height x width)."
                " Leave scales= out: this model has one size."
            )
        return GeneralizedRCNNTransform([min_size], self._resize.max_size, [0.0], [1.0]).eval()


def host_transform(model: nn.Module, *, dtype: torch.dtype = torch.float32) -> HostTransform:
    """The host's half of a detection model's transform: a callable ``(image, target) -> (image, target)`` for the data set.

    Args:
        model: a torchvision detection model, or what :func:`fixshape.to_static` made of one. It must be in the mode, training
            or evaluation, that the transform is for: torchvision draws a scale while training where it has several.
        dtype: of the images, see :class:`HostTransform`.

    Returns:
        A :class:`HostTransform`.

    Raises:
        ModelError: the model has no torchvision detection transform.
        DtypeError: ``dtype`` is neither floating nor uint8.

    Example:
        >>> from torchvision.models.detection import ssdlite320_mobilenet_v3_large
        >>> model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4)
        >>> image, target = host_transform(model)(torch.rand(3, 480, 640), {"boxes": torch.tensor([[0.0, 0.0, 64.0, 48.0]])})
        >>> image.shape, target["boxes"], target["orig_size"]
        (torch.Size([3, 320, 320]), tensor([[ 0.,  0., 32., 32.]]), (480, 640))
    """
    transform = getattr(model, "transform", None)
    if not isinstance(transform, GeneralizedRCNNTransform):
        raise ModelError(
            f"host_transform: {type(model).__name__} has no torchvision detection transform (model.transform is"
            f" {type(transform).__name__}). Give a model of torchvision.models.detection, or its static form."
        )
    return HostTransform(transform.min_size, transform.max_size, transform.fixed_size, dtype=dtype, training=model.training)
