"""Which function answers when an op of torch meets rows: a registry of handlers, one for each op.

A handler is called as ``handler(func, *args, **kwargs)`` with torch's own function first, since one handler serves many, and
returns what the op returns, rows where it returns rows. It raises :class:`Refusal` where it cannot follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

Handler = TypeVar("Handler", bound=Callable[..., Any])

HANDLERS: dict[Any, Callable[..., Any]] = {}
#: Handlers that must also see calls in which all tensors are plain, as they decide whether a selection is born there.
SOURCES: dict[Any, Callable[..., Any]] = {}

_HOMES = (torch, Tensor, F, torch.special, torch._C._nn)


def handles(*ops: Any, source: bool = False, in_place: bool = False) -> Callable[[Handler], Handler]:
    """Registers a handler.

    Args:
        ops: functions, or names: a name stands for all functions of that name, those of torch, of Tensor (operators too), of
            torch.nn.functional and of torch.special.
        source: whether the handler is called for plain tensors too.
        in_place: whether a name also stands for the in-place functions of that name.

    Example:
        >>> import torch
        >>> set(functions("add", in_place=True)) >= {torch.add, torch.Tensor.__radd__, torch.Tensor.add_, torch.Tensor.__iadd__}
        True
    """

    def register(handler: Handler) -> Handler:
        for op in ops:
            for function in functions(op, in_place) if isinstance(op, str) else [op]:
                HANDLERS[function] = handler
                if source:
                    SOURCES[function] = handler
        return handler

    return register


def functions(name: str, in_place: bool = False) -> Iterator[Any]:
    """All functions of torch with that name."""
    spellings = [name, f"__{name}__", f"__r{name}__"] + ([f"{name}_", f"__i{name}__"] if in_place else [])
    for home in _HOMES:
        for spelling in spellings:
            function = getattr(home, spelling, None)
            if callable(function):
                yield function


NO_HANDLER = "Reduce the rows first, compute it before the selection, or use static_indexing(strict=False) for the dynamic form."


def getter(name: str) -> Any:
    """The function that is called when an attribute of a tensor is read."""
    return getattr(Tensor, name).__get__


def name_of(func: Any) -> str:
    """An op as messages call it, which is the same in all places where torch has it."""
    attribute = getattr(func, "__self__", None)  # of the function that reads it
    name = (
        getattr(attribute, "__name__", "") if getattr(func, "__name__", "") == "__get__" else getattr(func, "__name__", str(func))
    )
    return str(name).removeprefix("special_").removeprefix("linalg_")


def _is_in_place(name: str) -> bool:
    """By torch's rule for names; torch.compile does not know those that resize."""
    if name.startswith("__"):
        return name.startswith("__i") and hasattr(Tensor, f"__{name[3:]}")
    return name.endswith("_") and not name.startswith(("_", "resize"))


#: Functions that write to their first argument and return it.
IN_PLACE = {getattr(home, name) for home in _HOMES for name in dir(home) if _is_in_place(name) and callable(getattr(home, name))}
#: Functions that write to their first argument.
WRITING = IN_PLACE | {Tensor.__setitem__}
