"""What the exit code of the command line says."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of ``fixshape``."""

    CLEAN = 0  # it ran, and found nothing
    FINDINGS = 1  # it ran, and found something, or a check failed
    USAGE = 2  # a wrong argument, or a file that cannot be used
    INTERNAL = 3  # a defect of fixshape
