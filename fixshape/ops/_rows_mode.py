"""What listens while a block of static indexing is open: every op of torch, and the builtin ``len``."""

from __future__ import annotations

import builtins
import threading
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from fixshape.ops._rows import Rows
from fixshape.ops._rows_block import current
from fixshape.ops._rows_call import call
from fixshape.ops._rows_count import Count
from fixshape.ops._rows_number import NUMBERED, WRITING, derive
from fixshape.ops._rows_registry import SOURCES

_LISTS = (list, tuple)


class RowsMode(TorchFunctionMode):
    """Hands an op to the registry where it meets rows, or may make them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in SOURCES or meets_rows(args) or (kwargs and meets_rows(kwargs.values())):
            return call(func, args, kwargs or {})
        result = func(*args, **kwargs) if kwargs else func(*args)
        if func in NUMBERED:
            derive(func, args, kwargs, result)
        elif func in WRITING:
            current().wrote(args[0])
        return result


def meets_rows(values: Any) -> bool:
    """Whether rows or a count are among the arguments, or in a list among them."""
    for value in values:
        if isinstance(value, (Rows, Count)) or (type(value) in _LISTS and meets_rows(value)):
            return True
    return False


_lock = threading.Lock()
_open = 0
_builtin_len = builtins.len


def _len(thing: Any, /) -> Any:
    return thing.shape[0] if type(thing) is Rows else _builtin_len(thing)


def replace_len() -> None:
    """Makes ``len`` of rows a count: Python itself insists on an int. One replacement for all blocks of all threads."""
    global _open, _builtin_len
    if torch.compiler.is_compiling():
        return
    with _lock:
        if _open == 0:
            _builtin_len = builtins.len
            builtins.len = _len
        _open += 1


def restore_len() -> None:
    """Undoes it with the last block."""
    global _open
    if torch.compiler.is_compiling():
        return
    with _lock:
        _open -= 1
        if _open == 0:
            builtins.len = _builtin_len
