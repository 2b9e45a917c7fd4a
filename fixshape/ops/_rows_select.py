"""Selections: ``x[mask]``, ``nonzero``, one-argument ``where``, ``masked_select``, and indexing with what they give."""

from __future__ import annotations

import math
from builtins import isinstance, len  # noqa: UP029  # a block puts slower ones in their place
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fixshape.ops._rows import Axes, Part, Rows, Selection, along, axes_of, data_of, names_of, settle, wrap
from fixshape.ops._rows_block import current
from fixshape.ops._rows_count import Count
from fixshape.ops._rows_error import Refusal
from fixshape.ops._rows_number import derive, expanded
from fixshape.ops._rows_registry import handles, name_of
from fixshape.ops._rows_shape import merged
from fixshape.ops._rows_through import elementwise, joined


class Basic(NamedTuple):
    """What is left of an index when its ints and slices have been applied."""

    data: Tensor
    axes: list[Selection | None]
    indices: list[tuple[int, Any]]  # a mask or an index, and the first dimension that it is for
    is_view: bool  # whether writing to the data writes to the input; not where rows were told by rank


@handles(Tensor.__getitem__, source=True)
def getitem(func: Any, x: Any, key: Any) -> Any:
    """Indexing as torch does it: ints and slices first, then all masks and indices together."""
    if not isinstance(x, Rows) and not makes_rows(key):
        part = func(x, key)
        derive(func, (x, key), None, part)
        return part
    if isinstance(x, Indices) and isinstance(key, tuple) and len(key) == 2 and key[0] in (slice(None), ...):
        if isinstance(key[1], int):
            return x._columns[key[1]]
    if is_mask(key) and data_of(key).dim() <= data_of(x).dim():
        return select(data_of(x), axes_of(x), 0, key)
    base = basic(x, key)
    if not base.indices:
        if not base.is_view and any(axis is not None for axis in base.axes):
            return Part(base.data, tuple(base.axes))
        return wrap(base.data, base.axes)
    one = one_mask(base)
    return gather(base) if one is None else select(base.data, base.axes, *one)


@handles("masked_select", source=True)
def masked_select(func: Any, x: Any, mask: Any) -> Any:
    """Of the input and the mask broadcast against each other."""
    axes = joined([x, mask])
    shape = torch.broadcast_shapes(data_of(x).shape, data_of(mask).shape)  # type: ignore[no-untyped-call]
    wide = data_of(mask)
    if wide.shape != shape:
        wide = wide.expand(shape)
        current().derive(wide, *expanded(data_of(mask), shape))
        current().derive_wide(wide, data_of(mask))
    return select(data_of(x).expand(shape), list(axes), 0, wrap(wide, axes))


class Indices(Rows):
    """What ``nonzero`` gives: rows [R, D] that know their columns, so that ``x[i[:, 0], i[:, 1]]`` is seen to be ``x[mask]``."""

    __slots__ = ("_columns",)

    def __init__(self, columns: tuple[Any, ...]) -> None:
        super().__init__(torch.stack([column._data for column in columns], 1), (columns[0]._axes[0], None))
        object.__setattr__(self, "_columns", columns)


@handles("nonzero", "argwhere", source=True)
def nonzero(func: Any, x: Any, *, as_tuple: bool = False) -> Any:
    """The indices of what is not zero, as rows."""
    columns = columns_of(as_mask(x))
    return columns if as_tuple else Indices(columns)


@handles(torch.where, Tensor.where, source=True)
def where(func: Any, *args: Any, **kwargs: Any) -> Any:
    """With one argument a selection, with three elementwise."""
    if len(args) + len(kwargs) == 1:
        return columns_of(as_mask(*args, *kwargs.values()))
    if not any(isinstance(value, (Rows, Count)) for value in (*args, *kwargs.values())):
        return func(*args, **kwargs)
    return elementwise(func, *args, **kwargs)


def is_mask(value: Any) -> bool:
    """Whether an index is a mask."""
    return isinstance(value, (Rows, Tensor)) and data_of(value).dtype in (torch.bool, torch.uint8)


def makes_rows(key: Any) -> bool:
    """Whether indexing a plain tensor with this gives rows."""
    if isinstance(key, slice):
        return isinstance(key.start, Count) or isinstance(key.stop, Count)
    if type(key) is tuple:
        return any(makes_rows(entry) for entry in key)
    return isinstance(key, (Rows, Count)) or (isinstance(key, Tensor) and is_mask(key))


