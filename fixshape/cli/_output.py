"""Can the file that is asked for be written? Said before anything is computed for it."""

from __future__ import annotations

import os
import stat

from fixshape.errors import UsageError


def check_output(option: str, path: str) -> None:
    """Refuses a folder, and a file in a folder that is not there or cannot be written to. A device or a pipe may be written to.

    Args:
        option: the command and its option, ``"plan: --output"``, for the message.
        path: what was given for it.

    Raises:
        UsageError: it cannot be written.
    """
    if os.path.isdir(path):
        raise UsageError(f"{option} {path} is a folder, expected a file.")
    if os.path.exists(path) and not os.path.isfile(path):
        return
    if not os.access(os.path.dirname(os.path.abspath(path)), os.W_OK):
        raise UsageError(f"{option} {path}: its folder does not exist or cannot be written to.")


def check_replaced(option: str, path: str) -> None:
    """The same for a result that takes the place of what has its name, which must be a file of its own then, and no device.

    Args:
        option: as for :func:`check_output`.
        path: what was given for it.

    Raises:
        UsageError: it cannot be written, or is no name of a file.
    """
    check_output(option, path)
    try:
        plain = not os.path.lexists(path) or stat.S_ISREG(os.lstat(path).st_mode)
        fits = len(os.path.basename(path).encode()) + 16 <= os.pathconf(os.path.dirname(os.path.abspath(path)), "PC_NAME_MAX")
    except (OSError, ValueError) as error:
        raise UsageError(f"{option} {path!r} is no path of a file: {error}.") from None
    if os.path.basename(path) in ("", "-") or not plain:
        raise UsageError(f"{option} {path!r} is no file, expected the path of one, such as model.onnx.")
    if not fits:
        raise UsageError(f"{option} {path}: the name is too long for its folder. Give a shorter one.")
