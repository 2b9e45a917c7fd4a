"""Linear algebra on rows: a matrix, or a pair of vectors, in each."""

from __future__ import annotations

from typing import Any

import torch

from fixshape.ops._rows import wrap
from fixshape.ops._rows_ends import count_of, mean, sum
from fixshape.ops._rows_error import Refusal
from fixshape.ops._rows_layers import cut, fed, matmul
from fixshape.ops._rows_registry import NO_HANDLER, handles, name_of
from fixshape.ops._rows_shape import ordinary, transposed, unsqueeze
from fixshape.ops._rows_through import elementwise, joined

_OF_MATRICES = [
    getattr(torch.linalg, name) for name in "det slogdet inv cholesky eigh eigvalsh svdvals matrix_exp matrix_power".split()
]


@handles("det", "logdet", "slogdet", "inverse", "cholesky", "matrix_exp", "matrix_power", *_OF_MATRICES)
def of_matrices(func: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """Of the matrix in each row; that of no row is the unit matrix, which has all of these."""
    ordinary(x, -1)
    ordinary(x, -2)
    data = x._data
    for axis in x._axes:
        if axis is not None:
            data = torch.where(axis.any, data, torch.eye(data.shape[-2], data.shape[-1], dtype=data.dtype, device=data.device))
    found = func(data, *args, **kwargs)
    if isinstance(found, torch.Tensor):
        return cut(found, x._axes[: found.dim()])
    return type(found)([cut(part, x._axes[: part.dim()]) for part in found])


@handles("cross", torch.linalg.cross)
def cross(func: Any, a: Any, b: Any, dim: int | None = None) -> Any:
    """Along an ordinary dimension."""
    axes = joined([a, b])
    if dim is None and func is not torch.linalg.cross:
        raise Refusal("the dimension of a cross product is not given", "Write torch.cross(a, b, dim=-1).")
    d = -1 if dim is None else dim
    if axes[d] is not None:
        raise Refusal("the op works along the dimension of the selected rows", NO_HANDLER)
    return cut(torch.linalg.cross(fed(a, b), fed(b, a), dim=d), axes)


@handles("cov", "corrcoef")
def cov(func: Any, x: Any, *, correction: int = 1, fweights: Any = None, aweights: Any = None) -> Any:
    """Of variables in the first dimension and observations in the last, either of which may be rows."""
    if fweights is not None or aweights is not None:
        raise Refusal("a weighted covariance is not followed", NO_HANDLER)
    if not (x._data.is_floating_point() or x._data.is_complex()):
        x = wrap(x._data.to(torch.get_default_dtype()), x._axes)
    x = x if x._data.dim() > 1 else unsqueeze(torch.unsqueeze, x, 0)
    center = elementwise(torch.sub, x, mean(func, x, 1, True))
    product = matmul(torch.matmul, center, transposed(torch.t, center))
    if name_of(func) == "corrcoef":
        spread = sum(func, elementwise(torch.square, center), 1).sqrt()
        for of_each in (spread.unsqueeze(1), spread):
            product = elementwise(torch.div, product, of_each)
        return product.clamp(-1, 1).squeeze()
    count = count_of(x, [1]) - correction
    return elementwise(torch.div, product, count.clamp(min=0) if isinstance(count, torch.Tensor) else count).squeeze()
