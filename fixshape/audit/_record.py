"""What has been recorded so far: counts, keys and events, kept apart from the mode that sees the ops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fixshape.audit._frames import Frames, Place
from fixshape.audit._key import describe
from fixshape.audit._operator import Operator, classify
from fixshape.audit._report import KINDS, PHASES, AuditReport, Kind, OpEvent, Origin, PhaseCounts, StepCounts

LAUNCHES, COMPILES, DYNAMIC, SYNCS = range(4)
MOST_EVENTS = 10_000  # of each kind: about 90 steps of torchvision's own SSDlite, and a few MB


class Record:
    """Counts of the open step as lists of ints (phase, then what), as they rise at every launch; all else as reported."""

    def __init__(self) -> None:
        self.frames = Frames()
        self.operators: dict[Any, tuple[Operator, set[tuple[Any, ...]]]] = {}
        self.open_counts = _zeros()
        self.launches = 0
        self.compiles = 0
        self.open_compiles: list[OpEvent] = []
        self._steps: list[StepCounts] = []
        self._distinct: dict[StepCounts, StepCounts] = {}  # steady steps are one object, however many they are
        self._events: list[OpEvent] = []
        self._kept: Counter[Kind] = Counter()
        self._left_out: Counter[Kind] = Counter()
        self._origins: Counter[Origin] = Counter()

    def meet(self, func: Any) -> tuple[Operator, set[tuple[Any, ...]]]:
        """The operator of an overload that is seen for the first time, and its keys."""
        entry = self.operators[func] = (classify(func), set())
        return entry

    def note(
        self,
        kinds: Sequence[Kind],
        name: str,
        phase: int,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        place: Place,
        cause: Origin | None = None,
    ) -> None:
        """Takes down that one op did what ``kinds`` say."""
        shapes, arguments = describe(args, kwargs)
        site, caller, module, node = place
        for kind in kinds:
            event = OpEvent(
                kind=kind,
                op=name,
                phase=PHASES[phase],
                site=site,
                caller=caller,
                module=module,
                node=node,
                shapes=shapes,
                arguments=arguments,
                step=self.step,
                cause=cause if kind == "compile" else None,
            )
            self._origins[origin_of(event)] += 1
            self._keep(event)

    def note_input(self, origin: Origin, tensor: Any) -> None:
        """Takes down that a tensor came in with another shape."""
        shapes, _ = describe((tensor,), {})
        self._origins[origin] += 1
        self._keep(
            OpEvent(kind="input", op="", phase="forward", site=origin.site, caller=origin.caller, shapes=shapes, step=self.step)
        )

    @property
    def step(self) -> int:
        """Index of the open step."""
        return len(self._steps)

    def close_step(self) -> None:
        counts = self.open_step()
        self._steps.append(self._distinct.setdefault(counts, counts))
        self.open_counts[:] = _zeros()
        self.open_compiles = []
        self.frames.modules.forget()

    def open_step(self) -> StepCounts:
        return StepCounts(*(PhaseCounts(*row) for row in self.open_counts))

    def report(self) -> AuditReport:
        steps = list(self._steps)
        rest = self.open_step()
        if rest != StepCounts():
            steps.append(rest)
        left_out = {kind: self._left_out[kind] for kind in KINDS}
        return AuditReport(tuple(steps), tuple(self._events), left_out, dict(self._origins))

    def _keep(self, event: OpEvent) -> None:
        if event.kind == "compile" and len(self.open_compiles) < MOST_EVENTS:
            self.open_compiles.append(event)
        if self._kept[event.kind] < MOST_EVENTS:
            self._kept[event.kind] += 1
            self._events.append(event)
        else:
            self._left_out[event.kind] += 1


def origin_of(event: OpEvent) -> Origin:
    """What the event has in common with others of its place."""
    return Origin(
        kind=event.kind,
        op=event.op,
        phase=event.phase,
        site=event.site,
        caller=event.caller,
        module=event.module,
        node=event.node,
    )


def _zeros() -> list[list[int]]:
    return [[0, 0, 0, 0] for _ in PHASES]
