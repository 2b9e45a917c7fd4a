"""Rows side by side: ``cat`` and ``stack``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fixshape.ops._rows import Rows, Selection, axes_of, data_of, names_of, settle, wrap
from fixshape.ops._rows_block import current
from fixshape.ops._rows_error import Refusal
from fixshape.ops._rows_registry import handles
from fixshape.ops._rows_shape import unsqueeze
from fixshape.ops._rows_through import number_of


@handles("cat", "concat", "concatenate")
def cat(func: Any, tensors: Sequence[Any], dim: int = 0, **kwargs: Any) -> Any:
    """Along a dimension of rows the result has the rows of all of them, in order; plain tensors are rows that are all real."""
    tensors = [number_of(t) for t in tensors]
    tensors = [t for t in tensors if not (data_of(t).dim() == 1 and data_of(t).shape[0] == 0)] or list(tensors)[:1]
    ndim = data_of(tensors[0]).dim()
    at = kwargs.get("axis", dim) % ndim
    for d in range(ndim):
        if d != at and any(axes_of(t)[d] is not axes_of(tensors[0])[d] for t in tensors):
            raise Refusal("rows are put beside what is not of the same selection", "Select all of it with the same mask.")
    data = torch.cat([data_of(t) for t in tensors], at)
    parts = [axes_of(t)[at] or data_of(t).shape[at] for t in tensors]
    axis = one_after_another(parts)
    axes = [*axes_of(tensors[0])[:at], axis, *axes_of(tensors[0])[at + 1 :]]
    return wrap(data if axis is None or len(parts) == 1 else settle(data, axes, [at]), axes)


def one_after_another(parts: Sequence[Any]) -> Selection | None:
    """The selection of several dimensions in a row, each a selection or a size."""
    if not any(isinstance(part, Selection) for part in parts):
        return None
    if len(parts) == 1:
        return parts[0]  # type: ignore[no-any-return]
    device = next(part for part in parts if isinstance(part, Selection)).valid.device
    masks = [part.mask if isinstance(part, Selection) else None for part in parts]
    # The rows of several masks are those of one mask, which plain code may make of them in the same way.
    mask = None if None in masks else current().flat_number_of_cat(masks)

    def make() -> Selection:
        valid = [
            part.valid if isinstance(part, Selection) else torch.ones(part, dtype=torch.bool, device=device) for part in parts
        ]
        return Selection(torch.cat(valid), mask=mask)

    return current().once(("cat", *names_of(parts)) if mask is None else ("mask", mask), make)  # type: ignore[no-any-return]


@handles("stack")
def stack(func: Any, tensors: Sequence[Any], dim: int = 0) -> Any:
    """Along a new dimension; all of the same selection."""
    tensors = [number_of(t) for t in tensors]
    dim = dim % (data_of(tensors[0]).dim() + 1)
    return cat(torch.cat, [unsqueeze(torch.unsqueeze, t, dim) if isinstance(t, Rows) else t.unsqueeze(dim) for t in tensors], dim)


@handles("hstack", "vstack", "row_stack", "column_stack")
def hstack(func: Any, tensors: Sequence[Any]) -> Any:
    """By their number of dimensions ``cat`` or ``stack``."""
    if func is torch.hstack:
        return cat(torch.cat, tensors, 0 if data_of(tensors[0]).dim() == 1 else 1)
    new = 1 if func is torch.column_stack else 0  # the dimension that a vector gets
    return cat(torch.cat, [x.unsqueeze(new) if data_of(x).dim() == 1 else x for x in tensors], new)
