"""From scored candidates to detections: suppression within a group (a class, a level), and the best of what is left.

Shapes: B images, G groups, K candidates per group, N candidates of all groups, D detections.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fixshape.detection._detections import Detections
from fixshape.ops import batched_nms, nms


def best_of_each_group(boxes: Tensor, scores: Tensor, valid_mask: Tensor, *, iou_threshold: float, size: int) -> Detections:
    """The best detections where each group has candidates of its own: classes in SSD and Fast R-CNN, levels in an RPN.

    Args:
        boxes: [B, G, K, 4] XYXY canvas pixels.
        scores: [B, G, K], 0 or more where valid.
        valid_mask: [B, G, K] bool, True = a candidate.
        iou_threshold: of the suppression within a group.
        size: D.

    Returns:
        Detections whose label is the number of the group, from 1; D is no more than there are candidates.
    """
    groups, candidates = scores.shape[1:]
    # No group can place more than D among the best D.
    kept, is_kept = nms(boxes, scores, iou_threshold, size=min(size, candidates), valid_mask=valid_mask)
    survivors = boxes.gather(2, kept[..., None].expand(-1, -1, -1, 4)).flatten(1, 2)
    survivor_scores = torch.where(is_kept, scores.gather(2, kept), -1).flatten(1)
    labels = torch.arange(1, groups + 1, device=boxes.device)[:, None].expand(-1, kept.shape[2]).reshape(-1)
    best, order = survivor_scores.topk(min(size, survivor_scores.shape[1]))
    return _detections(survivors.gather(1, order[..., None].expand(-1, -1, 4)), best, labels[order], best >= 0)


def best_of_all_classes(
    boxes: Tensor, scores: Tensor, labels: Tensor, valid_mask: Tensor, *, iou_threshold: float, size: int
) -> Detections:
    """The best detections out of one list of candidates of all classes, as in RetinaNet and FCOS.

    Args:
        boxes: [B, N, 4] XYXY canvas pixels.
        scores: [B, N].
        labels: [B, N] int64; boxes of different labels do not suppress each other.
        valid_mask: [B, N] bool, True = a candidate.
        iou_threshold: of the suppression within a class.
        size: D.
    """
    kept, is_kept = batched_nms(boxes, scores, labels, iou_threshold, size=size, valid_mask=valid_mask)
    return _detections(
        boxes.gather(1, kept[..., None].expand(-1, -1, 4)), scores.gather(1, kept), labels.gather(1, kept), is_kept
    )


def _detections(boxes: Tensor, scores: Tensor, labels: Tensor, valid_mask: Tensor) -> Detections:
    """Zeros where there is no detection."""
    return Detections(
        boxes=torch.where(valid_mask[..., None], boxes, 0),
        scores=torch.where(valid_mask, scores, 0),
        labels=torch.where(valid_mask, labels, 0),
        valid_mask=valid_mask,
    )
