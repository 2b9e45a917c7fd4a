"""What a recording says: counts per step, events, and verbs to ask them. Torch-free, plain data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Literal, TypeVar

from fixshape._check import check_choice

Phase = Literal["forward", "backward", "optimizer"]
Kind = Literal["compile", "dynamic", "sync"]
PHASES: tuple[Phase, ...] = ("forward", "backward", "optimizer")
KINDS: tuple[Kind, ...] = ("compile", "dynamic", "sync")
_Key = TypeVar("_Key")


@dataclass(frozen=True, slots=True)
class Location:
    """A line of Python.

    Args:
        file: path of the source file, as Python knows it.
        line: line number, from 1.
        function: qualified name of the function that holds the line.

    Example:
        >>> str(Location("train.py", 12, "main"))
        'train.py:12'
    """

    file: str
    line: int
    function: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Which op did what, and where: all that an event has but its shapes and its step.

    Args:
        kind: ``"compile"`` (first launch of a key), ``"dynamic"`` (the output shape depended on tensor values) or ``"sync"``
            (the host waited for a value).
        op: the operator overload, ``"aten.add.Tensor"``.
        phase: ``"forward"``, ``"backward"`` or ``"optimizer"``.
        site: innermost line outside torch and the standard library; ``None`` where no Python was running.
        caller: innermost line outside torchvision and fixshape too. For an op of the backward pass both are the line that
            started it (``loss.backward()``), on a device whose backward pass runs in another thread ``None``.
    """

    kind: Kind
    op: str
    phase: Phase
    site: Location | None = None
    caller: Location | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpEvent(Origin):
    """One op compile, dynamic-shape op or host sync.

    Args:
        shapes: dtype and shape of each tensor that went in, ``("f32[4, 3]", "i64[7]")``; a list of tensors is one text.
        arguments: the other arguments of the key in order, ``("1", "keepdim=True")``; floats, being no part of it, are left out.
        step: index of the step, from 0.

    Example:
        >>> str(OpEvent(kind="compile", op="aten.sum.dim_IntList", phase="forward", shapes=("f32[4, 3]",), arguments=("[1]",)))
        'aten.sum.dim_IntList(f32[4, 3], [1])'
        >>> here = Location("train.py", 12)
        >>> str(OpEvent(kind="dynamic", op="aten.nonzero.default", phase="forward", shapes=("bool[9]",), caller=here))
        'aten.nonzero.default(bool[9]) at train.py:12'
    """

    shapes: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    step: int = 0

    def __str__(self) -> str:
        call = f"{self.op}({', '.join(self.shapes + self.arguments)})"
        return f"{call} at {self.caller}" if self.caller else call


@dataclass(frozen=True, slots=True)
class PhaseCounts:
    """What one phase of one step did.

    Args:
        launches: ops that do work on data; views, allocations and size queries do none.
        compiles: launches of a key that had not been seen before.
        dynamic: ops whose output shape depended on tensor values.
        syncs: ops that made the host wait for a value; what a dynamic-shape op waits for is in ``dynamic`` only.
    """

    launches: int = 0
    compiles: int = 0
    dynamic: int = 0
    syncs: int = 0

    def __add__(self, other: PhaseCounts) -> PhaseCounts:
        return PhaseCounts(
            self.launches + other.launches,
            self.compiles + other.compiles,
            self.dynamic + other.dynamic,
            self.syncs + other.syncs,
        )


@dataclass(frozen=True, slots=True)
class StepCounts:
    """What one step did, phase by phase; ``launches``, ``compiles``, ``dynamic`` and ``syncs`` are the sums.

    Args:
        forward: all that is in neither of the others: ``zero_grad`` too, and the gradient of 1 that ``backward()`` starts from.
        backward: while autograd runs, so a checkpointed forward that is run again is here.
        optimizer: inside an optimiser's ``step``; a closure that it calls counts as forward and backward.

    Example:
        >>> counts = StepCounts(forward=PhaseCounts(launches=10, compiles=2), backward=PhaseCounts(launches=20))
        >>> counts.launches, counts.compiles, counts.backward.compiles
        (30, 2, 0)
    """

    forward: PhaseCounts = PhaseCounts()
    backward: PhaseCounts = PhaseCounts()
    optimizer: PhaseCounts = PhaseCounts()

    @property
    def total(self) -> PhaseCounts:
        """The three phases together."""
        return self.forward + self.backward + self.optimizer

    @property
    def launches(self) -> int:
        """Ops that did work, in all phases."""
        return self.total.launches

    @property
    def compiles(self) -> int:
        """Op compiles, in all phases."""
        return self.total.compiles

    @property
    def dynamic(self) -> int:
        """Dynamic-shape ops, in all phases."""
        return self.total.dynamic

    @property
    def syncs(self) -> int:
        """Host syncs, in all phases."""
        return self.total.syncs

    def __add__(self, other: StepCounts) -> StepCounts:
        return StepCounts(self.forward + other.forward, self.backward + other.backward, self.optimizer + other.optimizer)


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What a recording saw. Numbers and places, no judgement.

    The counts are exact. The list of events is bounded: ``left_out`` says how many of each kind are counted and not listed.

    Args:
        steps: counts of each step, in order.
        events: the first events of each kind, in order.
        left_out: how many events of each kind are not in ``events``.
        origins: how often each origin occurred, with those that were left out.

    Example:
        >>> origin = Origin(kind="dynamic", op="aten.nonzero.default", phase="forward", site=Location("_utils.py", 412))
        >>> report = AuditReport(steps=(StepCounts(PhaseCounts(5, 2, 3)),), events=(), left_out={}, origins={origin: 3})
        >>> report.total().launches, report.by_operator("dynamic")
        (5, Counter({'aten.nonzero.default': 3}))
    """

    steps: tuple[StepCounts, ...]
    events: tuple[OpEvent, ...]
    left_out: Mapping[Kind, int]
    origins: Mapping[Origin, int]

    def total(self) -> StepCounts:
        """All steps together."""
        return reduce(StepCounts.__add__, self.steps, StepCounts())

    def by_operator(self, kind: Kind = "compile") -> Counter[str]:
        """How many events of a kind each operator had.

        Args:
            kind: ``"compile"``, ``"dynamic"`` or ``"sync"``.

        Raises:
            ShapeError: ``kind`` is none of them.
        """
        return self._by("by_operator", kind, lambda origin: origin.op)

    def by_site(self, kind: Kind = "compile") -> Counter[Location | None]:
        """How many events of a kind each line outside torch had; libraries count as lines. Arguments as :meth:`by_operator`.

        Raises:
            ShapeError: ``kind`` is none of the three.
        """
        return self._by("by_site", kind, lambda origin: origin.site)

    def by_caller(self, kind: Kind = "compile") -> Counter[Location | None]:
        """How many events of a kind each line of the user's own code had. Arguments as :meth:`by_operator`.

        Raises:
            ShapeError: ``kind`` is none of the three.
        """
        return self._by("by_caller", kind, lambda origin: origin.caller)

    def _by(self, verb: str, kind: Kind, key: Callable[[Origin], _Key]) -> Counter[_Key]:
        check_choice(f"AuditReport.{verb}", "kind", kind, KINDS)
        counts: Counter[_Key] = Counter()
        for origin, number in self.origins.items():
            if origin.kind == kind:
                counts[key(origin)] += number
        return counts
