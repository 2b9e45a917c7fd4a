"""torchvision's detection models, built as its builders build them but small: a ResNet-18, fewer channels, a small canvas.

No code path changes with it. Each also puts a torchvision model on a fixed canvas, with the random choice of its twin.
"""

from functools import partial

import pytest
import torch
from torch import nn
from torchvision.models import detection, mobilenet_v3_large, resnet
from torchvision.models.detection import _utils as det_utils
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN, _mobilenet_extractor
from torchvision.models.detection.faster_rcnn import FasterRCNN, FastRCNNConvFCHead
from torchvision.models.detection.fcos import FCOS
from torchvision.models.detection.keypoint_rcnn import KeypointRCNN, KeypointRCNNHeads
from torchvision.models.detection.mask_rcnn import MaskRCNN, MaskRCNNHeads
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import FrozenBatchNorm2d, misc
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7
from torchvision.ops.poolers import initLevelMapper

CHANNELS = 64  # GroupNorm wants a multiple of 32
CLASSES = 4
KEYPOINTS = 4
CANVAS = (128, 192)
NO_RESIZE = {"_skip_resize": True}  # images come resized
LOW_SCORES = {"score_thresh": 0.01}  # of a model that has trained for some steps only


def _pyramid(extra, *, first: int = 1, norm: type[nn.Module] = FrozenBatchNorm2d, fpn_norm=None) -> BackboneWithFPN:
    body = resnet.resnet18(weights=None, norm_layer=norm)
    names = {f"layer{number}": str(level) for level, number in enumerate(range(first, 5))}
    channels = [64 * 2 ** (number - 1) for number in range(first, 5)]
    return BackboneWithFPN(body, names, channels, CHANNELS, extra_blocks=extra, norm_layer=fpn_norm)


def _anchors(levels: int, smallest: int = 16, per_level: int = 1) -> AnchorGenerator:
    sizes = tuple(tuple(int(smallest * 2 ** (level + part / per_level)) for part in range(per_level)) for level in range(levels))
    return AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * levels)


def retinanet() -> nn.Module:
    backbone = _pyramid(LastLevelP6P7(CHANNELS, CHANNELS), first=2)
    return RetinaNet(backbone, CLASSES, anchor_generator=_anchors(5, per_level=3), **LOW_SCORES, **NO_RESIZE)


def retinanet_v2() -> nn.Module:
    backbone = _pyramid(LastLevelP6P7(512, CHANNELS), first=2, norm=nn.BatchNorm2d)
    generator = _anchors(5, per_level=3)
    head = RetinaNetHead(CHANNELS, 9, CLASSES, norm_layer=partial(nn.GroupNorm, 32))
    head.regression_head._loss_type = "giou"
    return RetinaNet(backbone, CLASSES, anchor_generator=generator, head=head, **LOW_SCORES, **NO_RESIZE)


def fcos() -> nn.Module:
    return FCOS(_pyramid(LastLevelP6P7(CHANNELS, CHANNELS), first=2), CLASSES, **LOW_SCORES, **NO_RESIZE)


_RCNN = {
    "rpn_pre_nms_top_n_train": 120,
    "rpn_post_nms_top_n_train": 100,
    "rpn_pre_nms_top_n_test": 80,
    "rpn_post_nms_top_n_test": 60,
    "rpn_batch_size_per_image": 64,
    "box_batch_size_per_image": 32,
    "box_detections_per_img": 20,
    "box_score_thresh": LOW_SCORES["score_thresh"],
    **NO_RESIZE,
}


def fasterrcnn() -> nn.Module:
    return FasterRCNN(_pyramid(LastLevelMaxPool()), CLASSES, rpn_anchor_generator=_anchors(5), **_RCNN)


def _v2_parts() -> dict:
    return {
        "rpn_anchor_generator": _anchors(5),
        "rpn_head": RPNHead(CHANNELS, 3, conv_depth=2),
        "box_head": FastRCNNConvFCHead((CHANNELS, 7, 7), [CHANNELS] * 2, [1024], norm_layer=nn.BatchNorm2d),
        "num_classes": CLASSES,
    }


def fasterrcnn_v2() -> nn.Module:
    backbone = _pyramid(LastLevelMaxPool(), norm=nn.BatchNorm2d, fpn_norm=nn.BatchNorm2d)
    return FasterRCNN(backbone, **_v2_parts(), **_RCNN)


def maskrcnn() -> nn.Module:
    mask_head = MaskRCNNHeads(CHANNELS, [CHANNELS, 256], 1)
    return MaskRCNN(_pyramid(LastLevelMaxPool()), CLASSES, rpn_anchor_generator=_anchors(5), mask_head=mask_head, **_RCNN)


def maskrcnn_v2() -> nn.Module:
    backbone = _pyramid(LastLevelMaxPool(), norm=nn.BatchNorm2d, fpn_norm=nn.BatchNorm2d)
    mask_head = MaskRCNNHeads(CHANNELS, [CHANNELS, 256], 1, norm_layer=nn.BatchNorm2d)
    return MaskRCNN(backbone, **_v2_parts(), mask_head=mask_head, **_RCNN)


def keypointrcnn(num_keypoints: int = KEYPOINTS) -> nn.Module:
    return KeypointRCNN(
        _pyramid(LastLevelMaxPool()),
        2,
        rpn_anchor_generator=_anchors(5),
        keypoint_head=KeypointRCNNHeads(CHANNELS, [CHANNELS] * 2),
        keypoint_predictor=detection.keypoint_rcnn.KeypointRCNNPredictor(CHANNELS, num_keypoints),
        num_keypoints=None,
        **_RCNN,
    )


