"""Mask R-CNN's third branch: the loss over the positive boxes, and a mask for each detection.

Shapes: B images, M box slots, P positive slots, D detections, C classes with the background, m x m mask.

Follows ``torchvision/models/detection/roi_heads.py`` (``maskrcnn_loss``, ``maskrcnn_inference``).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import RoIHeads

from fixshape.detection._box_branch import pool_rows
from fixshape.detection._detections import Detections
from fixshape.detection._roi_samples import RoISamples
from fixshape.detection._row_heads import run_rows
from fixshape.ops import masked_binary_cross_entropy_with_logits, project_box_masks_on_boxes, project_masks_on_boxes


def mask_loss(
    heads: RoIHeads,
    features: Mapping[str, Tensor],
    canvas: tuple[int, int],
    samples: RoISamples,
    targets: Mapping[str, Tensor],
    image_sizes: Tensor,
) -> Tensor:
    """``loss_mask``: the mean over the pixels of all positives' masks, 0 where there is no positive."""
    positives = samples.positives(most_positives(heads))
    logits = _mask_logits(heads, features, canvas, positives.boxes, positives.positive)  # [B P, C, m, m]
    logits = _of_class(logits, positives.labels.flatten())
    with torch.no_grad():
        size, valid_mask = logits.shape[-1], positives.positive
        if "masks" in targets:
            wanted = project_masks_on_boxes(
                targets["masks"],
                positives.boxes,
                positives.matches,
                size,
                valid_mask=valid_mask,
                image_sizes=image_sizes,
            )
        else:
            truth = torch.where(targets["valid_mask"][..., None], targets["boxes"], 0)
            wanted = project_box_masks_on_boxes(
                targets["box_masks"], truth, positives.boxes, positives.matches, size, valid_mask=valid_mask
            )
    wanted = wanted.flatten(0, 1).to(logits.dtype)
    return masked_binary_cross_entropy_with_logits(logits, wanted, valid_mask=positives.positive.flatten())


def mask_probabilities(heads: RoIHeads, features: Mapping[str, Tensor], canvas: tuple[int, int], found: Detections) -> Tensor:
    """[B, D, 1, m, m]: where in its box each detection's object is, in [0, 1]; 0 in slots without a detection."""
    logits = _mask_logits(heads, features, canvas, found.boxes, found.valid_mask)
    chosen = _of_class(logits, found.labels.flatten()).sigmoid()
    chosen = chosen.reshape(*found.labels.shape, 1, *chosen.shape[1:])
    return torch.where(found.valid_mask[..., None, None, None], chosen, 0)


def most_positives(heads: RoIHeads) -> int:
    """The most positives that the sampler takes of one image."""
    sampler = heads.fg_bg_sampler
    return max(1, int(sampler.batch_size_per_image * sampler.positive_fraction))


def _mask_logits(
    heads: RoIHeads, features: Mapping[str, Tensor], canvas: tuple[int, int], boxes: Tensor, valid_mask: Tensor
) -> Tensor:
    rows = pool_rows(heads.mask_roi_pool, features, canvas, boxes, valid_mask)
    valid = valid_mask.flatten()
    return run_rows(heads.mask_predictor, run_rows(heads.mask_head, rows, valid), valid)


def _of_class(logits: Tensor, labels: Tensor) -> Tensor:
    """The map of each row's own class: [N, C, m, m] to [N, m, m]."""
    return logits.gather(1, labels[:, None, None, None].expand(-1, 1, *logits.shape[2:])).squeeze(1)
