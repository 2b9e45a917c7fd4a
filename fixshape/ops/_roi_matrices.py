"""RoIAlign where there is no op for it and no fast gather: two products of matrices.

Shapes: ``B`` images, ``R`` boxes of each, ``r`` of them at a time, ``C`` channels, ``Hl, Wl`` the feature size of level ``l``,
``ph, pw`` the output size.

The weight of a pixel in a bin is a product of one for its line and one for its column, so that pooling is ``Wy @ F @ Wx^T``.
Each box is pooled from every level, with weights of 0 on all but its own, whatever the number of samples. A feature
that is not finite therefore reaches the boxes of all levels of its image; no other form is like that. Autocast is off: bilinear
weights of half precision would move the boxes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from fixshape.ops._roi_levels import Grid
from fixshape.ops._roi_samples import weights

_CHUNK_BYTES = 2**28  # of what the first product leaves; each chunk more costs one more gradient of a whole level


def pool_matrices(features: Sequence[Tensor], boxes: Tensor, level: Tensor, grid: Grid) -> Tensor:
    with without_autocast(boxes.device.type):
        pooled = _pool_level(features[0], boxes, level == 0, grid, 0)
        for k in range(1, len(features)):
            pooled = pooled + _pool_level(features[k], boxes, level == k, grid, k)
    # Not a weight of 0: that would let NaN through, in either direction.
    return pooled.masked_fill((level < 0)[..., None, None, None], 0).to(features[0].dtype)


def without_autocast(device: str) -> AbstractContextManager[None]:
    """Products in the dtype of their factors; tensors without data know no autocast."""
    return contextlib.nullcontext() if device == "meta" else torch.autocast(device, enabled=False)


def _pool_level(feature: Tensor, boxes: Tensor, here: Tensor, grid: Grid, k: int) -> Tensor:
    """[B, R, C, ph, pw] from the level ``k``; 0 for boxes that are not ``here`` [B, R]."""
    batch, channels, height, width = feature.shape
    feature = feature.to(torch.promote_types(feature.dtype, torch.float32))
    lines = feature.movedim(1, 2).flatten(2)  # [B, Hl, C Wl]
    chunk = max(1, _CHUNK_BYTES // (batch * grid.bins[0] * channels * width * feature.element_size()))
    pooled = []
    for begin in range(0, boxes.shape[1], chunk):
        some = slice(begin, begin + chunk)
        x1, y1, x2, y2 = (boxes[:, some] * grid.scales[k]).unbind(-1)
        of_lines = weights(y1, y2, grid.bins[0], grid.samples, height).masked_fill(~here[:, some, None, None], 0)
        of_columns = weights(x1, x2, grid.bins[1], grid.samples, width).to(feature.dtype)
        partial = of_lines.to(feature.dtype).flatten(1, 2) @ lines
        partial = partial.reshape(-1, grid.bins[0] * channels, width) @ of_columns.flatten(0, 1).mT
        pooled.append(partial.reshape(batch, -1, grid.bins[0], channels, grid.bins[1]))
    return torch.cat(pooled, dim=1).movedim(3, 2)
