"""Where a block of static indexing cannot go on, and how it says so: the op, the shapes, the user's line, the way out."""

from __future__ import annotations

import linecache
import os
import re
import sys
import traceback
from collections.abc import Iterable
from typing import Any

import torch
import torchvision

from fixshape.errors import StaticIndexingError

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
#: Frames of these folders are not the user's: torch, torchvision's ops, fixshape.
_NOT_THE_USERS = tuple(
    folder + os.sep
    for folder in (
        os.path.dirname(os.path.abspath(torch.__file__)),
        os.path.join(os.path.dirname(os.path.abspath(torchvision.__file__)), "ops"),
        _PACKAGE,
    )
)


class Refusal(Exception):
    """A handler's word that an op cannot be followed: what is wrong and what to write; :func:`refused` adds the rest."""

    def __init__(self, problem: str, way_out: str) -> None:
        super().__init__(problem)
        self.problem, self.way_out = problem, way_out


def refused(op: str, operands: Iterable[Any], refusal: Refusal) -> StaticIndexingError:
    """The error for the user: "static_indexing: op of shapes: problem (file:line: source). Way out."."""
    shapes = ", ".join(shown_shape(operand) for operand in operands)
    of = f"{op} of {shapes}" if shapes else op
    return StaticIndexingError(f"static_indexing: {of}: {refusal.problem} ({users_line()}). {refusal.way_out}")


def shown_shape(operand: Any) -> str:
    """A shape as messages show it: ``(n of 20, 4)`` is some of 20 rows, of 4 each."""
    axes = getattr(operand, "_axes", None)
    if axes is None:
        return str(tuple(operand.shape))
    sizes = [f"{size}" if axis is None else f"n of {size}" for size, axis in zip(operand._data.shape, axes, strict=True)]
    return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"


def users_line() -> str:
    """File, line and source of the innermost frame that is neither torch's nor torchvision's ops' nor ours."""
    if torch.compiler.is_compiling():
        return "where torch.compile traces"
    frame = sys._getframe(1)
    while frame.f_back is not None and _is_not_the_users(frame.f_code.co_filename):
        frame = frame.f_back
    return _shown_line(frame.f_code.co_filename, frame.f_lineno)


#: How code that takes real tensors alone, in C++ mostly, calls what it was given.
_MENTION = re.compile(r"_rows\w*\.\w|'(?:Rows|Count)'|[(, ](?:Rows|Count)[,)]|got (?:Rows|Count)\b")


def foreign(error: BaseException | None) -> StaticIndexingError | None:
    """The error for the user where other code raised one as it was given rows or a count."""
    if not isinstance(error, (TypeError, ValueError, RuntimeError, AttributeError)) or isinstance(error, StaticIndexingError):
        return None
    if not _MENTION.search(str(error)):
        return None
    lines = [(frame.f_code.co_filename, number) for frame, number in traceback.walk_tb(error.__traceback__)]
    line = next((line for line in reversed(lines) if not _is_not_the_users(line[0])), lines[-1])
    return StaticIndexingError(
        f"static_indexing: code that takes real tensors alone met selected rows, or their count ({_shown_line(*line)}): "
        f"{str(error).splitlines()[0]} Call it before the selection, or call the function that was scripted or transformed."
    )


def _shown_line(path: str, number: int) -> str:
    source = linecache.getline(path, number).strip()
    return f"{path}:{number}" + (f": {source}" if source else "")


def _is_not_the_users(path: str) -> bool:
    return path.startswith(_NOT_THE_USERS) or path.startswith("<frozen")
