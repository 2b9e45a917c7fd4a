"""Which level of a feature pyramid is a box pooled from?

Shapes: ``B`` images, ``R`` boxes of each, ``C`` channels, ``Hl, Wl`` the feature size of level ``l``.

Every form of RoIAlign, one per file beside this one, is called as ``form(features, boxes, level, grid)``, on features and boxes
that were checked, and answers [B, R, C, ph, pw] in the dtype of the features. A box whose level is -1 belongs to none: it gives
zeros and no gradient. Features of half precision are computed in float32. Gradients go to the features only.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_EPS = 1e-6  # LevelMapper's: a box of just the canonical scale belongs to its own level despite rounding


class Grid(NamedTuple):
    """What is the same for all boxes."""

    bins: tuple[int, int]
    samples: int  #: per bin along each axis; -1: as many as the bin is large, rounded up
    scales: tuple[float, ...]  #: one per feature


def level_of(boxes: Tensor, levels: int, finest: int, canonical_scale: int, canonical_level: int) -> Tensor:
    """The level of each box [..., 4], counted from the first feature, below ``levels``: int64, by the rule of ``LevelMapper``.

    A box of no area belongs to the first level, and so does one whose area is NaN.
    """
    x1, y1, x2, y2 = boxes.unbind(-1)
    side = ((x2 - x1) * (y2 - y1)).sqrt()
    level = canonical_level + torch.log2(side / canonical_scale) + _EPS - finest
    whole = torch.zeros_like(level, dtype=torch.int64)
    for k in range(1, levels):
        whole = whole + (level >= k)
    return whole
