"""What do the audits of the ranks of one job say together? Torch-free."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from itertools import zip_longest
from typing import TypeVar

from fixshape.audit._finding import Audit, Finding, Status
from fixshape.audit._report import KINDS, AuditReport, OpEvent, StepCounts
from fixshape.errors import ShapeError

_Key = TypeVar("_Key", bound=Hashable)
_WORST_FIRST: tuple[Status, ...] = ("raised", "terminated", "interrupted", "running", "exited", "stopped", "finished")
_MOST_EVENTS = 10_000  # of each kind, as in the recording of one rank


def merge(audits: Sequence[Audit]) -> Audit:
    """One audit of all ranks of a distributed job.

    Counts are sums over the ranks, step by step: each rank has a device, and each device compiles for itself. A finding is the
    same one where all but its numbers and shapes agree; ``steps`` of a finding is that of the rank that had it most often.

    Args:
        audits: one of each rank, in the order of ranks; command and versions are the first one's.

    Returns:
        The audit, with the worst status among them and the exit code that goes with it.

    Raises:
        ShapeError: there are none.

    Example:
        >>> from fixshape.audit import Audit, AuditReport, PhaseCounts, StepCounts, merge
        >>> steps = (StepCounts(PhaseCounts(launches=9, compiles=4)), StepCounts(PhaseCounts(launches=9)))
        >>> one = Audit(report=AuditReport(steps, (), {}, {}))
        >>> [step.compiles for step in merge([one, one]).report.steps]
        [8, 0]
    """
    if not audits:
        raise ShapeError("merge: audits is empty, expected one audit of each rank.")
    worst = min(audits, key=lambda audit: _WORST_FIRST.index(audit.status))
    inputs: dict[str, Counter[str]] = {}
    for audit in audits:
        for key, shapes in audit.inputs.items():
            inputs.setdefault(key, Counter()).update(shapes)
    devices = dict.fromkeys(name for audit in audits for name in audit.predicted)
    return replace(
        audits[0],
        report=_reports([audit.report for audit in audits]),
        findings=_findings(audits),
        unknown=_sum(audit.unknown for audit in audits),
        predicted={name: _by_step(audit.predicted.get(name, ()) for audit in audits) for name in devices},
        inputs={key: dict(shapes.most_common()) for key, shapes in inputs.items()},
        status=worst.status,
        exit_code=worst.exit_code,
    )


def _reports(reports: Sequence[AuditReport]) -> AuditReport:
    steps = zip_longest(*(report.steps for report in reports), fillvalue=StepCounts())
    events = sorted((event for report in reports for event in report.events), key=lambda event: event.step)
    kept, left_out = _bounded(events)
    # All that a recording counts by a key, whatever its name, is added.
    counted = {
        field.name: _sum(getattr(report, field.name) for report in reports)
        for field in fields(AuditReport)
        if isinstance(getattr(reports[0], field.name), Mapping)
    }
    counted["left_out"] = {kind: counted["left_out"].get(kind, 0) + left_out[kind] for kind in KINDS}
    return replace(
        reports[0],
        steps=tuple(sum(row, StepCounts()) for row in steps),
        events=kept,
        graphs=_by_step(report.graphs for report in reports),
        pieces=_by_step(report.pieces for report in reports),
        **counted,
    )


def _bounded(events: Sequence[OpEvent]) -> tuple[tuple[OpEvent, ...], Counter[str]]:
    seen: Counter[str] = Counter()
    kept = []
    for event in events:
        seen[event.kind] += 1
        if seen[event.kind] <= _MOST_EVENTS:
            kept.append(event)
    return tuple(kept), Counter({kind: max(number - _MOST_EVENTS, 0) for kind, number in seen.items()})


def _findings(audits: Sequence[Audit]) -> tuple[Finding, ...]:
    found: dict[Finding, list[Finding]] = {}
    for audit in audits:
        for finding in audit.findings:
            found.setdefault(replace(finding, count=0, steps=0, compiles=0, shapes=()), []).append(finding)
    merged = [
        replace(
            same[0],
            count=sum(finding.count for finding in same),
            steps=max(finding.steps for finding in same),
            compiles=sum(finding.compiles for finding in same),
        )
        for same in found.values()
    ]
    return tuple(sorted(merged, key=lambda finding: -finding.compiles))


def _by_step(rows: Iterable[Sequence[int]]) -> tuple[int, ...]:
    return tuple(map(sum, zip_longest(*rows, fillvalue=0)))


def _sum(counts: Iterable[Mapping[_Key, int]]) -> dict[_Key, int]:
    total: Counter[_Key] = Counter()
    for one in counts:
        total.update(one)
    return dict(total)
