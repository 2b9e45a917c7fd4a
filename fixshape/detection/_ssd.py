"""SSD300 and SSDlite, static.

Shapes: B images, H x W canvas, M box slots, A anchors, C classes with the background, K candidates per class, D detections.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD

from fixshape._check import check_shape
from fixshape.detection._best import best_of_each_group
from fixshape.detection._box_coder import clip_to_images, decode, encode
from fixshape.detection._detections import Detections
from fixshape.detection._detector import StaticDetector
from fixshape.errors import ModelError, ShapeError
from fixshape.ops import box_iou, hard_negative_mining, masked_smooth_l1_loss, ssd_match


class StaticSSD(StaticDetector):
    """torchvision's SSD with fixed shapes. Made by :func:`fixshape.to_static`.

    Follows ``torchvision/models/detection/ssd.py``: ``compute_loss``, ``postprocess_detections``.

    The anchors are constants of the canvas, made by the model's own generator in the parameters' dtype, never below float32
    (torchvision builds them in the features' dtype at each step: under autocast in 16 bits), and not in the ``state_dict``.
    """

    anchors: Tensor

    def __init__(self, model: SSD) -> None:
        super().__init__(model)
        size = model.transform.fixed_size
        if size is None or model.transform._skip_resize:
            raise ModelError(
                "to_static: the SSD's transform has no fixed size, or skips the resize; torchvision's builders set one."
            )
        self.head = model.head
        self.canvas = (int(size[1]), int(size[0]))
        self._generator = model.anchor_generator
        self._coder = model.box_coder
        self._matching_threshold = model.proposal_matcher.high_threshold
        self._negative_ratio = model.neg_to_pos_ratio
        self._score_thresh = model.score_thresh
        self._nms_thresh = model.nms_thresh
        self._detections_per_img = model.detections_per_img
        self._topk_candidates = model.topk_candidates
        self._grids = _feature_sizes(model.backbone, self.canvas)
        self._make_constants()

    @property
    def num_classes(self) -> int:
        return int(self.head.classification_head.num_columns)

    def _losses(
        self, features: dict[str, Tensor], canvas: tuple[int, int], image_sizes: Tensor, targets: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        outputs = self.head(list(features.values()))
        logits, regression = outputs["cls_logits"], outputs["bbox_regression"]
        boxes, labels, valid_mask = targets["boxes"], targets["labels"], targets["valid_mask"]
        iou = box_iou(boxes, self.anchors, valid_mask1=valid_mask)
        matches = ssd_match(iou, valid_mask=valid_mask, threshold=self._matching_threshold)  # [B, A]
        matched = matches >= 0
        slots = matches.clamp(min=0)

        # The background gets its own anchor as box, so that its code is zeros and not infinities, and in the boxes' dtype, since
        # torchvision takes their widths and heights in that.
        matched_boxes = boxes.gather(1, slots[..., None].expand(-1, -1, 4))
        matched_boxes = torch.where(matched[..., None], matched_boxes, self.anchors.to(boxes.dtype))
        codes = encode(matched_boxes, self.anchors, self._coder.weights)
        box_loss = masked_smooth_l1_loss(regression, codes, reduction="sum", valid_mask=matched)

        classes = torch.where(matched, labels.gather(1, slots), 0)
        class_loss = F.cross_entropy(logits.flatten(0, 1), classes.flatten(), reduction="none").view(classes.shape)
        foreground = classes > 0  # not `matched`: a box labelled 0 counts in the normaliser alone, as in torchvision
        negatives = hard_negative_mining(class_loss, foreground, negative_ratio=self._negative_ratio)
        # Two sums, not one over the union: where three times the foreground is more than the background, torchvision's
        # negatives reach into the foreground, and those anchors count twice (ssd.py:323).
        class_loss = torch.where(foreground, class_loss, 0).sum() + torch.where(negatives, class_loss, 0).sum()

        count = matched.sum().clamp(min=1)
        return {"bbox_regression": box_loss / count, "classification": class_loss / count}

    def _detect(self, features: dict[str, Tensor], canvas: tuple[int, int], image_sizes: Tensor) -> Detections:
        outputs = self.head(list(features.values()))
        boxes = decode(outputs["bbox_regression"], self.anchors, self._coder.weights, self._coder.bbox_xform_clip)
        boxes = clip_to_images(boxes, image_sizes)
        scores = F.softmax(outputs["cls_logits"], dim=-1)[..., 1:].transpose(1, 2)  # [B, C-1, A]
        candidates = min(self._topk_candidates, scores.shape[2])
        best, anchors = torch.where(scores > self._score_thresh, scores, -1).topk(candidates)  # [B, C-1, K]
        batch = torch.arange(boxes.shape[0], device=boxes.device)[:, None, None]
        return best_of_each_group(
            boxes[batch, anchors],
            best,
            best > self._score_thresh,
            iou_threshold=self._nms_thresh,
            size=self._detections_per_img,
        )

    def _check_images(self, where: str, images: Tensor) -> None:
        way_out = "Resize with fixshape.detection.host_transform(model) and pad with PadToBucket(model.canvas, max_boxes=...)."
        check_shape(where, "images", images.shape, ("B", 3, *self.canvas), way_out)
        super()._check_images(where, images)

    def _constants(self, dtype: torch.dtype) -> dict[str, Tensor]:
        features = [torch.empty(1, 1, *grid, dtype=dtype) for grid in self._grids]
        (anchors,) = self._generator(ImageList(torch.empty(1, 1, *self.canvas), [self.canvas]), features)
        return {"anchors": anchors}


def _feature_sizes(backbone: nn.Module, canvas: tuple[int, int]) -> list[tuple[int, int]]:
    """The (height, width) of each feature map, learnt without computing: on the meta device, in evaluation, on a copy."""
    probe = copy.deepcopy(backbone).to("meta").eval()
    with torch.no_grad():
        features = probe(torch.empty(1, 3, *canvas, device="meta", dtype=next(probe.parameters()).dtype))
    maps = [features] if isinstance(features, Tensor) else list(features.values())
    sizes = [(int(feature.shape[-2]), int(feature.shape[-1])) for feature in maps]
    if not sizes:
        raise ShapeError("to_static: the backbone gives no feature map.")
    return sizes
