"""What every static detection model does: checks a batch, normalises it, and runs the backbone, whatever comes behind that.

Shapes: B images, H x W canvas, M box slots, A anchors.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from fixshape._check import check_shape
from fixshape.detection._detections import Detections
from fixshape.detection._normalize import normalize
from fixshape.detection._upsample import nearest_by_index
from fixshape.errors import DtypeError, ModelError, ShapeError

_Detector = TypeVar("_Detector", bound="StaticDetector")


class StaticDetector(nn.Module, ABC):
    """The common part of what :func:`fixshape.to_static` makes. A model adds ``num_classes``,
    ``_losses``, ``_detect`` and its constants.

    It shares the modules of the model it is made of, under their own names, so that ``state_dict`` has the same keys in the same
    order. Constants (anchors, mean, deviation) are buffers outside of the ``state_dict``, in the parameters' dtype but never
    below float32.
    """

    transform: GeneralizedRCNNTransform
    backbone: nn.Module
    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.transform = model.get_submodule("transform")
        self.backbone = model.get_submodule("backbone")
        # Not self.train(...): that would also switch parts which the user has put into evaluation, a frozen batch-norm say.
        self.training = model.training

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """Classes, the background included: labels are 0 to this less one."""

    def forward(
        self, images: Tensor, targets: Mapping[str, Tensor] | None = None, image_sizes: Tensor | None = None
    ) -> dict[str, Tensor] | Detections:
        """Losses while training, detections in evaluation.

        Args:
            images: [B, 3, H, W] on the canvas, floating in [0, 1] or uint8, not normalised.
            targets: while training, by :class:`fixshape.PadToBucket`: ``boxes`` [B, M, 4] XYXY canvas pixels, ``labels``
                [B, M] int64, ``valid_mask`` [B, M] bool, ``image_sizes`` [B, 2], and what else the model learns: ``masks`` or
                ``box_masks``, ``keypoints``. ``image_valid`` [B] bool, where there, marks fillers, which no loss counts. In
                evaluation only ``image_sizes`` is read, if targets are given.
            image_sizes: [B, 2] int64, (h, w) of each image on the canvas; ``None``: all of it.

        Returns:
            Training: torchvision's dictionary of losses, scalars. Evaluation: :class:`fixshape.Detections` with
            D = ``detections_per_img``, boxes on the canvas.

        Raises:
            ShapeError: the canvas is not one of the model's, or the targets are of other images.
            DtypeError: the images are integers other than uint8.
            ModelError: training without targets, or without a target that the model learns.
        """
        where = type(self).__name__
        self._check_images(where, images)
        if image_sizes is None and targets is not None:
            image_sizes = targets["image_sizes"]
        if image_sizes is None:
            height, width = (torch.full_like(images[:, 0, 0, 0], side, dtype=torch.int64) for side in images.shape[2:])
            image_sizes = torch.stack((height, width), dim=1)
        check_shape(where, "image_sizes", image_sizes.shape, (images.shape[0], 2))
        if self.training:
            if targets is None:
                raise ModelError(
                    f"{where}: training needs targets: model(images, targets). For detections call model.eval() first."
                )
            self._check_targets(where, images, targets)
        canvas = (int(images.shape[2]), int(images.shape[3]))
        normalized = normalize(images, image_sizes, self.mean, self.std)
        # torch_xla takes the gradient of upsampling, in feature pyramids and keypoint heads, to the host.
        with nearest_by_index() if images.device.type == "xla" else contextlib.nullcontext():
            features = self.backbone(normalized.to(next(self.backbone.parameters()).dtype))
            if isinstance(features, Tensor):
                features = {"0": features}
            if targets is None or not self.training:
                return self._detect(features, canvas, image_sizes)
            return self._losses(features, canvas, image_sizes, targets)

    @abstractmethod
    def _losses(
        self, features: dict[str, Tensor], canvas: tuple[int, int], image_sizes: Tensor, targets: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Torchvision's losses of a batch."""

    @abstractmethod
    def _detect(self, features: dict[str, Tensor], canvas: tuple[int, int], image_sizes: Tensor) -> Detections:
        """What is found on the canvas."""

    def _constants(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """What the model computes with and does not learn, on the CPU."""
        return {}

    def _check_images(self, where: str, images: Tensor) -> None:
        check_shape(where, "images", images.shape, ("B", 3, "H", "W"), "Batches come from PadToBucket.")
        if not (images.is_floating_point() or images.dtype == torch.uint8):
            raise DtypeError(f"{where}: images are {images.dtype}, expected floating in [0, 1] or torch.uint8.")
        step = int(self.transform.size_divisible)
        height, width = images.shape[2:]
        if height % step or width % step:
            fitting = tuple(-(-side // step) * step for side in (height, width))
            raise ShapeError(
                f"{where}: the canvas is {height} x {width} (height x width), expected multiples of {step}, as torchvision"
                f" pads to. Pad to {fitting[0]} x {fitting[1]}."
            )

    def _check_targets(self, where: str, images: Tensor, targets: Mapping[str, Tensor]) -> None:
        batch, slots = images.shape[0], targets["valid_mask"].shape[1:]
        for name, trailing in (("valid_mask", ()), ("boxes", (4,)), ("labels", ())):
            check_shape(where, f"targets[{name!r}]", targets[name].shape, (batch, *slots, *trailing))
        if "image_valid" in targets:
            check_shape(where, "targets['image_valid']", targets["image_valid"].shape, (batch,))

    def _apply(self: _Detector, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> _Detector:
        # .to(), .double(), .cuda() end here. Constants are made anew: float32 anchors cast to float64 would be 3e-5 pixels off.
        super()._apply(fn, *args, **kwargs)  # type: ignore[no-untyped-call]
        self._make_constants()
        return self

    def _make_constants(self) -> None:
        parameter = next(self.parameters())
        dtype = torch.promote_types(parameter.dtype, torch.float32)
        constants = {
            "mean": torch.tensor(self.transform.image_mean, dtype=dtype),
            "std": torch.tensor(self.transform.image_std, dtype=dtype),
            **self._constants(dtype),
        }
        for name, constant in constants.items():
            self.register_buffer(name, constant.to(parameter.device), persistent=False)


def real_images(targets: Mapping[str, Tensor]) -> Tensor:
    """[B] bool: which images are no fillers; all of them where the targets do not say."""
    if "image_valid" in targets:
        return targets["image_valid"]
    return torch.ones_like(targets["valid_mask"][:, 0])
