"""What of all that was recorded is worth mending, and what would it save? The rules, applied to a report."""

from __future__ import annotations

import ast
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import fixshape
from fixshape.audit._finding import Finding
from fixshape.audit._report import WARM_UP, AuditReport, Location, OpEvent, Origin, Phase
from fixshape.audit._rules import DRAWS, called, code_of, device_code, standing
from fixshape.audit._source import enclosing, read_line
from fixshape.audit._suggest import suggest

_SIZED = frozenset(
    {"arange", "range", "zeros", "ones", "full", "empty", "rand", "randn", "narrow", "split", "expand", "new_zeros"}
)
_OWN = os.path.dirname(fixshape.__file__) + os.sep


@dataclass(frozen=True, slots=True)
class _Place:
    """What the events of one finding have in common, but for the code."""

    op: str
    phase: Phase
    site: Location | None
    caller: Location | None


@dataclass(slots=True)
class _Tally:
    count: int = 0
    compiles: int = 0
    steps: set[int] = field(default_factory=set)
    shapes: tuple[str, ...] = ()
    module: str = ""

    def see(self, event: OpEvent) -> None:
        if not self.steps:
            self.shapes, self.module = event.shapes, event.module
        self.steps.add(event.step)


_Groups = defaultdict[tuple[str, _Place], _Tally]
_Codes = dict[tuple[str, _Place], str | None]


def judge(report: AuditReport) -> tuple[tuple[Finding, ...], Mapping[str, int]]:
    """The findings of a report, and the operators in it that no rule knows.

    A finding stands for all events of one code, operator, line and phase. Those whose mending saves most compiles come first,
    then those that happen most. What the report's list of events left out is missing in ``steps``, and where compiles are judged
    one by one: in FS109, FS203, FS301, FS303 and FS4xx. All other counts are exact.

    Source files that the events name are read, for the names in a suggestion, for what follows from a value that Python read
    (FS203) and for calls of ``one_hot`` (FS108); without them the findings are more general.

    Args:
        report: a recording. Compiles after its second step are drift.

    Returns:
        The findings, and for each unknown operator how often it was seen to compile, to be dynamic or to sync, whichever is most.

    Example:
        >>> import torch
        >>> from fixshape.audit import OpRecorder
        >>> recorder = OpRecorder()
        >>> with recorder:
        ...     _ = torch.tensor([0.0, 1.0]).nonzero()
        >>> findings, unknown = judge(recorder.report())
        >>> [(finding.code, finding.op, finding.count) for finding in findings], unknown
        ([('FS101', 'aten.nonzero.default', 1)], {})
    """
    groups: _Groups = defaultdict(_Tally)
    codes: _Codes = {}
    for origin, count in report.origins.items():
        if origin.kind != "compile" and (code := _code(origin, codes)):
            groups[code, _place(origin)].count += count
    for event in report.events:
        if event.kind != "compile" and (code := _code(event, codes)):
            groups[code, _place(event)].see(event)
    compiles = [event for event in report.events if event.kind == "compile"]
    _judge_device(groups, compiles)
    _judge_drift(groups, compiles)
    for cause, number in report.causes.items():
        if code := _code(cause, codes):
            groups[code, _place(cause)].compiles += number
    if len(report.steps) > WARM_UP:
        _drop_inputs_that_cost_nothing(groups)
    findings = [_finding(code, place, tally) for (code, place), tally in groups.items()]
    return tuple(sorted(findings, key=_rank)), _unknown(report, codes)


def _code(origin: Origin, codes: _Codes) -> str | None:
    """The code of what is no compile: the rules look at the source, hence once for each place."""
    key = (origin.kind, _place(origin))
    if key not in codes:
        codes[key] = code_of(origin)
    return codes[key]


def _place(origin: Origin) -> _Place:
    return _Place(origin.op, origin.phase, origin.site, origin.caller)


def _judge_device(groups: _Groups, compiles: Iterable[OpEvent]) -> None:
    """FS4xx. An op is seen once for each of its keys; fixshape's own take another form on another device."""
    for event in compiles:
        code = device_code(event.op, event.shapes)
        if code and not (code == "FS402" and event.site and event.site.file.startswith(_OWN)):
            tally = groups[code, _place(event)]
            tally.count += 1
            tally.see(event)


