"""Writing with a selection: ``x[mask] = v``, ``x[idx] += y``, ``index_put``, ``masked_scatter`` and the scatters.

A mask is written through with ``torch.where``. Indices may be in the padding too, where they repeat others: there they point
at a slot behind the last one, which is cut off afterwards, so that the order of what is written stays torch's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fixshape.ops._rows import Rows, along, axes_of, data_of, settle, valid_of, wrap
from fixshape.ops._rows_count import Count
from fixshape.ops._rows_error import Refusal, shown_shape
from fixshape.ops._rows_mode import meets_rows
from fixshape.ops._rows_registry import IN_PLACE, NO_HANDLER, handles, name_of
from fixshape.ops._rows_select import (
    Basic,
    at_rest,
    basic,
    check_mask,
    makes_rows,
    one_mask,
    pairs_of,
    position_of,
    selection_of,
)
from fixshape.ops._rows_through import fitted, joined


def _foreign() -> Refusal:
    return Refusal("rows are written where another selection is meant", "Write the rows with the mask that selected them.")


@handles(Tensor.__setitem__, source=True)
def setitem(func: Any, x: Any, key: Any, value: Any) -> None:
    """Into the same tensor, with torch's rules for views and gradients."""
    if not isinstance(x, Rows) and not makes_rows(key) and not isinstance(value, (Rows, Count)):
        return func(x, key, value)  # type: ignore[no-any-return]
    base = _place(x, key)
    if not base.indices:
        write(base, value)
    else:
        one = one_mask(base)
        if one is None:
            write_indices(base, value, accumulate=False)
        else:
            write_mask(base, *one, value)
    return None


def _place(x: Any, key: Any) -> Basic:
    """The part of the tensor that is written to, as a view of it."""
    base = basic(x, key)
    if not base.is_view:
        raise Refusal("a slice of rows, or a single one, is written", "Write it with a mask: x[torch.arange(n) < k] = v.")
    return base


def write(base: Basic, value: Any) -> None:
    """Rows into a part of rows, all of them."""
    data, axes = base.data, base.axes
    target = wrap(data, axes)
    operands = [target] + ([value] if isinstance(value, (Rows, Tensor)) else [])
    if joined(operands) != tuple(axes):
        raise Refusal(f"rows cannot be written into {shown_shape(target)}", "Write them with the mask: x[mask] = rows.")
    new = fitted(value, tuple(axes), operands)
    if isinstance(new, Tensor):
        data.copy_(new)
    else:
        data.fill_(new)


def write_mask(base: Basic, d: int, mask: Any, value: Any) -> None:
    """``x[mask] = value`` by torch.where."""
    data, axes = base.data, base.axes
    if data_of(mask).dim() == 0:
        data.copy_(torch.where(data_of(mask), value, data))
        return
    check_mask(data, axes, d, mask)
    hit = data_of(mask) != 0
    width = hit.dim()
    hit = hit.reshape((1,) * d + tuple(hit.shape) + (1,) * (data.dim() - d - width))
    axis = selection_of(mask)
    selected = [*axes[:d], axis, *axes[d + width :]]  # the axes of x[mask]
    if isinstance(value, (Rows, Tensor)):
        ndim = data.dim() - width + 1
        own = axes_of(value)
        at = d - ndim + len(own)
        if at >= 0 and own[at] is not None and own[at] is axis.__dict__.get("front"):  # rows in an order of their own
            own = (*own[:at], axis, *own[at + 1 :])
            value = wrap(data_of(value).index_select(at, axis.rank), own)
        if at >= 0 and own[at] is None and data_of(value).shape[at] != 1:
            raise Refusal(
                f"{data_of(value).shape[at]} values are written to the rows of a mask", "Select them with the same mask."
            )
        for k, other in enumerate(own, ndim - len(own)):
            if other is not None and other is not selected[k]:
                raise _foreign()
        wide = data_of(value).reshape((1,) * (ndim - len(own)) + tuple(data_of(value).shape))
        sizes = tuple(data.shape[d : d + width]) if wide.shape[d] != 1 or (at >= 0 and own[at] is not None) else (1,) * width
        value = wide.unflatten(d, sizes)
        # The padding of the values does not come in, nor a gradient to it.
        value = value.to(data.dtype)
    elif isinstance(value, Count):
        value = value._value.to(data.dtype)
    elif not data.is_floating_point() and not data.is_complex():
        value = bool(value) if data.dtype == torch.bool else int(value)  # as torch does it
    new = torch.where(hit, value, data) if isinstance(value, Tensor) else data.masked_fill(hit, value)
    data.copy_(settle(new, axes))


