"""RetinaNet, static.

Shapes: B images, M box slots, A anchors of all levels, C classes with the background.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torchvision.models.detection.retinanet import RetinaNet
from torchvision.ops import sigmoid_focal_loss

from fixshape.detection._anchors import GridAnchors
from fixshape.detection._box_coder import decode, encode
from fixshape.detection._detections import Detections
from fixshape.detection._detector import StaticDetector, real_images
from fixshape.detection._levels import Limits, detect_on_levels
from fixshape.detection._settings import match_by
from fixshape.ops import (
    masked_complete_box_iou_loss,
    masked_distance_box_iou_loss,
    masked_generalized_box_iou_loss,
    masked_l1_loss,
    masked_smooth_l1_loss,
)

_IOU_LOSSES = {
    "giou": masked_generalized_box_iou_loss,
    "diou": masked_distance_box_iou_loss,
    "ciou": masked_complete_box_iou_loss,
}


class StaticRetinaNet(StaticDetector):
    """torchvision's RetinaNet (Lin et al., 2017, "Focal Loss for Dense Object Detection"), either version, with fixed shapes.

    Made by :func:`fixshape.to_static`. Follows ``torchvision/models/detection/retinanet.py``: ``compute_loss`` of both heads,
    ``postprocess_detections``.
    """

    def __init__(self, model: RetinaNet) -> None:
        super().__init__(model)
        self.head = model.head
        self.anchors = GridAnchors(model.anchor_generator, next(model.parameters()))
        self._matcher = model.proposal_matcher
        self._coder = model.head.regression_head.box_coder
        self._decoder = model.box_coder  # of the detections; torchvision keeps two
        self._loss_type = model.head.regression_head._loss_type
        self._limits = Limits.of(model)
        self._make_constants()

    @property
    def num_classes(self) -> int:
        return int(self.head.classification_head.num_classes)

    def _losses(
        self, features: dict[str, Tensor], canvas: tuple[int, int], image_sizes: Tensor, targets: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        levels = list(features.values())
        outputs = self.head(levels)
        anchors = torch.cat(self.anchors(levels, canvas))
        boxes, labels = targets["boxes"], targets["labels"]
        matches = match_by(self._matcher, boxes, anchors, targets["valid_mask"])  # [B, A]
        real = real_images(targets)[:, None]
        matched = (matches >= 0) & real
        slots = matches.clamp(min=0)
        classes = torch.where(matched, labels.gather(1, slots), -1)
        matched_boxes = boxes.gather(1, slots[..., None].expand(-1, -1, 4))
        # Each image is divided by its own number of anchors that have an object, and they count alike.
        foreground = matched.sum(1).clamp(min=1)
        images = real.sum().clamp(min=1)
        class_loss = self._class_loss(outputs["cls_logits"], classes, (matches != self._matcher.BETWEEN_THRESHOLDS) & real)
        box_loss = self._box_loss(outputs["bbox_regression"], matched_boxes, anchors, matched)
        return {
            "classification": (class_loss / foreground).sum() / images,
            "bbox_regression": (box_loss / foreground).sum() / images,
        }

    @staticmethod
    def _class_loss(logits: Tensor, classes: Tensor, counted: Tensor) -> Tensor:
        """[B]: the focal loss of each image; ``classes`` [B, A] is -1 where no class is right."""
        target = (classes[..., None] == torch.arange(logits.shape[2], device=logits.device)).to(logits.dtype)
        # An anchor that is not counted has a finite loss too, so that it can be left out after the sum over classes.
        loss = sigmoid_focal_loss(logits, target, reduction="none").sum(2)
        return torch.where(counted, loss, 0).sum(1)

    def _box_loss(self, regression: Tensor, boxes: Tensor, anchors: Tensor, matched: Tensor) -> Tensor:
        """[B]: the regression loss of each image, of the kind that the head is set to."""
        # What has no object gets its own anchor, whose code is zeros and not infinities.
        boxes = torch.where(matched[..., None], boxes, anchors.to(boxes.dtype))
        if self._loss_type in _IOU_LOSSES:
            found = decode(regression, anchors, self._coder.weights, self._coder.bbox_xform_clip)
            return _IOU_LOSSES[self._loss_type](found, boxes, "none", valid_mask=matched).sum(1)
        codes = encode(boxes, anchors, self._coder.weights)
        loss = masked_smooth_l1_loss if self._loss_type == "smooth_l1" else masked_l1_loss
        return loss(regression, codes.to(regression.dtype), "none", valid_mask=matched).sum((1, 2))

    def _detect(self, features: dict[str, Tensor], canvas: tuple[int, int], image_sizes: Tensor) -> Detections:
        levels = list(features.values())
        outputs = self.head(levels)
        anchors = self.anchors(levels, canvas)
        counts = [len(level) for level in anchors]
        weights, clip = self._decoder.weights, self._decoder.bbox_xform_clip
        return detect_on_levels(
            [logits.sigmoid() for logits in outputs["cls_logits"].split(counts, dim=1)],
            outputs["bbox_regression"].split(counts, dim=1),
            anchors,
            image_sizes,
            decode=lambda codes, anchors: decode(codes, anchors, weights, clip),
            limits=self._limits,
        )
