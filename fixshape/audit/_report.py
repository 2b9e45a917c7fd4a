"""What a recording says: counts per step, events, and verbs to ask them. Torch-free, plain data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Literal, TypeVar

from fixshape._check import check_choice

Phase = Literal["forward", "backward", "optimizer"]
Kind = Literal["compile", "dynamic", "sync", "input"]
PHASES: tuple[Phase, ...] = ("forward", "backward", "optimizer")
WARM_UP = 2  # steps: the second has the optimiser's first update behind it
KINDS: tuple[Kind, ...] = ("compile", "dynamic", "sync", "input")
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
        kind: ``"compile"`` (first launch of a key), ``"dynamic"`` (the output shape depended on tensor values), ``"sync"`` (the
            host waited for a value) or ``"input"`` (a tensor came into the step with another shape than before).
        op: the operator overload, ``"aten.add.Tensor"``; ``"Tensor.tolist"``, ``"Tensor.numpy"`` or ``"Tensor.cpu"`` of a read on
            the host that is no op; ``""`` of an input.
        phase: ``"forward"``, ``"backward"`` or ``"optimizer"``.
        site: innermost line outside torch and the standard library; ``None`` where no Python was running. An op of the backward
            pass has the line of its forward op, or its own where Python computes the gradient. Of an input: as ``caller``.
        caller: innermost line outside torchvision and fixshape too.
        module: path of the running module as the outermost running one names it, ``"roi_heads.box_head.fc6"``; the class of the
            outermost one itself; ``""`` where none ran. An op of the backward pass has the module of its forward op.
        node: autograd's name of the node that ran an op of the backward pass of which no forward line is known (gradients that
            are accumulated, a forward pass before the recording): its lines are then those of ``loss.backward()``, on a device
            whose backward pass runs in another thread ``None``.
    """

    kind: Kind
    op: str
    phase: Phase
    site: Location | None = None
    caller: Location | None = None
    module: str = ""
    node: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpEvent(Origin):
    """One op compile, dynamic-shape op, host sync or input of another shape.

    Args:
        shapes: dtype and shape of each tensor that went in, ``("f32[4, 3]", "i64[7]")``; a list of tensors is one text.
        arguments: the other arguments of the key in order, ``("1", "keepdim=True")``; floats, being no part of it, are left out.
        step: index of the step, from 0.
        cause: of an op compile: the dynamic op or the varying input that its shapes descend from, where one is known.

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
    cause: Origin | None = None

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
        syncs: ops and reads that make the host wait for a value; what a dynamic-shape op waits for is in ``dynamic`` only.
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
        causes: of each dynamic op and each varying input that op compiles after the warm-up follow from, how many do: from the
            third step on, each under one cause, the first in its step that a shape of the compile descends from. Shapes are
            followed from tensor to tensor; a size that Python reads (``len(x)``, ``.item()``) and makes a tensor with is not.
        graphs: compiles of each step by a device that compiles graphs, as :func:`fixshape.audit.predict` says; ``()`` unless
            lines were recorded.
        pieces: compiles of each step by ``torch.compile``, likewise.

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
    causes: Mapping[Origin, int] = field(default_factory=dict)
    graphs: tuple[int, ...] = ()
    pieces: tuple[int, ...] = ()

    def total(self) -> StepCounts:
        """All steps together."""
        return reduce(StepCounts.__add__, self.steps, StepCounts())

    def by_operator(self, kind: Kind = "compile") -> Counter[str]:
        """How many events of a kind each operator had.

        Args:
            kind: ``"compile"``, ``"dynamic"``, ``"sync"`` or ``"input"``.

        Raises:
            ShapeError: ``kind`` is none of them.
        """
        return self._by("by_operator", kind, lambda origin: origin.op)

    def by_site(self, kind: Kind = "compile") -> Counter[Location | None]:
        """How many events of a kind each line outside torch had; libraries count as lines. Arguments as :meth:`by_operator`.

        Raises:
            ShapeError: ``kind`` is none of the four.
        """
        return self._by("by_site", kind, lambda origin: origin.site)

    def by_caller(self, kind: Kind = "compile") -> Counter[Location | None]:
        """How many events of a kind each line of the user's own code had. Arguments as :meth:`by_operator`.

        Raises:
            ShapeError: ``kind`` is none of the four.
        """
        return self._by("by_caller", kind, lambda origin: origin.caller)

    def _by(self, verb: str, kind: Kind, key: Callable[[Origin], _Key]) -> Counter[_Key]:
        check_choice(f"AuditReport.{verb}", "kind", kind, KINDS)
        counts: Counter[_Key] = Counter()
        for origin, number in self.origins.items():
            if origin.kind == kind:
                counts[key(origin)] += number
        return counts