def write_indices(base: Basic, value: Any, accumulate: bool) -> None:
    """``x[idx] = value`` and ``x.index_put_((idx,), value, accumulate)``."""
    base.data.copy_(settle(put(base, value, accumulate), base.axes))


def put(base: Basic, value: Any, accumulate: bool) -> Tensor:
    """The data with values at indices, some of which are of rows."""
    pairs = pairs_of(base)
    dims = [d for d, _ in pairs]
    rest = [d for d in range(base.data.dim()) if d not in dims]
    at = dims[0] if dims == list(range(dims[0], dims[0] + len(dims))) else 0
    axes = joined([index for _, index in pairs])
    wanted = [base.axes[d] for d in rest]
    wanted = [*wanted[:at], *axes, *wanted[at:]]  # the axes of x[idx]

    # All indexed dimensions in front, as one, and behind it the slot that padding writes to.
    sizes = [base.data.shape[d] for d in dims]
    flat = base.data.permute(*dims, *rest).flatten(0, len(dims) - 1)
    linear: Any = 0
    for (d, index), size in zip(pairs, sizes, strict=True):
        linear = linear * size + position_of(at_rest(index), base.axes[d], size)
    valid = valid_of(axes)
    linear = linear if valid is None else torch.where(valid, linear, flat.shape[0])
    flat = torch.cat([flat, flat[:1].detach()]) if flat.shape[0] else flat

    if isinstance(value, (Rows, Tensor)):
        own = axes_of(value)
        for k, other in enumerate(own, len(wanted) - len(own)):
            if k >= 0 and other is not wanted[k] and not (other is None and data_of(value).shape[k - len(wanted)] == 1):
                raise _foreign()
        shape = [base.data.shape[d] for d in rest]
        shape = [*shape[:at], *linear.shape, *shape[at:]]
        # The padding of the values goes to the slot that is cut off, from which no gradient comes.
        value = data_of(value).to(flat.dtype).expand(shape)
        value = value.movedim(list(range(at, at + linear.dim())), list(range(linear.dim())))
    else:
        value = value._value if isinstance(value, Count) else value
        value = (
            torch.full((), value, dtype=flat.dtype, device=flat.device) if not isinstance(value, Tensor) else value.to(flat.dtype)
        )
    flat = flat.index_put((linear,), value, accumulate=accumulate)[:-1]
    back = flat.reshape(*sizes, *flat.shape[1:])
    order = [*dims, *rest]
    return back.permute([order.index(d) for d in range(len(order))])


@handles("index_put", source=True, in_place=True)
def index_put(func: Any, x: Any, indices: Sequence[Any], values: Any, accumulate: bool = False) -> Any:
    """As assignment; with ``accumulate`` every real entry is added."""
    if not isinstance(x, Rows) and not makes_rows(tuple(indices)) and not isinstance(values, Rows):
        return func(x, indices, values, accumulate)
    target = x if func in IN_PLACE else wrap(data_of(x).clone(), axes_of(x))
    key = tuple(slice(None) if index is None else index for index in indices)
    base = _place(target, key)
    one = None if accumulate else one_mask(base)
    if one is not None:
        write_mask(base, *one, values)
    else:
        write_indices(base, values, accumulate)
    return target


