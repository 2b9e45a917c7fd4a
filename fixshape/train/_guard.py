"""Nothing compiles after the warm-up: who says so, and what is said when something does."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from fixshape._check import check_choice
from fixshape.errors import FixshapeWarning, ShapeDriftError
from fixshape.train._meter import Compiles, Meter
from fixshape.train._records import StepRecord


class CompileGuard:
    """Warns or raises when something compiles after the warm-up, the first two steps in each (phase, bucket).

    It is given to :func:`fixshape.watch` or :func:`fixshape.fit`, which count. Where the device counts its own graph compiles
    (XLA) these are what it goes by; elsewhere op compiles are predicted at every step by :class:`fixshape.OpRecorder`, which
    makes a step about a quarter slower.

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
        self._meter: Meter | None = None

    @contextmanager
    def pause(self) -> Iterator[None]:
        """What runs inside may compile: an evaluation in the middle of an epoch, a saved picture. Enter it between two steps' work.

        Outside of a watched loop it does nothing.
        """
        if self._meter is None:
            yield
            return
        with self._meter.suspended():
            yield

    def attach(self, meter: Meter | None) -> None:
        """Called by the loop that counts; ``None`` when it ends."""
        self._meter = meter

    def check(self, record: StepRecord, compiles: Compiles, loop: str) -> None:
        """Judges a finished step. Called by the loop that counts.

        Args:
            record: of the step.
            compiles: what compiled in it.
            loop: file and line of the loop, named where the device does not name what it compiled.

        Raises:
            ShapeDriftError: something compiled after the warm-up, and the action is ``"error"``.
        """
        if record.in_warmup or record.compiles == 0:
            return
        message = _message(record, compiles, loop)
        self.drift.append(message)
        if self.action == "error":
            raise ShapeDriftError(message)
        warnings.warn(message, FixshapeWarning, stacklevel=4)


def _message(record: StepRecord, compiles: Compiles, loop: str) -> str:
    where = f"CompileGuard: step {record.index} ({record.phase}, {record.shapes})"
    if compiles.graphs:
        found = f"{compiles.graphs} graph compile{'s' * (compiles.graphs > 1)}"
    else:
        found = f"{compiles.ops} op compile{'s' * (compiles.ops != 1)}"
    if compiles.events:
        first = compiles.events[0]
        names = f"the first of them {first.op} on {', '.join(first.shapes) or 'no tensor'} ({first.phase}) at {first.caller}"
        way_out = "Its shapes are new at this step: pad what varies, or call CompileGuard.pause() around what may compile."
    else:
        names = f"in the loop at {loop}"
        way_out = "The device does not name the op: watch(..., predict=True) does."
    return f"{where} compiled after the warm-up: {found}, {names}. {way_out}"
