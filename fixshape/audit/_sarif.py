"""How is an audit told to a code-scanning service? As SARIF 2.1.0 (OASIS, errata 01). Torch-free."""

from __future__ import annotations

import hashlib
import os
import shlex
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from fixshape.audit._catalogue import CATALOGUE, explain
from fixshape.audit._finding import Audit, Finding
from fixshape.audit._headline import counted, headline, rate, saving
from fixshape.audit._identity import Identity, identities, within_library
from fixshape.audit._report import Location
from fixshape.audit._text import named

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_MOST_RESULTS = 25_000  # a run with more is refused by GitHub's service
_SOURCE, _LIBRARIES, _MACHINE = "%SRCROOT%", "SITE-PACKAGES", "FILESYSTEM"


def as_sarif(audit: Audit, *, root: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """An audit as a SARIF log of one run.

    A result is at the line that a reader of the repository can change: the site where it is under ``root``, else the caller where
    that is, else the site; the other line is a related location. URIs are relative: to the repository (``%SRCROOT%``, which the
    service knows), to the folder of installed packages, or to the root of the file system. Fingerprints hold no line number, so
    that a result stays the same one when lines move.

    Args:
        audit: what to tell. Of more than 25,000 findings the first 25,000 are told, and a notification says so.
        root: the repository's folder; ``None`` is the current one.

    Returns:
        The log, for :func:`json.dumps`. A finding that has no line and comes from no script is a notification of the run.

    Example:
        >>> from fixshape.audit._report import AuditReport
        >>> as_sarif(Audit(report=AuditReport((), (), {}, {})))["runs"][0]["results"]
        []
    """
    folder = Path(os.path.abspath(root if root is not None else "."))
    script = _script(audit.command)
    codes = list(dict.fromkeys(finding.code for finding in audit.findings))
    results, notes = [], []
    for finding, identity in zip(audit.findings[:_MOST_RESULTS], identities(audit.findings), strict=False):
        result = _result(finding, identity, audit, folder, script)
        if "locations" in result:
            results.append({"ruleIndex": codes.index(finding.code), **result})
        else:
            notes.append(_note(f"{finding.code}: {result['message']['text']}"))
    if len(audit.findings) > _MOST_RESULTS:
        notes.append(_note(f"{len(audit.findings) - _MOST_RESULTS:,} findings that save less are left out."))
    notes += [_note(f"No rule knows the operator {name}, which ran {counted(n, 'time')}.") for name, n in audit.unknown.items()]
    driver: dict[str, Any] = {"name": "fixshape", "rules": [_rule(code) for code in codes]}
    if version := audit.versions.get("fixshape"):
        driver["version"] = _whole(version)
    run = {
        "tool": {"driver": driver},
        "originalUriBaseIds": {_MACHINE: {"uri": "file:///"}},
        "invocations": [_invocation(audit, notes)],
        "results": results,
        "properties": {"summary": str(headline(audit)).rstrip(":"), "compiles": [step.compiles for step in audit.report.steps]},
    }
    return {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}


def _result(finding: Finding, identity: Identity, audit: Audit, folder: Path, script: str | None) -> dict[str, Any]:
    steps = len(audit.report.steps)
    saved = saving(finding, steps)
    what = [named(finding) or finding.code, f"{finding.phase}, {rate(finding, steps)}"]
    if saved:
        what.append(f"{counted(saved, 'op compile')} a step {'follows' if saved == 1 else 'follow'} from it")
    text = "; ".join(what) + "."
    if finding.suggestion:
        text += f" Write instead: {finding.suggestion}"
    # In a form that GitHub takes for a hash of its own and an order: what it has been given, it does not compute from the line.
    *names, order = identity
    mark = hashlib.sha256("\0".join(map(str, names)).encode("utf-8", "replace")).hexdigest()[:16] + f":{int(order) + 1}"
    result: dict[str, Any] = {
        "ruleId": _whole(finding.code),
        "level": "warning" if finding.compiles else "note",
        "message": {"text": _whole(text)},
        "partialFingerprints": {"primaryLocationLineHash": mark, "fixshape/v1": mark},
        "properties": {
            "op": _whole(finding.op),
            "phase": finding.phase,
            "module": _whole(finding.module),
            "count": finding.count,
            "steps": finding.steps,
            "compiles": finding.compiles,
        },
    }
    lines = [line for line in dict.fromkeys((finding.site, finding.caller)) if line]
    if not lines and script:
        lines = [Location(script, 1)]
    lines.sort(key=lambda line: _inside(line.file, folder) is None)  # stable: the site first where both are alike
    if lines:
        result["locations"] = [_location(lines[0], folder)]
    if lines[1:]:
        said = "called from here" if lines[1] is finding.caller else "the op runs here"
        result["relatedLocations"] = [{"id": 1, "message": {"text": said}, **_location(lines[1], folder)}]
    return result


def _location(line: Location, folder: Path) -> dict[str, Any]:
    uri, base = _uri(line.file, folder)
    found: dict[str, Any] = {
        "physicalLocation": {
            "artifactLocation": {"uri": uri, "uriBaseId": base},
            "region": {"startLine": max(line.line, 1)},
        }
    }
    if line.function not in ("", "<module>"):
        found["logicalLocations"] = [{"fullyQualifiedName": _whole(line.function), "kind": "function"}]
    return found


def _uri(file: str, folder: Path) -> tuple[str, str]:
    if inside := _inside(file, folder):
        return _quoted(inside), _SOURCE
    if library := within_library(file):
        return _quoted(library), _LIBRARIES
    return _quoted(Path(os.path.abspath(file)).as_posix().lstrip("/")), _MACHINE


def _inside(file: str, folder: Path) -> str | None:
    """The path below the repository's folder, ``None`` for a file elsewhere and for installed packages."""
    if within_library(file) or "\0" in file:
        return None
    path = Path(os.path.abspath(folder / file))
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) and path != folder else None


def _quoted(path: str) -> str:
    # A first part with a colon would read as a scheme; quote() escapes the colon, and bytes that are no UTF-8 too.
    return quote(path.encode("utf-8", "surrogatepass"), safe="/") or "."


def _script(command: str) -> str | None:
    try:
        first = next(iter(shlex.split(command)), "")
    except ValueError:  # an open quotation mark
        return None
    return first if PurePosixPath(first).suffix == ".py" else None


def _rule(code: str) -> dict[str, Any]:
    entry = CATALOGUE.get(code)  # an audit from a file may have a code that this version does not know
    return {
        "id": _whole(code),
        "shortDescription": {"text": entry.title if entry else _whole(code)},
        "fullDescription": {"text": f"{entry.what} {entry.why}" if entry else _whole(code)},
        "help": {"text": explain(code) if entry else f"fixshape explain {_whole(code)}"},
        "defaultConfiguration": {"level": "warning"},
    }


def _invocation(audit: Audit, notes: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "executionSuccessful": audit.status in ("finished", "stopped"),
        "commandLine": _whole(f"fixshape audit {audit.command}".rstrip()),
        "toolExecutionNotifications": notes,
        "properties": {"status": audit.status, "versions": {_whole(k): _whole(v) for k, v in audit.versions.items()}},
    }
    if audit.exit_code is not None:
        found["exitCode"] = audit.exit_code
    return found


def _note(text: str) -> dict[str, Any]:
    return {"level": "note", "message": {"text": _whole(text)}}


def _whole(text: str) -> str:
    """The text with halves of surrogate pairs replaced: a file name may hold them, UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()
