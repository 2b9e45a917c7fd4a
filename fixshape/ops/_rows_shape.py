"""The shapes of rows: what ``shape`` says, and views that move, merge and split dimensions."""

from __future__ import annotations

import math
from builtins import isinstance, len  # noqa: UP029  # a block puts slower ones in their place
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fixshape.ops._rows import Selection, along, axes_of, data_of, names_of, settle, wrap
from fixshape.ops._rows_block import current
from fixshape.ops._rows_count import Count
from fixshape.ops._rows_error import Refusal
from fixshape.ops._rows_registry import NO_HANDLER, getter, handles, name_of

Dims = list[Selection | None]


# -- what a shape says --------------------------------------------------------------------------------------------------------


def sizes_of(x: Any) -> tuple[Any, ...]:
    """The shape of plain code, with a count for each dimension of rows."""
    return counted_sizes(data_of(x).shape, axes_of(x))


def counted_sizes(shape: Sequence[int], axes: Sequence[Selection | None]) -> tuple[Any, ...]:
    """The sizes of the full-length tensors, with a count for each dimension of rows."""
    return tuple([size if axis is None else _count(axis) for size, axis in zip(shape, axes, strict=True)])


def _count(axis: Selection) -> Count:
    return current().once(("count", axis.name), lambda: Count(axis.count, axis))  # type: ignore[no-any-return]


@handles(getter("shape"))
def shape(func: Any, x: Any) -> Any:
    """A tuple, and not a torch.Size, which holds ints alone."""
    return sizes_of(x)


@handles(Tensor.size)
def size(func: Any, x: Any, dim: int | None = None) -> Any:
    """One size, or all."""
    return sizes_of(x) if dim is None else sizes_of(x)[dim]


@handles("numel", "nelement", Tensor.__len__)
def numel(func: Any, x: Any) -> Any:
    """The number of real entries."""
    sizes = sizes_of(x)[: 1 if func is Tensor.__len__ else None]
    factor = 1
    for entry in sizes:
        factor = factor if isinstance(entry, Count) else factor * entry
    total: Any = factor
    for entry in sizes:
        if isinstance(entry, Count):
            total = entry if isinstance(total, int) and total == 1 else total * entry
    return total


_ABOUT = """
dtype device layout ndim requires_grad is_leaf itemsize names grad_fn is_cuda is_cpu is_mps is_mtia is_xla is_xpu is_hpu is_ipu
is_maia is_vulkan is_sparse is_sparse_csr is_mkldnn is_nested is_meta is_quantized
"""


