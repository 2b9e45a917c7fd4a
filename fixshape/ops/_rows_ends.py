"""Where rows end: sum, mean and the other reductions, over the real rows alone.

A reduction replaces the padding of what it reduces by what does not change its result, before it reduces.
"""

from __future__ import annotations

import functools
import math
from builtins import isinstance, len  # noqa: UP029  # a block puts slower ones in their place
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fixshape.ops._rows import Rows, Selection, axes_of, data_of, names_of, wrap
from fixshape.ops._rows_block import current
from fixshape.ops._rows_error import Refusal
from fixshape.ops._rows_registry import NO_HANDLER, handles
from fixshape.ops._rows_through import elementwise
from fixshape.ops._rows_torchvision import zero_of_nothing


def dims_of(x: Rows, dim: Any) -> tuple[int, ...]:
    """The dimensions that a reduction is over, counted from the front; all where none is named."""
    ndim = x._data.dim()
    if dim is None or (isinstance(dim, (tuple, list)) and not dim):
        return tuple(range(ndim))
    return tuple(d % ndim for d in ((dim,) if isinstance(dim, int) else dim))


def left(x: Rows, dims: Sequence[int], keepdim: bool) -> list[Selection | None]:
    """The axes after a reduction."""
    if keepdim:
        return [None if d in dims else axis for d, axis in enumerate(x._axes)]
    return [axis for d, axis in enumerate(x._axes) if d not in dims]


def replaced(x: Rows, dims: Sequence[int], value: Any) -> Tensor:
    """The data with a value in the padding of the dimensions that are reduced."""
    data = x._data
    for d in dims:
        axis = x._axes[d]
        if axis is not None:
            data = data.masked_fill(axis.padding_at(d, data.dim()), value)
    return data


def count_of(x: Rows, dims: Sequence[int]) -> Any:
    """How many real entries the reduction is over: [] int64, or a number where no selection is among the dimensions."""
    factor = math.prod([x._data.shape[d] for d in dims if x._axes[d] is None])
    axes = [axis for axis in [x._axes[d] for d in dims] if axis is not None]
    if not axes:
        return factor

    def make() -> Tensor:
        return functools.reduce(torch.mul, [axis.count for axis in axes]) * factor  # type: ignore[no-any-return]

    return current().once(("entries", factor, *names_of(axes)), make)


def lowest(dtype: torch.dtype) -> Any:
    """What no number is below."""
    if dtype == torch.bool:
        return False
    return -math.inf if dtype.is_floating_point else torch.iinfo(dtype).min


def highest(dtype: torch.dtype) -> Any:
    """What no number is above."""
    if dtype == torch.bool:
        return True
    return math.inf if dtype.is_floating_point else torch.iinfo(dtype).max


def is_ordinary(x: Rows, dims: Sequence[int]) -> bool:
    """Whether none of the dimensions is one of rows."""
    return all(x._axes[d] is None for d in dims)


@handles("sum")
def sum(func: Any, x: Any, dim: Any = None, keepdim: bool = False, *, axis: Any = None, dtype: Any = None) -> Any:
    """Of no rows 0."""
    dims = dims_of(x, dim if axis is None else axis)
    return wrap(torch.sum(replaced(x, dims, 0), dims, keepdim, dtype=dtype), left(x, dims, keepdim))


@handles("mean")
def mean(func: Any, x: Any, dim: Any = None, keepdim: bool = False, *, axis: Any = None, dtype: Any = None) -> Any:
    """Of no rows NaN, as in torch."""
    dims = dims_of(x, dim if axis is None else axis)
    if is_ordinary(x, dims) or not (dtype or x._data.dtype).is_floating_point:  # of which torch.mean raises
        return wrap(torch.mean(x._data, dims, keepdim, dtype=dtype), left(x, dims, keepdim))
    count = count_of(x, dims)
    count = count.clamp(min=1) if zero_of_nothing() else count
    own = x._data.dtype if dtype is None else dtype
    total = torch.sum(replaced(x, dims, 0), dims, keepdim, dtype=wide(own))  # in half precision sums end at 65504
    return wrap((total / count).to(own), left(x, dims, keepdim))


def wide(dtype: torch.dtype) -> torch.dtype:
    """What half precision is reckoned in."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


@handles("nansum")
def nansum(func: Any, x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """NaN counts as 0."""
    dims = dims_of(x, dim)
    return wrap(torch.nansum(replaced(x, dims, 0), dims, keepdim, dtype=dtype), left(x, dims, keepdim))


@handles("nanmean")
def nanmean(func: Any, x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """NaN is left out."""
    real = ~wrap(x._data.detach().isnan(), x._axes)
    return elementwise(torch.div, nansum(func, x, dim, keepdim, dtype=dtype), sum(func, real, dim, keepdim))


@handles("prod")
def prod(func: Any, x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """Of no rows 1."""
    dims = dims_of(x, dim)
    data = replaced(x, dims, 1)
    return (
        torch.prod(data, dtype=dtype)
        if dim is None
        else wrap(torch.prod(data, dim, keepdim, dtype=dtype), left(x, dims, keepdim))
    )


@handles("bincount")
def bincount(func: Any, x: Any, weights: Any = None, minlength: int = 0) -> Any:
    """With as many bins as ``minlength``; an entry that has none is an error."""
    if not minlength or (weights is not None and axes_of(weights) != x._axes):
        raise Refusal("the number of bins is not given", "Write torch.bincount(x, minlength=k), k larger than any entry.")
    counted = torch.ones_like(x._data) if weights is None else data_of(weights)
    bins = torch.zeros(minlength, dtype=counted.dtype, device=counted.device)
    return bins.scatter_add(0, replaced(x, [0], 0), replaced(Rows(counted, x._axes), [0], 0))


@handles("any", "all", torch._is_all_true, torch._is_any_true)
def any_all(func: Any, x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Of no rows False and True."""
    dims = dims_of(x, dim)
    is_all = func in (torch.all, Tensor.all, torch._is_all_true)
    data = replaced(x, dims, is_all)
    # A Python bool among other dtypes would make the tensor another one.
    data = data if data.dtype == torch.bool else data != 0
    reduce = torch.all if is_all else torch.any
    return wrap(reduce(data, dims, keepdim), left(x, dims, keepdim))


