"""How is an audit told as one page that needs no network? Torch-free.

The page is ``_page.html`` with texts put in. Its policy allows the one style and the one script of that file, by their hashes,
and nothing else: no markup that came from a recording could run. The findings are data, and the script draws the rows in view.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import stat
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from fixshape.audit._catalogue import CATALOGUE
from fixshape.audit._chart import bars
from fixshape.audit._finding import Audit
from fixshape.audit._headline import counted, headline, number, rate, saving
from fixshape.audit._report import PHASES, Location
from fixshape.audit._text import DRY_RUN, ENDED, where

_LOOKS = tuple(zip(PHASES, ("one", "two", "three"), strict=True))
_AROUND = 3  # lines of source before and after the one that is meant
_LONGEST_LINE = 300
_LARGEST_SOURCE = 4 << 20
_MOST_LINES = 100_000
_MOST_ROWS = 500


def as_html(audit: Audit) -> str:
    """An audit as one HTML page: compiles of each step as a chart, and the findings with their source, to filter and to search.

    It loads nothing. Lines of source are read now, from the files that the findings name, a few around each line; only regular
    files of up to 4 MiB whose names end in ``.py`` are read, so that an audit from elsewhere cannot pull other files into a page.

    Args:
        audit: what to tell.

    Returns:
        The page. It holds names, paths and lines of the audited code: whom the page is given to may read them.

    Example:
        >>> from fixshape.audit._report import AuditReport
        >>> as_html(Audit(report=AuditReport((), (), {}, {}))).startswith("<!doctype html>")
        True
    """
    first = headline(audit)
    items = "".join(f"<li><b>{number(share)}</b> <code>{escape(where(place))}</code></li>" for place, share in first.lines)
    parts = [
        f"<h1>{escape(audit.command) or 'Audit'}</h1>",
        f'<p class="big">{escape(str(first))}</p>',
        f"<ol>{items}</ol>" if items else "",
        _status(audit),
        "<h2>Op compiles of each step</h2>",
        bars(
            "Op compiles of each step",
            [(name, look, [getattr(step, name).compiles for step in audit.report.steps]) for name, look in _LOOKS],
            stacked=True,
        ),
        legend(_LOOKS),
        "<noscript><p>The findings are drawn by a script in this page, which this browser does not run.</p></noscript>",
        "" if audit.findings else "<h2>Findings</h2><p>none</p>",
    ]
    return document(f"fixshape audit {audit.command}", "\n".join(filter(None, parts)), _rest(audit), _data(audit))


def document(title: str, body: str, rest: str = "", data: Mapping[str, Any] | None = None) -> str:
    """The page around markup that has been escaped already, and data that has not."""
    template, policy = _template()
    embedded = ""
    if data is not None:
        # In a script element only "<" could end it; the others are for who copies the data somewhere else.
        text = json.dumps(data, separators=(",", ":"))
        for sign in "<>&":
            text = text.replace(sign, f"\\u{ord(sign):04x}")
        embedded = f'<script type="application/json" id="data">{text}</script>'
    texts = {"policy": escape(policy), "title": escape(title), "body": body, "rest": rest, "data": embedded}
    page = re.sub(r"\{\{(\w+)\}\}", lambda match: texts[match[1]], template)
    return page.encode("utf-8", "replace").decode()  # halves of surrogate pairs, from names of files


def legend(names: Iterable[tuple[str, str]]) -> str:
    """What the colours of a chart mean: names, and the class of each."""
    keys = (f'<span class="key {look}"></span>{escape(name)}' for name, look in names)
    return f'<p class="soft">{"".join(keys)}</p>'


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts, with its first 500 rows."""
    found = list(rows)
    lines = [f"<tr>{''.join(f'<th>{escape(head)}</th>' for head in heads)}</tr>"]
    for row in found[:_MOST_ROWS]:
        lines.append("<tr>" + "".join(f"<td><code>{escape(text)}</code></td>" for text in row) + "</tr>")
    more = f'<p class="soft">and {len(found) - _MOST_ROWS:,} more</p>' if len(found) > _MOST_ROWS else ""
    return f"<table>{''.join(lines)}</table>{more}"


