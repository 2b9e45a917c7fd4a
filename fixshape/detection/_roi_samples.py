"""Which proposals the second stage trains on, and what each of them has to find.

Shapes: B images, M box slots, P proposals, S sampled boxes.

Follows ``torchvision/models/detection/roi_heads.py`` (``select_training_samples``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import RoIHeads

from fixshape.detection._detector import real_images
from fixshape.detection._rpn import Proposals
from fixshape.detection._settings import match_by, sample_by


class RoISamples(NamedTuple):
    """The sampled boxes of a batch, positives first."""

    boxes: Tensor  #: [B, S, 4] XYXY canvas pixels; the unit square in slots without one
    labels: Tensor  #: [B, S] int64, 0 for background and in slots without a box
    matches: Tensor  #: [B, S] int64, the slot of the ground truth; 0 where there is none
    matched_boxes: Tensor  #: [B, S, 4] that ground truth; the box itself where there is none
    positive: Tensor  #: [B, S] bool
    valid_mask: Tensor  #: [B, S] bool

    def positives(self, most: int) -> RoISamples:
        """The first ``most`` slots, which hold all positives when the sampler takes no more than that."""
        return RoISamples(*(part[:, :most] for part in self))


def sample_proposals(
    heads: RoIHeads,
    proposals: Proposals,
    targets: Mapping[str, Tensor],
    keys: Callable[[Tensor], Tensor | None],
) -> RoISamples:
    """Adds the ground truth to the proposals, matches, and samples.

    Args:
        heads: whose matcher and sampler are followed.
        proposals: P of each image.
        targets: ``boxes``, ``labels``, ``valid_mask`` and, where there, ``image_valid``; nothing is sampled from fillers.
        keys: gives what decides the sampling, or ``None``, for labels [B, P + M].
    """
    truth_valid = targets["valid_mask"]
    truth = torch.where(truth_valid[..., None], targets["boxes"], 0).to(proposals.boxes.dtype)
    boxes = torch.cat((proposals.boxes, truth), dim=1)
    valid = torch.cat((proposals.valid_mask, truth_valid), dim=1) & real_images(targets)[:, None]
    # The unit square where there is no box: a width of 0 would give infinities later on.
    boxes = torch.where(valid[..., None], boxes, _unit_square(boxes))
    matches = match_by(heads.proposal_matcher, truth, boxes, truth_valid)
    slots = matches.clamp(min=0)
    labels = torch.where(truth_valid, targets["labels"], 0).gather(1, slots)
    labels = torch.where(matches >= 0, labels, torch.where(matches == heads.proposal_matcher.BETWEEN_THRESHOLDS, -1, 0))
    sample = sample_by(heads.fg_bg_sampler, labels, valid, keys(labels))

    chosen = sample.indices[..., None].expand(-1, -1, 4)
    sampled = torch.where(sample.valid_mask[..., None], boxes.gather(1, chosen), _unit_square(boxes[:, :1]))
    slots = torch.where(sample.positive, slots.gather(1, sample.indices), 0)
    matched = torch.where(sample.positive[..., None], truth.gather(1, slots[..., None].expand(-1, -1, 4)), sampled)
    return RoISamples(
        boxes=sampled,
        labels=torch.where(sample.positive, labels.gather(1, sample.indices), 0),
        matches=slots,
        matched_boxes=matched,
        positive=sample.positive,
        valid_mask=sample.valid_mask,
    )


def _unit_square(like: Tensor) -> Tensor:
    """Boxes (0, 0, 1, 1) of the shape of ``like`` [..., 4]."""
    return torch.cat((torch.zeros_like(like[..., :2]), torch.ones_like(like[..., 2:])), dim=-1)
