"""Tensors made with a count of rows as a size, or of a count: ``torch.zeros(n, 4)``, ``arange(n)``, ``tensor([n])``."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fixshape.ops._rows import Rows, axes_of, data_of, settle, wrap
from fixshape.ops._rows_count import Count
from fixshape.ops._rows_error import Refusal
from fixshape.ops._rows_registry import handles, name_of
from fixshape.ops._rows_select import columns_of
from fixshape.ops._rows_shape import listed, slots_of, triangle
from fixshape.ops._rows_through import cast, number_of


@handles("empty_like")
def empty_like(func: Any, x: Any, **kwargs: Any) -> Any:
    """Not empty: what is in the padding must not be NaN."""
    return wrap(torch.zeros_like(x._data, **kwargs), x._axes)


@handles("zeros", "ones", "empty", "rand", "randn", "new_zeros", "new_ones", "new_empty")
def make(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Tensors with a dimension of as many entries as there are rows."""
    owner = [data_of(args[0])] if args and isinstance(args[0], (Tensor, Rows)) else []
    kwargs = dict(kwargs)
    sizes = listed([kwargs.pop("size")] if "size" in kwargs else args[len(owner) :])
    return _made(func(*owner, slots_of(sizes), **kwargs), sizes)


@handles("full", "new_full", "randint")
def make_full(func: Any, *args: Any, **kwargs: Any) -> Any:
    """``full(size, value)``, ``randint(low, high, size)``."""
    args = tuple(data_of(value) for value in args)
    kwargs = dict(kwargs)
    if "size" in kwargs:
        sizes = kwargs["size"]
        kwargs["size"] = slots_of(sizes)
    else:
        sizes = next((value for value in args if isinstance(value, (tuple, list))), None)
        if sizes is None:
            return func(*map(number_of, args), **kwargs)
        args = tuple(slots_of(value) if value is sizes else value for value in args)
    values = [number_of(value) for value in args]
    fill = next((value for value in values if isinstance(value, Tensor) and value.dim() == 0), None)
    if fill is not None and func is torch.full:  # torch.full would look at it
        return _made(torch.zeros(values[0], **({"dtype": fill.dtype} | kwargs)) + fill, sizes)
    return _made(func(*values, **kwargs), sizes)


def _made(data: Tensor, sizes: Sequence[Any]) -> Any:
    axes = [entry._axis if isinstance(entry, Count) else None for entry in sizes]
    return wrap(settle(data, axes), axes)


@handles("arange")
def arange(func: Any, *args: Any, **kwargs: Any) -> Any:
    """``arange(n)``: the rank of each row."""
    *start, end = args
    if start not in ([], [0]) or not isinstance(end, Count) or end._axis is None:
        raise Refusal(
            "arange() reckons with a count of rows", "Use torch.arange(n), n = len(rows), and add to it or multiply it."
        )
    rank = end._axis.rank
    return wrap(rank.to(kwargs.get("dtype") or rank.dtype), (end._axis,))


@handles("tensor", "as_tensor", "asarray", "new_tensor")
def as_tensor(func: Any, *args: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False, **kwargs: Any) -> Any:
    """Counts, alone or in lists with numbers, as the tensor that plain code makes of their values; rows as they are."""
    owner, value = args if name_of(func) == "new_tensor" else (None, args[0])
    made = _made_of(value)
    if owner is not None:
        dtype, device = dtype or data_of(owner).dtype, device or data_of(owner).device
    if isinstance(made, Tensor) and made.dtype == torch.float64 and dtype is None:
        dtype = torch.get_default_dtype()  # as of a float of Python
    changed = made if dtype is device is None else cast(Tensor.to, made, device=device, dtype=dtype)
    return changed.detach().requires_grad_() if requires_grad else changed


def _made_of(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        parts = [_made_of(entry) for entry in value]
        like = next(part for part in parts if isinstance(part, Tensor))
        parts = [part if isinstance(part, Tensor) else torch.full((), part, device=like.device) for part in parts]
        dtype = functools.reduce(torch.promote_types, [part.dtype for part in parts])
        return torch.stack([part.to(dtype) for part in parts])
    return value._value if isinstance(value, Count) else value


@handles("eye")
def eye(func: Any, n: Any, m: Any = None, **kwargs: Any) -> Any:
    """``eye(n)``: where a row meets itself."""
    if not isinstance(n, Count) or n._axis is None or (m is not None and m is not n):
        raise Refusal("eye() reckons with a count of rows", "Use torch.eye(n), n = len(rows).")
    rank = n._axis.rank
    same = rank.unsqueeze(1) == rank
    return wrap(same.to(kwargs.get("dtype") or torch.get_default_dtype()), (n._axis, n._axis))


@handles("triu_indices", "tril_indices")
def triangle_indices(func: Any, row: Any, col: Any, offset: int = 0, **kwargs: Any) -> Any:
    """Which pairs of rows lie above or below the diagonal."""
    square = make(torch.ones, row, col, dtype=torch.bool, device=kwargs.get("device"))
    columns = columns_of(triangle(torch.triu if name_of(func) == "triu_indices" else torch.tril, square, offset))
    data = torch.stack([data_of(column) for column in columns]).to(kwargs.get("dtype") or torch.int64)
    return wrap(data, (None, *axes_of(columns[0])))
