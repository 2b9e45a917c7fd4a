"""Are two findings the same one, though lines have moved and the files lie elsewhere? Torch-free."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePath

from fixshape.audit._finding import Finding
from fixshape.audit._report import Location

Identity = tuple[str | int, ...]
_LIBRARIES = ("site-packages", "dist-packages")


def identities(findings: Sequence[Finding]) -> list[Identity]:
    """What each finding is known by: rule, op, phase and module, and the file and function of both its lines.

    No line number is in it, so that an edit further up changes nothing; findings that agree in all of this are counted in the
    order of their lines. A file of the user's own goes by its name alone, because a baseline may come from another folder.

    Args:
        findings: of one audit.

    Returns:
        One tuple each, in the order of ``findings``; no two are equal.

    Example:
        >>> first, second = (Finding(code="FS101", op="", phase="forward", site=Location("a.py", n)) for n in (3, 9))
        >>> identities([second, first])
        [('FS101', '', 'forward', '', 'a.py', '', '', '', 1), ('FS101', '', 'forward', '', 'a.py', '', '', '', 0)]
    """
    alike: defaultdict[Identity, list[int]] = defaultdict(list)
    for index, finding in enumerate(findings):
        place = (*_place(finding.site), *_place(finding.caller))
        alike[finding.code, finding.op, finding.phase, finding.module, *place].append(index)
    found: list[Identity] = [()] * len(findings)
    for identity, indices in alike.items():
        indices.sort(key=lambda index: (_line(findings[index].site), _line(findings[index].caller), findings[index].shapes))
        for order, index in enumerate(indices):
            found[index] = (*identity, order)
    return found


def within_library(file: str) -> str | None:
    """The path of a file below the folder that packages are installed in, ``None`` for any other file.

    Example:
        >>> within_library("python/lib/site-packages/torchvision/ops/boxes.py")
        'torchvision/ops/boxes.py'
    """
    parts = PurePath(file.replace("\\", "/")).parts
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] in _LIBRARIES:
            return "/".join(parts[index + 1 :])
    return None


def _place(location: Location | None) -> tuple[str, str]:
    if location is None:
        return "", ""
    return within_library(location.file) or PurePath(location.file.replace("\\", "/")).name, location.function


def _line(location: Location | None) -> int:
    return location.line if location else 0