@cache
def _template() -> tuple[str, str]:
    template = Path(__file__).with_name("_page.html").read_text(encoding="utf-8")
    hashes = {}
    for tag in ("style", "script"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", template, re.DOTALL)
        hashes[tag] = "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"
    policy = (
        f"default-src 'none'; style-src {hashes['style']}; script-src {hashes['script']};"
        " base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
    )
    return template, policy


def _status(audit: Audit) -> str:
    if audit.status == "finished":
        return ""
    code = "" if audit.exit_code is None else f", exit code {audit.exit_code}"
    return f'<p class="status">The recording: {escape(ENDED[audit.status])}{code}.</p>'


def _rest(audit: Audit) -> str:
    parts = []
    if audit.unknown:
        rows = sorted(audit.unknown.items(), key=lambda item: (-item[1], item[0]))
        parts += ["<h2>Operators that no rule knows</h2>", table(("operator", "ran"), ((n, number(v)) for n, v in rows))]
    varying = [(key, shapes) for key, shapes in audit.inputs.items() if len(shapes) > 1]
    if varying:
        parts.append("<h2>Inputs whose shapes vary</h2>")
        rows_of = (
            (key if not order else "", shape, number(many))
            for key, shapes in varying
            for order, (shape, many) in enumerate(sorted(shapes.items(), key=lambda item: (-item[1], item[0])))
        )
        parts.append(table(("input", "shape", "how often"), rows_of))
    if audit.predicted:
        parts.append("<h2>Compiles of each step, predicted for each backend</h2>")
        for backend, compiles in audit.predicted.items():
            parts.append(f"<p><b>{escape(backend)}</b>, {counted(sum(compiles), 'compile')}</p>")
            parts.append(bars(f"Predicted compiles of each step, {backend}", [("compiles", "one", compiles)], stacked=True))
    if audit.dry_run is not None:
        counts = audit.dry_run
        parts.append(f"<h2>Counted in a dry run on {escape(counts.backend)}</h2>")
        parts.append(bars("Op compiles of each step in the dry run", [("compiles", "one", counts.compiles)], stacked=True))
        for title, found in DRY_RUN.items():
            if rows_found := getattr(counts, found):
                parts.append(table((title, "how often"), ((name, number(many)) for name, many in rows_found.items())))
    if audit.versions:
        parts += ["<h2>Versions</h2>", table(("package", "version"), audit.versions.items())]
    return "\n".join(parts)


def _data(audit: Audit) -> dict[str, Any]:
    places: dict[Location, int] = {}

    def place(location: Location | None) -> int:
        return -1 if location is None else places.setdefault(location, len(places))

    steps = len(audit.report.steps)
    findings = [
        {
            "code": finding.code,
            "op": finding.op,
            "phase": finding.phase,
            "site": place(finding.site),
            "caller": place(finding.caller),
            "module": finding.module,
            "rate": rate(finding, steps),
            "saves": number(saving(finding, steps)) if finding.compiles else "",
            "shapes": finding.shapes,
            "suggestion": finding.suggestion,
        }
        for finding in audit.findings
    ]
    return {
        "findings": findings,
        "titles": {code: CATALOGUE[code].title for code in {finding.code for finding in audit.findings} & CATALOGUE.keys()},
        "places": [[location.file, location.line, location.function] for location in places],
        "sources": _sources(places),
    }


def _sources(places: Iterable[Location]) -> dict[str, list[tuple[int, str]]]:
    """Lines around each place, by file; the first places come first where there are more than a page can hold."""
    wanted: defaultdict[str, set[int]] = defaultdict(set)
    total = 0
    for location in places:
        if total < _MOST_LINES:
            lines = set(range(max(location.line - _AROUND, 1), location.line + _AROUND + 1)) - wanted[location.file]
            wanted[location.file] |= lines
            total += len(lines)
    found: dict[str, list[tuple[int, str]]] = {}
    for file, numbers in wanted.items():
        lines_of = _read(file)
        kept = [(n, lines_of[n - 1][:_LONGEST_LINE]) for n in sorted(numbers) if n <= len(lines_of)]
        if kept:
            found[file] = kept
    return found


def _read(file: str) -> list[str]:
    if not file.endswith(".py"):
        return []
    try:
        # Without waiting: to open a pipe would wait for who writes into it.
        with open(os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as opened:
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                return []
            data = opened.read(_LARGEST_SOURCE + 1)
    except (OSError, ValueError):
        return []
    return data.decode("utf-8", "replace").split("\n") if len(data) <= _LARGEST_SOURCE else []
