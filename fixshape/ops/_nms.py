"""Greedy non-maximum suppression, exact, with fixed shapes, of one class or of many at once.

Shapes: ``L...`` leading dimensions (images, classes, levels), ``N`` boxes, ``size`` slots of the answer; in the private part
``S`` sets of boxes, all leading dimensions in one.

What is here sorts, masks and selects; ``_nms_walk`` decides which boxes survive. The same walk runs everywhere, in the form
that is best there:

* eager, and ``torch.export`` unless ``strict``: op by op, N / 56 steps of some sixty ops;
* ``torch.compile``: a single node of the graph, which calls the eager walk, so that the compile time does not grow with N;
* XLA: a loop of the graph (``_nms_xla``), for the same reason.

For 10 sets of 2000 boxes in clusters, on one core of a CPU: 30 ms eager (torchvision's kernel 39 ms), 0.2 s to compile with
``aot_eager``; on torch_xla's CPU 1.6 s to compile and 0.2 s a step (``tools/bench/nms.py``, all but ``aot_eager``).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fixshape._check import check_at_least, check_shape
from fixshape.errors import DtypeError
from fixshape.ops import _nms_walk, _nms_xla
from fixshape.ops._select import first_true
from fixshape.ops._valid import check_bool


class NMSResult(NamedTuple):
    """What :func:`nms` or :func:`batched_nms` kept."""

    indices: Tensor  #: [L..., size] int64, by decreasing score; 0 where there is none
    valid_mask: Tensor  #: [L..., size] bool, True = a box that was kept


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, *, size: int, valid_mask: Tensor | None = None) -> NMSResult:
    """``torchvision.ops.nms`` with a fixed number of rows, for many sets of boxes at once.

    It keeps what torchvision's CPU kernel keeps, always: an overlap is computed as there, a box goes where it is *greater* than
    the threshold as a double, and of equal scores the first box wins. Torchvision's CUDA kernel rounds the threshold to float32
    and so may differ where an overlap hits it exactly. No gradient passes.

    Its time depends on the shapes alone: all pairs of boxes are compared, padding too.

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
    return _nms("nms", boxes, scores, None, iou_threshold, size, valid_mask)


def batched_nms(
    boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float, *, size: int, valid_mask: Tensor | None = None
) -> NMSResult:
    """``torchvision.ops.batched_nms`` with a fixed number of rows, for many sets of boxes at once.

    Like :func:`nms`, but boxes of different ``idxs`` never drop one another. It keeps what torchvision's CPU kernel keeps class
    by class (torchvision/ops/boxes.py, ``_batched_nms_vanilla``). For few boxes torchvision itself takes a shorter way, which
    moves the classes apart by an offset, and the offset rounds the coordinates; this does not. Of equal scores the first box
    comes first, which torchvision leaves open for boxes of different classes. No gradient passes.

    Args:
        boxes: [L..., N, 4] floating point, XYXY with x1 <= x2 and y1 <= y2, finite where valid. Half precision is
            computed in float32.
        scores: [L..., N] floating point.
        idxs: [L..., N] integers, the class (or level, or image) of each box; any number stands for a class.
        iou_threshold: boxes that overlap a better kept one of their class by more than this are dropped.
        size: number of slots of the answer, at least 1; may be more than N.
        valid_mask: [L..., N] bool, True = real; None when all are. Padding is never kept, drops nothing, and may hold anything.

    Returns:
        :class:`NMSResult`: ``indices`` [L..., size] int64 in order of decreasing score over all classes, 0 in slots without a
        box, and ``valid_mask`` [L..., size] bool.

    Raises:
        ShapeError: the shapes do not fit each other, N is 0, or ``size`` is not a whole number of at least 1.
        DtypeError: ``idxs`` are not integers, or ``valid_mask`` is not bool.

    Example:
        >>> import torch
        >>> boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).expand(3, 4)
        >>> batched_nms(boxes, torch.tensor([0.7, 0.8, 0.9]), torch.tensor([5, 5, 2]), 0.5, size=3)
        NMSResult(indices=tensor([2, 1, 0]), valid_mask=tensor([ True,  True, False]))
    """
    check_shape("batched_nms", "idxs", idxs.shape, boxes.shape[:-1], "One class per box.")
    if idxs.is_floating_point() or idxs.is_complex() or idxs.dtype == torch.bool:
        raise DtypeError(f"batched_nms: idxs has dtype {idxs.dtype}, expected integers. Use idxs.long().")
    return _nms("batched_nms", boxes, scores, idxs, iou_threshold, size, valid_mask)


