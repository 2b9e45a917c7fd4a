"""Which builtins of Python answer for rows and counts while a block of static indexing is open? ``len``, ``max`` and ``min``.

Python's own insist on an int, or ask which of two is greater and wait for the answer.
"""

from __future__ import annotations

import builtins
import functools
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fixshape.ops._rows import Rows
from fixshape.ops._rows_block import opened
from fixshape.ops._rows_call import untracked
from fixshape.ops._rows_count import Count

_lock = threading.Lock()
_open = 0
_own: dict[str, Callable[..., Any]] = {"len": builtins.len, "max": builtins.max, "min": builtins.min}


def _len(thing: Any, /) -> Any:
    return thing.shape[0] if type(thing) is Rows else _own["len"](thing)


def _extreme(name: str, bound: str) -> Callable[..., Any]:
    def extreme(*args: Any, **kwargs: Any) -> Any:
        if opened() is None or kwargs or _own["len"](args) < 2 or not all(map(_is_number, args)):
            return _own[name](*args, **kwargs)
        # Counts first, and what Python has at last: a number clamps a tensor, and not the other way round.
        ordered = sorted(args, key=lambda value: (not isinstance(value, Count), not isinstance(value, Tensor)))
        if not isinstance(ordered[0], (Count, Tensor)):
            return _own[name](*args)
        return functools.reduce(lambda one, other: untracked(Tensor.clamp, (one,), {bound: other}), ordered)

    return extreme


def _is_number(value: Any) -> bool:
    """A number, a count, or a whole number on the device, as ``pos.sum()`` is; a floating one may be NaN, which has no order."""
    if isinstance(value, Tensor):
        return value.dim() == 0 and not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)
    return isinstance(value, (Count, int, float))


_REPLACED: dict[str, Callable[..., Any]] = {"len": _len, "max": _extreme("max", "min"), "min": _extreme("min", "max")}


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
