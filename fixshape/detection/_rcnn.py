"""Faster, Mask and Keypoint R-CNN, static.

Shapes: B images, M box slots, A anchors, P proposals, D detections.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torchvision.models.detection.faster_rcnn import FasterRCNN

from fixshape._check import check_shape
from fixshape.detection._anchors import GridAnchors
from fixshape.detection._box_branch import box_losses, detect_boxes
from fixshape.detection._detections import Detections
from fixshape.detection._detector import StaticDetector
from fixshape.detection._keypoint_branch import keypoint_heatmaps, keypoint_loss
from fixshape.detection._mask_branch import mask_loss, mask_probabilities
from fixshape.detection._roi_samples import sample_proposals
from fixshape.detection._row_heads import check_rows
from fixshape.detection._rpn import propose, rpn_losses, rpn_outputs
from fixshape.errors import ModelError

_ROW_HEADS = ("box_head", "box_predictor", "mask_head", "mask_predictor", "keypoint_head", "keypoint_predictor")


class StaticRCNN(StaticDetector):
    """torchvision's Faster R-CNN (Ren et al., 2015), Mask R-CNN (He et al., 2017) and its keypoint form, with fixed shapes.

    Made by :func:`fixshape.to_static`. Follows ``torchvision/models/detection/generalized_rcnn.py``, ``rpn.py`` and
    ``roi_heads.py``. The number of proposals, of sampled boxes and of detections is that of torchvision's settings, which stay
    where they are (``model.rpn``, ``model.roi_heads``) and may be changed there; what is missing is padding.

    Attributes:
        sampling_keys: what the random choice of anchors and proposals is made by: ``None``, or a function
            ``(stage, labels) -> keys``, ``stage`` being ``"rpn"`` (``labels`` [B, A]) or ``"roi_heads"`` (``labels``
            [B, P + M], proposals before ground truth). See ``keys`` of :func:`fixshape.ops.balanced_sample`.
    """

    sampling_keys: Callable[[str, Tensor], Tensor] | None = None

    def __init__(self, model: FasterRCNN) -> None:
        super().__init__(model)
        self.rpn = model.rpn
        self.roi_heads = model.roi_heads
        for name in _ROW_HEADS:
            part = getattr(model.roi_heads, name)
            if part is not None:
                check_rows(f"roi_heads.{name}", part)
        self.anchors = GridAnchors(model.rpn.anchor_generator, next(model.parameters()))
        self._make_constants()

    @property
    def num_classes(self) -> int:
        return int(self.roi_heads.box_predictor.cls_score.out_features)

    def _losses(
        self, features: dict[str, Tensor], canvas: tuple[int, int], image_sizes: Tensor, targets: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        levels = list(features.values())
        outputs = rpn_outputs(self.rpn, levels)
        anchors = self.anchors(levels, canvas)
        proposals = propose(self.rpn, outputs, anchors, image_sizes)
        samples = sample_proposals(self.roi_heads, proposals, targets, lambda labels: self._keys("roi_heads", labels))
        losses = box_losses(self.roi_heads, features, canvas, samples)
        if self.roi_heads.has_mask():
            losses["loss_mask"] = mask_loss(self.roi_heads, features, canvas, samples, targets, image_sizes)
        if self.roi_heads.has_keypoint():
            losses["loss_keypoint"] = keypoint_loss(self.roi_heads, features, canvas, samples, targets)
        all_anchors = torch.cat(anchors)
        keys = self._keys("rpn", outputs.objectness)
        return {**losses, **rpn_losses(self.rpn, outputs, all_anchors, targets, keys)}

    def _detect(self, features: dict[str, Tensor], canvas: tuple[int, int], image_sizes: Tensor) -> Detections:
        levels = list(features.values())
        anchors = self.anchors(levels, canvas)
        proposals = propose(self.rpn, rpn_outputs(self.rpn, levels), anchors, image_sizes)
        found = detect_boxes(self.roi_heads, features, canvas, proposals, image_sizes)
        if self.roi_heads.has_mask():
            found = found._replace(masks=mask_probabilities(self.roi_heads, features, canvas, found))
        if self.roi_heads.has_keypoint():
            found = found._replace(keypoints=keypoint_heatmaps(self.roi_heads, features, canvas, found))
        return found

    def _keys(self, stage: str, labels: Tensor) -> Tensor | None:
        return None if self.sampling_keys is None else self.sampling_keys(stage, labels)

    def _check_targets(self, where: str, images: Tensor, targets: Mapping[str, Tensor]) -> None:
        super()._check_targets(where, images, targets)
        slots = targets["valid_mask"].shape
        if self.roi_heads.has_mask():
            if "masks" in targets:
                check_shape(where, "targets['masks']", targets["masks"].shape, (*slots, *images.shape[2:]))
            elif "box_masks" in targets:
                check_shape(where, "targets['box_masks']", targets["box_masks"].shape, (*slots, "S", "S"))
            else:
                raise ModelError(
                    f"{where}: the model learns masks, but the targets have none (keys: {', '.join(sorted(targets))}). Give"
                    " 'masks' [n, H, W] in every sample, also where n is 0."
                )
        if self.roi_heads.has_keypoint():
            if "keypoints" not in targets:
                raise ModelError(
                    f"{where}: the model learns keypoints, but the targets have none (keys: {', '.join(sorted(targets))}). Give"
                    " 'keypoints' [n, K, 3] in every sample, also where n is 0."
                )
            check_shape(where, "targets['keypoints']", targets["keypoints"].shape, (*slots, "K", 3))
