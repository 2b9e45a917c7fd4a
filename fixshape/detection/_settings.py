"""The ops that take torchvision's objects' place, with those objects' settings, which stay where torchvision keeps them.

Shapes: B images, M box slots, A anchors or proposals, S samples.
"""

from __future__ import annotations

from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, Matcher

from fixshape.ops import balanced_sample, match
from fixshape.ops._sampling import BalancedSample


def match_by(matcher: Matcher, boxes: Tensor, anchors: Tensor, valid_mask: Tensor) -> Tensor:
    """[B, A]: the slot of each anchor's ground truth by :func:`fixshape.ops.match`; -1 background, -2 between the thresholds."""
    return match(
        boxes,
        anchors,
        valid_mask=valid_mask,
        high_threshold=matcher.high_threshold,
        low_threshold=matcher.low_threshold,
        allow_low_quality_matches=matcher.allow_low_quality_matches,
    )


def sample_by(
    sampler: BalancedPositiveNegativeSampler, labels: Tensor, valid_mask: Tensor | None, keys: Tensor | None
) -> BalancedSample:
    """S of the labels [B, A] by :func:`fixshape.ops.balanced_sample`."""
    size, fraction = sampler.batch_size_per_image, sampler.positive_fraction
    return balanced_sample(labels, size, fraction, valid_mask=valid_mask, keys=keys)
