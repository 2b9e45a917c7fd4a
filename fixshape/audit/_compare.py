"""What has changed between two audits: before and after a rewrite, or a baseline and now? Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from fixshape._check import check_at_least
from fixshape.audit._chart import bars
from fixshape.audit._finding import Audit, Finding
from fixshape.audit._headline import after_warm_up, headline, number, rate, saving
from fixshape.audit._html import document, legend, table
from fixshape.audit._identity import identities
from fixshape.audit._text import BOLD, GREEN, NARROWEST, RED, Paint, clean, finding_lines, named, tail, where, wrapped

_PREDICTED = "Compiles a step after the warm-up, predicted for each backend"
Row = tuple[str, str, str, str, str]


@dataclass(frozen=True, slots=True)
class Change:
    """One finding of both audits that happens more or less often a step, or that another number of compiles follows from."""

    before: Finding
    after: Finding


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two audits, finding by finding.

    Args:
        commands: what was audited, before and after.
        before: op compiles of each step, before.
        after: op compiles of each step, after.
        gone: findings of the first that the second does not have, in its order.
        new: findings of the second that the first does not have, in its order.
        changed: findings of both whose count a step or whose compiles a step differ, in the order of the second.
        kept: how many findings are in both as they were.
        predicted: for each backend that either has, its compiles of each step, before and after; ``()`` where it has none.
    """

    commands: tuple[str, str]
    before: tuple[int, ...]
    after: tuple[int, ...]
    gone: tuple[Finding, ...]
    new: tuple[Finding, ...]
    changed: tuple[Change, ...]
    kept: int
    predicted: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)


def compare(before: Audit, after: Audit) -> Comparison:
    """Which findings are gone, new or changed, and the compiles of each step before and after.

    A finding is the same one where its rule, op, phase, module, and the file names and functions of its lines agree: lines may
    have moved. A function that was renamed is one finding gone and one new.

    Args:
        before: the first audit, the baseline.
        after: the second audit.

    Returns:
        The difference. Numbers are compared a step, so that the two may have recorded different numbers of steps.

    Example:
        >>> from fixshape.audit._report import AuditReport
        >>> empty = AuditReport((), (), {}, {})
        >>> found = Audit(report=empty, findings=(Finding(code="FS101", op="aten.nonzero.default", phase="forward"),))
        >>> difference = compare(found, Audit(report=empty))
        >>> len(difference.gone), len(difference.new)
        (1, 0)
    """
    first = dict(zip(identities(before.findings), before.findings, strict=True))
    second = dict(zip(identities(after.findings), after.findings, strict=True))
    steps = len(before.report.steps), len(after.report.steps)
    both = [Change(first[identity], finding) for identity, finding in second.items() if identity in first]
    changed = [pair for pair in both if _differs(pair, steps)]
    return Comparison(
        commands=(before.command, after.command),
        before=headline(before).compiles,
        after=headline(after).compiles,
        gone=tuple(finding for identity, finding in first.items() if identity not in second),
        new=tuple(finding for identity, finding in second.items() if identity not in first),
        changed=tuple(changed),
        kept=len(both) - len(changed),
        predicted={
            backend: (before.predicted.get(backend, ()), after.predicted.get(backend, ()))
            for backend in dict.fromkeys((*before.predicted, *after.predicted))
        },
    )


def comparison_text(comparison: Comparison, *, colour: bool = False, width: int = 100) -> str:
    """A comparison for a terminal: compiles a step before and after, then what is new, changed and gone.

    Args:
        comparison: what to tell.
        colour: whether ANSI colours may be used.
        width: columns of the terminal; at least 40.

    Returns:
        Lines, the last one with its newline.

    Raises:
        ShapeError: ``width`` is below 40.

    Example:
        >>> same = Comparison(commands=("a.py", "b.py"), before=(9, 1, 4), after=(9, 0, 0), gone=(), new=(), changed=(), kept=2)
        >>> print(comparison_text(same), end="")
        Op compiles a step after the warm-up: 4 before, 0 after
          before  a.py: 9, 1, 4
          after   b.py: 9, 0, 0
        Findings: 0 gone, 0 new, 0 changed, 2 as they were
    """
    check_at_least("comparison_text", "width", width, NARROWEST)
    paint = Paint(colour)
    lines = [paint(BOLD, _sentence(comparison))]
    for name, command, compiles in zip(
        ("before", "after"), comparison.commands, (comparison.before, comparison.after), strict=True
    ):
        lines += wrapped(f"  {name.ljust(6)}  ", f"{command or 'audit'}: {', '.join(map(str, compiles)) or 'no step'}", width)
    if comparison.predicted:
        lines.append(paint(BOLD, _PREDICTED))
        widest = max(len(clean(backend)) for backend in comparison.predicted)
        for backend, first, second in _predicted(comparison):
            lines += wrapped(f"  {clean(backend).ljust(widest)}  ", f"{first} before, {second} after", width)
    lines.append(paint(BOLD, _counts(comparison)))
    if comparison.new:
        lines += ["", paint(RED, "New")]
        for finding in comparison.new:
            lines += finding_lines(finding, len(comparison.after), paint, width)
    for title, look, rows in (("Changed", BOLD, _changed(comparison)), ("Gone", GREEN, _gone(comparison))):
        if rows:
            lines += ["", paint(look, title), *map("  ".join, _aligned(rows, width))]
    return "\n".join(lines) + "\n"


