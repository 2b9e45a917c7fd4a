"""How is an audit told on a terminal? Torch-free."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from fixshape._check import check_at_least
from fixshape.audit._catalogue import CATALOGUE
from fixshape.audit._finding import Audit, DryRun, Finding
from fixshape.audit._headline import counted, headline, number, rate, saving
from fixshape.audit._identity import within_library
from fixshape.audit._report import Location

BOLD, RED, GREEN, YELLOW, CYAN = "1", "31", "32", "33", "36"
NARROWEST = 40
_MOST_ROWS = 20
_MOST_SHAPES = 6
_AS_ABOVE = "as above"
ENDED = {
    "running": "not ended: the script runs still, or its process ended without a word",
    "stopped": "stopped after the steps that were asked for",
    "exited": "the script exited by itself",
    "raised": "the script raised an exception",
    "interrupted": "interrupted (SIGINT)",
    "terminated": "terminated (SIGTERM)",
}


def as_text(audit: Audit, *, colour: bool = False, width: int = 100) -> str:
    """An audit for a terminal: compiles a step and the lines they come from, each finding, and what else was seen.

    It says all findings, in the order given. A name from the recording that holds control characters is shown escaped, so that it
    can neither colour nor clear the terminal.

    Args:
        audit: what to tell.
        colour: whether ANSI colours may be used.
        width: columns of the terminal; at least 40. A path is shortened from its front to fit, and an operator's name is not.

    Returns:
        Lines, the last one with its newline.

    Raises:
        ShapeError: ``width`` is below 40.

    Example:
        >>> from fixshape.audit._report import AuditReport, PhaseCounts, StepCounts
        >>> steps = tuple(StepCounts(PhaseCounts(compiles=count)) for count in (9, 1, 0))
        >>> print(as_text(Audit(report=AuditReport(steps, (), {}, {}))), end="")
        No op compiles after the warm-up (9, 1, 0 in 3 steps).
        <BLANKLINE>
        Findings: none
    """
    check_at_least("as_text", "width", width, NARROWEST)
    paint = Paint(colour)
    lines = [*_first(audit, paint, width), "", *_findings(audit, paint, width)]
    for title, rows in _sections(audit):
        lines += ["", paint(BOLD, title), *_rows(rows, width)]
    if audit.status != "finished":
        lines += ["", *_status(audit, paint, width)]
    return "\n".join(lines) + "\n"


class Paint:
    """Puts text in colour, or leaves it as it is."""

    def __init__(self, colour: bool) -> None:
        self.colour = colour

    def __call__(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour else text


def clean(text: str) -> str:
    r"""Text in which what a terminal would obey, or what cannot be printed, is escaped.

    Example:
        >>> clean("a\x1b[2Jb")
        'a\\x1b[2Jb'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def tail(text: str, width: int) -> str:
    """The end of a text that is too long: of a path, the part that tells one from another.

    Example:
        >>> tail("some/folder/project/train.py:12", 20)
        '.../train.py:12'
    """
    text = clean(text)
    if len(text) <= width:
        return text
    kept = text[len(text) - max(width - 3, 1) :]
    return "..." + kept[max(kept.find("/"), 0) :]


def wrapped(label: str, text: str, width: int) -> Iterator[str]:
    """A labelled paragraph; a word that is longer than a line stays whole, because code is copied from here."""
    body = textwrap.wrap(clean(text), max(width - len(label), 20), break_long_words=False, break_on_hyphens=False) or [""]
    yield label + body[0]
    for line in body[1:]:
        yield " " * len(label) + line


def _first(audit: Audit, paint: Paint, width: int) -> Iterator[str]:
    first = headline(audit)
    for line in textwrap.wrap(str(first), width):
        yield paint(BOLD, line)
    shares = [number(share) for _, share in first.lines]
    widest = max(map(len, shares), default=0)
    for (place, _), share in zip(first.lines, shares, strict=True):
        yield f"  {paint(RED, share.rjust(widest))}  {tail(where(place), width - widest - 4)}"


def _findings(audit: Audit, paint: Paint, width: int) -> Iterator[str]:
    if not audit.findings:
        yield paint(BOLD, "Findings: none")
        return
    yield paint(BOLD, f"Findings: {len(audit.findings):,}")
    steps, before = len(audit.report.steps), ""
    for finding in audit.findings:
        yield ""
        again = finding.suggestion and finding.suggestion == before
        yield from finding_lines(replace(finding, suggestion=_AS_ABOVE) if again else finding, steps, paint, width)
        before = finding.suggestion