@handles(
    *(getter(name) for name in _ABOUT.split() if hasattr(Tensor, name)),
    *("dim", "ndimension", "is_floating_point", "is_complex", "is_signed", "is_contiguous", "get_device", "element_size"),
    *("is_inference", "is_nonzero_static"),
)
def about(func: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """What does not depend on the number of rows."""
    return func(x._data, *args, **kwargs)


@handles(getter("data"))
def detached(func: Any, x: Any) -> Any:
    """``x.data``."""
    return wrap(x._data.detach(), x._axes)


# -- views that move dimensions -----------------------------------------------------------------------------------------------


@handles("transpose", "swapaxes", "swapdims")
def transpose(func: Any, x: Any, dim0: int, dim1: int) -> Any:
    """Two axes change places."""
    axes = list(x._axes)
    axes[dim0], axes[dim1] = axes[dim1], axes[dim0]
    return wrap(func(x._data, dim0, dim1), axes)


@handles("t", getter("T"), getter("mT"), "adjoint", getter("H"), getter("mH"))
def transposed(func: Any, x: Any) -> Any:
    """The last two axes change places; all of them for ``T``."""
    whole = x._data.dim() < 2 or func == getter("T")
    axes = x._axes[::-1] if whole else (*x._axes[:-2], x._axes[-1], x._axes[-2])
    return wrap(func(x._data), axes)


@handles("permute")
def permute(func: Any, x: Any, *dims: Any) -> Any:
    """The axes in the given order."""
    order = listed(dims)
    return wrap(x._data.permute(order), [x._axes[d] for d in order])


@handles("movedim", "moveaxis")
def movedim(func: Any, x: Any, source: Any, destination: Any) -> Any:
    """Some axes at other places, the rest in order."""
    ndim = x._data.dim()
    places = {to % ndim: at % ndim for at, to in zip(listed([source]), listed([destination]), strict=True)}
    rest = iter(d for d in range(ndim) if d not in places.values())
    return wrap(func(x._data, source, destination), [x._axes[places[d] if d in places else next(rest)] for d in range(ndim)])


@handles("unsqueeze")
def unsqueeze(func: Any, x: Any, dim: int) -> Any:
    """A dimension of size 1 more."""
    at = dim % (x._data.dim() + 1)
    return wrap(x._data.unsqueeze(dim), (*x._axes[:at], None, *x._axes[at:]))


@handles("squeeze")
def squeeze(func: Any, x: Any, dim: Any = None) -> Any:
    """Dimensions of size 1 go; one of rows stays, however many there are."""
    if hasattr(x, "_columns") and len(x._columns) == 1 and dim in (None, 1, -1):
        return x._columns[0]
    ndim = x._data.dim()
    dims = range(ndim) if dim is None else [d % ndim for d in listed([dim])]
    gone = [d for d in dims if x._axes[d] is None and x._data.shape[d] == 1]
    if dim is not None and any(x._axes[d] is not None for d in dims):
        raise Refusal("squeeze() of a dimension of rows depends on how many there are", "Index or reduce that dimension.")
    return wrap(x._data.squeeze(tuple(gone)), [axis for d, axis in enumerate(x._axes) if d not in gone])


@handles("unbind")
def unbind(func: Any, x: Any, dim: int = 0) -> Any:
    """One tensor for each entry of an ordinary dimension."""
    if hasattr(x, "_columns") and dim in (1, -1):
        return x._columns
    if x._axes[dim] is not None:
        raise Refusal("a loop over selected rows takes as many steps as there are rows", "Write it for all rows at once.")
    rest = [axis for d, axis in enumerate(x._axes) if d != dim % len(x._axes)]
    return tuple(wrap(data, rest) for data in x._data.unbind(dim))


@handles("split", "chunk", "tensor_split", "split_with_sizes")
def split(func: Any, x: Any, parts: Any, dim: int = 0) -> Any:
    """Parts along an ordinary dimension."""
    ordinary(x, dim)
    return tuple(wrap(data, x._axes) for data in func(x._data, parts, dim))


@handles("flip")
def flip(func: Any, x: Any, *dims: Any) -> Any:
    """Rows too can come in the opposite order: those are rows of another selection."""
    axes = list(x._axes)
    for d in listed(dims):
        axis = axes[d]
        if axis is not None:
            axes[d] = _flipped(axis)
    return wrap(settle(x._data.flip(listed(dims)), axes, [d % len(axes) for d in listed(dims)]), axes)


def _flipped(axis: Selection) -> Selection:
    return current().once(("flip", axis.name), lambda: Selection(axis.valid.flip(0)))  # type: ignore[no-any-return]


@handles("select", "narrow")
def narrow(func: Any, x: Any, dim: int, start: Any, length: Any = None) -> Any:
    """As indexing."""
    from fixshape.ops._rows_select import getitem

    at = dim % data_of(x).dim()
    item = start if length is None else slice(start, start + length)
    return getitem(Tensor.__getitem__, x, (slice(None),) * at + (item,))


@handles("tril", "triu")
def triangle(func: Any, x: Any, diagonal: int = 0) -> Any:
    """By the rank of the rows, and not by their slots."""
    data = x._data
    row, column = (torch.arange(data.shape[d], device=data.device) if x._axes[d] is None else x._axes[d].rank for d in (-2, -1))
    distance = column - row.unsqueeze(1)
    keep = distance >= diagonal if func in (torch.triu, Tensor.triu) else distance <= diagonal
    return wrap(torch.where(keep, data, torch.zeros((), dtype=data.dtype, device=data.device)), x._axes)


@handles("diagonal", "diag", "trace")
def diagonal(func: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """Of a square of rows with themselves; ``diag`` of a vector makes such a square."""
    data = x._data
    dims = [d % data.dim() for d in (list(args[1:3]) + [kwargs.get("dim1", 0), kwargs.get("dim2", 1)][len(args[1:3]) :])]
    if "diagonal" in name_of(func) and x._axes[dims[0]] is None and x._axes[dims[1]] is None:
        rest = [axis for d, axis in enumerate(x._axes) if d not in dims]
        return wrap(torch.diagonal(data, *args, **kwargs), [*rest, None])
    if args or kwargs or data.dim() > 2 or (data.dim() == 2 and x._axes[0] is not x._axes[1]):
        raise Refusal("a diagonal of this kind has no static form", NO_HANDLER)
    axis = x._axes[0]
    if x._data.dim() == 1:
        same = axis.rank.unsqueeze(1) == axis.rank
        return wrap(torch.where(same, x._data, torch.zeros((), dtype=x._data.dtype, device=x._data.device)), (axis, axis))
    vector = x._data.diagonal()
    return torch.where(axis.valid, vector, 0).sum() if func in (torch.trace, Tensor.trace) else wrap(vector, (axis,))


# -- views that merge and split dimensions ------------------------------------------------------------------------------------


@handles("reshape", "view")
def reshape(func: Any, x: Any, *sizes: Any, **kwargs: Any) -> Any:
    """Rows stay rows, alone or merged with their neighbours; ``view(dtype)`` keeps the shape."""
    sizes = tuple(listed(sizes or tuple(kwargs.values())))
    if len(sizes) == 1 and isinstance(sizes[0], torch.dtype):
        return wrap(x._data.view(sizes[0]), x._axes)
    if hasattr(x, "_columns") and len(x._columns) == 1 and sizes == (-1,):
        return x._columns[0]
    new = func(data_of(x), slots_of(sizes))
    axes = regrouped(data_of(x).shape, axes_of(x), new.shape)
    for d, entry in enumerate(sizes):
        if isinstance(entry, Count) and axes[d] is not entry._axis:
            raise Refusal("a count is the size of a dimension that is not of those rows", "Use -1 for that size.")
    return wrap(new, axes)


@handles("view_as", "reshape_as")
def reshape_as(func: Any, x: Any, other: Any) -> Any:
    """To the shape of another tensor."""
    return reshape(torch.reshape, x, sizes_of(other))


@handles("flatten", "ravel")
def flatten(func: Any, x: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    """Several dimensions as one."""
    if hasattr(x, "_columns") and len(x._columns) == 1:
        return x._columns[0]
    new = torch.flatten(x._data, start_dim, end_dim)
    return wrap(new, regrouped(x._data.shape, x._axes, new.shape))


@handles("unflatten")
def unflatten(func: Any, x: Any, dim: int, sizes: Sequence[Any]) -> Any:
    """One dimension as several."""
    new = x._data.unflatten(dim, slots_of(sizes))
    return wrap(new, regrouped(x._data.shape, x._axes, new.shape))


def merged(parts: Sequence[Any]) -> Selection:
    """The selection of several dimensions as one; ``parts`` are their selections, or sizes where they are ordinary."""
    flat = [entry for part in parts for entry in (part.parts if isinstance(part, Selection) and part.parts else [part])]
    flat = [part for part in flat if isinstance(part, Selection) or part != 1]
    if len(flat) == 1:
        return flat[0]  # type: ignore[no-any-return]

    def make() -> Selection:
        sizes = [part.slots if isinstance(part, Selection) else part for part in flat]
        valid = torch.ones(
            (1,) * len(sizes), dtype=torch.bool, device=next(p for p in flat if isinstance(p, Selection)).valid.device
        )
        for d, part in enumerate(flat):
            if isinstance(part, Selection):
                valid = valid & along(part.valid, d, len(sizes))
        return Selection(valid.expand(sizes).reshape(-1), flat)

    return current().once(("merged", *names_of(flat)), make)  # type: ignore[no-any-return]


def regrouped(old: Sequence[int], axes: Sequence[Selection | None], new: Sequence[int]) -> Dims:
    """The axes after a reshape.

    Raises:
        Refusal: a dimension of rows would be cut into pieces.
    """
    if tuple(old) == tuple(new):
        return list(axes)
    pieces: list[Any] = []  # a selection or a size each, merged selections in their parts
    for size, axis in zip(old, axes, strict=True):
        pieces += [size] if axis is None else (axis.parts or [axis])
    result: Dims = []
    at = 0
    problem = Refusal(
        "the reshape cuts a dimension of rows into pieces", "Keep the rows in one dimension: rows.view(n, ...) or -1."
    )
    end = 0
    while end < len(new):
        begin, taken = end, [pieces[at]] if at < len(pieces) else []
        at += len(taken)
        end += 1
        have, want = math.prod(map(_size, taken)), new[begin]
        while have != want:
            if have < want and at < len(pieces):
                taken.append(pieces[at])
                have *= _size(pieces[at])
                at += 1
            elif (
                isinstance(taken[-1], int)
                and _divides(have // taken[-1], want)
                and _divides(want // (have // taken[-1]), taken[-1])
            ):
                # An ordinary size may be cut in two.
                part = want // (have // taken[-1])
                at -= 1
                pieces[at] = taken[-1] // part
                taken[-1], have = part, want
            elif have > want and end < len(new):
                want *= new[end]
                end += 1
            else:
                raise problem
        if end == len(new):
            taken += pieces[at:]
            if math.prod(map(_size, pieces[at:])) != 1:
                raise problem
        wide = [d for d in range(begin, end) if new[d] != 1] or [begin]
        if not any(isinstance(piece, Selection) for piece in taken):
            result += [None] * (end - begin)
        elif len(wide) == 1:
            result += [merged(taken) if d == wide[0] else None for d in range(begin, end)]
        else:
            raise problem
    return result


def _divides(part: int, whole: int) -> bool:
    return part > 0 and whole % part == 0


def _size(piece: Any) -> int:
    return piece.slots if isinstance(piece, Selection) else int(piece)


def slots_of(sizes: Sequence[Any]) -> list[int]:
    """Sizes as the full-length tensors have them: the slots of a selection for its count."""
    slots = []
    for entry in sizes:
        if isinstance(entry, Count) and entry._axis is None:
            raise Refusal(
                "a size is reckoned from a count of rows", "Only a count as it is, n = len(rows), can be a size; or use -1."
            )
        slots.append(entry._axis.slots if isinstance(entry, Count) and entry._axis is not None else entry)
    return slots


def listed(values: Any) -> list[Any]:
    """``f(1, 2)`` and ``f((1, 2))`` as one list."""
    return list(values[0]) if len(values) == 1 and isinstance(values[0], (tuple, list)) else list(values)


def ordinary(x: Any, dim: int) -> None:
    """Refuses a dimension of rows where an op needs an ordinary one."""
    if axes_of(x)[dim] is not None:
        raise Refusal("the op works along the dimension of the selected rows", NO_HANDLER)