def comparison_html(comparison: Comparison) -> str:
    """A comparison as one HTML page with a chart of both; it loads nothing and needs no script.

    Args:
        comparison: what to tell.

    Returns:
        The page.

    Example:
        >>> same = Comparison(commands=("a.py", "b.py"), before=(9, 1, 4), after=(9, 0, 0), gone=(), new=(), changed=(), kept=2)
        >>> comparison_html(same).count("<rect")
        4
    """
    names = [f"{when}: {command}" for when, command in zip(("before", "after"), comparison.commands, strict=True)]
    series = [("before", "two", comparison.before), ("after", "one", comparison.after)]
    parts = [
        "<h1>Before and after</h1>",
        f'<p class="big">{escape(_sentence(comparison))}</p>',
        f"<p>{escape(_counts(comparison))}</p>",
        "<h2>Op compiles of each step</h2>",
        bars("Op compiles of each step, before and after", series, stacked=False),
        legend(zip(names, ("two", "one"), strict=True)),
    ]
    if comparison.predicted:
        parts += [f"<h2>{_PREDICTED}</h2>", table(("backend", "before", "after"), _predicted(comparison))]
    new = [_row(finding, len(comparison.after)) for finding in comparison.new]
    for title, rows in (("New", new), ("Changed", _changed(comparison)), ("Gone", _gone(comparison))):
        if rows:
            parts += [f"<h2>{title}</h2>", table(("rule", "operator", "line", "how often", "compiles a step"), rows)]
    return document("fixshape audit: before and after", "\n".join(parts))


def _predicted(comparison: Comparison) -> list[tuple[str, str, str]]:
    return [(backend, _a_step(before), _a_step(after)) for backend, (before, after) in comparison.predicted.items()]


def _gone(comparison: Comparison) -> list[Row]:
    return [_row(finding, len(comparison.before)) for finding in comparison.gone]


def _changed(comparison: Comparison) -> list[Row]:
    rows = []
    for change in comparison.changed:
        first, second = _row(change.before, len(comparison.before)), _row(change.after, len(comparison.after))
        often, saved = (old if old == new else f"{old} -> {new}" for old, new in zip(first[3:], second[3:], strict=True))
        rows.append((*second[:3], often, saved))
    return rows


def _row(finding: Finding, steps: int) -> Row:
    place = finding.site or finding.caller
    return finding.code, named(finding), where(place) if place else "", rate(finding, steps), number(saving(finding, steps))


def _aligned(rows: Sequence[Row], width: int) -> Iterator[list[str]]:
    """Rows for a terminal, with their columns at one place; the line of source is shortened to what is left."""
    texts = [[clean(code), clean(op), place, often, f"{saved} compiles a step"] for code, op, place, often, saved in rows]
    widths = [max(len(row[column]) for row in texts) for column in range(5)]
    widths[2] = min(max(width - sum(widths) + widths[2] - 10, 20), max(len(clean(row[2])) for row in texts))
    for row in texts:
        row[2] = tail(row[2], widths[2])
        yield ["", *(text.ljust(wide) for text, wide in zip(row[:-1], widths, strict=False)), row[-1]]


def _differs(change: Change, steps: tuple[int, int]) -> bool:
    often = change.before.count * max(steps[1], 1) != change.after.count * max(steps[0], 1)
    return often or saving(change.before, steps[0]) != saving(change.after, steps[1])


def _sentence(comparison: Comparison) -> str:
    before, after = (_a_step(compiles) for compiles in (comparison.before, comparison.after))
    return f"Op compiles a step after the warm-up: {before} before, {after} after"


def _a_step(compiles: Sequence[int]) -> str:
    found = after_warm_up(compiles)
    return "none recorded" if found is None else number(found)


def _counts(comparison: Comparison) -> str:
    gone, new, changed = len(comparison.gone), len(comparison.new), len(comparison.changed)
    return f"Findings: {gone:,} gone, {new:,} new, {changed:,} changed, {comparison.kept:,} as they were"
