"""What is shown of a loop while it runs: how far it is, warm-up or steady, what compiled, how long it will still take."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, MutableMapping
from contextlib import AbstractContextManager, contextmanager
from statistics import fmean
from typing import Any, Literal

from tqdm import tqdm

from fixshape.train._heartbeat import drawing, heartbeat

LONG_STEP = 5.0
"""Seconds after which a running step is spoken of; after the warm-up it must also take thrice as long as they do."""

DRAW_INTERVAL = 0.5
"""Seconds from drawing to drawing: one takes some 400 microseconds of a step that has left the caches to other work."""

State = Literal["warm-up", "steady", "shape drift"]


class StepBar(tqdm):  # type: ignore[type-arg]  # at run time it takes no parameter
    """A bar on stderr over the steps of a loop.

    Args:
        total: steps; 0 where it is not known.
        pace: seconds that the last steady steps took, loading included, to which this bar adds its own. The time that remains
            is told from these alone, and is not shown while there are none.
        shown: whether there is to be a bar at all.
    """

    def __init__(self, total: int, pace: deque[float], *, shown: bool) -> None:
        self._pace = pace
        self._state: State | None = None
        self._compiles: int | None = None
        self._loss: float | None = None
        self._running: tuple[int, float] | None = None  # step, and when it began
        self._verdict: str | None = None
        super().__init__(total=total or None, disable=not shown, unit="step", dynamic_ncols=True, mininterval=DRAW_INTERVAL)

    def heartbeat(self) -> AbstractContextManager[None]:
        """Inside, a long step is spoken of while it runs."""
        return heartbeat(self, self.is_long)

    def step_begins(self, step: int, *, in_warmup: bool, compiles: int | None) -> None:
        """Its batch is handed out. That a warm-up begins is shown at once."""
        if self.disable:
            return
        if in_warmup and self._state != "warm-up":
            self._state, self._compiles = "warm-up", compiles
            self.refresh()
        self._running = step, time.monotonic()

    def step_ends(self, state: State, *, seconds: float, compiles: int | None, loss: float | None) -> None:
        """The next batch is asked for; ``seconds`` after this one was."""
        if self.disable:
            return
        with drawing:  # no beat is drawn from here on
            self._running = None
        self._state, self._compiles, self._loss = state, compiles, loss
        if state == "steady":
            self._pace.append(seconds)
        self.update()

    def conclude(self, verdict: str, *, loss: float | None) -> None:
        """What the bar shows in the end, in place of all but the numbers."""
        self._verdict, self._loss = verdict, loss

    def is_long(self) -> bool:
        """Whether a step is running for so long that somebody may ask what it does."""
        least = LONG_STEP
        if self._state != "warm-up" and self._pace:
            least = max(least, 3 * fmean(self._pace))
        running = self._running
        return running is not None and time.monotonic() - running[1] >= least

    @property
    def format_dict(self) -> MutableMapping[str, Any]:
        """What tqdm formats: with this bar's text, and the pace of the steady steps."""
        shown = super().format_dict
        pace = fmean(self._pace) if self._pace else None
        shown.update(postfix=", ".join(self._parts()), rate=1 / pace if pace else 0.0)
        count = "{n_fmt}/{total_fmt}" if self.total else "{n_fmt}{unit}"
        if self._verdict is not None:
            shown.update(bar_format=f"{count} [{{elapsed}}{{postfix}}]", ncols=None)  # never cut
        elif not pace:
            shown.update(bar_format=f"{'{l_bar}{bar}| ' if self.total else ''}{count} [{{elapsed}}{{postfix}}]")
        return shown

    def _parts(self) -> Iterator[str]:
        if self._loss is not None:
            yield f"loss {self._loss:.4g}"
        warming = self._verdict is None and self._state == "warm-up"
        if self._verdict is None and self._state is not None:
            running = self._running
            if running is not None and self.is_long():
                yield f"{self._state}, step {running[0]} takes {time.monotonic() - running[1]:.0f} s so far"
                yield f"likely compiling{', as expected' if warming else ''}"
            else:
                yield f"{self._state}{', slow as expected' if warming else ''}"
        if self._compiles is not None:
            yield f"{self._compiles} compile{'s' * (self._compiles != 1)}{' so far' if warming else ''}"
        if self._verdict is not None:
            yield self._verdict


@contextmanager
def warmup_bar(*, shown: bool) -> Iterator[None]:
    """A line for the time of a warm-up before the first step."""
    text = "warm-up before the first step, slow as expected"
    with (
        tqdm(desc=text, disable=not shown, bar_format="{desc} [{elapsed}]", leave=False, dynamic_ncols=True) as bar,
        heartbeat(bar, lambda: True),
    ):
        yield
