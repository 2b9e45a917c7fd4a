"""Selection by a condition into a fixed number of slots.

Shapes: ``n`` elements, ``size`` slots, ``D`` dimensions of the input, ``L...`` leading dimensions.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fixshape._check import check_at_least
from fixshape.errors import ShapeError


class FixedNonzero(NamedTuple):
    """What :func:`fixed_nonzero` found."""

    indices: Tensor  #: [size, D] int64
    valid_mask: Tensor  #: [size] bool, True = a real element
    count: Tensor  # type: ignore[assignment]  # hides tuple.count, which nobody calls here
    #: [] int64, how many there are, which may be more than ``size``


def fixed_nonzero(input: Tensor, *, size: int, fill_value: int = 0) -> FixedNonzero:
    """``torch.nonzero`` with a fixed number of rows; ``size`` and ``fill_value`` are those of ``jax.numpy.nonzero``.

    Rows come in torch's order. Where there are more than ``size``, the first ``size`` are given and ``count`` tells that it
    was too small: nothing here raises, since to look would be a host sync. Compare ``count`` with ``size`` where you sync anyway.

    Args:
        input: any shape of at least one dimension and any dtype; NaN counts as nonzero, as in torch.
        size: number of rows of the answer, at least 1.
        fill_value: what the rows without an element hold. 0 can be used as an index as it is, if the answer is masked after.

    Returns:
        :class:`FixedNonzero`: ``indices`` [size, D] int64, ``valid_mask`` [size] bool, ``count`` [] int64.

    Raises:
        ShapeError: ``size`` is not a whole number of at least 1, or ``input`` has no dimension.

    Example:
        >>> import torch
        >>> found = fixed_nonzero(torch.tensor([0, 5, 0, 7]), size=3, fill_value=-1)
        >>> found.indices.flatten(), found.valid_mask, found.count
        (tensor([ 1,  3, -1]), tensor([ True,  True, False]), tensor(2))
    """
    check_at_least("fixed_nonzero", "size", size, 1)
    if input.dim() == 0:
        raise ShapeError("fixed_nonzero: input has shape (), expected at least one dimension. Use input.reshape(1).")
    hit = (input if input.dtype == torch.bool else input != 0).reshape(-1)
    position, valid = first_true(hit, size)
    strides = [math.prod(input.shape[d + 1 :]) for d in range(input.dim())]
    columns = [
        position.div(max(stride, 1), rounding_mode="floor").remainder(max(length, 1))
        for stride, length in zip(strides, input.shape, strict=True)
    ]
    indices = torch.where(valid.unsqueeze(-1), torch.stack(columns, dim=-1), fill_value)
    return FixedNonzero(indices, valid, hit.sum())


def first_true(hit: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The positions of the first ``size`` True entries along the last dimension.

    Args:
        hit: [L..., n] bool.
        size: number of slots.

    Returns:
        Positions [L..., size] int64 and [L..., size] bool that says where there is one; elsewhere the position is of no meaning,
        yet one that can be gathered from.
    """
    n = hit.shape[-1]
    rank = hit.cumsum(-1, dtype=torch.int64)  # torch_xla would count in bool
    count = rank[..., -1:] if n else rank.sum(-1, keepdim=True)
    position = torch.arange(n, device=hit.device)
    # Every entry gets a slot of its own, True ones first: a scatter without duplicates has one answer on every device.
    slot = torch.where(hit, rank - 1, count + position - rank)
    order = torch.zeros_like(rank).scatter(-1, slot, position.expand_as(rank))[..., :size]
    order = torch.nn.functional.pad(order, (0, size - order.shape[-1]))
    return order, torch.arange(size, device=hit.device) < count