@handles("count_nonzero")
def count_nonzero(func: Any, x: Any, dim: Any = None) -> Any:
    """Of the real entries."""
    return sum(func, wrap(x._data != 0, x._axes), dim)


@handles("amax", "amin")
def amax(func: Any, x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Of no rows, where torch raises, the lowest or the highest number there is."""
    dims = dims_of(x, dim)
    bound = lowest if func in (torch.amax, Tensor.amax) else highest
    return wrap(func(replaced(x, dims, bound(x._data.dtype)), dims, keepdim), left(x, dims, keepdim))


@handles("aminmax")
def aminmax(func: Any, x: Any, *, dim: Any = None, keepdim: bool = False) -> Any:
    """Both at once."""
    return torch.return_types.aminmax((amax(torch.amin, x, dim, keepdim), amax(torch.amax, x, dim, keepdim)))


@handles("logsumexp")
def logsumexp(func: Any, x: Any, dim: Any, keepdim: bool = False) -> Any:
    """Of no rows -inf."""
    dims = dims_of(x, dim)
    return wrap(torch.logsumexp(replaced(x, dims, -math.inf), dims, keepdim), left(x, dims, keepdim))


@handles(torch.norm, Tensor.norm)
def norm(func: Any, x: Any, p: Any = "fro", dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    """The old form: a vector norm but for ``"nuc"``."""
    return vector_norm(func, x, 2 if p in ("fro", None) else p, dim, keepdim, dtype=dtype)


@handles(torch.linalg.norm)
def linalg_norm(func: Any, x: Any, ord: Any = None, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """A vector norm, of a matrix only by default."""
    of_matrix = ord is not None and (len(dims_of(x, dim)) > 1 if dim is not None else x._data.dim() > 1)
    if (isinstance(ord, str) or of_matrix) and ord != "fro":
        raise Refusal("a matrix norm has no static form", NO_HANDLER)
    return vector_norm(func, x, 2 if ord in ("fro", None) else ord, dim, keepdim, dtype=dtype)


@handles(torch.linalg.vector_norm)
def vector_norm(func: Any, x: Any, ord: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """Of no rows 0."""
    if isinstance(ord, str):
        raise Refusal(f"the norm {ord!r} has no static form", NO_HANDLER)
    dims = dims_of(x, dim)
    data = replaced(x, dims, math.inf if ord < 0 else 0)
    return wrap(torch.linalg.vector_norm(data, ord, dims, keepdim, dtype=dtype), left(x, dims, keepdim))


@handles("var", "std", "var_mean", "std_mean")
def var(
    func: Any, x: Any, dim: Any = None, unbiased: bool | None = None, keepdim: bool = False, *, correction: Any = None
) -> Any:
    """Of no rows NaN, and of one with the correction, as in torch."""
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    if correction is None:
        correction = 1 if unbiased is None else int(unbiased)
    dims = dims_of(x, dim)
    root, both = func in (torch.std, Tensor.std, torch.std_mean), func in (torch.var_mean, torch.std_mean)
    if is_ordinary(x, dims):
        result = func(x._data, dim, correction=correction, keepdim=keepdim)
        axes = left(x, dims, keepdim)
        return tuple(wrap(part, axes) for part in result) if both else wrap(result, axes)
    count, own = count_of(x, dims), x._data.dtype
    x = Rows(x._data.to(wide(own)), x._axes)
    center = replaced(x, dims, 0).sum(dims, True) / count
    # Where nothing is real the mean is NaN, and its padding must not be.
    square = replaced(wrap((x._data - center).square(), x._axes), dims, 0).sum(dims, keepdim)
    spread = square / (count - correction).clamp(min=0)
    if root:
        # Where all entries are the same torch's gradient is 0, and not that of a root.
        flat = spread == 0
        spread = torch.where(flat, 0, torch.where(flat, 1, spread).sqrt())
    axes = left(x, dims, keepdim)
    spread, center = spread.to(own), (center if keepdim else center.squeeze(dims)).to(own)
    return (wrap(spread, axes), wrap(center, axes)) if both else wrap(spread, axes)


@handles("dist")
def dist(func: Any, x: Any, other: Any, p: float = 2) -> Any:
    """The norm of the difference."""
    return norm(func, elementwise(torch.sub, x, other), p)


@handles(
    "equal", "allclose", "item", "tolist", "__bool__", "__float__", "__int__", "__index__", "numpy", "is_nonzero", "__array__"
)
def looked_at(func: Any, *args: Any, **kwargs: Any) -> Any:
    """What Python is to decide on."""
    raise Refusal("this looks at the values in Python", "Reduce the rows to a tensor; replace a branch by torch.where.")
