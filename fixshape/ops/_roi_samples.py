"""Where does RoIAlign sample a map, along one axis, and what does each pixel weigh in each bin?

Shapes: ``N...`` leading dimensions (boxes), ``bins`` of the output along the axis, ``size`` pixels of the map along it, ``s``
samples of a bin along it.

The rules are those of torchvision/csrc/ops/cpu/roi_align_common.h for ``aligned=False``. Bilinear weights are a product of one
for y and one for x, and so is the set of samples: all geometry is done per axis, on few numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_MOST_TOUCHING = 4  # adaptive samples of one bin that one pixel can have a share in, and one to spare


class Entries(NamedTuple):
    """What each bin takes along one axis; samples outside the map weigh 0."""

    pixel: Tensor  #: [N..., bins, 2 s] int32
    weight: Tensor  #: [N..., bins, 2 s] floating point


def entries(start: Tensor, end: Tensor, bins: int, samples: int, size: Tensor) -> Entries:
    """The pixels that boxes from ``start`` to ``end`` [N...], in pixels of maps of ``size`` [N...], sample, and their weights."""
    bin_start, bin_size = _bins(start, end, bins)
    sample = torch.arange(samples, device=start.device, dtype=start.dtype) + 0.5
    at = _samples_at(bin_start, bin_size, sample, samples)
    limit = size[..., None, None]
    inside = (at >= -1) & (at <= limit)
    at = torch.where(inside, at, 0).clamp(min=0).minimum(limit - 1)  # what is far outside must go before it becomes an index
    low = at.floor()
    fraction = at - low
    share = inside.to(start.dtype) / samples
    low_index = low.to(torch.int32)
    return Entries(
        torch.cat([low_index, (low_index + 1).minimum(limit - 1)], dim=-1),
        torch.cat([(1 - fraction) * share, fraction * share], dim=-1),
    )


def weights(start: Tensor, end: Tensor, bins: int, samples: int, size: int, limit: Tensor | None = None) -> Tensor:
    """[N..., bins, size]: the weight of each pixel in each bin. ``samples`` is -1 where their number follows from the box.

    The map ends after ``limit`` [N...] pixels where that is given: what is behind them weighs nothing.

    A bin of b pixels then has n = ceil(b) samples, as many as the box is large; but of those few touch a given pixel. A sample
    has a share in a pixel from one pixel below it to one above it, at the borders too, where samples up to one pixel outside
    count as on the border. Samples are b / n > (n - 1) / n apart: from n = 3 on less than 3 steps fit into these 2 pixels, so
    that 3 samples at most touch, whatever the box and the map. The 4 in a row from half a step before leave half a step on
    either side for rounding.
    """
    bin_start, bin_size = (value.unsqueeze(-1) for value in _bins(start, end, bins))
    ends = torch.full_like(bin_size, size) if limit is None else limit.to(start.dtype)[..., None, None, None]
    pixel = torch.arange(size, device=start.device, dtype=start.dtype)[:, None]
    count: int | Tensor
    if samples == -1:
        number = bin_size.ceil()
        first = ((pixel - 1 - bin_start) * (number / bin_size) - 1).ceil().clamp(min=0)
        sample = first + torch.arange(_MOST_TOUCHING, device=start.device, dtype=start.dtype)
        at = _samples_at(bin_start, bin_size, sample + 0.5, number)
        counts = (sample < number) & (at >= -1) & (at <= ends)
        count = number.squeeze(-1)
    else:
        sample = torch.arange(samples, device=start.device, dtype=start.dtype) + 0.5
        at = _samples_at(bin_start, bin_size, sample, samples)
        counts = (at >= -1) & (at <= ends)
        count = samples
    near = (1 - (at.clamp(min=0).minimum(ends - 1) - pixel).abs()).clamp(min=0)
    return near.masked_fill(~counts, 0).sum(-1) / count


def _bins(start: Tensor, end: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """Where bins start [N..., bins, 1] and how large they are [N..., 1, 1]; a box is of one pixel at least."""
    bin_size = ((end - start).clamp(min=1) / bins)[..., None, None]
    bin_number = torch.arange(bins, device=start.device, dtype=start.dtype)[:, None]
    return start[..., None, None] + bin_number * bin_size, bin_size


def _samples_at(bin_start: Tensor, bin_size: Tensor, sample: Tensor, number: int | Tensor) -> Tensor:
    """In the order of torchvision, or a sample on the border could round to its other side."""
    return bin_start + sample * bin_size / number