def as_mask(x: Any) -> Any:
    """What is not zero, known again when it is asked for again."""
    data = data_of(x)
    if data.dtype == torch.bool:
        return x
    mask = data != 0
    current().derive(mask, "nonzero", current().number(data))
    return wrap(mask, axes_of(x))


def selection_of(mask: Any) -> Selection:
    """The selection that a mask makes of all its dimensions: the same for the same mask."""
    data, axes = data_of(mask), axes_of(mask)
    block = current()
    flat = None if isinstance(mask, Rows) else block.flat_number(data)

    def make() -> Selection:
        valid = (data if data.dtype == torch.bool else data != 0).detach().reshape(-1)
        own = [along(axis.valid, d, data.dim()) for d, axis in enumerate(axes) if axis is not None]
        for this in own:
            valid = valid & this.expand(data.shape).reshape(-1)
        return Selection(valid.clone(), mask=flat)  # the mask may be written to later

    if flat is None:
        return block.once(("mask", block.number(data), *names_of(axes)), make)  # type: ignore[no-any-return]
    return block.once(("mask", flat), make)  # type: ignore[no-any-return]


def select(data: Tensor, axes: Sequence[Selection | None], d: int, mask: Any) -> Any:
    """``x[:, ..., mask]`` with d slices before the mask: the masked dimensions become one of rows."""
    k = data_of(mask).dim()
    if k == 0:
        return select(data.unsqueeze(d), [*axes[:d], None, *axes[d:]], d, mask.reshape(1))
    check_mask(data, axes, d, mask)
    width = _repeated(mask)
    if width:
        # The same for whole rows: then these are the rows, which a later view(-1, width) asks for.
        k -= width
        rows = select(data, axes, d, _without_last(mask, width))
        new = [*rows._axes[:d], merged([rows._axes[d], *data.shape[d + k : d + k + width]]), *axes[d + k + width :]]
        return wrap(rows._data.flatten(d, d + width), new)
    axis = selection_of(mask)
    new = [*axes[:d], axis, *axes[d + k :]]
    # Contiguous, as plain code may ask for a view.
    return wrap(settle(data.flatten(d, d + k - 1) if k > 1 else data, new, [d]).contiguous(), new)


def _repeated(mask: Any) -> int:
    """Along how many of its last dimensions a mask is expanded; not all of them."""
    base = mask if isinstance(mask, Rows) else current().narrow(mask)
    if base is mask:
        return 0
    width = 0
    while width < mask.dim() - 1 and (width >= base.dim() or base.shape[-1 - width] == 1):
        width += 1
    return width if mask.shape[mask.dim() - width :].numel() > 1 else 0


def _without_last(mask: Tensor, width: int) -> Tensor:
    """The mask before it was expanded along its last dimensions."""
    base, shape = current().narrow(mask), mask.shape[: mask.dim() - width]
    if base.numel() == shape.numel():
        core = base.reshape(shape)
        current().derive_view(core, base)
        return core
    core = mask.flatten(mask.dim() - width)[..., 0]
    current().derive(core, "narrow", current().number(mask), width)
    return core


def one_mask(base: Basic) -> tuple[int, Any] | None:
    """The one mask that all indices come down to, and its first dimension; indices that a mask gave are that mask."""
    d, index = base.indices[0]
    if len(base.indices) == 1 and is_mask(index):
        return d, index
    if not isinstance(index, Rows) or len(index._axes) != 1 or is_mask(index):
        return None
    axis = index._axes[0]
    for mask, columns, numbers in () if axis is None else axis.sources:
        fits = len(columns) == len(base.indices) and tuple(base.data.shape[d : d + len(columns)]) == tuple(mask.shape)
        if fits and numbers == _numbers(mask, columns):
            same = [
                at == d + k and isinstance(other, Rows) and other._data is columns[k] and base.axes[at] is None
                for k, (at, other) in enumerate(base.indices)
            ]
            if all(same):
                return d, mask
    return None


def check_mask(data: Tensor, axes: Sequence[Selection | None], d: int, mask: Any) -> None:
    """Raises torch's own error where a mask has another shape, and refuses one that was not made of these rows."""
    mask_data, own = data_of(mask), axes_of(mask)
    for k, (axis, other) in enumerate(zip(axes[d : d + len(own)], own, strict=True)):
        if axis is not other:
            if axis is None and data.shape[d + k] == mask_data.shape[k]:
                raise Refusal("a mask of selected rows selects from a tensor that is not selected", "Select from it first.")
            raise Refusal(
                "a mask selects from rows that it does not belong to", "Make the mask from the rows: rows[rows.labels > 0]."
            )
    if tuple(data.shape[d : d + mask_data.dim()]) != tuple(mask_data.shape):
        raise IndexError(
            f"the mask has shape {tuple(mask_data.shape)}, expected {tuple(data.shape[d : d + mask_data.dim()])}, "
            f"as it selects from {tuple(data.shape)}"
        )


