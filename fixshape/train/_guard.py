"""Nothing compiles after the warm-up: who says so, and what is said when something does."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from fixshape._check import check_choice
from fixshape.audit import Location
from fixshape.errors import FixshapeWarning, ShapeDriftError
from fixshape.train._meter import Compiles, Meter
from fixshape.train._records import StepRecord


class CompileGuard:
    """Warns or raises when something compiles after the warm-up, the first two steps in each (phase, bucket).

    It is given to :func:`fixshape.watch` or :func:`fixshape.fit`, which count. Where the device counts its own compiles these are
    what it goes by: of graphs on XLA, of operators in a dry run on an NPU. Elsewhere op compiles are predicted at every step by
    :class:`fixshape.OpRecorder`, which makes a step about a third slower, as it tells the lines.

    It finds compiles in buckets that have been seen before. Where each batch has shapes of its own, each step is a warm-up, and
    there is nothing to find: pad first. An optimiser that first steps in the third batch or later, as with accumulated
    gradients, compiles after the warm-up. A step that is left by ``break`` or an exception is not judged.

    Args:
        action: ``"warn"``, or ``"error"``: raise when the step that compiled has ended.

    Raises:
        ShapeError: ``action`` is neither.

    Example:
        >>> import fixshape, torch
        >>> guard = fixshape.CompileGuard("error")
        >>> weight = torch.ones(3, 2)
        >>> for batch in fixshape.watch([torch.ones(n, 3) for n in (4, 4, 4)], backend="cpu", guard=guard, progress=False):
        ...     _ = batch @ weight
        >>> guard.drift
        []
    """

    def __init__(self, action: Literal["warn", "error"] = "warn") -> None:
        check_choice("CompileGuard", "action", action, ("warn", "error"))
        self.action = action
        self.drift: list[str] = []
        """What was found so far, a message each."""
        self._meters: list[Meter] = []  # of the loops that run, the innermost last

    @contextmanager
    def pause(self) -> Iterator[None]:
        """What runs inside may compile: an evaluation in the middle of an epoch, a saved picture.

        Enter it between forward passes, not inside of one: a lazy device's graph is cut there. Outside of a watched loop it does
        nothing; where loops are nested it is for the inner one.
        """
        if not self._meters:
            yield
            return
        with self._meters[-1].suspended():
            yield

    @contextmanager
    def attached(self, meter: Meter) -> Iterator[None]:
        """Entered by a loop that counts, for as long as it runs."""
        self._meters.append(meter)
        try:
            yield
        finally:
            self._meters.remove(meter)

    def check(self, record: StepRecord, compiles: Compiles, loop: Location) -> None:
        """Judges a finished step. Called by the loop that counts.

        Args:
            record: of the step.
            compiles: what compiled in it.
            loop: the line of the loop: the warning's, and named where the device does not name what it compiled.

        Raises:
            ShapeDriftError: something compiled after the warm-up, and the action is ``"error"``.
        """
        if record.in_warmup or record.compiles == 0:
            return
        message = _message(record, compiles, loop)
        self.drift.append(message)
        if self.action == "error":
            raise ShapeDriftError(message)
        warnings.warn_explicit(message, FixshapeWarning, loop.file, loop.line)


def _message(record: StepRecord, compiles: Compiles, loop: Location) -> str:
    where = f"CompileGuard: step {record.index} ({record.phase}, {record.shapes})"
    if compiles.graphs:
        found = _counted(compiles.graphs, "graph compile")
    elif compiles.native_ops:
        found = f"{_counted(compiles.native_ops, 'op compile')} by the device's own count"
    else:
        found = _counted(record.compiles, "op compile")
    if compiles.events:
        first = compiles.events[0]
        names = f"the first of them {first.op} on {', '.join(first.shapes) or 'no tensor'} ({first.phase}) at {first.caller}"
        way_out = "Its shapes are new at this step: pad what varies, or call CompileGuard.pause() around what may compile."
    else:
        names = f"in the loop at {loop}"
        if compiles.ops is None:
            way_out = "The device does not name the op: watch(..., predict=True) does."
        else:
            way_out = "No op in it is new to the recorder: look for what changes in how they are put together, or in a number."
    return f"{where} compiled after the warm-up: {found}, {names}. {way_out}"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
