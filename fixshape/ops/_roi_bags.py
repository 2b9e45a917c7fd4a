"""RoIAlign on the CPU: bins are bags of rows of the table.

Shapes: those of ``_roi_table``; ``R`` boxes of an image, ``c`` of the channels, ``Hl, Wl`` the feature size of level ``l``.

``embedding_bag`` sums weighted rows without making them one by one, and beats torchvision's own kernel by far. So that this
costs no more memory, it works on one image at a time and on as many channels as the budget holds; the table is there in
passing, as the backward pass needs none, and that one computes the rows and weights again, from the boxes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fixshape.ops._roi_levels import Grid
from fixshape.ops._roi_table import Sizes, begin, corners, levels_of, pixels_of, table_of

_CHUNK_BYTES = 2**26  # of the table, or its gradient, at a time
_SUM = 0  # the number of the mode "sum"


def pool_bags(features: Sequence[Tensor], boxes: Tensor, level: Tensor, grid: Grid) -> Tensor:
    pooled: Tensor = _Bags.apply(boxes, level, grid, *features)
    return pooled


class _Bags(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        boxes, level, grid, features = begin(ctx, arguments)
        dtype = torch.promote_types(features[0].dtype, torch.float32)
        pooled: Tensor = features[0].new_empty(*level.shape, features[0].shape[1], *grid.bins)
        for image in range(len(boxes)):
            rows, weights = _bags(boxes[image], level[image], ctx.sizes, grid, dtype)
            for some in _chunks(pooled.shape[2], ctx.sizes, dtype):
                bags = _sum_bags([feature[image : image + 1, some] for feature in features], rows, weights)
                pooled[image, :, some] = bags.reshape(-1, *grid.bins, bags.shape[-1]).movedim(-1, 1)
        # Not a weight of 0: that would let NaN through, in either direction.
        return pooled.masked_fill_((level < 0)[..., None, None, None], 0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        boxes, level = ctx.saved_tensors
        batch, _, channels = gradient.shape[:3]
        dtype = torch.promote_types(gradient.dtype, torch.float32)
        gradients = [
            gradient.new_empty(batch, channels, *size, dtype=own) for size, own in zip(ctx.sizes, ctx.dtypes, strict=True)
        ]
        for image in range(batch):
            rows, weights = _bags(boxes[image], level[image], ctx.sizes, ctx.grid, dtype)
            for some in _chunks(channels, ctx.sizes, dtype):
                part = [whole[image : image + 1, some] for whole in gradients]
                bags = gradient[image, :, some]
                _spread(_table_gradient(_rows_of(bags, level[image] < 0, dtype), rows, weights, ctx.sizes), part, ctx.sizes)
        return None, None, None, *gradients


def _chunks(channels: int, sizes: Sizes, dtype: torch.dtype) -> Iterator[slice]:
    """Equal shares of the channels, as few as the budget allows."""
    count = -(-pixels_of(sizes) * channels * dtype.itemsize // _CHUNK_BYTES)
    step = max(1, -(-channels // count))
    return (slice(begin, begin + step) for begin in range(0, channels, step))


def _bags(boxes: Tensor, level: Tensor, sizes: Sizes, grid: Grid, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The rows [R ph pw, S^2] int32 of each bin and their weights. Against the bins they are few: 2 S^2 numbers to C."""
    line, line_weight, column, column_weight = corners(boxes, level, sizes, grid)
    rows = line[:, :, None, :, None] + column[:, None, :, None, :]
    weights = line_weight.to(dtype)[:, :, None, :, None] * column_weight.to(dtype)[:, None, :, None, :]
    return rows.flatten(-2).flatten(0, -2), weights.flatten(-2).flatten(0, -2)


def _sum_bags(features: Sequence[Tensor], rows: Tensor, weights: Tensor) -> Tensor:
    """[R ph pw, c] from the features [1, c, Hl, Wl] of one image."""
    return F.embedding_bag(rows, table_of(features).squeeze(0), mode="sum", per_sample_weights=weights)


def _rows_of(gradient: Tensor, dropped: Tensor, dtype: torch.dtype) -> Tensor:
    """[R ph pw, c] of [R, c, ph, pw], 0 for the boxes ``dropped`` [R]."""
    rows = gradient.movedim(1, -1)
    rows = rows.new_empty(rows.shape, dtype=dtype).copy_(rows)
    return rows.masked_fill_(dropped[:, None, None, None], 0).flatten(0, 2)


def _spread(table: Tensor, features: Sequence[Tensor], sizes: Sizes) -> None:
    """Writes the rows of the table to the features [1, c, Hl, Wl]."""
    for feature, level in zip(features, levels_of(table.unsqueeze(0), sizes), strict=True):
        feature.copy_(level)


def _table_gradient(gradient: Tensor, rows: Tensor, weights: Tensor, sizes: Sizes) -> Tensor:
    """The gradient [T, c] of the table from that of the bags [R ph pw, c].

    By the op that autograd would call; to have autograd call it, ``embedding_bag`` would have to run again.
    """
    bags, taken = rows.shape
    bag = torch.arange(bags, device=rows.device, dtype=rows.dtype)
    size = torch.full_like(bag, taken)
    answer: Tensor = torch.ops.aten._embedding_bag_dense_backward(
        gradient,
        rows.flatten(),
        bag.repeat_interleave(taken, output_size=rows.numel()),
        size,
        size,  # the maximum, which "sum" does not read
        pixels_of(sizes),
        False,
        _SUM,
        weights.flatten(),
    )
    return answer