def _nms(
    where: str,
    boxes: Tensor,
    scores: Tensor,
    idxs: Tensor | None,
    iou_threshold: float,
    size: int,
    valid_mask: Tensor | None,
) -> NMSResult:
    check_shape(where, "boxes", boxes.shape, (*boxes.shape[:-2], "N", 4))
    check_at_least(where, "N", boxes.shape[-2], 1)
    check_shape(where, "scores", scores.shape, boxes.shape[:-1], "One score per box.")
    check_at_least(where, "size", size, 1)
    if valid_mask is None:
        valid_mask = torch.ones_like(scores, dtype=torch.bool)
    check_bool(where, "valid_mask", valid_mask)
    check_shape(where, "valid_mask", valid_mask.shape, boxes.shape[:-1], "One entry per box.")

    # Padding may come anywhere in this order: it is dead from the start, and a dead box changes nothing.
    order = scores.detach().argsort(dim=-1, descending=True, stable=True)
    boxes = torch.where(valid_mask.unsqueeze(-1), boxes.detach(), 0)
    boxes = boxes.to(torch.promote_types(boxes.dtype, torch.float32)).gather(-2, order.unsqueeze(-1).expand_as(boxes))
    group = None if idxs is None else _rank(idxs).gather(-1, order)
    alive = valid_mask.gather(-1, order)

    sets = math.prod(alive.shape[:-1])
    planes = _nms_walk.make_planes(boxes, group)
    planes = planes.reshape(sets, *planes.shape[-2:])
    survives = _survivors(planes, alive.reshape(sets, alive.shape[-1]), _round_down(iou_threshold, boxes.dtype))
    position, kept = first_true(survives.reshape(alive.shape), size)
    return NMSResult(torch.where(kept, order.gather(-1, position), 0), kept)


def _survivors(planes: Tensor, alive: Tensor, threshold: float) -> Tensor:
    """[S, N] bool: which of the boxes, best first, survive."""
    # Not is_compiling(): a graph that torch.export makes may run where there is no Python to call back.
    if torch.compiler.is_dynamo_compiling():
        survives: Tensor = _walk_as_one_node(planes, alive, threshold)
        return survives
    return _walk(planes, alive, threshold)


def _walk(planes: Tensor, alive: Tensor, threshold: float) -> Tensor:
    survivors = _nms_xla.survivors if alive.device.type == "xla" else _nms_walk.survivors
    return survivors(planes, alive, threshold).contiguous()  # as the stand-in below says


_walk_as_one_node = torch.library.custom_op("fixshape::nms_walk", _walk, mutates_args=())
_walk_as_one_node.register_fake(lambda planes, alive, threshold: torch.empty_like(alive))


def _rank(idxs: Tensor) -> Tensor:
    """Each number's place among the different ones: 0 to N - 1, which floating point can tell apart, as it cannot any number."""
    ordered, order = idxs.sort(dim=-1)
    rank = F.pad(ordered.diff(dim=-1) != 0, (1, 0)).cumsum(-1, dtype=torch.int64)  # torch_xla would count in bool
    return torch.zeros_like(rank).scatter(-1, order, rank)


def _round_down(threshold: float, dtype: torch.dtype) -> float:
    """The largest number of ``dtype`` that is not greater than ``threshold``.

    x > threshold in double is x > this in ``dtype`` for each x of ``dtype``. The nearest one would not do: that of 0.6 in
    float32 is greater than 0.6, and an overlap of just that would survive.
    """
    if dtype == torch.float64 or not math.isfinite(threshold):
        return threshold
    mantissa, exponent = math.frexp(threshold)
    return math.ldexp(math.floor(mantissa * 2.0**24), exponent - 24)
