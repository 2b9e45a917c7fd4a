"""Which line of Python an op comes from, and in which module."""

from __future__ import annotations

import os
import sys
from types import CodeType, FrameType
from typing import NamedTuple

import torch

from fixshape.audit._modules import MODULE_CALL, ModulePaths
from fixshape.audit._report import Location

_TORCH = frozenset({"torch", "torch_npu", "torch_xla"})
_LIBRARIES = frozenset({"torchvision", "fixshape"})
_STDLIB = (os.path.dirname(os.__file__) + os.sep, "<frozen ")
_HANDLERS = frozenset({"__torch_dispatch__", "__torch_function__"})
_ENGINE: CodeType = torch.autograd.graph._engine_run_backward.__code__
_PASSED_OVER, _MODULE, _BACKWARD, _LIBRARY, _OWN = range(5)


class Place(NamedTuple):
    """Where an op runs, as an :class:`Origin` says it."""

    site: Location | None = None
    caller: Location | None = None
    module: str = ""
    node: str = ""


class Frames:
    """Reads frames, and remembers of each code object what it is: this runs once for nearly every op."""

    def __init__(self) -> None:
        self.modules = ModulePaths()
        self._kinds: dict[int, int] = {}
        self._codes: list[CodeType] = []  # an id is a code object's own as long as that lives
        self._locations: dict[tuple[int, int], Location] = {}

    def place(self, innermost: FrameType | None, *, in_backward: bool = False) -> Place:
        """Innermost line outside torch; the same outside torchvision and fixshape too; path of the innermost running module.

        The standard library is passed over with torch (``copy.deepcopy`` of a tensor is the line that calls it), and so are
        handlers of torch's modes and of tensor subclasses, which carry out another line's op, and generated code.

        Args:
            innermost: frame to begin at.
            in_backward: end at the frame that runs autograd, so that only what autograd itself has called is found.
        """
        site: Location | None = None
        caller: Location | None = None
        module: torch.nn.Module | None = None
        kinds = self._kinds
        frame = innermost
        while frame is not None:
            code = frame.f_code
            kind = kinds.get(id(code), -1)
            if kind < 0:
                kind = self._meet(frame)
            if kind == _MODULE:
                if module is None:
                    module = frame.f_locals["self"]
                if caller is not None:
                    break
            elif kind == _BACKWARD:
                if in_backward:
                    break
            elif kind != _PASSED_OVER and caller is None:
                here = self._locations.get((id(code), frame.f_lineno)) or self._locate(code, frame.f_lineno)
                if site is None:
                    site = here
                if kind == _OWN:
                    caller = here
                    if module is not None:
                        break
            frame = frame.f_back
        return Place(site, caller, "" if module is None else self.modules.path(module, innermost))

    def _meet(self, frame: FrameType) -> int:
        code = frame.f_code
        self._codes.append(code)
        kind = self._kinds[id(code)] = _kind(frame)
        return kind

    def _locate(self, code: CodeType, line: int) -> Location:
        here = self._locations[id(code), line] = Location(code.co_filename, line, code.co_qualname)
        return here


def locate(frame: FrameType | None) -> tuple[Location | None, Location | None]:
    """``(site, caller)`` of what runs in ``frame``."""
    place = Frames().place(frame)
    return place.site, place.caller


def _kind(frame: FrameType) -> int:
    code = frame.f_code
    if code is MODULE_CALL:
        return _MODULE
    if code is _ENGINE:
        return _BACKWARD
    module: str = frame.f_globals.get("__name__", "")
    root = module.partition(".")[0]
    if _passed_over(code, module, root):
        return _PASSED_OVER
    return _LIBRARY if root in _LIBRARIES else _OWN


def _passed_over(code: CodeType, module: str, root: str) -> bool:
    if not module:  # code that torch.fx and torch.compile generate belongs to no module, and its lines to no file
        return True
    if root in _TORCH or code.co_name in _HANDLERS or module.startswith("fixshape.audit."):
        return True
    # A user's own module may have a name of the standard library's, so that the file decides.
    return root in sys.stdlib_module_names and code.co_filename.startswith(_STDLIB)
