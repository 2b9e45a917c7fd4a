"""Rows in order: sort, topk, argmax, cumulative sums, and softmax over the rows.

What is sorted along a dimension of rows has as many rows as before, now in the first slots: rows of another selection, the
*front* of the first one. Indices tell ranks among the real rows, as they do in plain code, and rows can be indexed with them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fixshape.ops._rows import Rows, along, axes_of, data_of, settle, wrap
from fixshape.ops._rows_count import Count
from fixshape.ops._rows_ends import highest, left, lowest, replaced, vector_norm
from fixshape.ops._rows_error import Refusal
from fixshape.ops._rows_registry import handles, name_of
from fixshape.ops._rows_select import getitem
from fixshape.ops._rows_shape import flatten, listed, ordinary
from fixshape.ops._rows_through import elementwise


@handles("max", "min")
def max_min(func: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """All at once, along a dimension with indices, or of two tensors."""
    is_max = name_of(func) == "max"
    if (args and not isinstance(args[0], int)) or "other" in kwargs or isinstance(x, Tensor | Count):
        return elementwise(torch.maximum if is_max else torch.minimum, x, *args, **kwargs)
    dim = args[0] if args else kwargs.get("dim")
    if dim is None:
        return func(replaced(x, range(x._data.dim()), (lowest if is_max else highest)(x._data.dtype)))
    keepdim = args[1] if len(args) > 1 else kwargs.get("keepdim", False)
    values, indices = _extreme(x, dim, keepdim, is_max)
    return (torch.return_types.max if is_max else torch.return_types.min)((values, indices))


@handles("argmax", "argmin")
def argmax(func: Any, x: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The rank of the largest among the real rows; of no rows, where torch raises, 0."""
    if dim is None:
        flat = x.flatten()
        return argmax(func, flat, 0)
    return _extreme(x, dim, keepdim, name_of(func) == "argmax")[1]


def _extreme(x: Rows, dim: int, keepdim: bool, is_max: bool) -> tuple[Any, Any]:
    """The largest or smallest along a dimension, and its index."""
    d = dim % x._data.dim()
    axis, axes = x._axes[d], left(x, [d], keepdim)
    if axis is None:
        values, indices = (torch.max if is_max else torch.min)(x._data, d, keepdim)
        return wrap(values, axes), wrap(indices, axes)
    data = replaced(x, [d], (lowest if is_max else highest)(x._data.dtype))
    slots = (torch.argmax if is_max else torch.argmin)(data.to(torch.uint8) if data.dtype == torch.bool else data, d, True)
    slots = torch.where(axis.valid[slots], slots, axis.first)  # all real ones are as low as the padding
    indices = axis.rank[slots]
    values = x._data.gather(d, slots)
    values = torch.where(axis.any, values, values.detach())
    if not keepdim:
        values, indices = values.squeeze(d), indices.squeeze(d)
    return wrap(values, axes), wrap(indices, axes)


