"""Rows and their counts where a tensor is made larger: ``expand``, ``repeat``, ``meshgrid``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fixshape.ops._rows import axes_of, data_of, guard, wrap
from fixshape.ops._rows_count import Count
from fixshape.ops._rows_error import Refusal
from fixshape.ops._rows_join import cat
from fixshape.ops._rows_registry import handles
from fixshape.ops._rows_shape import counted_sizes, flatten, listed, merged, sizes_of, slots_of
from fixshape.ops._rows_through import joined


@handles("expand", "broadcast_to")
def expand(func: Any, x: Any, *sizes: Any) -> Any:
    """To more entries of a dimension, or to as many as there are rows."""
    wanted = listed(sizes)
    data, own = data_of(x), axes_of(x)
    new = [None] * (len(wanted) - len(own)) + list(own)
    missing = []
    for d, entry in enumerate(wanted):
        if isinstance(entry, Count) and new[d] is None:
            new[d] = entry._axis
            missing.append(d)
        elif new[d] is not None and (entry._axis is not new[d] if isinstance(entry, Count) else entry != -1):
            raise Refusal("a dimension of rows is expanded to another size", "Use -1 for that size.")
    slots = [-1 if new[d] is not None and d not in missing else entry for d, entry in enumerate(slots_of(wanted))]
    return wrap(guard(data.expand(slots), new, missing), new)


@handles("expand_as")
def expand_as(func: Any, x: Any, other: Any) -> Any:
    """To the shape of another tensor."""
    return expand(Tensor.expand, x, *sizes_of(other))


@handles("broadcast_tensors")
def broadcast_tensors(func: Any, *tensors: Any) -> Any:
    """Each to the shape of all."""
    operands = listed(tensors)
    axes = joined(operands)
    shape = torch.broadcast_shapes(*(data_of(operand).shape for operand in operands))  # type: ignore[no-untyped-call]
    sizes = counted_sizes(shape, axes)
    return tuple(expand(Tensor.expand, operand, *sizes) for operand in operands)


@handles("repeat", "tile")
def repeat(func: Any, x: Any, *sizes: Any) -> Any:
    """Copies one after another; as many as there are rows along a dimension of size 1."""
    wanted = listed(sizes)
    for d, axis in enumerate(axes_of(x), len(wanted) - len(axes_of(x))):
        if axis is not None and isinstance(wanted[d], int) and wanted[d] > 1:
            x, wanted[d] = cat(torch.cat, [x] * wanted[d], d - len(wanted)), 1
    new = [None] * (len(wanted) - len(axes_of(x))) + list(axes_of(x))
    data = data_of(x).reshape((1,) * (len(new) - data_of(x).dim()) + data_of(x).shape)
    missing = []
    for d, entry in enumerate(wanted):
        if isinstance(entry, Count) and new[d] is None and data.shape[d] == 1:
            new[d] = entry._axis
            missing.append(d)
        elif isinstance(entry, Count) or (new[d] is not None and entry != 1):
            raise Refusal(
                "the rows are repeated by a count", "Expand a new dimension instead: rows.unsqueeze(1).expand(-1, k, -1)."
            )
    return wrap(guard(data.repeat(slots_of(wanted)), new, missing), new)


@handles("repeat_interleave")
def repeat_interleave(func: Any, x: Any, repeats: Any = None, dim: int | None = None, **kwargs: Any) -> Any:
    """Each entry k times, next to each other."""
    if isinstance(repeats, Count) and dim is not None and axes_of(x)[dim] is None and data_of(x).shape[dim] == 1:
        return expand(func, x, *(repeats if d == dim % data_of(x).dim() else -1 for d in range(data_of(x).dim())))
    if not isinstance(repeats, int):
        raise Refusal("the number of repeats is not a Python int", "Index with the row that each entry belongs to.")
    if dim is None:
        return repeat_interleave(func, flatten(torch.flatten, x), repeats, 0)
    d = dim % x._data.dim()
    data = x._data.repeat_interleave(repeats, d)
    axis = x._axes[d]
    return wrap(data, [*x._axes[:d], None if axis is None else merged([axis, repeats]), *x._axes[d + 1 :]])


@handles("meshgrid")
def meshgrid(func: Any, *tensors: Any, indexing: str | None = None) -> Any:
    """All with all of several vectors."""
    vectors = [x if data_of(x).dim() else x.reshape(1) for x in listed(tensors)]
    order = list(range(len(vectors)))
    if indexing == "xy" and len(order) > 1:
        order[:2] = 1, 0
    sizes = [sizes_of(vectors[k])[0] for k in order]
    shapes = [[-1 if k == own else 1 for k in order] for own in range(len(vectors))]
    return tuple(expand(Tensor.expand, x.reshape(shape), *sizes) for x, shape in zip(vectors, shapes, strict=True))
