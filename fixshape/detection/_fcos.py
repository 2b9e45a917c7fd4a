"""FCOS, static.

Shapes: B images, M box slots, A anchor points of all levels, C classes with the background.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torchvision.models.detection.fcos import FCOS
from torchvision.ops import sigmoid_focal_loss

from fixshape.detection._anchors import GridAnchors
from fixshape.detection._box_coder import decode_linear, encode_linear
from fixshape.detection._detections import Detections
from fixshape.detection._detector import StaticDetector, real_images
from fixshape.detection._levels import Limits, detect_on_levels
from fixshape.ops import fcos_match, masked_binary_cross_entropy_with_logits, masked_generalized_box_iou_loss


class StaticFCOS(StaticDetector):
    """torchvision's FCOS (Tian et al., 2019, arXiv 1904.01355) with fixed shapes. Made by :func:`fixshape.to_static`.

    Follows ``torchvision/models/detection/fcos.py``: ``compute_loss`` of model and head, ``postprocess_detections``.
    """

    def __init__(self, model: FCOS) -> None:
        super().__init__(model)
        self.head = model.head
        self.anchors = GridAnchors(model.anchor_generator, next(model.parameters()))
        self._radius = model.center_sampling_radius
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
        anchors_per_level = self.anchors(levels, canvas)
        anchors = torch.cat(anchors_per_level)
        boxes, labels = targets["boxes"], targets["labels"]
        matches = fcos_match(
            boxes,
            anchors,
            [len(level) for level in anchors_per_level],
            valid_mask=targets["valid_mask"],
            center_sampling_radius=self._radius,
        )  # [B, A]
        real = real_images(targets)[:, None]
        matched = (matches >= 0) & real
        slots = matches.clamp(min=0)
        # What has no object gets its own anchor: each side is half an anchor away, and no root of a negative number is taken.
        matched_boxes = boxes.gather(1, slots[..., None].expand(-1, -1, 4))
        matched_boxes = torch.where(matched[..., None], matched_boxes, anchors.to(boxes.dtype))

        logits = outputs["cls_logits"]
        classes = torch.where(matched, labels.gather(1, slots), -1)
        target = (classes[..., None] == torch.arange(logits.shape[2], device=logits.device)).to(logits.dtype)
        class_loss = torch.where(real, sigmoid_focal_loss(logits, target, reduction="none").sum(2), 0).sum()

        found = decode_linear(outputs["bbox_regression"], anchors)
        box_loss = masked_generalized_box_iou_loss(found, matched_boxes, "sum", valid_mask=matched)

        logits = outputs["bbox_ctrness"].squeeze(2)
        centerness = _centerness(encode_linear(anchors, matched_boxes)).to(logits.dtype)
        center_loss = masked_binary_cross_entropy_with_logits(logits, centerness, reduction="sum", valid_mask=matched)

        count = matched.sum().clamp(min=1)  # of the batch, unlike RetinaNet's
        return {
            "classification": class_loss / count,
            "bbox_regression": box_loss / count,
            "bbox_ctrness": center_loss / count,
        }

    def _detect(self, features: dict[str, Tensor], canvas: tuple[int, int], image_sizes: Tensor) -> Detections:
        levels = list(features.values())
        outputs = self.head(levels)
        anchors = self.anchors(levels, canvas)
        counts = [len(level) for level in anchors]
        both = zip(outputs["cls_logits"].split(counts, dim=1), outputs["bbox_ctrness"].split(counts, dim=1), strict=True)
        return detect_on_levels(
            [torch.sqrt(logits.sigmoid() * centerness.sigmoid()) for logits, centerness in both],
            outputs["bbox_regression"].split(counts, dim=1),
            anchors,
            image_sizes,
            decode=decode_linear,
            limits=self._limits,
        )


def _centerness(distances: Tensor) -> Tensor:
    """How central a point is, [..., 4] distances to the sides (left, top, right, bottom) to [...] in [0, 1]."""
    left, top, right, bottom = distances.unbind(-1)
    across = torch.minimum(left, right) / torch.maximum(left, right)
    down = torch.minimum(top, bottom) / torch.maximum(top, bottom)
    return torch.sqrt(across * down)