@handles("masked_scatter", source=True, in_place=True)
def masked_scatter(func: Any, x: Any, mask: Any, source: Any) -> Any:
    """The real rows of the source go, in order, where the mask is True."""
    if not meets_rows((x, mask, source)) and not source.requires_grad:
        return func(x, mask, source)  # only its backward pass is dynamic
    axes = joined([x, mask])
    if func in IN_PLACE and tuple(axes_of(x)) != axes:
        raise Refusal("rows are written into a tensor that is not selected", "Write them with the mask: x[mask] = rows.")
    data, hit = torch.broadcast_tensors(data_of(x), data_of(mask))  # type: ignore[no-untyped-call]
    valid = valid_of(axes)
    rank = (hit if valid is None else hit & valid).reshape(-1)
    rank = torch.where(rank, rank.cumsum(0) - 1, 0)
    flat = source.flatten() if isinstance(source, Rows) else source.reshape(-1)
    place = position_of(rank, axes_of(flat)[0], data_of(flat).shape[0])
    new = torch.where(hit, data_of(flat)[place].reshape(hit.shape), data)
    new = settle(new, axes)
    if func in IN_PLACE:
        data_of(x).copy_(new)
        return x
    return wrap(new, axes)


@handles("index_add", "index_copy", in_place=True)
def index_add(func: Any, x: Any, dim: int, index: Any, source: Any, *, alpha: Any = 1) -> Any:
    """``index_add`` and ``index_copy`` by :func:`index_put`."""
    d = dim % data_of(x).dim()
    adds = "add" in func.__name__
    target = x if func in IN_PLACE else wrap(data_of(x).clone(), axes_of(x))
    base = _place(target, (slice(None),) * d + (index,))
    source = source if alpha == 1 else source * alpha
    write_indices(base, source, adds)
    return target


@handles("index_fill", in_place=True)
def index_fill(func: Any, x: Any, dim: int, index: Any, value: Any) -> Any:
    """One value at all indices."""
    target = x if func in IN_PLACE else wrap(data_of(x).clone(), axes_of(x))
    write_indices(_place(target, (slice(None),) * (dim % data_of(x).dim()) + (index,)), value, False)
    return target


@handles("scatter", "scatter_add", "scatter_reduce", in_place=True)
def scatter(func: Any, x: Any, dim: int, index: Any, src: Any = None, reduce: Any = None, **options: Any) -> Any:
    """Along an ordinary dimension each row for itself; or from rows, whose padding is left out, into a plain tensor."""
    d = dim % data_of(x).dim()
    value = options.pop("value", src)
    options |= {} if reduce is None else {"reduce": reduce}
    axes = axes_of(index)
    if isinstance(value, (Rows, Tensor)) and axes_of(value) != axes:
        raise _foreign()
    if any(axes_of(x)[k] is not axis for k, axis in enumerate(axes) if k != d):
        raise _foreign()
    data = data_of(x).clone() if func in IN_PLACE else data_of(x)  # which autograd may ask for again
    places = position_of(at_rest(index), axes_of(x)[d], data_of(x).shape[d])
    write = getattr(torch, name_of(func).rstrip("_"))
    if axes[d] is None:
        new = write(data, d, places, data_of(value), **options)
    else:
        # Padding goes to a slot behind the last one.
        places = places.masked_fill(along(axes[d].padding, d, places.dim()), data.shape[d])
        wide = torch.cat([data, data.narrow(d, 0, 1).detach()], d)
        new = write(wide, d, places, data_of(value), **options).narrow(d, 0, data.shape[d])
    new = settle(new, axes_of(x))
    if func not in IN_PLACE:
        return wrap(new, axes_of(x))
    data_of(x).copy_(new)
    return x


@handles("fill_diagonal_")
def fill_diagonal(func: Any, x: Any, value: Any, wrap: bool = False) -> Any:
    """Where a row meets itself."""
    if len(x._axes) != 2 or x._axes[0] is None or x._axes[0] is not x._axes[1]:
        raise Refusal("a diagonal of this kind has no static form", NO_HANDLER)
    rank = x._axes[0].rank
    x._data.masked_fill_(rank.unsqueeze(1) == rank, value)
    return x
