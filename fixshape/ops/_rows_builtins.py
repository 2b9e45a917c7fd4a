"""Which builtins of Python answer for rows and counts while a block of static indexing is open?

``len``, ``max`` and ``min``, as Python's own insist on an int, or ask which of two is greater and wait for the answer; and
``isinstance``, as code asks ``isinstance(x, torch.Tensor)`` and goes another way where the answer is no. That rows say so
themselves, by a ``__class__``, would be believed by C++ too, which then reads a tensor where there is none.
"""

from __future__ import annotations

import builtins
import functools
import sys
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fixshape.ops._rows import Part, Rows
from fixshape.ops._rows_block import opened
from fixshape.ops._rows_call import untracked
from fixshape.ops._rows_count import Condition, Count
from fixshape.ops._rows_select import Indices

_lock = threading.Lock()
_open = 0
_own: dict[str, Callable[..., Any]] = {name: getattr(builtins, name) for name in ("isinstance", "len", "max", "min")}

_ROWS = {Rows, Part, Indices}
_STAND_INS = {*_ROWS, Count, Condition}


def _len(thing: Any, /) -> Any:
    return thing.shape[0] if type(thing) in _ROWS else _own["len"](thing)


def _isinstance(thing: Any, kinds: Any, /) -> Any:
    answer = _own["isinstance"](thing, kinds)
    if answer or type(thing) not in _STAND_INS:
        return answer
    asks = sys._getframe(1)
    if asks.f_globals.get("__name__", "").startswith(("torch.", "fixshape.")) and asks.f_code is not torch.is_tensor.__code__:
        return False  # what follows there is for real tensors
    return issubclass(thing._stands_for(), kinds)


def _extreme(name: str, bound: str) -> Callable[..., Any]:
    def extreme(*args: Any, **kwargs: Any) -> Any:
        values = args[0] if _own["len"](args) == 1 and type(args[0]) in (list, tuple) else args
        counts = _own["len"](values) > 1 and any(isinstance(value, (Count, Tensor)) for value in values)
        if not counts or kwargs or opened() is None or not all(map(_is_number, values)):
            return _own[name](*args, **kwargs)
        # Counts first, and what Python has at last: a number clamps a tensor, and not the other way round.
        ordered = sorted(values, key=lambda value: (not isinstance(value, Count), not isinstance(value, Tensor)))
        return functools.reduce(lambda one, other: untracked(Tensor.clamp, (one,), {bound: other}), ordered)

    return extreme


def _is_number(value: Any) -> bool:
    """A number, a count, or a whole number on the device, as ``pos.sum()`` is; a floating one may be NaN, which has no order."""
    if isinstance(value, Tensor):
        return value.dim() == 0 and not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)
    return isinstance(value, (Count, int, float))


_REPLACED: dict[str, Callable[..., Any]] = {
    "isinstance": _isinstance,
    "len": _len,
    "max": _extreme("max", "min"),
    "min": _extreme("min", "max"),
}


def replace_builtins() -> None:
    """Puts ours in their place; once for all blocks of all threads."""
    global _open
    if torch.compiler.is_compiling():
        return
    with _lock:
        if _open == 0:
            for name, replacement in _REPLACED.items():
                _own[name] = getattr(builtins, name)
                setattr(builtins, name, replacement)
        _open += 1


def restore_builtins() -> None:
    """Undoes it with the last block."""
    global _open
    if torch.compiler.is_compiling():
        return
    with _lock:
        _open -= 1
        if _open == 0:
            for name, builtin in _own.items():
                setattr(builtins, name, builtin)
