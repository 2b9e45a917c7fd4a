"""Is this model made of the parts whose code is replaced, or would something that the user changed be lost?

A static model calls some parts as they are (backbone, convolutional heads); those may be anything. Of others it replaces the code
(losses, matchers, samplers): for those only torchvision's own class will do.
"""

from __future__ import annotations

from torch import nn
from torchvision.models.detection import _utils as det_utils
from torchvision.models.detection import fcos, retinanet, rpn
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign, box_iou

from fixshape.errors import ModelError

_RETINANET: dict[str, type] = {
    "transform": GeneralizedRCNNTransform,
    "anchor_generator": AnchorGenerator,
    "head": retinanet.RetinaNetHead,
    "head.classification_head": retinanet.RetinaNetClassificationHead,
    "head.regression_head": retinanet.RetinaNetRegressionHead,
    "head.regression_head.box_coder": det_utils.BoxCoder,
    "proposal_matcher": det_utils.Matcher,
    "box_coder": det_utils.BoxCoder,
}
_FCOS: dict[str, type] = {
    "transform": GeneralizedRCNNTransform,
    "anchor_generator": AnchorGenerator,
    "head": fcos.FCOSHead,
    "head.classification_head": fcos.FCOSClassificationHead,
    "head.regression_head": fcos.FCOSRegressionHead,
    "head.box_coder": det_utils.BoxLinearCoder,
    "box_coder": det_utils.BoxLinearCoder,
}
_SSD: dict[str, type] = {
    "transform": GeneralizedRCNNTransform,
    "anchor_generator": DefaultBoxGenerator,
    "proposal_matcher": det_utils.SSDMatcher,
    "box_coder": det_utils.BoxCoder,
}
_RCNN: dict[str, type] = {
    "transform": GeneralizedRCNNTransform,
    "rpn": rpn.RegionProposalNetwork,
    "rpn.anchor_generator": AnchorGenerator,
    "rpn.proposal_matcher": det_utils.Matcher,
    "rpn.fg_bg_sampler": det_utils.BalancedPositiveNegativeSampler,
    "rpn.box_coder": det_utils.BoxCoder,
    "roi_heads": RoIHeads,
    "roi_heads.proposal_matcher": det_utils.Matcher,
    "roi_heads.fg_bg_sampler": det_utils.BalancedPositiveNegativeSampler,
    "roi_heads.box_coder": det_utils.BoxCoder,
    "roi_heads.box_roi_pool": MultiScaleRoIAlign,
}
_PARTS: dict[str, dict[str, type]] = {
    "RetinaNet": _RETINANET,
    "FCOS": _FCOS,
    "SSD": _SSD,
    "FasterRCNN": _RCNN,
    "MaskRCNN": {**_RCNN, "roi_heads.mask_roi_pool": MultiScaleRoIAlign},
    "KeypointRCNN": {**_RCNN, "roi_heads.keypoint_roi_pool": MultiScaleRoIAlign},
}
_CALLED = ("head", "head.classification_head", "head.regression_head")
"""Modules that are called as they are: hooks on them go on working. Not so on the other modules above."""


def check_parts(model: nn.Module) -> None:
    """Raises :class:`ModelError`, naming the part, where the static form of ``model`` would not do what ``model`` does.

    Args:
        model: of one of the classes that have a static form, and not of a subclass.
    """
    parts: dict[str, object] = {"model": model}
    for name, expected in _PARTS[type(model).__name__].items():
        part = _attribute(model, name)
        if type(part) is not expected:
            raise ModelError(
                f"to_static: {name} is {_named(part)}, expected torchvision's {expected.__name__} itself: its code is replaced,"
                f" and what {_named(part)} does otherwise would be lost. Put a {expected.__name__} there."
            )
        parts[name] = part
    for name, part in parts.items():
        _check_instance(name, part)
    for name in ("rpn.box_similarity", "roi_heads.box_similarity"):
        function = _attribute(model, name)
        if function is not None and function is not box_iou:
            raise ModelError(f"to_static: {name} is {_named(function)}, expected torchvision.ops.box_iou: it is not called.")


def _check_instance(name: str, part: object) -> None:
    """That nothing was put on this one object which its class does not have: a replaced method, or a hook that would not run."""
    replaced = [
        key for key in vars(part) if callable(getattr(type(part), key, None)) and not isinstance(vars(part)[key], nn.Module)
    ]
    if replaced:
        raise ModelError(
            f"to_static: {name}.{replaced[0]} was replaced on this model; the static model would not call it. Take it off"
            f" (del {name}.{replaced[0]}) before to_static."
        )
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    if name not in _CALLED and any(getattr(part, hook, None) for hook in hooks):
        raise ModelError(
            f"to_static: {name} has a hook, which would not run, since the static model does not call {name}. Remove it, or hook"
            " a part of the backbone or of a head."
        )


def _attribute(model: object, name: str) -> object:
    for part in name.split("."):
        model = getattr(model, part, None)
    return model


def _named(part: object) -> str:
    return getattr(part, "__name__", None) or type(part).__name__
