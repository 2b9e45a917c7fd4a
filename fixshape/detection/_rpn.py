"""The region proposal network: fixed proposals, and losses over a fixed number of sampled anchors.

Shapes: B images, M box slots, A anchors of all levels, S sampled anchors, P proposals, K candidates per level.

Follows ``torchvision/models/detection/rpn.py`` (``filter_proposals``, ``compute_loss``). The module keeps its parameters and its
settings; only its head is called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.rpn import RegionProposalNetwork, concat_box_prediction_layers

from fixshape.detection._best import best_of_each_group
from fixshape.detection._box_coder import clip_to_images, decode, encode
from fixshape.detection._detector import real_images
from fixshape.detection._settings import match_by, sample_by
from fixshape.ops import masked_binary_cross_entropy_with_logits, masked_smooth_l1_loss


class Proposals(NamedTuple):
    """Boxes that may hold an object, best first."""

    boxes: Tensor  #: [B, P, 4] XYXY canvas pixels, without gradient; 0 in slots without one
    valid_mask: Tensor  #: [B, P] bool


class RPNOutputs(NamedTuple):
    """What the head says of each anchor, level after level."""

    objectness: Tensor  #: [B, A] logits
    codes: Tensor  #: [B, A, 4]


def rpn_outputs(rpn: RegionProposalNetwork, features: Sequence[Tensor]) -> RPNOutputs:
    """Runs the head on all levels."""
    objectness, codes = concat_box_prediction_layers(*rpn.head(list(features)))
    batch = features[0].shape[0]
    return RPNOutputs(objectness.reshape(batch, -1), codes.reshape(batch, -1, 4))


def propose(rpn: RegionProposalNetwork, outputs: RPNOutputs, anchors: Sequence[Tensor], image_sizes: Tensor) -> Proposals:
    """The best boxes of all levels, suppressed within each level.

    Only candidates are decoded, where torchvision decodes every anchor.

    Args:
        rpn: whose settings, and whether it is training, say how many.
        outputs: of its head.
        anchors: [A, 4] of each level.
        image_sizes: [B, 2], (h, w); boxes are cut to it.
    """
    counts = [len(level) for level in anchors]
    most = min(rpn.pre_nms_top_n(), max(counts))
    levels = []
    objectness, codes = outputs.objectness.detach(), outputs.codes.detach()
    for logits, code, anchor in zip(torch.split(objectness, counts, 1), torch.split(codes, counts, 1), anchors, strict=True):
        best, index = logits.topk(min(most, logits.shape[1]), dim=1)
        code = code.gather(1, index[..., None].expand(-1, -1, 4))
        boxes = decode(code, anchor[index], rpn.box_coder.weights, rpn.box_coder.bbox_xform_clip)
        boxes = clip_to_images(boxes, image_sizes)
        scores = best.sigmoid()
        valid = is_large(boxes, rpn.min_size) & (scores >= rpn.score_thresh)
        missing = most - scores.shape[1]
        levels.append((F.pad(boxes, (0, 0, 0, missing)), F.pad(scores, (0, missing)), F.pad(valid, (0, missing))))
    boxes, scores, valid = (torch.stack(parts, dim=1) for parts in zip(*levels, strict=True))
    found = best_of_each_group(boxes, scores, valid, iou_threshold=rpn.nms_thresh, size=rpn.post_nms_top_n())
    return Proposals(found.boxes, found.valid_mask)


def rpn_losses(
    rpn: RegionProposalNetwork,
    outputs: RPNOutputs,
    anchors: Tensor,
    targets: Mapping[str, Tensor],
    keys: Tensor | None,
) -> dict[str, Tensor]:
    """``loss_objectness`` and ``loss_rpn_box_reg``, both divided by the number of anchors sampled in the batch.

    Args:
        rpn: whose matcher and sampler are followed.
        outputs: of its head.
        anchors: [A, 4] of all levels.
        targets: ``boxes``, ``valid_mask`` and, where there, ``image_valid``; nothing is sampled from fillers.
        keys: [B, A] that decide the sampling; ``None``: drawn.
    """
    boxes = targets["boxes"]
    matches = match_by(rpn.proposal_matcher, boxes, anchors, targets["valid_mask"])
    labels = (matches >= 0).long() - (matches == rpn.proposal_matcher.BETWEEN_THRESHOLDS).long()
    labels = torch.where(real_images(targets)[:, None], labels, -1)
    sample = sample_by(rpn.fg_bg_sampler, labels, None, keys)

    objectness = outputs.objectness.gather(1, sample.indices)
    codes = outputs.codes.gather(1, sample.indices[..., None].expand(-1, -1, 4))
    sampled_anchors = anchors[sample.indices]
    slots = matches.gather(1, sample.indices).clamp(min=0)
    matched = boxes.gather(1, slots[..., None].expand(-1, -1, 4))
    # A negative gets its own anchor, whose code is zeros: the box of its slot may be padding.
    matched = torch.where(sample.positive[..., None], matched, sampled_anchors.to(boxes.dtype))
    regression = encode(matched, sampled_anchors, rpn.box_coder.weights).to(codes.dtype)

    count = sample.valid_mask.sum().clamp(min=1)
    box_loss = masked_smooth_l1_loss(codes, regression, "sum", beta=1 / 9, valid_mask=sample.positive) / count
    objectness_loss = masked_binary_cross_entropy_with_logits(
        objectness, sample.positive.to(objectness.dtype), valid_mask=sample.valid_mask
    )
    return {"loss_objectness": objectness_loss, "loss_rpn_box_reg": box_loss}


def is_large(boxes: Tensor, min_size: float) -> Tensor:
    """Which boxes [..., 4] are at least that wide and high: ``torchvision.ops.remove_small_boxes`` as a mask."""
    left, top, right, bottom = boxes.unbind(-1)
    return (right - left >= min_size) & (bottom - top >= min_size)
