"""What happens when an op meets rows: its handler is asked, and where it cannot follow the user is told, or plain code runs."""

from __future__ import annotations

import sys
from builtins import isinstance  # noqa: UP029  # a block puts slower ones in their place
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from fixshape.ops._rows_block import Block, current
from fixshape.ops._rows_error import Refusal, refused
from fixshape.ops._rows_number import NUMBERED, VIEWS, derive
from fixshape.ops._rows_registry import HANDLERS, NO_HANDLER, WRITING, name_of


def call(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Answers an op that met rows, or that may make them; modes and subclasses of torch must not be listening."""
    block = current()
    try:
        result = handle(func, args, kwargs)
    except Refusal as refusal:
        return _recovered(block, func, args, kwargs, refusal)
    if func in NUMBERED and hasattr(result, "_axes") and (func in VIEWS or result._data.dtype == torch.bool):
        derive(func, args, kwargs, result)
    if func in WRITING:
        block.wrote(args[0])
    return result


def handle(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Calls the handler of an op."""
    if (func in WRITING or kwargs.get("inplace")) and not getattr(args[0], "_writable", True):
        raise Refusal("a slice of rows, or a single one, is written", "Write it with a mask: x[torch.arange(n) < k] = v.")
    if not torch.is_grad_enabled() and _has_gradient(args) and in_autograd_function():
        raise Refusal("the forward pass of a torch.autograd.Function meets rows", "Apply the function before the selection.")
    handler = HANDLERS.get(func)
    if handler is None:
        raise Refusal("there is no static form of this op on selected rows", NO_HANDLER)
    if "out" in kwargs:
        if kwargs["out"] is not None:
            raise Refusal("out= cannot hold selected rows", "Use the result that is returned.")
        kwargs = {key: value for key, value in kwargs.items() if key != "out"}
    try:
        return handler(func, *args, **kwargs)
    except AttributeError as error:
        if error.name not in ("_axes", "_data"):
            raise
        # The handler takes rows, and was given a plain tensor with rows or a count somewhere else.
        raise Refusal("selected rows, or their count, are no argument that is followed here", NO_HANDLER) from None


def _recovered(block: Block, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], refusal: Refusal) -> Any:
    """What comes of an op that its handler refused: another way to follow it, an error, or what plain code does."""
    written = func in WRITING and hasattr(args[0], "_axes")  # its dynamic form would write to a copy
    # Rows in their own order meet sorted ones k-th to k-th, if those are as many: bring them to the front too.
    moved = at_front(args), at_front(kwargs)
    if not (written and moved[0][0] is not args[0]) and _differ(moved, (args, kwargs)):
        try:
            return handle(func, *moved)
        except Refusal:
            pass
    if written or block.strict[-1]:
        raise refused(name_of(func), _tensors(args, kwargs), refusal)
    return func(*dense(args), **dense(kwargs))


def _has_gradient(values: Iterable[Any]) -> bool:
    return any(hasattr(value, "_axes") and value._data.requires_grad for value in values)


def in_autograd_function() -> bool:
    """Whether a custom function is in its forward pass: rows are no tensor to it, and their gradient would be lost."""
    frame = None if torch.compiler.is_compiling() else sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "forward" and frame.f_code in _forwards(torch.autograd.Function):
            return True
        frame = frame.f_back
    return False


def _forwards(kind: Any) -> set[Any]:
    """The code of the forward passes of all custom functions there are."""
    found = {getattr(kind.forward, "__code__", None)} if "forward" in kind.__dict__ else set()
    return found.union(*(_forwards(child) for child in kind.__subclasses__()))


def dense(value: Any) -> Any:
    """Rows as the shorter tensors that plain code has, counts as numbers, in whatever they are in: dynamic, needs the host."""
    return _each(value, lambda entry: entry._dense() if hasattr(entry, "_dense") else entry)


def at_front(value: Any) -> Any:
    """Rows whose selection has a front as rows of that front, in whatever they are in."""
    return _each(value, lambda entry: entry._at_front() if hasattr(entry, "_at_front") else entry)


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, slice):
        return slice(*(_each(bound, change) for bound in (value.start, value.stop, value.step)))
    if isinstance(value, (list, tuple)):
        parts = [_each(entry, change) for entry in value]
        return type(value)(parts) if type(value) in (list, tuple) else type(value)(*parts)
    if isinstance(value, dict):
        return {key: _each(entry, change) for key, entry in value.items()}
    return change(value)


def _differ(first: Any, second: Any) -> bool:
    if isinstance(first, (list, tuple)):
        return any(_differ(*pair) for pair in zip(first, second, strict=True))
    if isinstance(first, dict):
        return _differ(list(first.values()), list(second.values()))
    return first is not second and not isinstance(first, slice)


def _tensors(args: Iterable[Any], kwargs: dict[str, Any]) -> Iterator[Any]:
    for value in (*args, *kwargs.values()):
        if isinstance(value, (list, tuple)):
            yield from _tensors(value, {})
        elif isinstance(value, Tensor) or hasattr(value, "_axes"):
            yield value


def untracked(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """:func:`call` with torch's function modes off, for calls that come from user code."""
    with torch._C.DisableTorchFunction():
        return call(func, args, kwargs)
