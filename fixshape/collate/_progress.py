"""How far has the loop come? Counted where batches are handed out, which may be long after they were drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Batch = TypeVar("Batch")


class Progress:
    """Two places, each ``(epoch, step)``: ``reached``, the first batch not handed out, and ``coming``, where an iteration begins.

    They differ after an iteration that was left early: a checkpoint still resumes it, but the next one here is a new epoch.
    """

    def __init__(self) -> None:
        self.reached = self.coming = (0, 0)
        self._running: int | None = None

    @property
    def start(self) -> tuple[int, int]:
        """The place of the iteration that runs, or else of the next."""
        return self.coming if self._running is None else self.reached

    def move(self, epoch: int, step: int) -> None:
        """The next iteration begins there."""
        self.reached = self.coming = (epoch, step)

    def counted(self, iterate: Callable[[], Iterable[Batch]]) -> Iterator[Batch]:
        """Hands on the batches of ``iterate()``, which is called when the first is asked for."""
        epoch, step = self.reached = self.coming
        self.coming, self._running = (epoch + 1, 0), epoch
        try:
            for batch in iterate():
                step += 1
                self.reached = (epoch, step)
                yield batch
        finally:
            if self._running == epoch:
                self._running = None