def columns_of(mask: Any) -> tuple[Any, ...]:
    """The indices of a mask, one of rows for each of its dimensions, as ``nonzero(as_tuple=True)``."""
    data, axes = data_of(mask), axes_of(mask)
    if data.dim() == 0:
        raise Refusal("a mask without dimensions has no indices", "Use mask.reshape(1).")
    axis = selection_of(mask)
    for known, known_columns, numbers in axis.sources:
        if known is mask and numbers == _numbers(known, known_columns):
            return tuple(wrap(column, (axis,)) for column in known_columns)
    position = torch.arange(axis.slots, device=data.device)
    position = torch.where(axis.valid, position, axis.first) if axis.slots else position
    columns = []
    for d, length in enumerate(data.shape):
        stride = max(math.prod(data.shape[d + 1 :]), 1)
        column = position.div(stride, rounding_mode="floor").remainder(max(length, 1))
        parent = axes[d]
        columns.append(column if parent is None else parent.rank[column])
    if isinstance(mask, Tensor):
        axis.sources.append((mask, columns, _numbers(mask, columns)))
    return tuple(wrap(column, (axis,)) for column in columns)


def _numbers(mask: Tensor, columns: Sequence[Tensor]) -> list[Any]:
    """What tells whether somebody has written to them."""
    return [current().number(tensor) for tensor in (mask, *columns)]


def at_rest(index: Any) -> Tensor:
    """The indices of rows, 0 where the selection is empty: those are in range whatever arithmetic has made of them."""
    data: Tensor = data_of(index)
    for axis in axes_of(index):
        if axis is not None:
            data = torch.where(axis.any, data, 0)
    return data


def basic(x: Any, key: Any) -> Basic:
    """Applies the ints, slices and Nones of an index."""
    data, axes = data_of(x), axes_of(x)
    plain: list[Any] = []
    out: list[Selection | None] = []
    indices: list[tuple[int, Any]] = []
    later: list[tuple[int, Any]] = []  # ints and slices of dimensions of rows: their entries are told by rank
    d = 0
    for item in _spread(key, data.dim()):
        if item is None:
            plain.append(None)
            out.append(None)
        elif isinstance(item, (Tensor, Rows)):
            indices.append((len(out), item))
            width = data_of(item).dim() if is_mask(item) else 1
            plain += [slice(None)] * width
            out += axes[d : d + width]
            d += width
        elif isinstance(item, slice) or (axes[d] is not None) or isinstance(item, Count):
            follows = item != slice(None) and (axes[d] is not None or not isinstance(item, slice) or makes_rows(item))
            if follows:
                later.append((len(out), item))
            plain.append(slice(None) if follows else item)
            out.append(axes[d])
            d += 1
        else:
            plain.append(item)
            d += 1
    if any(entry != slice(None) for entry in plain):
        data = data[tuple(plain)]
    for at, item in reversed(later):
        if isinstance(item, slice):
            data, out[at] = _part(data, out, at, item)
        else:
            axis = out.pop(at)
            position = item._value.reshape(1) if isinstance(item, Count) else torch.full((1,), item, device=data.device)
            data = data.index_select(at, position_of(position, axis, data.shape[at])).squeeze(at)
            indices = [(first - 1 if first > at else first, index) for first, index in indices]
    return Basic(data, out, indices, not later)


def position_of(rank: Tensor, axis: Selection | None, slots: int) -> Tensor:
    """The slots of the rows that are meant; a negative rank counts from the last row."""
    length: Any = slots if axis is None else axis.count
    wrapped: Tensor = torch.where(rank < 0, rank + length, rank)
    if axis is None:
        return wrapped
    # Never an index without dimensions: torch would look at it on the host.
    places: Tensor = axis.positions
    return places[wrapped.reshape(-1).clamp(0, max(slots - 1, 0))].reshape(rank.shape)


