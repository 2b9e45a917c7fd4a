"""Elementwise code on selected rows: which ops are, and how rows, counts and plain tensors meet in them."""

from __future__ import annotations

from builtins import isinstance, len  # noqa: UP029  # a block puts slower ones in their place
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fixshape.ops._rows import Axes, Rows, Selection, axes_of, data_of, guard, settle, wrap
from fixshape.ops._rows_count import Count, counted
from fixshape.ops._rows_error import Refusal, shown_shape
from fixshape.ops._rows_names import BINARY, UNARY
from fixshape.ops._rows_registry import IN_PLACE, NO_HANDLER, handles

RANDOM = "bernoulli dropout feature_alpha_dropout alpha_dropout rand_like randn_like randint_like normal uniform exponential"


@handles(*UNARY.split(), *BINARY.split(), in_place=True)
def elementwise(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Operands are broadcast against each other; the result has the axes of all of them."""
    axes = _axes_of_all(args) if not kwargs else None
    if axes is None:
        return _broadcast(func, args, kwargs)
    result = func(*[value._data if type(value) is Rows else value for value in args])
    return args[0] if func in IN_PLACE else Rows(result, axes)


def _axes_of_all(args: Sequence[Any]) -> Axes | None:
    """The axes of rows that are all of one kind, among nothing but numbers: there nothing is broadcast."""
    axes = None
    for value in args:
        kind = type(value)
        if kind is Rows:
            if axes is None:
                axes = value._axes
            elif axes != value._axes:
                return None
        elif kind is not float and kind is not int:
            return None
    return axes if type(args[0]) is Rows else None


def _broadcast(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    operands = [value for value in (*args, *kwargs.values()) if isinstance(value, (Rows, Tensor))]
    if not operands:
        return counted(func(*(number_of(value, args) for value in args), **{k: number_of(v, args) for k, v in kwargs.items()}))
    axes = joined(operands)
    if any(isinstance(value, Count) for value in args) and func not in IN_PLACE:
        dtype = (operands[0]._data if isinstance(operands[0], Rows) else operands[0]).dtype
        if dtype in (torch.float16, torch.bfloat16):  # which many a count is too large for
            result = elementwise(func, *map(_in_float32, args), **kwargs)
            return result.to(dtype) if result.is_floating_point() else result
    inputs = [fitted(value, axes, operands) for value in args]
    options = {key: fitted(value, axes, operands) for key, value in kwargs.items()}
    if func in IN_PLACE:
        target = args[0]
        if axes_of(target) != axes:
            raise Refusal(f"rows cannot be written into {shown_shape(target)}", "Write them with the mask: x[mask] = rows.")
        func(*inputs, **options)
        return target
    result = func(*inputs, **options)
    return result if result is NotImplemented else wrap(result, axes)  # rows == None


@handles("floor_divide", "floordiv", "remainder", "mod", "fmod", "div", "divide", in_place=True)
def divide(func: Any, x: Any, other: Any, **kwargs: Any) -> Any:
    """Whole numbers are not divided by the 0 that stands where there are no rows, which is an error."""
    if isinstance(other, Rows) and not (other._data.is_floating_point() or other._data.is_complex()):
        data = other._data
        for axis in other._axes:
            data = data if axis is None else torch.where(axis.any, data, 1)
        other = wrap(data, other._axes)
    return elementwise(func, x, other, **kwargs)


@handles("masked_fill", in_place=True)
def masked_fill(func: Any, x: Any, mask: Any, value: Any) -> Any:
    """By torch.where, which takes a value that is broadcast."""
    filled = elementwise(torch.where, mask, value, x)
    if func not in IN_PLACE:
        return filled
    return elementwise(Tensor.copy_, x, filled)


@handles(*RANDOM.split(), in_place=True)
def random(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Draws for every slot; not the numbers that the dynamic form draws from the same seed, as it draws fewer."""
    result = elementwise(func, *args, **kwargs)
    if not isinstance(result, Rows):
        return result
    data = settle(result._data, result._axes)
    if func in IN_PLACE or kwargs.get("inplace"):
        result._data.copy_(data)
        return result
    return wrap(data, result._axes)


@handles("bucketize", "isin", "searchsorted")
def looked_up(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Each entry in a plain tensor."""
    at = int(func is torch.searchsorted)
    others = [value for value in (*args[:at], *args[at + 1 :], *kwargs.values()) if isinstance(value, (Rows, Tensor))]
    if not isinstance(args[at], Rows) or any(isinstance(y, Rows) or (at and y.dim() != 1) for y in others):
        raise Refusal("rows are looked up in what is not a plain vector", NO_HANDLER)
    return wrap(func(*map(data_of, args), **kwargs), args[at]._axes)


@handles("to", "type_as", "type")
def cast(func: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """Of another tensor only the dtype and the device count."""
    args = tuple(value._data if isinstance(value, Rows) else value for value in args)
    kwargs = {key: value._data if isinstance(value, Rows) else value for key, value in kwargs.items()}
    if func is Tensor.type and not (args or kwargs):
        return func(x._data)
    if isinstance(x, Count):
        return counted(func(x._value, *args, **kwargs))
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
    own = [axes_of(operand) for operand in operands]
    ndim = max(map(len, own))
    axes: list[Selection | None] = [None] * ndim
    for these in own:
        for d, axis in enumerate(these, ndim - len(these)):
            if axis is None:
                continue
            if axes[d] is not None and axes[d] is not axis:
                raise Refusal(
                    "rows of two different selections meet",
                    "Select both with the same mask, made once: pos = labels > 0; pred[pos], target[pos].",
                )
            axes[d] = axis
    for operand, these in zip(operands, own, strict=True):
        for d, axis in enumerate(these, ndim - len(these)):
            if axis is None and axes[d] is not None and data_of(operand).shape[d - ndim] != 1:
                raise Refusal(
                    f"selected rows meet a tensor with {data_of(operand).shape[d - ndim]} entries in that dimension, "
                    "which are not selected",
                    "Select from it with the same mask.",
                )
    return tuple(axes)


def fitted(value: Any, axes: Axes, operands: Sequence[Any]) -> Any:
    """What stands for an argument in the op on full-length tensors."""
    if isinstance(value, Count):
        return value._like(operands)
    if not isinstance(value, (Rows, Tensor)):
        return value
    data, own = data_of(value), axes_of(value)
    if not data.requires_grad:
        return data
    offset = len(axes) - len(own)
    return guard(data, axes, [d for d, axis in enumerate(axes) if axis is not None and (d < offset or own[d - offset] is None)])
