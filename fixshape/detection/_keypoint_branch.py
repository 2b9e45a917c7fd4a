"""Keypoint R-CNN's third branch: the loss over the positive boxes, and heat maps for each detection.

Shapes: B images, M box slots, P positive slots, D detections, K keypoints, m x m heat map.

Follows ``torchvision/models/detection/roi_heads.py`` (``keypoints_to_heatmap``, ``keypointrcnn_loss``).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import RoIHeads

from fixshape.detection._box_branch import pool_rows
from fixshape.detection._detections import Detections
from fixshape.detection._mask_branch import most_positives
from fixshape.detection._roi_samples import RoISamples
from fixshape.detection._row_heads import run_rows
from fixshape.ops import masked_cross_entropy


def keypoint_loss(
    heads: RoIHeads,
    features: Mapping[str, Tensor],
    canvas: tuple[int, int],
    samples: RoISamples,
    targets: Mapping[str, Tensor],
) -> Tensor:
    """``loss_keypoint``: the mean over the visible keypoints in all positive boxes, 0 where there is none."""
    positives = samples.positives(most_positives(heads))
    logits = _keypoint_logits(heads, features, canvas, positives.boxes, positives.positive)  # [B P, K, m, m]
    keypoints = targets["keypoints"]
    # The sampled slot of padding has no box, and gets keypoints that nobody sees.
    keypoints = torch.where(targets["valid_mask"][..., None, None], keypoints, 0)
    keypoints = keypoints.gather(1, positives.matches[..., None, None].expand(-1, -1, *keypoints.shape[2:]))
    pixel, seen = heatmap_pixels(keypoints, positives.boxes, logits.shape[-1])
    valid = (seen & positives.positive[..., None]).flatten()
    pixel = torch.where(valid, pixel.flatten(), 0)
    return masked_cross_entropy(logits.flatten(2).flatten(0, 1), pixel, valid_mask=valid)


def heatmap_pixels(keypoints: Tensor, boxes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Where each keypoint lies in the heat map of its box.

    Args:
        keypoints: [..., K, 3]: x, y in canvas pixels, visibility.
        boxes: [..., 4] XYXY canvas pixels, of a width and height above 0.
        size: m.

    Returns:
        The pixel's number, row after row, [..., K] int64, and [..., K] bool: whether it is visible and in the map.
    """
    x, y, visible = keypoints.unbind(-1)
    left, top, right, bottom = (side[..., None] for side in boxes.unbind(-1))
    column = torch.where(x == right, size - 1, ((x - left) * (size / (right - left))).floor().long())
    row = torch.where(y == bottom, size - 1, ((y - top) * (size / (bottom - top))).floor().long())
    inside = (column >= 0) & (row >= 0) & (column < size) & (row < size)
    return row * size + column, inside & (visible > 0)


def keypoint_heatmaps(heads: RoIHeads, features: Mapping[str, Tensor], canvas: tuple[int, int], found: Detections) -> Tensor:
    """[B, D, K, m, m]: logits of where in its box each detection's keypoints are; 0 in slots without a detection."""
    logits = _keypoint_logits(heads, features, canvas, found.boxes, found.valid_mask)
    logits = logits.reshape(*found.labels.shape, *logits.shape[1:])
    return torch.where(found.valid_mask[..., None, None, None], logits, 0)


def _keypoint_logits(
    heads: RoIHeads, features: Mapping[str, Tensor], canvas: tuple[int, int], boxes: Tensor, valid_mask: Tensor
) -> Tensor:
    rows = pool_rows(heads.keypoint_roi_pool, features, canvas, boxes, valid_mask)
    valid = valid_mask.flatten()
    return run_rows(heads.keypoint_predictor, run_rows(heads.keypoint_head, rows, valid), valid)
