"""Which models can be made static, and what each becomes."""

from __future__ import annotations

from torch import nn
from torchvision.models.detection.faster_rcnn import FasterRCNN
from torchvision.models.detection.fcos import FCOS
from torchvision.models.detection.keypoint_rcnn import KeypointRCNN
from torchvision.models.detection.mask_rcnn import MaskRCNN
from torchvision.models.detection.retinanet import RetinaNet
from torchvision.models.detection.ssd import SSD

from fixshape.detection._detector import StaticDetector
from fixshape.detection._fcos import StaticFCOS
from fixshape.detection._parts import check_parts
from fixshape.detection._rcnn import StaticRCNN
from fixshape.detection._retinanet import StaticRetinaNet
from fixshape.detection._ssd import StaticSSD
from fixshape.errors import ModelError

SUPPORTED = (
    "ssd300_vgg16",
    "ssdlite320_mobilenet_v3_large",
    "retinanet_resnet50_fpn",
    "retinanet_resnet50_fpn_v2",
    "fcos_resnet50_fpn",
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "maskrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn_v2",
    "keypointrcnn_resnet50_fpn",
)
"""The builders in ``torchvision.models.detection`` whose models :func:`to_static` takes: all of them."""

_STATIC: dict[type, type[StaticDetector]] = {
    SSD: StaticSSD,
    RetinaNet: StaticRetinaNet,
    FCOS: StaticFCOS,
    FasterRCNN: StaticRCNN,
    MaskRCNN: StaticRCNN,
    KeypointRCNN: StaticRCNN,
}


def to_static(model: nn.Module) -> StaticDetector:
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
        A :class:`fixshape.detection.StaticDetector` in the model's mode, on its device and in its dtype.

    Raises:
        ModelError: the model is not supported, is a subclass whose changes would be lost, has a part that is replaced and not
            understood, or skips its own resize.

    Example:
        >>> from torchvision.models.detection import ssdlite320_mobilenet_v3_large
        >>> model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4)
        >>> static = to_static(model)
        >>> list(static.state_dict()) == list(model.state_dict())
        True
    """
    if isinstance(model, StaticDetector):
        return model
    if type(model) in _STATIC:
        check_parts(model)
        return _STATIC[type(model)](model)
    supported = ", ".join(SUPPORTED)
    for known in reversed(_STATIC):  # Mask and Keypoint R-CNN are Faster R-CNNs too
        if isinstance(model, known):
            raise ModelError(
                f"to_static: {type(model).__name__} is a subclass of torchvision's {known.__name__}; what it changes would be"
                f" lost. Give a model by one of: {supported}."
            )
    raise ModelError(f"to_static: got {type(model).__name__}, expected a torchvision detection model by one of: {supported}.")