def _part(data: Tensor, axes: list[Selection | None], d: int, part: slice) -> tuple[Tensor, Selection]:
    """A slice of rows, or one that ends at a count: the same slots, some of them real."""
    axis = axes[d]
    step = 1 if part.step is None else part.step
    if isinstance(step, Count) or step < 1:
        raise Refusal(f"a slice of rows has the step {step}", "Use a step of at least 1.")
    block = current()

    def make() -> Selection:
        rank = torch.arange(data.shape[d], device=data.device) if axis is None else axis.rank
        length: Any = data.shape[d] if axis is None else axis.count
        valid = torch.ones_like(rank, dtype=torch.bool) if axis is None else axis.valid
        start = 0 if part.start is None else _bound(part.start, length)
        valid = valid & (rank >= start) & ((rank - start) % step == 0)
        return Selection(valid if part.stop is None else valid & (rank < _bound(part.stop, length)))

    name = 0 if axis is None else axis.name
    bounds = [block.number(v._value) if isinstance(v, Count) else v for v in (part.start, part.stop)]
    kinds = [isinstance(v, Count) for v in (part.start, part.stop)]
    child = block.once(("part", name, data.shape[d], *bounds, *kinds, step), make)
    new = [*axes[:d], child, *axes[d + 1 :]]
    return settle(data, new, [d]), child


def _bound(bound: Any, length: Any) -> Any:
    value = bound._value if isinstance(bound, Count) else bound
    if isinstance(value, Tensor):
        return torch.where(value < 0, (value + length).clamp(min=0) if isinstance(value + length, Tensor) else 0, value)
    if value >= 0:
        return value
    return (length + value).clamp(min=0) if isinstance(length, Tensor) else max(length + value, 0)


def pairs_of(base: Basic) -> list[tuple[int, Any]]:
    """Each dimension that is indexed and its index, a mask as its indices."""
    pairs: list[tuple[int, Any]] = []
    for d, index in base.indices:
        if is_mask(index):
            check_mask(base.data, base.axes, d, index)
            pairs += enumerate(columns_of(index), d)
        else:
            pairs.append((d, index))
    return pairs


def gather(base: Basic) -> Any:
    """Indexing with masks and indices together; one of them may be of rows."""
    pairs = pairs_of(base)
    axes: Axes = joined([index for _, index in pairs])
    key: list[Any] = [slice(None)] * base.data.dim()
    for d, index in pairs:
        place = position_of(at_rest(index), base.axes[d], base.data.shape[d])
        key[d] = place if place.dim() else place.reshape(1)  # torch looks at an index without dimensions on the host
    dims = [d for d, _ in pairs]
    at = dims[0] if dims == list(range(dims[0], dims[0] + len(dims))) else 0
    rest = [axis for d, axis in enumerate(base.axes) if d not in dims]
    new = [*rest[:at], *axes, *rest[at:]]
    data = base.data[tuple(key)]
    data = data if axes else data.squeeze(at)
    return wrap(settle(data, new, range(at, at + len(axes))), new)


def _spread(key: Any, ndim: int) -> list[Any]:
    """An index as one entry for each dimension of the input, a mask standing for all it covers; and None."""
    items = list(key) if isinstance(key, tuple) else [key]
    items = [torch.as_tensor(item) if isinstance(item, (list, range)) else item for item in items]
    used = sum(data_of(item).dim() if is_mask(item) else 1 for item in items if item is not None and item is not ...)
    rest = [slice(None)] * (ndim - used)
    if used > ndim:
        raise IndexError(f"too many indices for a tensor of {ndim} dimensions")
    at = next((k for k, item in enumerate(items) if item is ...), None)
    return items + rest if at is None else items[:at] + rest + items[at + 1 :]


@handles("index_select")
def index_select(func: Any, x: Any, dim: int, index: Any) -> Any:
    """As indexing."""
    at = dim % data_of(x).dim()
    return getitem(Tensor.__getitem__, x, (slice(None),) * at + (index,))


@handles("gather", "take_along_dim")
def gather_along(func: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """Along an ordinary dimension each row for itself; along one of rows by rank."""
    dim = next((v for v in (*args, kwargs.get("dim")) if isinstance(v, int)), None)
    index = next(v for v in (*args, kwargs.get("index"), kwargs.get("indices")) if isinstance(v, (Tensor, Rows)))
    if dim is None:
        raise Refusal("the dimension is not given", "Give dim.")
    d = dim % data_of(x).dim()
    axes = axes_of(index)
    for k, (own, other) in enumerate(zip(axes_of(x), axes, strict=True)):
        if k != d and own is not other:
            raise Refusal("the rows of input and index are not of the same selection", "Select both with the same mask.")
    places = position_of(at_rest(index), axes_of(x)[d], data_of(x).shape[d])
    data = torch.gather(data_of(x), d, places) if name_of(func) == "gather" else torch.take_along_dim(data_of(x), places, d)
    return wrap(settle(data, axes), axes)
