"""Which line of the user's code did torch fail at, and what did it say, in one sentence?"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from fixshape.errors import FixshapeError

if TYPE_CHECKING:
    from torch import nn

_TORCH = ("torch", "torch_xla", "torch_npu", "onnxscript", "onnx_ir", "onnx")
_LIBRARY = re.compile(r"(?:site|dist)-packages/(\w+)/")
_STACK = re.compile(r'File "([^"]+)", line (\d+)')
_OWN = Path(__file__).parent
_PACKAGE = _OWN.parent
_MOST = 300


def blamed(error: BaseException) -> str:
    """What was wrong, and where: ``"RuntimeError: expected 3 channels (model.py:12)"``.

    The innermost cause speaks, as torch wraps errors in errors; the line is the innermost one that is not torch's.
    """
    chain = causes(error)
    hidden = [cause.__context__ for cause in chain if cause.__context__ is not None]  # by raise ... from None
    line = next((found for cause in (*chain, *hidden) if (found := _line(cause))), None)
    return f"{said(chain[0])}{f' ({line})' if line else ''}"


def causes(error: BaseException) -> list[BaseException]:
    """The error and what it follows from, innermost first."""
    chain = [error]
    while chain[-1].__cause__ is not None and len(chain) < 20:
        chain.append(chain[-1].__cause__)
    return chain[::-1]


def said(error: BaseException) -> str:
    """Type and first paragraph."""
    text = " ".join(str(error).strip().partition("\n\n")[0].split())
    return f"{type(error).__name__}: {text if len(text) <= _MOST else text[: _MOST - 3] + '...'}".rstrip(".: ")


def innermost(stack: str) -> str | None:
    """``"model.py:12"`` of a stack that is text: the last line in it that is not torch's, else the last."""
    lines = [(file, f"{file}:{number}") for file, number in _STACK.findall(stack)]
    own = [place for file, place in lines if not _is_torch(file)]
    places = own or [place for _, place in lines]
    return places[-1] if places else None


def called_at(module: nn.Module, run: Callable[[], object]) -> str | None:
    """``"model.py:12"``: the line that calls a module while its model runs; ``None`` where only torch's own modules do."""
    places: list[str] = []

    def note(*_: Any) -> None:
        frame: FrameType | None = sys._getframe(1)
        # Beyond this package's frames are those of who exports, not of the model.
        while frame is not None and Path(frame.f_code.co_filename).parent != _OWN:
            if not _is_torch(frame.f_code.co_filename):
                places.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")
                return
            frame = frame.f_back

    handle = module.register_forward_pre_hook(note)
    try:
        run()
    finally:
        handle.remove()
    return next(iter(places), None)


def _line(error: BaseException) -> str | None:
    lines = []
    trace = error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        ours = isinstance(error, FixshapeError) and _PACKAGE in Path(file).parents  # the line is in the text, or the user's
        if not ours and not _is_torch(file) and trace.tb_frame.f_globals.get("__name__", ""):
            lines.append(f"{file}:{trace.tb_lineno}")
        trace = trace.tb_next
    # What torch.compile's front end ran is no frame of this stack; its message holds the lines.
    shown = [f"{file}:{number}" for file, number in _STACK.findall(str(error)) if not _is_torch(file)]
    places = shown or lines
    return places[-1] if places else None


def _is_torch(file: str) -> bool:
    library = _LIBRARY.search(file.replace("\\", "/"))
    if library:
        return library[1] in _TORCH
    return Path(file).parent == _OWN or file.startswith("<") or "/lib/python3" in file
