"""Which line of Python an op comes from."""

from __future__ import annotations

import os
import sys
from types import FrameType

from fixshape.audit._report import Location

_TORCH = frozenset({"torch", "torch_npu", "torch_xla"})
_LIBRARIES = frozenset({"torchvision", "fixshape"})
_STDLIB = (os.path.dirname(os.__file__) + os.sep, "<frozen ")
_HANDLERS = frozenset({"__torch_dispatch__", "__torch_function__"})


def locate(frame: FrameType | None) -> tuple[Location | None, Location | None]:
    """``(site, caller)`` of what runs in ``frame``: innermost line outside torch; the same outside torchvision and fixshape too.

    The standard library is passed over with torch (``copy.deepcopy`` of a tensor is the line that calls it), and so are handlers
    of torch's modes and of tensor subclasses, which carry out another line's op, and generated code.
    """
    site: Location | None = None
    while frame is not None:
        module: str = frame.f_globals.get("__name__", "")
        root = module.partition(".")[0]
        if not _passed_over(frame, module, root):
            code = frame.f_code
            here = Location(code.co_filename, frame.f_lineno, code.co_qualname)
            site = site or here
            if root not in _LIBRARIES:
                return site, here
        frame = frame.f_back
    return site, None


def _passed_over(frame: FrameType, module: str, root: str) -> bool:
    code = frame.f_code
    if not module:  # code that torch.fx and torch.compile generate belongs to no module, and its lines to no file
        return True
    if root in _TORCH or code.co_name in _HANDLERS or module.startswith("fixshape.audit."):
        return True
    # A user's own module may have a name of the standard library's, so that the file decides.
    return root in sys.stdlib_module_names and code.co_filename.startswith(_STDLIB)
