"""The mathematics of detection on fixed shapes: masked losses, selection, matching and suppression.

Every op here gives the number of a dynamic op of torch or torchvision, from tensors whose shapes do not depend on what they
hold: no host sync, no value-dependent shape, padding told by ``valid_mask`` (bool, True = real).
"""

from __future__ import annotations

from fixshape.ops._batch_norm import masked_batch_norm
from fixshape.ops._box_iou import box_iou
from fixshape.ops._box_losses import (
    masked_complete_box_iou_loss,
    masked_distance_box_iou_loss,
    masked_generalized_box_iou_loss,
)
from fixshape.ops._box_masks import project_box_masks_on_boxes
from fixshape.ops._cross_entropy import masked_cross_entropy
from fixshape.ops._elementwise_losses import (
    masked_binary_cross_entropy_with_logits,
    masked_l1_loss,
    masked_mse_loss,
    masked_sigmoid_focal_loss,
    masked_smooth_l1_loss,
)
from fixshape.ops._mask_projection import project_masks_on_boxes
from fixshape.ops._matching import fcos_match, match
from fixshape.ops._nms import NMSResult, batched_nms, nms
from fixshape.ops._reductions import masked_mean, masked_sum
from fixshape.ops._roi_align import multiscale_roi_align
from fixshape.ops._sampling import BalancedSample, balanced_sample
from fixshape.ops._select import FixedNonzero, fixed_nonzero
from fixshape.ops._ssd import hard_negative_mining, ssd_match
from fixshape.ops._static_indexing import static_indexing

__all__ = [
    "BalancedSample",
    "FixedNonzero",
    "NMSResult",
    "balanced_sample",
    "batched_nms",
    "box_iou",
    "fcos_match",
    "fixed_nonzero",
    "hard_negative_mining",
    "masked_batch_norm",
    "masked_binary_cross_entropy_with_logits",
    "masked_complete_box_iou_loss",
    "masked_cross_entropy",
    "masked_distance_box_iou_loss",
    "masked_generalized_box_iou_loss",
    "masked_l1_loss",
    "masked_mean",
    "masked_mse_loss",
    "masked_sigmoid_focal_loss",
    "masked_smooth_l1_loss",
    "masked_sum",
    "match",
    "multiscale_roi_align",
    "nms",
    "project_box_masks_on_boxes",
    "project_masks_on_boxes",
    "ssd_match",
    "static_indexing",
]
