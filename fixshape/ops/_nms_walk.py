"""Which boxes survive greedy suppression: a walk over tiles of 56 boxes, exact however long a chain of boxes is.

Shapes: ``S`` sets of boxes, ``N`` boxes in order of score, ``P`` planes of a box (x1, y1, x2, y2, its area, and its group where
there are groups), ``K`` tiles of ``T`` boxes each, ``R`` runs of 7 boxes to a tile.

Greedy NMS is sequential: whether a box stays depends on which better boxes stayed. The sequence is walked in two ways.

* Within a tile, the boxes alive are the bits of one integer, and the walk takes 7 of them at a time. Which of 7 boxes survive
  depends on nothing but which of them are alive, so for each run of 7 the answer to all 128 cases is put into a table
  beforehand, together with what those survivors suppress in the rest of the tile: a step is one look-up and one bitwise and.
  (Tables over all cases of a small block are known as the method of four Russians: Arlazarov, Dinic, Kronrod, Faradzev, 1970.)
* After a tile, its survivors are compared with all later boxes at once.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fixshape.ops._box_iou import area_of

_RUN = 7  # a table has 2 ** 7 entries: fewer mean more steps, and more take longer to write than they save
# Whole runs, whole vectors of 8 numbers, and bits of an int64 that leave its sign alone: torch_xla shifts by a division, which
# is wrong for negative numbers.
_TILE = 56
_EXPORTED_TILE = 49  # onnxruntime adds int64 as doubles (1.31, ReduceSum), which is exact below 2 ** 53
_CACHED_PAIRS = 2**18  # compared at once on a CPU: the intermediate results of many more would leave its cache
_PAIRS = 2**23  # and elsewhere, to bound the memory


def make_planes(boxes: Tensor, group: Tensor | None) -> Tensor:
    """[S, P, N] of boxes [S, N, 4] and groups [S, N], small whole numbers. Planes, so that the innermost stride is 1."""
    corners = boxes.mT
    rest = [area_of(corners)] if group is None else [area_of(corners), group.to(boxes.dtype)]
    return torch.cat([corners, torch.stack(rest, dim=-2)], dim=-2)


def survivors(planes: Tensor, alive: Tensor, threshold: float) -> Tensor:
    """[S, N] bool: which of the boxes [S, P, N], best first, greedy NMS keeps out of those ``alive`` [S, N]."""
    count = alive.shape[-1]
    planes, alive = fill_tiles(planes), fill_tiles(alive)
    tiles = split_tiles(planes)
    tables = survivor_tables(_in_parts(lambda some: spared(some, threshold), planes, tiles))
    survives = []
    for here, table in zip(tiles.unbind(1), tables.unbind(1), strict=True):
        tile = here.shape[-1]
        kept = survivors_of_tile(table, alive[:, :tile])
        survives.append(kept)
        planes, alive = planes[..., tile:], alive[:, tile:]
        if alive.shape[-1]:
            alive = alive & ~_in_parts(lambda h, k, others: suppressed(h, k, others, threshold), planes, here, kept, planes)
    return torch.cat(survives, dim=-1)[:, :count]


def _in_parts(compare: Callable[..., Tensor], planes: Tensor, *sets: Tensor) -> Tensor:
    """``compare(*sets)``, some of the S sets at once, each of which compares a tile with the boxes [S, P, M]."""
    if torch.compiler.is_exporting():  # the graph is for any number of sets, and where it will run nobody knows
        return compare(*sets)
    pairs = _CACHED_PAIRS if planes.device.type == "cpu" else _PAIRS
    at_once = max(1, pairs // (_TILE * planes.shape[-1]))
    parts = zip(*(torch.split(each, at_once) for each in sets), strict=True)
    return torch.cat([compare(*part) for part in parts])


def tile_length(count: int) -> int:
    """T where there are ``count`` boxes: few boxes are one short tile."""
    longest = _EXPORTED_TILE if torch.compiler.is_exporting() else _TILE
    return min(longest, -(-count // _RUN) * _RUN)


def fill_tiles(x: Tensor) -> Tensor:
    """[..., N] with zeros, which are dead boxes, up to a multiple of T."""
    count = x.shape[-1]
    return F.pad(x, (0, -count % tile_length(count)))


def split_tiles(planes: Tensor) -> Tensor:
    """[S, P, N] as [S, K, P, T]."""
    tile = tile_length(planes.shape[-1])
    return planes.reshape(*planes.shape[:-1], planes.shape[-1] // tile, tile).movedim(-2, 1)


def spared(tiles: Tensor, threshold: float) -> Tensor:
    """[S, K, T] int64: the boxes of its tile that each box does not suppress."""
    hits = overlaps(tiles, tiles, threshold).triu(1)
    return ~(hits.long() * bits_of(tiles)).sum(-1)


def survivor_tables(spared: Tensor) -> Tensor:
    """[S, K, R, 128] int64: for each run of a tile and each case of its alive boxes, the boxes of the tile that may stay alive.

    Not among them are those of the run that do not survive the case, and those of later runs that its survivors suppress. The
    table of the first j boxes of a run is half of that of the first j + 1. In the other half box j is alive: unless one of the
    survivors before it, the only ones that half knows of, suppresses it, the boxes go that it suppresses.
    """
    bits = bits_of(spared)
    spared = spared.reshape(*spared.shape[:-1], spared.shape[-1] // _RUN, _RUN)
    table = torch.full_like(spared[..., :1], -1)
    for j in range(_RUN):
        is_free = table & bits[j::_RUN, None] != 0
        table = torch.cat([table, torch.where(is_free, table & spared[..., j : j + 1], table)], dim=-1)
    return table


def survivors_of_tile(table: Tensor, alive: Tensor) -> Tensor:
    """[S, T] bool: what stays of the boxes ``alive`` [S, T] of one tile, by its ``table`` [S, R, 128]."""
    bits = bits_of(alive)
    left = (alive.long() * bits).sum(-1, keepdim=True)
    for run, answers in enumerate(table.unbind(1)):
        case = (left >> (_RUN * run)) & (2**_RUN - 1)
        left = left & answers.gather(-1, case)
    return left & bits != 0


def suppressed(here: Tensor, kept: Tensor, others: Tensor, threshold: float) -> Tensor:
    """[S, M] bool: which of the boxes ``others`` [S, P, M] go because of those ``here`` [S, P, T] that are ``kept`` [S, T]."""
    # NaN is greater than nothing: a box of NaN suppresses nobody, whatever the threshold.
    here = torch.where(kept.unsqueeze(-2), here, torch.nan)
    return overlaps(here, others, threshold).amax(-2) != 0


def overlaps(one: Tensor, other: Tensor, threshold: float) -> Tensor:
    """[..., T, M] of ones and zeros: which pairs of a group overlap by more than ``threshold``. 0/0 does not.

    The numbers are those of ``pairwise_iou``. This form keeps to memory that is in the cache, and compares into numbers, which
    together with their maximum is some four times faster on a CPU than bool and any().
    """
    top_left = torch.maximum(one[..., :2, :, None], other[..., :2, None, :])
    bottom_right = torch.minimum(one[..., 2:4, :, None], other[..., 2:4, None, :])
    width, height = bottom_right.sub_(top_left).clamp_(min=0).unbind(-3)
    # In place where there is memory to spare; an exported graph would write the view back into what it is of.
    intersection = width * height if torch.compiler.is_exporting() else width.mul_(height)
    union = (one[..., 4, :, None] + other[..., 4, None, :]).sub_(intersection)
    hits = intersection.div_(union).gt_(threshold)
    if one.shape[-2] > 5:
        hits.mul_((one[..., 5, :, None] - other[..., 5, None, :]).eq_(0))
    return hits


def bits_of(tile: Tensor) -> Tensor:
    """[T] int64: the bit that stands for each box of a tile [..., T]."""
    return 2 ** torch.arange(tile.shape[-1], device=tile.device)
