"""Which models can be made static, and what each becomes."""

from __future__ import annotations

from torch import nn
from torchvision.models.detection.ssd import SSD

from fixshape.detection._ssd import StaticSSD
from fixshape.errors import ModelError

SUPPORTED = ("ssd300_vgg16", "ssdlite320_mobilenet_v3_large")
"""The builders in ``torchvision.models.detection`` whose models :func:`to_static` takes."""


def to_static(model: nn.Module) -> nn.Module:
    """The same model with shapes that depend on the canvas and the number of box slots alone.

    Backbone and head are shared, not copied: parameters and ``state_dict`` keys are the same, a checkpoint of either loads into
    the other, strictly, and an optimiser built on either trains both. torchvision's own model can still be called.

    Training, ``model(images, targets)`` gives torchvision's dictionary of losses for a batch of
    :class:`fixshape.PadToBucket`; evaluation, ``model(images)``, gives :class:`fixshape.Detections`. In float64 the losses,
    gradients and buffers equal torchvision's on the same resized images to 1e-9. It does not promise that training runs free
    to the same weights after many steps: torchvision does not do that with itself.

    Args:
        model: by one of the builders in :data:`fixshape.detection.SUPPORTED`, any number of classes and thresholds.

    Returns:
        A module in the model's mode, on its device and in its dtype.

    Raises:
        ModelError: the model is not supported, is a subclass whose changes would be lost, or skips its own resize.

    Example:
        >>> from torchvision.models.detection import ssdlite320_mobilenet_v3_large
        >>> model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4)
        >>> static = to_static(model)
        >>> list(static.state_dict()) == list(model.state_dict())
        True
    """
    if isinstance(model, StaticSSD):
        return model
    if type(model) is SSD:
        return StaticSSD(model)
    supported = ", ".join(SUPPORTED)
    if isinstance(model, SSD):
        raise ModelError(
            f"to_static: {type(model).__name__} is a subclass of torchvision's SSD; what it changes would be lost."
            f" Give a model by one of: {supported}."
        )
    raise ModelError(f"to_static: got {type(model).__name__}, expected a torchvision detection model by one of: {supported}.")
