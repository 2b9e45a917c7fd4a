"""Elementwise code on selected rows: which ops are, and how rows, counts and plain tensors meet in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fixshape.ops._rows import Axes, Rows, Selection, axes_of, guard, settle, wrap
from fixshape.ops._rows_count import Count
from fixshape.ops._rows_error import Refusal, shown_shape
from fixshape.ops._rows_names import BINARY, UNARY
from fixshape.ops._rows_registry import handles, is_in_place

RANDOM = "bernoulli dropout feature_alpha_dropout alpha_dropout rand_like randn_like randint_like normal uniform exponential"


@handles(*UNARY.split(), *BINARY.split(), in_place=True)
def elementwise(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Operands are broadcast against each other; the result has the axes of all of them."""
    operands = [value for value in (*args, *kwargs.values()) if isinstance(value, (Rows, Tensor))]
    if not operands:
        return Count(func(*(number_of(value, args) for value in args), **{k: number_of(v, args) for k, v in kwargs.items()}))
    axes = joined(operands)
    if any(isinstance(value, Count) for value in args) and not is_in_place(func):
        dtype = (operands[0]._data if isinstance(operands[0], Rows) else operands[0]).dtype
        if dtype in (torch.float16, torch.bfloat16):  # which many a count is too large for
            result = elementwise(func, *map(_in_float32, args), **kwargs)
            return result.to(dtype) if result.is_floating_point() else result
    inputs = [fitted(value, axes, operands) for value in args]
    options = {key: fitted(value, axes, operands) for key, value in kwargs.items()}
    if is_in_place(func):
        target = args[0]
        if axes_of(target) != axes:
            raise Refusal(f"rows cannot be written into {shown_shape(target)}", "Write them with the mask: x[mask] = rows.")
        func(*inputs, **options)
        return target
    return wrap(func(*inputs, **options), axes)


@handles("masked_fill", in_place=True)
def masked_fill(func: Any, x: Any, mask: Any, value: Any) -> Any:
    """By torch.where, which takes a value that is broadcast."""
    filled = elementwise(torch.where, mask, value, x)
    if not is_in_place(func):
        return filled
    return elementwise(Tensor.copy_, x, filled)


@handles(*RANDOM.split(), in_place=True)
def random(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Draws for every slot; not the numbers that the dynamic form draws from the same seed, as it draws fewer."""
    result = elementwise(func, *args, **kwargs)
    if not isinstance(result, Rows):
        return result
    data = settle(result._data, result._axes)
    if is_in_place(func):
        result._data.copy_(data)
        return result
    return wrap(data, result._axes)


@handles("to", "type_as", "type")
def cast(func: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """Of another tensor only the dtype and the device count."""
    args = tuple(value._data if isinstance(value, Rows) else value for value in args)
    kwargs = {key: value._data if isinstance(value, Rows) else value for key, value in kwargs.items()}
    if isinstance(x, Count):
        return Count(func(x._value, *args, **kwargs))
    return wrap(func(x._data, *args, **kwargs), x._axes) if isinstance(x, Rows) else func(x, *args, **kwargs)


def number_of(value: Any, beside: Sequence[Any] = ()) -> Any:
    """The tensor of a count, in double precision beside a float as in Python; anything else as it is."""
    if not isinstance(value, Count):
        return value
    return value._value.double() if any(isinstance(other, float) for other in beside) else value._value


def _in_float32(value: Any) -> Any:
    if isinstance(value, Rows):
        return wrap(value._data.float(), value._axes)
    return value.float() if isinstance(value, Tensor) else value


def joined(operands: Sequence[Any]) -> Axes:
    """The axes of what operands are when broadcast against each other.

    Raises:
        Refusal: two selections meet, or a selection meets a dimension of fixed size.
    """
    ndim = max(operand._data.dim() if isinstance(operand, Rows) else operand.dim() for operand in operands)
    axes: list[Selection | None] = [None] * ndim
    for operand in operands:
        for d, axis in enumerate(axes_of(operand), ndim - len(axes_of(operand))):
            if axis is not None and axes[d] is not None and axes[d] is not axis:
                raise Refusal(
                    "rows of two different selections meet",
                    "Select both with the same mask, made once: pos = labels > 0; pred[pos], target[pos].",
                )
            axes[d] = axes[d] or axis
    for operand in operands:
        shape = operand.shape if isinstance(operand, Tensor) else operand._data.shape
        for d, axis in enumerate(axes_of(operand), ndim - len(shape)):
            if axes[d] is not None and axis is None and shape[d - ndim] != 1:
                raise Refusal(
                    f"selected rows meet a tensor with {shape[d - ndim]} entries in that dimension, which are not selected",
                    "Select from it with the same mask.",
                )
    return tuple(axes)


def fitted(value: Any, axes: Axes, operands: Sequence[Any]) -> Any:
    """What stands for an argument in the op on full-length tensors."""
    if isinstance(value, Count):
        return value._like(operands)
    if not isinstance(value, (Rows, Tensor)):
        return value
    data, own = (value._data, value._axes) if isinstance(value, Rows) else (value, (None,) * value.dim())
    offset = len(axes) - len(own)
    return guard(data, axes, [d for d, axis in enumerate(axes) if axis is not None and (d < offset or own[d - offset] is None)])
