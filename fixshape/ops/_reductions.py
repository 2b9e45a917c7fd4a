"""Sums and means over the real part of a padded tensor, and the reduction step that the masked losses end with.

Shapes: ``S...`` the dimensions that ``valid_mask`` covers, ``T...`` the dimensions after them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fixshape._check import check_choice
from fixshape.errors import DtypeError
from fixshape.ops._valid import broadcast_valid

REDUCTIONS = ("none", "mean", "sum")


def masked_sum(
    input: Tensor,
    dim: int | Sequence[int] | None = None,
    keepdim: bool = False,
    *,
    valid_mask: Tensor,
) -> Tensor:
    """``torch.sum`` over the real elements.

    What the padding holds does not matter, NaN and inf included, and its gradient is exactly 0.

    Args:
        input: [S..., T...], any dtype that ``torch.sum`` takes.
        dim: the dimension or dimensions of ``input`` to sum over; all of them when None.
        keepdim: whether the summed dimensions stay, with size 1.
        valid_mask: [S...] bool, True = real.

    Returns:
        What ``torch.sum(input, dim, keepdim)`` returns: same shape, same dtype (integers and bools become int64).

    Raises:
        ShapeError: ``valid_mask`` does not have the leading sizes of ``input``.
        DtypeError: ``valid_mask`` is not bool.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 2.0], [3.0, float("nan")]])
        >>> masked_sum(x, 1, valid_mask=torch.tensor([[True, True], [True, False]]))
        tensor([3., 3.])
    """
    valid = broadcast_valid("masked_sum", valid_mask, input)
    return _sum(torch.where(valid, input, 0), dim, keepdim)


def masked_mean(
    input: Tensor,
    dim: int | Sequence[int] | None = None,
    keepdim: bool = False,
    *,
    valid_mask: Tensor,
) -> Tensor:
    """``torch.mean`` over the real elements: their sum divided by their number.

    A mean over no real element is 0 with gradient 0, where ``torch.mean`` gives NaN: a batch without a single box must not
    poison the step. What the padding holds does not matter, NaN and inf included, and its gradient is exactly 0.

    Args:
        input: [S..., T...], floating point. Half precision is summed in float32, as torch does.
        dim: the dimension or dimensions of ``input`` to average over; all of them when None.
        keepdim: whether the averaged dimensions stay, with size 1.
        valid_mask: [S...] bool, True = real. One entry stands for all of T..., which counts in the number of elements.

    Returns:
        What ``torch.mean(input, dim, keepdim)`` returns: same shape, same dtype.

    Raises:
        ShapeError: ``valid_mask`` does not have the leading sizes of ``input``.
        DtypeError: ``valid_mask`` is not bool, or ``input`` is not floating point.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 2.0], [3.0, float("nan")]])
        >>> masked_mean(x, 1, valid_mask=torch.tensor([[True, True], [True, False]]))
        tensor([1.5000, 3.0000])
        >>> masked_mean(x, valid_mask=torch.tensor([False, False]))
        tensor(0.)
    """
    valid = broadcast_valid("masked_mean", valid_mask, input)
    if not input.is_floating_point():
        raise DtypeError(f"masked_mean: input has dtype {input.dtype}, expected floating point. Use input.float().")
    return _mean(torch.where(valid, input, 0), valid, dim, keepdim)


def reduce_loss(loss: Tensor, valid: Tensor, reduction: str) -> Tensor:
    """Ends a masked loss: zeroes the padding of ``loss`` and reduces it as torch does, over the real elements.

    Args:
        loss: the loss of each element, finite in the padding too (or its gradient would be NaN).
        valid: bool, broadcast against ``loss`` (from :func:`fixshape.ops._valid.broadcast_valid`).
        reduction: one of ``REDUCTIONS``, already checked.
    """
    loss = torch.where(valid, loss, 0)
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else _mean(loss, valid, None, False)


def check_reduction(where: str, reduction: str) -> None:
    """Raises :class:`ShapeError` unless ``reduction`` is one of ``REDUCTIONS``."""
    check_choice(where, "reduction", reduction, REDUCTIONS)


def wide_dtype(input: Tensor) -> torch.dtype:
    """The dtype to sum ``input`` in: float16 ends at 65504, neither the sum of a batch nor the number of its elements fits."""
    return torch.float32 if input.element_size() < 4 else input.dtype


def _sum(input: Tensor, dim: int | Sequence[int] | None, keepdim: bool, dtype: torch.dtype | None = None) -> Tensor:
    dims = tuple(range(input.dim())) if dim is None else dim
    return torch.sum(input, dims if isinstance(dims, int) else tuple(dims), keepdim, dtype=dtype)


def _mean(zeroed: Tensor, valid: Tensor, dim: int | Sequence[int] | None, keepdim: bool) -> Tensor:
    total = _sum(zeroed, dim, keepdim, dtype=wide_dtype(zeroed))
    count = _sum(valid.expand_as(zeroed), dim, keepdim)
    return (total / count.clamp(min=1)).to(zeroed.dtype)
