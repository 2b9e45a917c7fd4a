"""RoIAlign on XLA: gather one corner of all bins at a time.

Shapes: those of ``_roi_table``; ``R`` boxes of an image, ``N = B R`` of all.

``embedding_bag`` has no lowering in torch_xla; a gather and a scatter of rows have. There are S^2 of each, 16 for two samples, in
a graph that the content does not change. Autograd would keep what each of them took; the backward pass here keeps the
boxes only, and adds into one table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fixshape.ops._roi_levels import Grid
from fixshape.ops._roi_table import Sizes, begin, corners, levels_of, pixels_of, table_of


def pool_gather(features: Sequence[Tensor], boxes: Tensor, level: Tensor, grid: Grid) -> Tensor:
    pooled: Tensor = _Gather.apply(boxes, level, grid, *features)
    return pooled


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        boxes, level, grid, features = begin(ctx, arguments)
        table = table_of(features)
        flat = table.flatten(0, 1)
        pooled = flat.new_zeros(level.numel() * grid.bins[0] * grid.bins[1], flat.shape[1])
        for rows, weights in _each_corner(boxes, level, ctx.sizes, grid):
            pooled = pooled + flat.index_select(0, rows) * weights.to(flat.dtype).unsqueeze(-1)
        pooled = pooled.reshape(*level.shape, *grid.bins, -1).movedim(-1, 2)
        # Not a weight of 0: that would let NaN through, in either direction.
        return pooled.masked_fill((level < 0)[..., None, None, None], 0).to(features[0].dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        boxes, level = ctx.saved_tensors
        gradient = gradient.masked_fill((level < 0)[..., None, None, None], 0)
        gradient = gradient.to(torch.promote_types(gradient.dtype, torch.float32)).movedim(2, -1).flatten(0, 3)
        table = gradient.new_zeros(len(boxes) * pixels_of(ctx.sizes), gradient.shape[1])
        for rows, weights in _each_corner(boxes, level, ctx.sizes, ctx.grid):
            table = table.index_add(0, rows, gradient * weights.to(gradient.dtype).unsqueeze(-1))
        levels = levels_of(table.reshape(len(boxes), -1, table.shape[1]), ctx.sizes)
        return None, None, None, *(part.to(dtype) for part, dtype in zip(levels, ctx.dtypes, strict=True))


def _each_corner(boxes: Tensor, level: Tensor, sizes: Sizes, grid: Grid) -> Iterator[tuple[Tensor, Tensor]]:
    """For each of the S^2 corners the row [N ph pw] of the table of all images that each bin takes, and its weight."""
    line, line_weight, column, column_weight = corners(boxes.flatten(0, 1), level.flatten(), sizes, grid)
    image = torch.arange(len(boxes), device=boxes.device, dtype=line.dtype)[:, None].expand(level.shape).flatten()
    line = line + pixels_of(sizes) * image[:, None, None]
    for i in range(line.shape[-1]):
        for j in range(column.shape[-1]):
            rows = line[:, :, None, i] + column[:, None, :, j]
            weights = line_weight[:, :, None, i] * column_weight[:, None, :, j]
            yield rows.flatten(), weights.flatten()
