"""How files are written and read: a crash leaves the old file whole, and a hostile one is refused before memory is taken."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes ``data`` to a temporary file beside ``path`` and moves it there in one step.

    A link is followed. A device or a pipe, such as ``/dev/null``, stays what it is, and is written to.

    Args:
        path: where the file shall be; its folder must exist.
        data: what the file shall hold.

    Raises:
        OSError: the folder does not exist or cannot be written to; ``path`` is then as it was.
    """
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        Path(path).write_bytes(data)
        return
    path = Path(os.path.realpath(path))
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp gives 0600; a result file is as readable as any other file the user makes.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_limited(path: str | os.PathLike[str], limit: int) -> bytes:
    """Reads a file that may hold at most ``limit`` bytes.

    Args:
        path: the file.
        limit: the largest size that is read, in bytes.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is larger than ``limit``.
    """
    with open(path, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"it is larger than {limit:,} bytes")
    return data
