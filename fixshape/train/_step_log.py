"""How long did each step take? A line of JSON for each, in a file that a crash leaves readable."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO

from fixshape.errors import FixshapeWarning
from fixshape.train._records import StepRecord

_FIELDS = tuple(StepRecord.__dataclass_fields__)


class StepLog:
    """A file open for appending. Each record is one write of one whole line, so that several processes may share the file."""

    def __init__(self, file: FileIO) -> None:
        self._file: FileIO | None = file

    def append(self, record: StepRecord) -> None:
        """Adds a record. Where that fails the loop goes on, without a log.

        Warns:
            FixshapeWarning: the line could not be written: a full disk.
        """
        if self._file is None:
            return
        # Not asdict: it copies, and takes twenty times as long.
        line = json.dumps({"time": time.time(), **{field: getattr(record, field) for field in _FIELDS}}).encode() + b"\n"
        try:
            written = self._file.write(line)
            reason = f"{written} of {len(line)} bytes were written" if written != len(line) else None
        except OSError as error:
            reason = error.strerror
        if reason is not None:
            name, self._file = self._file.name, None
            text = f"watch: the step log {name} ends before step {record.index}: {reason}. The loop goes on."
            warnings.warn(text, FixshapeWarning, stacklevel=2)


@contextmanager
def open_log(path: str | os.PathLike[str]) -> Iterator[StepLog]:
    """The log at ``path``, made if it is not there, and never emptied.

    Raises:
        OSError: it cannot be opened.
    """
    with open(path, "ab", buffering=0) as file:
        if file.tell() and not _ends_a_line(path):  # what was killed in the middle of a line
            file.write(b"\n")
        yield StepLog(file)


def _ends_a_line(path: str | os.PathLike[str]) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
