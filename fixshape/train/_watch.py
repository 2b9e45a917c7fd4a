"""Any training loop, watched: where its steps end, how long they take, and what compiles in them."""

from __future__ import annotations

import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from operator import length_hint
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from fixshape.audit import Location
from fixshape.backend import Backend, get_backend
from fixshape.train._batch import shapes_of
from fixshape.train._guard import CompileGuard
from fixshape.train._meter import Meter
from fixshape.train._records import WARMUP_STEPS, StepRecord

Batch = TypeVar("Batch")

QUIET_STEPS = 3
"""The recorder is taken off a (phase, bucket) after this many steps in a row in which nothing compiled."""

MOST_COMPILING_STEPS = 12
"""And off all of them once this many steps have compiled: what compiles so often will not come to rest, and counting is dear."""


class Watch(Generic[Batch]):
    """A loader that is watched while it is iterated. Made by :func:`watch`; iterate the same one in each epoch.

    Attributes:
        records: a :class:`fixshape.train.StepRecord` per finished step.
        losses: what :meth:`log` was given, as numbers; the last one is still to come until the loop ends.
        warmup_compiles: in :meth:`warming_up`, by the device's own count or predicted; ``None`` where neither was counted.
    """

    def __init__(
        self, loader: Iterable[Batch], *, backend: Backend, guard: CompileGuard | None, predict: bool, progress: bool
    ) -> None:
        self.records: list[StepRecord] = []
        self.losses: list[float] = []
        self.warmup_compiles: int | None = None
        self._loader = loader
        self._backend = backend
        self._guard = guard
        self._predict = predict
        self._progress = progress
        self._meter = Meter(backend, lines=guard is not None)
        self._seen: Counter[tuple[str, str]] = Counter()
        self._quiet: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._compiling_steps = 0
        self._compiles = 0
        self._unread: Tensor | float | None = None

    def log(self, loss: Tensor | float) -> None:
        """Shows the loss of the running step. A tensor is read one step later, so that the host need not wait for it now.

        Args:
            loss: a number, or a tensor of one element on any device.
        """
        self._read_loss()
        self._unread = loss.detach() if isinstance(loss, Tensor) else loss

    def __iter__(self) -> Iterator[Batch]:
        with (
            tqdm(total=length_hint(self._loader) or None, disable=not self._progress, unit="step", dynamic_ncols=True) as bar,
            nullcontext() if self._guard is None else self._guard.attached(self._meter),
        ):
            try:
                for batch in self._loader:
                    yield from self._step(batch, bar)
            finally:
                self._read_loss()

    @contextmanager
    def warming_up(self) -> Iterator[None]:
        """What runs inside is a warm-up of its own: it belongs to no step, and what it compiles is in ``warmup_compiles``."""
        self._meter.start(record=self._predict or (self._guard is not None and self._backend.compiles() is None))
        try:
            yield
        finally:
            ops, graphs, _ = self._meter.stop()
            self.warmup_compiles = ops if graphs is None else graphs

    def _step(self, batch: Batch, bar: tqdm[Any]) -> Iterator[Batch]:
        """Hands one batch out, and books what happened until the next is asked for."""
        phase, shapes = "train" if torch.is_grad_enabled() else "eval", shapes_of(batch)
        key = (phase, shapes)
        self._seen[key] += 1
        recording = self._is_recording(key)
        # What the data set and the collate function do on the host is no part of the step: it is recorded from here on.
        self._meter.start(record=recording)
        began = time.perf_counter()
        try:
            yield batch
        finally:  # also where the loop is left inside of this step: it counts, though nobody is there to be told
            compiles = self._meter.stop()
            record = self._book(key, began, compiles.ops, compiles.graphs, bar)
        if self._guard is not None:
            self._guard.check(record, compiles, _caller())

    def _book(self, key: tuple[str, str], began: float, ops: int | None, graphs: int | None, bar: tqdm[Any]) -> StepRecord:
        in_warmup = self._seen[key] <= WARMUP_STEPS
        record = StepRecord(len(self.records) + 1, *key, in_warmup, time.perf_counter() - began, ops, graphs)
        self.records.append(record)
        self._compiling_steps += bool(ops)
        self._compiles += record.compiles
        self._quiet[key] = 0 if record.compiles else self._quiet[key] + 1
        if self._progress:
            counted = f", {self._compiles} compiles" if self._counts() else ""
            loss = f"loss {self.losses[-1]:.4g}, " if self.losses else ""
            bar.set_postfix_str(f"{loss}{'warm-up' if in_warmup or record.compiles else 'steady'}{counted}", refresh=False)
        bar.update()
        return record

    def _is_recording(self, key: tuple[str, str]) -> bool:
        if self._backend.compiles() is None and self._guard is not None:
            return True  # a guard that counts nothing could find nothing
        if self._backend.compiles() is not None and self._predict:
            return True  # taking the recorder off changes what a lazy device traces: one more graph compile
        return self._predict and self._quiet[key] < QUIET_STEPS and self._compiling_steps < MOST_COMPILING_STEPS

    def _counts(self) -> bool:
        return self._predict or self._guard is not None or self._backend.compiles() is not None

    def _read_loss(self) -> None:
        if self._unread is not None:
            self.losses.append(float(self._unread))
            self._unread = None


def watch(
    loader: Iterable[Batch],
    *,
    backend: str | Backend = "auto",
    guard: CompileGuard | None = None,
    predict: bool = False,
    progress: bool = True,
) -> Watch[Batch]:
    """Iterates a loader as you iterate it now, and says what happens in each step: warm-up or steady, and what compiles.

    A step runs from the moment its batch is handed out until the next one is asked for. Its end is told to the backend, which
    on XLA runs the graph (so do not call ``torch_xla.sync()`` yourself). Batches are handed out as they are, not moved.
    Without ``predict`` it costs some tens of microseconds a step.

    Args:
        loader: any iterable of batches.
        backend: a name for :func:`fixshape.get_backend`, or a backend.
        guard: warns or raises when a step compiles after the warm-up.
        predict: count op compiles with :class:`fixshape.OpRecorder` until a bucket is quiet for three steps, or twelve steps in
            all have compiled; a counted step is about a quarter slower. A guard counts at every step where the device does not
            count by itself. Where it does (XLA) you seldom need this, and the recorder stays on to the end: with it, the device
            traces a slightly different graph.
        progress: a tqdm bar on stderr.

    Returns:
        A :class:`fixshape.train.Watch`: iterate it, once per epoch.

    Raises:
        BackendError: the backend is not there.
        ShapeDriftError: while iterating: the guard's action is ``"error"`` and something compiled after the warm-up.

    Example:
        >>> import torch
        >>> watched = watch([torch.ones(4, 3)] * 4, backend="cpu", predict=True, progress=False)
        >>> for batch in watched:
        ...     watched.log((batch @ torch.ones(3, 2)).sum())
        >>> [record.op_compiles for record in watched.records][1:]
        [0, 0, 0]
    """
    return Watch(loader, backend=get_backend(backend), guard=guard, predict=predict, progress=progress)


def _caller() -> Location:
    """The line of the loop, or of the call of :func:`fixshape.fit`: the innermost one outside of fixshape."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("fixshape."):
        frame = frame.f_back
    return Location(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_qualname)
