"""Can the file that is asked for be written? Said before anything is computed for it."""

from __future__ import annotations

import os

from fixshape.errors import UsageError


def check_output(option: str, path: str) -> None:
    """Refuses a folder, and a file in a folder that is not there or cannot be written to.

    Args:
        option: the command and its option, ``"plan: --output"``, for the message.
        path: what was given for it.

    Raises:
        UsageError: it cannot be written.
    """
    if os.path.isdir(path):
        raise UsageError(f"{option} {path} is a folder, expected a file.")
    if not os.access(os.path.dirname(os.path.abspath(path)), os.W_OK):
        raise UsageError(f"{option} {path}: its folder does not exist or cannot be written to.")
