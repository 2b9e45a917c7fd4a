"""Which calls read a tensor on the host though torch dispatches nothing for them?

    x.tolist()    x.numpy()    np.asarray(x)    x.cpu()    x.to("cpu")        of a tensor ``x`` that is on the CPU already

On a device each of them waits. So while somebody records, the methods of :class:`torch.Tensor` are wrapped, and the wrapper asks
torch which recorders hear this thread, as it asks for an op: under the same modes, not in another thread, not where torch has put
its modes aside. ``np.asarray`` comes through ``numpy``.

``.to(device)`` moves a tensor, and a device that is called ``"cpu"`` because the audit runs there is moved to all the same: it is
a read only where the line itself says ``"cpu"``. So is a module that is moved as a whole, whatever it is moved with.
"""

from __future__ import annotations

import ast
import functools
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import FrameType
from typing import Any

import torch
from torch._C import _len_torch_dispatch_stack
from torch._compile import _disable_dynamo
from torch.overrides import handle_torch_function, has_torch_function
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from fixshape.audit._mode import RecorderMode
from fixshape.audit._report import Location
from fixshape.audit._rules import called
from fixshape.audit._source import read_line

_METHODS = ("tolist", "numpy", "cpu", "to")
_MODULES = torch.nn.Module.__module__
_lock = threading.Lock()
_listeners = 0
_wrapped: dict[str, Callable[..., Any]] = {}


def listen() -> None:
    """Begins to hear reads, for one recorder more."""
    global _listeners
    with _lock:
        if _listeners == 0:
            _wrapped.update({name: _reader(name, getattr(torch.Tensor, name)) for name in _METHODS})
            for name, wrapper in _wrapped.items():
                setattr(torch.Tensor, name, wrapper)
        _listeners += 1


def ignore() -> None:
    """Ends what :func:`listen` began; with the last recorder ``torch.Tensor`` is as it was."""
    global _listeners
    with _lock:
        _listeners -= 1
        if _listeners == 0:
            for name, wrapper in _wrapped.items():
                # They are inherited, and go on to be. What somebody else has put there in the meantime stays.
                if torch.Tensor.__dict__.get(name) is wrapper:
                    delattr(torch.Tensor, name)
            _wrapped.clear()


def _reader(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    from torch._dynamo.eval_frame import skip_code  # late, as it takes a second; torch's optimisers have done it before

    def read(tensor: torch.Tensor, /, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return original(tensor, *args, **kwargs)
        if _len_torch_dispatch_stack():
            return _heard(name, original, sys._getframe(1), tensor, args, kwargs)
        # torch would tell a subclass of the wrapper, and it knows the method.
        given = (tensor, *args, *kwargs.values())
        if has_torch_function(given):
            return handle_torch_function(original, given, tensor, *args, **kwargs)
        return original(tensor, *args, **kwargs)

    skip_code(read.__code__)  # compiled code that calls numpy() would compile this, which calls numpy()
    return functools.wraps(original)(read)


@_disable_dynamo  # as torch has it for a mode's handler
def _heard(
    name: str,
    original: Callable[..., Any],
    frame: FrameType,
    tensor: torch.Tensor,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Any:
    modes = [mode for mode in _get_current_dispatch_mode_stack() if isinstance(mode, RecorderMode) and mode.hears_reads]
    before = [mode.syncs for mode in modes]
    given = (tensor, *args, *kwargs.values())
    if has_torch_function(given):
        result = handle_torch_function(original, given, tensor, *args, **kwargs)
    else:
        result = original(tensor, *args, **kwargs)
    with torch._C.DisableTorchFunction():  # what a tensor is asked here is not the script's to see
        for mode, syncs in zip(modes, before, strict=True):
            if mode.syncs == syncs:  # else it is counted: a device's copy is an op, and a subclass may read what it holds
                _judge(mode, name, frame, tensor, result, args, kwargs)
    return result


def _judge(
    mode: RecorderMode,
    name: str,
    frame: FrameType,
    tensor: torch.Tensor,
    result: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> None:
    where = mode.whereabouts
    if name in ("tolist", "numpy"):
        mode.read(f"Tensor.{name}", tensor, frame, waits=where.on_device(tensor))
        return
    if not isinstance(result, torch.Tensor) or (name == "to" and not _names_device(args, kwargs)):
        return
    if frame.f_globals.get("__name__") == _MODULES or (name == "to" and not _fetches(mode, frame, tensor)):
        where.move(result)
        return
    if where.on_device(tensor):
        mode.read("Tensor.cpu", tensor, frame, waits=name == "cpu" or not _is_non_blocking(args, kwargs))
    where.fetch(result)


def _names_device(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    given = (*args[:1], kwargs.get("device"), kwargs.get("other"))
    return any(isinstance(value, (str, torch.device, torch.Tensor)) for value in given)


def _is_non_blocking(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    flags = [value for value in args if isinstance(value, bool)]  # the next one would be ``copy``
    return flags[0] if flags else bool(kwargs.get("non_blocking", False))


def _fetches(mode: RecorderMode, frame: FrameType, tensor: torch.Tensor) -> bool:
    known = mode.whereabouts.on_device(tensor) or mode.whereabouts.on_host((tensor,))
    return known and _says_host(mode.site(frame))


@lru_cache(maxsize=4096)
def _says_host(site: Location | None) -> bool:
    line = read_line(site)
    calls = [node for node in (line.nodes if line else ()) if isinstance(node, ast.Call) and called(node) == "to"]
    parts = [part for call in calls for argument in (*call.args, *call.keywords) for part in ast.walk(argument)]
    return any(isinstance(part, ast.Constant) and part.value == "cpu" for part in parts)