def fasterrcnn_mobilenet() -> nn.Module:
    """Both finest levels of the same stride, one level for all boxes, and an RPN that drops low scores."""
    body = mobilenet_v3_large(weights=None, norm_layer=misc.FrozenBatchNorm2d)
    generator = AnchorGenerator(((16, 32, 64, 128),) * 3, ((0.5, 1.0, 2.0),) * 3)
    return FasterRCNN(
        _mobilenet_extractor(body, True, 6), CLASSES, rpn_anchor_generator=generator, rpn_score_thresh=0.05, **_RCNN
    )


BUILDERS = {
    builder.__name__: builder
    for builder in (
        retinanet,
        retinanet_v2,
        fcos,
        fasterrcnn,
        fasterrcnn_mobilenet,
        fasterrcnn_v2,
        maskrcnn,
        maskrcnn_v2,
        keypointrcnn,
    )
}
VARIANTS = ("retinanet_v2", "fasterrcnn", "fasterrcnn_mobilenet", "fasterrcnn_v2", "maskrcnn_v2", "keypointrcnn")
"""What differs from another one in a part alone: their long tests are marked slow."""
RCNNS = tuple(name for name in BUILDERS if "rcnn" in name)


def with_slow_variants() -> list:
    """The names for ``pytest.mark.parametrize``."""
    return [pytest.param(name, marks=pytest.mark.slow) if name in VARIANTS else name for name in BUILDERS]


def build(name: str, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A small model with random weights, training."""
    torch.manual_seed(seed)
    return BUILDERS[name]().to(dtype).train()


def on_canvas(model: nn.Module, canvas: tuple[int, int]) -> nn.Module:
    """Makes a torchvision model pad to ``canvas``, resize nothing, and pool at the scales of that canvas.

    By default it pads to the largest image of each batch, and infers its scales from the first. To be called on the reference
    after its twin was made: it replaces methods on the object, which ``to_static`` refuses.
    """

    def pad_to_canvas(images, size_divisible=32):
        batch = images[0].new_zeros(len(images), 3, *canvas)
        for row, image in zip(batch, images, strict=True):
            row[:, : image.shape[1], : image.shape[2]] = image
        return batch

    training = model.training
    model.transform.batch_images = pad_to_canvas
    model.transform.resize = lambda image, target=None: (image, target)
    for name in ("box_roi_pool", "mask_roi_pool", "keypoint_roi_pool"):
        pool = getattr(getattr(model, "roi_heads", None), name, None)
        if pool is not None:
            features = model.eval().backbone(torch.zeros(1, 3, *canvas, dtype=next(model.parameters()).dtype))
            levels = [features[level] for level in pool.featmap_names if level in features]
            steps = [round(torch.tensor(canvas[0] / level.shape[2]).log2().item()) for level in levels]
            pool.scales, pool.map_levels = [2.0**-step for step in steps], initLevelMapper(steps[0], steps[-1])
    return model.train(training)


class SharedKeys:
    """Random keys for both models: the twin draws them, and the reference's samplers look them up.

    Proposals are ``P`` slots in the twin, the real ones first, followed by slots of ground truth; in the reference they are as
    many as there are.
    """

    def __init__(self, reference: nn.Module, twin: nn.Module) -> None:
        self.keys: dict[str, torch.Tensor] = {}
        self.counts: list[int] = []
        self.slots = 0
        self.generator = torch.Generator().manual_seed(0)
        twin.sampling_keys = self.draw
        for stage in ("rpn", "roi_heads"):
            part = getattr(reference, stage)
            part.fg_bg_sampler = _Keyed(part.fg_bg_sampler, self, stage)

    def expect(self, counts: list[int], slots: int) -> None:
        """Says how many boxes the images of the next batch have, and how many slots."""
        self.counts, self.slots = counts, slots

    def draw(self, stage: str, labels: torch.Tensor) -> torch.Tensor:
        self.keys[stage] = torch.rand(labels.shape, generator=self.generator, dtype=torch.float64)
        return self.keys[stage]

    def of(self, stage: str, image: int, length: int) -> torch.Tensor:
        keys = self.keys[stage][image]
        if stage == "rpn":
            return keys
        truth = self.counts[image]
        first = len(keys) - self.slots
        return torch.cat((keys[: length - truth], keys[first : first + truth]))


class _Keyed(det_utils.BalancedPositiveNegativeSampler):
    """torchvision's sampler with its quotas, choosing by the smallest keys."""

    def __init__(self, like, shared: SharedKeys, stage: str) -> None:
        super().__init__(like.batch_size_per_image, like.positive_fraction)
        self.shared, self.stage = shared, stage

    def __call__(self, matched_idxs):
        chosen = ([], [])
        for image, labels in enumerate(matched_idxs):
            keys = self.shared.of(self.stage, image, len(labels))
            positive, negative = torch.where(labels >= 1)[0], torch.where(labels == 0)[0]
            quota = min(len(positive), int(self.batch_size_per_image * self.positive_fraction))
            rest = min(len(negative), self.batch_size_per_image - quota)
            for found, rows, count in zip(chosen, (positive, negative), (quota, rest), strict=True):
                mask = torch.zeros_like(labels, dtype=torch.uint8)
                mask[rows[keys[rows].argsort()[:count]]] = 1
                found.append(mask)
        return chosen
