"""A feature pyramid as one table: a pixel is a row, and a bin is a weighted sum of rows.

Shapes: ``B`` images, ``N`` boxes in a row, ``C`` channels, ``Hl, Wl`` the feature size of level ``l``, ``T`` pixels of all
levels of an image, ``ph, pw`` the output size, ``S = 2 s`` entries of a bin along one axis for ``s`` samples.

The dynamic form gathers the boxes of each level, of which there are as many as the content says. In the table the level
of a box is no more than an offset of its row numbers. Each bin takes S^2 rows, the corners of its samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fixshape.ops._roi_levels import Grid
from fixshape.ops._roi_samples import entries

Sizes = Sequence[tuple[int, int]]  #: [Hl, Wl] of each level


class Corners(NamedTuple):
    """The rows that the bins take: of entry i along y and j along x it is ``line[..., i] + column[..., j]``."""

    line: Tensor  #: [N, ph, S] int32, row number of the first pixel of a line of the map
    line_weight: Tensor  #: [N, ph, S] floating point
    column: Tensor  #: [N, pw, S] int32
    column_weight: Tensor  #: [N, pw, S] floating point


def begin(ctx: Any, arguments: Sequence[Any]) -> tuple[Tensor, Tensor, Grid, list[Tensor]]:
    """What a custom function ``forward(ctx, boxes, level, grid, *features)`` begins with: it keeps all but the features.

    Its arguments are not named one by one: without gradients, Dynamo of torch 2.9 tells by the number of names whether ctx is
    there, and two features behind one name mislead it.
    """
    boxes, level, grid, *features = arguments
    ctx.save_for_backward(boxes, level)
    ctx.grid, ctx.sizes = grid, [feature.shape[-2:] for feature in features]
    ctx.dtypes = [feature.dtype for feature in features]
    return boxes, level, grid, features


def table_of(features: Sequence[Tensor]) -> Tensor:
    """[B, T, C] of features [B, C, Hl, Wl], in float32 at least."""
    # Flattened before they are joined, a level is transposed by the very copy that joins it.
    table = torch.cat([feature.flatten(2).mT for feature in features], dim=1)
    return table.to(torch.promote_types(table.dtype, torch.float32))


def pixels_of(sizes: Sizes) -> int:
    """How many rows the table of an image has."""
    return sum(height * width for height, width in sizes)


def levels_of(table: Tensor, sizes: Sizes) -> list[Tensor]:
    """What :func:`table_of` joined: views [B, C, Hl, Wl] of the table."""
    levels = torch.split(table, [height * width for height, width in sizes], dim=1)
    return [level.mT.reshape(len(table), -1, *size) for level, size in zip(levels, sizes, strict=True)]


def corners(boxes: Tensor, level: Tensor, sizes: Sizes, grid: Grid) -> Corners:
    """The corners of boxes [N, 4] with the ``level`` [N], on levels of ``sizes``, in the table of one image.

    What belongs to a level is looked up by comparison, not in a tensor of constants: that would be a copy from host to device at
    each call.
    """
    heights, widths = zip(*sizes, strict=True)
    firsts = [pixels_of(sizes[:k]) for k in range(len(sizes))]
    whole = torch.zeros_like(level, dtype=torch.int32)
    scale, height, width, first = (
        _look_up(level, like, values)
        for like, values in ((boxes[:, 0], grid.scales), *((whole, v) for v in (heights, widths, firsts)))
    )
    x1, y1, x2, y2 = (boxes * scale.unsqueeze(-1)).unbind(-1)
    lines = entries(y1, y2, grid.bins[0], grid.samples, height)
    columns = entries(x1, x2, grid.bins[1], grid.samples, width)
    line = first[:, None, None] + lines.pixel * width[:, None, None]
    return Corners(line, lines.weight, columns.pixel, columns.weight)


def _look_up(level: Tensor, like: Tensor, values: Sequence[float]) -> Tensor:
    """The value of the level of each box; of the first one where there is none."""
    field = torch.full_like(like, values[0])
    for k in range(1, len(values)):
        field = field.masked_fill(level == k, values[k])
    return field
