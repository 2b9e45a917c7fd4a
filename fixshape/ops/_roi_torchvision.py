"""RoIAlign by torchvision's own op, to the bit.

Shapes: ``B`` images, ``R`` boxes of each, ``C`` channels, ``Hl, Wl`` the feature size of level ``l``, ``ph, pw`` the output size.

The op itself has a fixed shape; what has none is the choice of the boxes of a level. Here it is given all boxes on each level,
those of other levels as boxes outside, where CUDA does not even read.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import roi_align

from fixshape.ops._roi_levels import Grid

OUTSIDE = -4.0  #: in pixels of the map: a box of one pixel there has one sample per bin if adaptive, and sees nothing


def pool_torchvision(features: Sequence[Tensor], boxes: Tensor, level: Tensor, grid: Grid) -> Tensor:
    image = torch.arange(boxes.shape[0], device=boxes.device, dtype=boxes.dtype)[:, None, None].expand(*level.shape, 1)
    pooled: Tensor | float = 0.0
    for k, (feature, scale) in enumerate(zip(features, grid.scales, strict=True)):
        feature = feature.to(torch.promote_types(feature.dtype, torch.float32))
        here = (level == k).unsqueeze(-1)
        rois = torch.cat([image, torch.where(here, boxes, OUTSIDE / scale)], dim=-1).flatten(0, 1).to(feature.dtype)
        answer = roi_align(feature, rois, grid.bins, scale, grid.samples)
        pooled = torch.where(here.flatten()[:, None, None, None], answer, pooled)
    assert isinstance(pooled, Tensor)
    return pooled.reshape(*level.shape, *pooled.shape[1:]).to(features[0].dtype)
