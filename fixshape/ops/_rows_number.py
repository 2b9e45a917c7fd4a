"""When do two tensors hold the same for sure? When the same ops made them of the same tensors.

Plain code often makes a mask twice: ``scores[labels > 0]`` and ``labels[labels > 0]`` select the same rows.
"""

from __future__ import annotations

from collections.abc import Hashable
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
RESHAPING = {f for name in ("view", "reshape", "flatten", "ravel", "squeeze", "unsqueeze", "view_as") for f in functions(name)}
EXPANDING = {f for name in ("expand", "expand_as", "broadcast_to") for f in functions(name)}
VIEWS = {function for name in _VIEWS.split() for function in functions(name)} | {Tensor.__getitem__}
#: Functions that write to their first argument.
WRITING = {getattr(Tensor, name) for name in dir(Tensor) if name.endswith("_") and not name.endswith("__")}
WRITING |= {getattr(Tensor, name) for name in dir(Tensor) if name[:3] == "__i" and name[3:-2] in BINARY} | {Tensor.__setitem__}


def derive(func: Any, args: Any, kwargs: Any, result: Any) -> None:
    """Gives the result of a function the number that follows from it and the numbers of the arguments."""
    results = result if isinstance(result, (tuple, list)) else (result,)
    if not all(isinstance(part, Tensor) or hasattr(part, "_axes") for part in results):
        return
    base = args[0] if args else None
    if isinstance(base, Tensor) and isinstance(result, Tensor) and result is not base:
        if func in RESHAPING:
            return current().derive_view(result, base)
    key = (func, number_of(args), number_of(kwargs))
    for k, part in enumerate(results):
        tensor = getattr(part, "_data", part) if hasattr(part, "_axes") else part
        if tensor is not base:
            current().derive(tensor, key, k)
    if func in EXPANDING and isinstance(base, Tensor) and isinstance(result, Tensor) and base.dtype == torch.bool:
        current().derive_wide(result, base)


def number_of(value: Any) -> Hashable:
    """What stands for an argument."""
    if isinstance(value, Tensor):
        return current().number(value)
    if isinstance(value, slice):
        return ("slice", number_of(value.start), number_of(value.stop), number_of(value.step))
    if hasattr(value, "_axes"):
        return (current().number(value._data), *[axis if axis is None else axis.name for axis in value._axes])
    if hasattr(value, "_value"):
        return current().number(value._value)
    if isinstance(value, (tuple, list)):
        return tuple(number_of(entry) for entry in value)
    if isinstance(value, dict):
        return tuple((key, number_of(entry)) for key, entry in value.items())
    if value is None or isinstance(value, (bool, int, float, str, torch.dtype, torch.device)) or value is ...:
        return (type(value), value)
    return ("unknown", current().next())
