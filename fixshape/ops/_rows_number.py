"""When do two tensors hold the same for sure? When the same ops made them of the same tensors.

Plain code often makes a mask twice: ``scores[labels > 0]`` and ``labels[labels > 0]`` select the same rows.
"""

from __future__ import annotations

from builtins import isinstance  # noqa: UP029  # a block puts slower ones in their place
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from fixshape.ops._rows_block import current
from fixshape.ops._rows_names import BINARY, UNARY
from fixshape.ops._rows_registry import functions, getter

_VIEWS = """
view reshape flatten ravel squeeze unsqueeze transpose permute t select narrow expand expand_as view_as unbind sum any all max
min argmax argmin amax amin mean gather softmax log_softmax nonzero_static detach where norm
"""
#: Functions that give the same for the same; their in-place forms are not among them, nor is what is random.
NUMBERED = {function for name in (UNARY + BINARY + _VIEWS).split() for function in functions(name)} | {Tensor.__getitem__}
NUMBERED |= {getter("T"), getter("mT")}
#: Functions that put tensors one after another, along the first dimension if no other is named.
JOINING = {f for name in ("cat", "concat", "concatenate", "stack") for f in functions(name)}
NUMBERED |= JOINING
RESHAPING = {f for name in ("view", "reshape", "flatten", "ravel", "squeeze", "unsqueeze", "view_as") for f in functions(name)}
COPYING = {f for name in ("detach", "clone", "contiguous", "bool") for f in functions(name)}
EXPANDING = {f for name in ("expand", "expand_as", "broadcast_to") for f in functions(name)}
VIEWS = {function for name in _VIEWS.split() for function in functions(name)} | {Tensor.__getitem__}

_ALL = slice(None)
_NUMBERS_OF_THEMSELVES = {type(None), bool, int, float, str, torch.dtype, torch.device, type(...)}


def derive(func: Any, args: Any, kwargs: Any, result: Any) -> None:
    """Gives the result of a function the number that follows from it and the numbers of the arguments."""
    block = current()
    base = args[0] if args else None
    if isinstance(result, Tensor) and isinstance(base, Tensor):
        if result is base:
            return
        if func in RESHAPING or (func is Tensor.__getitem__ and _only_unsqueezes(args[1])):
            block.derive_view(result, base)
        elif func in COPYING and result.dtype == base.dtype:
            block.derive_same(result, base)
        elif func in EXPANDING:
            block.derive(result, *expanded(base, result.shape))
            if base.dtype == torch.bool:
                block.derive_wide(result, base)
        else:
            block.derive(result, func, _numbers_of(args), _numbers_of(kwargs))
        return
    if (
        func in JOINING
        and base is not None
        and isinstance(result, Tensor)
        and args[1:] in ((), (0,))
        and (not kwargs or kwargs == {"dim": 0})
    ):
        block.derive_cat(result, base)
        return
    parts = result if isinstance(result, (tuple, list)) else (result,)
    if all(isinstance(part, Tensor) or hasattr(part, "_axes") for part in parts):
        key = (func, _numbers_of(args), _numbers_of(kwargs))
        for k, part in enumerate(parts):
            block.derive(getattr(part, "_data", part) if hasattr(part, "_axes") else part, *key, k)


def expanded(base: Tensor, shape: Sequence[int]) -> tuple[Hashable, ...]:
    """What stands for an expanded tensor, by whichever function."""
    return "expand", current().number(base), tuple(shape)


def _only_unsqueezes(key: Any) -> bool:
    return type(key) is tuple and all(entry is None or entry is ... or (type(entry) is slice and entry == _ALL) for entry in key)


def _numbers_of(values: Any) -> Hashable:
    """What stands for arguments, or for arguments by name."""
    if not values:
        return None
    return tuple([number_of(value) for value in (values.items() if type(values) is dict else values)])


def number_of(value: Any) -> Hashable:
    """What stands for an argument."""
    kind = type(value)
    if kind in _NUMBERS_OF_THEMSELVES:
        return kind, value  # 1, 1.0 and True are not the same
    if isinstance(value, Tensor):
        return current().number(value)
    if kind is slice:
        return ("slice", number_of(value.start), number_of(value.stop), number_of(value.step))
    if hasattr(value, "_axes"):
        return (current().number(value._data), *[axis if axis is None else axis.name for axis in value._axes])
    if hasattr(value, "_value"):
        return current().number(value._value)
    if isinstance(value, (tuple, list)):
        return tuple([number_of(entry) for entry in value])
    return ("unknown", current().next())
