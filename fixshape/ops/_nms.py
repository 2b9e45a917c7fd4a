"""Greedy non-maximum suppression, exact, with fixed shapes.

Shapes: ``L...`` leading dimensions (images, classes, levels), ``N`` boxes, ``size`` slots of the answer; in the private part
``K`` blocks of 8 boxes in order of score.

Greedy NMS is sequential: whether a box stays depends on which better boxes stayed. What is sequential here are blocks of 8
boxes. Which of the 8 survive depends on nothing but which of them are still alive, so for every block the answer to all 256
cases is put into a table beforehand, all blocks at once; the walk over the blocks is then one look-up per block and one
comparison of its survivors with all later boxes. (Tables over all cases of a small block are known as the method of four
Russians: Arlazarov, Dinic, Kronrod, Faradzev, 1970.)
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fixshape._check import check_at_least, check_shape
from fixshape.ops._box_iou import area_of, pairwise_iou
from fixshape.ops._select import first_true
from fixshape.ops._valid import check_bool

_BLOCK = 8  # a table has 2 ** 8 entries of 8 bits


class NMSResult(NamedTuple):
    """What :func:`nms` kept."""

    indices: Tensor  #: [L..., size] int64, by decreasing score; 0 where there is none
    valid_mask: Tensor  #: [L..., size] bool, True = a box that was kept


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, *, size: int, valid_mask: Tensor | None = None) -> NMSResult:
    """``torchvision.ops.nms`` with a fixed number of rows, for many sets of boxes at once.

    It keeps what torchvision's CPU kernel keeps, always: an overlap is computed as there, a box goes where it is *greater* than
    the threshold as a double, and of equal scores the first box wins. Torchvision's CUDA kernel rounds the threshold to float32
    and so may differ where an overlap hits it exactly. No gradient passes.

    It takes N / 8 steps of some twenty ops on the boxes that are left, whatever the boxes are; a graph compiler sees them all, so
    that its time grows with N (torch_xla on two CPU cores: 11 s for 400 boxes, 160 s for 2000, once).

    Where more boxes stay than ``size``, the best are given; there is no sign of it, so give N where all are wanted.

    Args:
        boxes: [L..., N, 4] floating point, XYXY with x1 <= x2 and y1 <= y2, finite where valid. Half precision is
            computed in float32.
        scores: [L..., N] floating point.
        iou_threshold: boxes that overlap a better kept one by more than this are dropped.
        size: number of slots of the answer, at least 1; may be more than N.
        valid_mask: [L..., N] bool, True = real; None when all are. Padding is never kept, drops nothing, and may hold anything.

    Returns:
        :class:`NMSResult`: ``indices`` [L..., size] int64 in order of decreasing score, 0 in slots without a box, and
        ``valid_mask`` [L..., size] bool.

    Raises:
        ShapeError: the shapes do not fit each other, N is 0, or ``size`` is not a whole number of at least 1.
        DtypeError: ``valid_mask`` is not bool.

    Example:
        >>> import torch
        >>> boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0], [20.0, 0.0, 30.0, 10.0]])
        >>> nms(boxes, torch.tensor([0.8, 0.9, 0.7]), 0.5, size=3)
        NMSResult(indices=tensor([1, 2, 0]), valid_mask=tensor([ True,  True, False]))
    """
    check_shape("nms", "boxes", boxes.shape, (*boxes.shape[:-2], "N", 4))
    check_at_least("nms", "N", boxes.shape[-2], 1)
    check_shape("nms", "scores", scores.shape, boxes.shape[:-1], "One score per box.")
    check_at_least("nms", "size", size, 1)
    if valid_mask is None:
        valid_mask = torch.ones_like(scores, dtype=torch.bool)
    check_bool("nms", "valid_mask", valid_mask)
    check_shape("nms", "valid_mask", valid_mask.shape, boxes.shape[:-1], "One entry per box.")

    # Padding may come anywhere in this order: it is dead from the start, and a dead box changes nothing.
    order = scores.detach().argsort(dim=-1, descending=True, stable=True)
    boxes = torch.where(valid_mask.unsqueeze(-1), boxes.detach(), 0)
    boxes = boxes.to(torch.promote_types(boxes.dtype, torch.float32)).gather(-2, order.unsqueeze(-1).expand_as(boxes))
    survives = _survivors(boxes, valid_mask.gather(-1, order), _round_down(iou_threshold, boxes.dtype))
    position, kept = first_true(survives, size)
    return NMSResult(torch.where(kept, order.gather(-1, position), 0), kept)


def _survivors(boxes: Tensor, alive: Tensor, threshold: float) -> Tensor:
    """Which of the boxes [L..., N, 4], best first, greedy NMS keeps out of those ``alive`` [L..., N]."""
    count = alive.shape[-1]
    missing = -count % _BLOCK
    corners = F.pad(boxes.mT, (0, missing)).contiguous()
    alive = F.pad(alive, (0, missing))
    area = area_of(corners)
    tables = _survivor_tables(corners, area, threshold)
    bits = 2 ** torch.arange(_BLOCK, device=boxes.device)

    never = torch.full_like(area[..., :_BLOCK], torch.inf)
    survives = []
    for block in range(tables.shape[-2]):
        case = (alive[..., :_BLOCK] * bits).sum(-1, keepdim=True)
        kept = tables[..., block, :].gather(-1, case).bitwise_and(bits) != 0
        survives.append(kept)
        start = (block + 1) * _BLOCK
        alive = alive[..., _BLOCK:]
        if alive.shape[-1]:
            here, later = slice(start - _BLOCK, start), slice(start, None)
            overlap = pairwise_iou(corners[..., here], area[..., here], corners[..., later], area[..., later])
            # Nothing is greater than inf: one comparison says who is hit, and that only kept boxes hit. 0/0 hits nothing.
            limit = never.masked_fill(kept, threshold).unsqueeze(-1)
            alive = alive & ~(overlap > limit).any(-2)
    return torch.cat(survives, dim=-1)[..., :count]


def _survivor_tables(corners: Tensor, area: Tensor, threshold: float) -> Tensor:
    """[L..., K, 256] uint8: for each block and each byte of alive boxes the byte of those that survive within the block.

    Bit 0 is the best box. The table of the first j boxes is half of that of the first j + 1: in the other half box j is alive,
    and survives unless one of the survivors before it, the only ones that half knows of, suppresses it.
    """
    corners = corners.reshape(*corners.shape[:-1], -1, _BLOCK).movedim(-2, -3)
    area = area.reshape(*area.shape[:-1], -1, _BLOCK)
    overlap = pairwise_iou(corners, area, corners, area)
    bits = 2 ** torch.arange(_BLOCK, device=corners.device).unsqueeze(-1)
    suppressed_by = ((overlap > threshold) * bits).sum(-2).to(torch.uint8)
    table = torch.zeros_like(suppressed_by[..., :1])
    for j in range(_BLOCK):
        free = table.bitwise_and(suppressed_by[..., j : j + 1]) == 0
        table = torch.cat([table, table.add(free, alpha=2**j)], dim=-1)
    return table


def _round_down(threshold: float, dtype: torch.dtype) -> float:
    """The largest number of ``dtype`` that is not greater than ``threshold``.

    x > threshold in double is x > this in ``dtype`` for each x of ``dtype``. The nearest one would not do: that of 0.6 in
    float32 is greater than 0.6, and an overlap of just that would survive.
    """
    if dtype == torch.float64 or not math.isfinite(threshold):
        return threshold
    mantissa, exponent = math.frexp(threshold)
    return math.ldexp(math.floor(mantissa * 2.0**24), exponent - 24)