def finding_lines(finding: Finding, steps: int, paint: Paint, width: int) -> Iterator[str]:
    """One finding: what and how often in its first line, then where and what to write instead."""
    saved = saving(finding, steps)
    words = [clean(named(finding)), finding.phase, rate(finding, steps)]
    if saved:
        words.append(paint(RED, f"{counted(saved, 'compile')} a step {'follows' if saved == 1 else 'follow'}"))
    yield f"{paint(YELLOW, clean(finding.code))}  {', '.join(filter(None, words))}"
    room = width - 10
    if finding.site:
        yield f"  site    {_place(finding.site, room)}"
    if finding.caller and finding.caller != finding.site:
        yield f"  caller  {_place(finding.caller, room)}"
    if not finding.site and not finding.caller:
        yield "  site    no Python line was running"
    if finding.module:
        yield f"  module  {tail(finding.module, room)}"
    if finding.shapes:
        more = len(finding.shapes) - _MOST_SHAPES
        shown = ", ".join(finding.shapes[:_MOST_SHAPES]) + (f", and {more} more" if more > 0 else "")
        yield from wrapped("  shapes  ", shown, width)
    if finding.suggestion:
        for index, line in enumerate(wrapped("  write   ", finding.suggestion, width)):
            yield paint(CYAN, line) if index else line[:10] + paint(CYAN, line[10:])


def named(finding: Finding) -> str:
    """The operator of a finding, or where it has none what its rule is called."""
    return finding.op or (CATALOGUE[finding.code].title if finding.code in CATALOGUE else "")


def where(place: Location) -> str:
    """A line for a reader: of an installed package without the folders above it."""
    return f"{within_library(place.file) or place.file}:{place.line}"


def _place(place: Location, width: int) -> str:
    there = f" in {clean(place.function)}" if place.function not in ("", "<module>") else ""
    return tail(where(place), width - len(there)) + there if len(there) < width - 20 else tail(where(place), width)


DRY_RUN = {
    "Ran on the host, for the device has no kernel": "fallbacks",
    "Waited for a value of the device": "waits",
    "Of which the vendor says that another form is faster": "slow_forms",
}


def _sections(audit: Audit) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    if audit.unknown:
        most_first = sorted(audit.unknown.items(), key=lambda item: (-item[1], item[0]))
        yield "Operators that no rule knows, and how often each ran", [(name, number(many)) for name, many in most_first]
    varying = {key: shapes for key, shapes in audit.inputs.items() if len(shapes) > 1}
    if varying:
        yield "Inputs whose shapes vary", [(key, _histogram(shapes)) for key, shapes in varying.items()]
    if audit.predicted:
        rows = [(backend, _series(compiles)) for backend, compiles in audit.predicted.items()]
        yield "Compiles of each step, predicted for each backend", rows
    if audit.dry_run is not None:
        yield from _dry_run(audit.dry_run)


def _dry_run(counts: DryRun) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    steps = [("op compiles", _series(counts.compiles)), ("launches", _series(counts.launches))]
    yield f"Of each step, counted in a dry run on {clean(counts.backend)}", steps
    for title, found in DRY_RUN.items():
        rows = [(name, number(many)) for name, many in getattr(counts, found).items()]
        if rows:
            yield title, rows


def _histogram(shapes: Mapping[str, int]) -> str:
    most_first = sorted(shapes.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{shape} x {many:,}" for shape, many in most_first[:4])
    return f"{counted(len(shapes), 'shape')}: {shown}" + (", ..." if len(shapes) > 4 else "")


def _series(values: Iterable[int]) -> str:
    numbers = list(values)
    return ", ".join(map(str, numbers[:_MOST_ROWS])) + (", ..." if len(numbers) > _MOST_ROWS else "")


def _rows(rows: list[tuple[str, str]], width: int) -> Iterator[str]:
    shown = [(tail(name, width // 2), text) for name, text in rows[:_MOST_ROWS]]
    widest = max(len(name) for name, _ in shown)
    for name, text in shown:
        yield from wrapped(f"  {name.ljust(widest)}  ", text, width)
    if len(rows) > _MOST_ROWS:
        yield f"  and {len(rows) - _MOST_ROWS:,} more"


def _status(audit: Audit, paint: Paint, width: int) -> Iterator[str]:
    code = "" if audit.exit_code is None else f", exit code {audit.exit_code}"
    steps = counted(len(audit.report.steps), "step")
    text = f"{ENDED[audit.status]}{code}; what is above is from {steps}."
    for line in wrapped("Status: ", text, width):
        yield paint(BOLD if audit.status == "stopped" else RED, line)