@handles("sort", "argsort", "msort")
def sort(func: Any, x: Any, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    """Stable among the real rows, which torch's own is where it is asked to be."""
    if name_of(func) == "msort":
        return sort(torch.sort, x, 0).values
    d = dim % x._data.dim()
    values, indices = _sorted(x, d, descending)
    if name_of(func) == "argsort":
        return indices
    return torch.return_types.sort((values, indices))


def _sorted(x: Rows, d: int, descending: bool) -> tuple[Any, Any]:
    axis = x._axes[d]
    if axis is None:
        values, indices = torch.sort(x._data, dim=d, descending=descending, stable=True)
        return wrap(values, x._axes), wrap(indices, x._axes)
    # First by value, then the real ones before the padding: no number has to stand for "last".
    order = torch.sort(x._data.detach(), dim=d, descending=descending, stable=True).indices
    real_first = axis.valid[order].to(torch.uint8).sort(dim=d, descending=True, stable=True).indices
    order = order.gather(d, real_first)
    front = axis.front
    axes = [*x._axes[:d], front, *x._axes[d + 1 :]]
    return wrap(settle(x._data.gather(d, order), axes, [d]), axes), wrap(settle(axis.rank[order], axes, [d]), axes)


@handles("topk")
def topk(func: Any, x: Any, k: Any, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    """With a k of Python a plain tensor, as long as there are that many rows; with a count for k rows."""
    d = dim % data_of(x).dim()
    if isinstance(x, Rows):
        if x._axes[d] is None and not isinstance(k, Count):
            values, indices = torch.topk(x._data, k, d, largest, sorted)
            return torch.return_types.topk((wrap(values, x._axes), wrap(indices, x._axes)))
        values, indices = _sorted(x, d, largest)
    else:
        values, indices = torch.sort(x, dim=d, descending=largest, stable=True)
    key = (slice(None),) * d + (slice(None, k),)
    if isinstance(k, Count):
        return torch.return_types.topk((getitem(func, values, key), getitem(func, indices, key)))
    axes = left(x, [d], False)
    axes.insert(d, None)
    return torch.return_types.topk((wrap(data_of(values)[key], axes), wrap(data_of(indices)[key], axes)))


@handles("kthvalue")
def kthvalue(func: Any, x: Any, k: Any, dim: int = -1, keepdim: bool = False) -> Any:
    """The k-th smallest; there must be that many."""
    d = dim % x._data.dim()
    return torch.return_types.kthvalue(
        _pick(x, d, data_of(elementwise(torch.sub, k, 1) if isinstance(k, Count) else k - 1), keepdim)
    )


@handles("median")
def median(func: Any, x: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The lower one of two, NaN where one entry is, as torch's."""
    if dim is None:
        return median(func, x.flatten(), 0).values
    d = dim % x._data.dim()
    axis = x._axes[d]
    if axis is None:
        values, indices = torch.median(x._data, d, keepdim)
        return torch.return_types.median((wrap(values, left(x, [d], keepdim)), wrap(indices, left(x, [d], keepdim))))
    middle = (axis.count - 1).clamp(min=0).div(2, rounding_mode="floor")
    nans = along(axis.valid, d, x._data.dim()) & x._data.detach().isnan()
    at = torch.where(nans.any(d, keepdim=True), (axis.count - nans.sum(d, keepdim=True)).clamp(min=0), middle)
    values, indices = _pick(x, d, at, keepdim)
    if data_of(values).is_floating_point():
        values = elementwise(torch.where, axis.any, values, math.nan)
    return torch.return_types.median((values, indices))


@handles("quantile", "nanquantile")
def quantile(func: Any, x: Any, q: Any, dim: Any = None, keepdim: bool = False, *, interpolation: str = "linear") -> Any:
    """Between two neighbours in order; NaN where one entry is."""
    if dim is None:
        x, dim = x.flatten(), 0
    d = dim % x._data.dim()
    axis = x._axes[d]
    axes = left(x, [d], keepdim)
    if axis is None and not isinstance(q, Rows):
        found = func(x._data, q, d, keepdim, interpolation=interpolation)
        return wrap(found, [None] * (found.dim() - len(axes)) + axes)
    if isinstance(q, (Rows, Tensor)) or axis is None or interpolation != "linear" or name_of(func) == "nanquantile":
        raise Refusal("a quantile of this kind has no static form", "Give one number for q, and interpolation='linear'.")
    at = q * (axis.count - 1).clamp(min=0).to(x._data.dtype)
    low, high = (_pick(x, d, edge.long(), keepdim)[0] for edge in (at.floor(), at.ceil()))
    between = elementwise(torch.lerp, low, high, (at - at.floor()).to(x._data.dtype))
    no_number = (x._data.isnan() & axis.valid_at(d, x._data.dim())).any(d, keepdim) | ~axis.any
    return elementwise(torch.add, between, wrap(torch.where(no_number, math.nan, 0.0).to(x._data.dtype), axes))


def _pick(x: Rows, d: int, at: Any, keepdim: bool) -> tuple[Any, Any]:
    """The entry at a place of the order along a dimension, and its index."""
    axes = left(x, [d], keepdim)
    result = []
    for part in _sorted(x, d, False):
        data = part._data
        shape = [1 if k == d else size for k, size in enumerate(data.shape)]
        place = at.expand(shape) if isinstance(at, Tensor) else torch.full(shape, at, device=data.device)
        picked = data.gather(d, place)
        result.append(wrap(picked if keepdim else picked.squeeze(d), axes))
    return result[0], result[1]


@handles("cumsum", "cumprod", "logcumsumexp")
def cumulative(func: Any, x: Any, dim: int, *, dtype: Any = None) -> Any:
    """Over the real rows, in order."""
    d = dim % x._data.dim()
    axis, name = x._axes[d], name_of(func)
    if axis is not None and name == "logcumsumexp":
        # -inf before the first real row has no gradient: with the real ones in front there is nothing before it.
        first = torch.logcumsumexp(x._data.index_select(d, axis.positions), d)
        return wrap(settle(first.index_select(d, axis.rank), x._axes, [d]), x._axes)
    data = replaced(x, [d], 1 if name == "cumprod" else 0)
    options = {} if dtype is None else {"dtype": dtype}
    return wrap(settle(func(data, d, **options), x._axes, [d]), x._axes)


@handles("cummax", "cummin")
def cummax(func: Any, x: Any, dim: int) -> Any:
    """Over the real rows, in order."""
    d = dim % x._data.dim()
    axis = x._axes[d]
    bound = (lowest if name_of(func) == "cummax" else highest)(x._data.dtype)
    values, indices = func(replaced(x, [d], bound), d)
    if axis is not None:
        values, indices = settle(values, x._axes, [d]), settle(axis.rank[indices], x._axes, [d])
    return getattr(torch.return_types, name_of(func))((wrap(values, x._axes), wrap(indices, x._axes)))


def amax_of(x: Rows, d: int) -> Tensor:
    """The largest real entry along a dimension, without gradient, 0 where there is no finite one; the dimension stays."""
    high = replaced(x, [d], -math.inf).detach().amax(d, True)
    return torch.where(high.isfinite(), high, 0)


@handles("softmax", "log_softmax", "softmin")
def softmax(func: Any, x: Any, dim: int | None = None, *args: Any, dtype: Any = None, **kwargs: Any) -> Any:
    """Over the real rows, or along an ordinary dimension."""
    if dim is None:
        dim = 0 if x._data.dim() in (0, 1, 3) else 1  # as torch.nn.functional guesses
    d = dim % x._data.dim()
    data = x._data if dtype is None else x._data.to(dtype)
    name = name_of(func)
    data = -data if name == "softmin" else data
    is_log = name == "log_softmax"
    if x._axes[d] is None:
        return wrap((torch.log_softmax if is_log else torch.softmax)(data, d), x._axes)
    moved = data - amax_of(wrap(data, x._axes), d)
    power = moved.exp()
    total = replaced(wrap(power, x._axes), [d], 0).sum(d, True)
    total = torch.where(x._axes[d].any, total, 1)
    result = moved - total.log() if is_log else power / total
    return wrap(settle(result, x._axes, [d]), x._axes)


@handles("normalize")
def normalize(func: Any, x: Any, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None) -> Any:
    """Divides by the norm along a dimension."""
    size = vector_norm(func, x, p, dim, True)
    return elementwise(torch.div, x, elementwise(torch.clamp_min, size, eps) if isinstance(size, Rows) else size.clamp_min(eps))


@handles("diff")
def diff(func: Any, x: Any, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None) -> Any:
    """Between neighbours, of rows between real ones; those are one fewer."""
    if prepend is not None or append is not None:
        raise Refusal("diff() with prepend or append is not followed", "Put it beside the rows with torch.cat first.")
    d = dim % x._data.dim()
    for _ in range(n):
        before, after = (slice(None),) * d + (slice(None, -1),), (slice(None),) * d + (slice(1, None),)
        if x._axes[d] is None:
            x = elementwise(torch.sub, getitem(func, x, after), getitem(func, x, before))
        else:
            later = roll(func, x, -1, d)  # in the place of the earlier one
            x = getitem(func, elementwise(torch.sub, later, x), before)
    return x


@handles("roll")
def roll(func: Any, x: Any, shifts: Any, dims: Any = None) -> Any:
    """Rows by rank: the last ones come first. Without dimensions the entries, all in a row."""
    if dims is None or dims == ():
        flat = roll(func, flatten(func, x), shifts, 0)
        return wrap(flat._data.reshape(x._data.shape), x._axes)
    data = x._data
    for shift, dim in zip(listed([shifts]), listed([dims]), strict=True):
        d = dim % data.dim()
        axis = x._axes[d]
        if axis is None:
            data = data.roll(shift, d)
        else:
            rank = (axis.rank - shift).remainder(axis.count.clamp(min=1))
            data = settle(data.index_select(d, axis.positions.index_select(0, rank)), x._axes, [d])
    return wrap(data, x._axes)


@handles("glu")
def glu(func: Any, x: Any, dim: int = -1) -> Any:
    """Along an ordinary dimension."""
    ordinary(x, dim)
    return wrap(func(x._data, dim), axes_of(x))