def _judge_drift(groups: _Groups, compiles: list[OpEvent]) -> None:
    """FS109, FS203, FS301 and FS303, but for compiles whose cause is known: that is where those are told."""
    taken = {place: tally for (code, place), tally in groups.items() if code.startswith(("FS1", "FS2"))}
    reads = _lines_of_reads(groups)
    first: dict[_Place, int] = {}
    met: defaultdict[tuple[_Place, tuple[str, ...]], set[tuple[str, ...]]] = defaultdict(set)  # arguments, for each set of shapes
    for event in compiles:
        place, code = _place(event), ""
        if first.setdefault(place, event.step) < event.step:
            if event.op in DRAWS:
                code = "FS109"
            elif event.cause is None and _follows(event, reads):
                code = "FS203"
        drifts = event.step >= WARM_UP and event.cause is None
        if place in taken:
            taken[place].compiles += drifts
            continue
        arguments = met[place, event.shapes]
        if not code and drifts:
            code = "FS303" if arguments - {event.arguments} else "FS301"
        arguments.add(event.arguments)
        if code:
            tally = groups[code, place]
            tally.count += 1
            tally.compiles += drifts
            tally.see(event)


def _lines_of_reads(groups: _Groups) -> dict[str, list[Location]]:
    """For each file the lines at which the host reads a value."""
    reads: defaultdict[str, list[Location]] = defaultdict(list)
    for code, place in groups:
        if code in ("FS201", "FS202") and place.site:
            reads[place.site.file].append(place.site)
    return reads


def _follows(event: OpEvent, reads: Mapping[str, list[Location]]) -> bool:
    """Whether the line slices or sizes by a name that got a value read on the host in the same function."""
    site = event.site
    here = [read for read in reads.get(site.file, ()) if read.function == site.function] if site else []
    line = read_line(site) if here else None
    if line is None or not here:
        return False
    lengths = [part for node in line.nodes for part in _lengths(node)]
    used = {node.id for part in lengths for node in ast.walk(part) if isinstance(node, ast.Name)}
    if any(read == site for read in here) and lengths:
        return True
    return bool(used & {name for read in here for name in _assigned(read)})


def _lengths(node: ast.expr) -> Sequence[ast.expr]:
    """The bounds of a slice, or the arguments of a call that makes something of a size."""
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice):
        return [bound for bound in (node.slice.lower, node.slice.upper) if bound is not None]
    return node.args if isinstance(node, ast.Call) and called(node) in _SIZED else ()


def _assigned(read: Location) -> set[str]:
    statements = enclosing(read, ast.stmt)  # the innermost: an assignment, or the loop that has ``counts.tolist()`` in its head
    targets = (
        target
        for statement in statements[-1:]
        for target in (statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)])
        if target is not None
    )
    return {node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)}


def _drop_inputs_that_cost_nothing(groups: _Groups) -> None:
    """Buckets are inputs of several shapes, and all is well where nothing compiles for them after the warm-up."""
    for key in [key for key, tally in groups.items() if key[0] == "FS302" and not tally.compiles]:
        del groups[key]


def _finding(code: str, place: _Place, tally: _Tally) -> Finding:
    return Finding(
        code=code,
        op=place.op,
        phase=place.phase,
        site=place.site,
        caller=place.caller,
        module=tally.module,
        count=tally.count,
        steps=max(1, len(tally.steps)),
        compiles=tally.compiles,
        shapes=tally.shapes,
        suggestion=suggest(code, place.site, place.caller, tally.shapes),
    )


def _rank(finding: Finding) -> tuple[int, int, str, str, int, str, str]:
    site = finding.site or Location("", 0)
    return -finding.compiles, -finding.count, finding.code, site.file, site.line, finding.op, finding.phase


def _unknown(report: AuditReport, codes: _Codes) -> dict[str, int]:
    seen: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for origin, count in report.origins.items():
        if standing(origin.op) == "unknown" or (origin.kind != "compile" and _code(origin, codes) is None):
            seen[origin.op][origin.kind] += count
    return {op: max(kinds.values()) for op, kinds in sorted(seen.items())}
