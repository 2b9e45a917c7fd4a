"""Any training loop, watched: where its steps end, how long they take, and what compiles in them."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from operator import length_hint
from typing import Generic, TypeVar

import torch
from torch import Tensor

from fixshape.audit import Location
from fixshape.backend import Backend, get_backend
from fixshape.train import _verdict
from fixshape.train._bar import State, StepBar, warmup_bar
from fixshape.train._batch import shapes_of
from fixshape.train._guard import CompileGuard
from fixshape.train._meter import Compiles, Meter
from fixshape.train._records import WARMUP_STEPS, StepRecord
from fixshape.train._step_log import StepLog, open_log

_logger = logging.getLogger("fixshape.train")

Batch = TypeVar("Batch")

QUIET_STEPS = 3
"""The recorder is taken off a (phase, bucket) after this many steps in a row in which nothing compiled."""

MOST_COMPILING_STEPS = 12
"""And off all of them once this many steps have compiled: what compiles so often will not come to rest, and counting is dear."""

PACE_STEPS = 100
"""The last steady steps, of which the time that remains is told."""


class Watch(Generic[Batch]):
    """A loader that is watched while it is iterated. Made by :func:`watch`; iterate the same one in each epoch.

    Attributes:
        records: a :class:`fixshape.train.StepRecord` per finished step.
        losses: what :meth:`log` was given, as numbers; the last one is still to come until the loop ends.
        warmup_compiles: in :meth:`warming_up`, by the device's own count or predicted; ``None`` where neither was counted.
        warmup_seconds: in :meth:`warming_up`.
    """

    def __init__(
        self,
        loader: Iterable[Batch],
        *,
        backend: Backend,
        guard: CompileGuard | None,
        predict: bool,
        progress: bool,
        step_log: str | os.PathLike[str] | None,
    ) -> None:
        self.records: list[StepRecord] = []
        self.losses: list[float] = []
        self.warmup_compiles: int | None = None
        self.warmup_seconds = 0.0
        self._loader = loader
        self._backend = backend
        self._guard = guard
        self._predict = predict
        self._progress = progress
        self._step_log = step_log
        self._pace: deque[float] = deque(maxlen=PACE_STEPS)
        self._meter = Meter(backend, lines=guard is not None)
        self._seen: Counter[tuple[str, str]] = Counter()
        self._quiet: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._counts = predict or guard is not None or backend.compiles() is not None
        self._compiling_steps = 0
        self._compiles = 0
        self._unread: Tensor | float | None = None

    def log(self, loss: Tensor | float) -> None:
        """Shows the loss of the running step. A tensor is read one step later, so that the host need not wait for it now.

        In a dry run a tensor on the device has no value: it is left out of ``losses``.

        Args:
            loss: a number, or a tensor of one element on any device.
        """
        self._read_loss()
        if isinstance(loss, Tensor):
            self._unread = loss.detach() if self._backend.has_values or loss.device.type == "cpu" else None
        else:
            self._unread = loss

    @property
    def verdict(self) -> str:
        """All steps so far in one line, such as ``steady since step 3; warm-up 41 s; 0.21 s a step``.

        *Steady* is said only where compiles were counted, by the device or by prediction: nothing compiled from that step on. The
        warm-up is the time of the steps in it that compiled, and of :meth:`warming_up`; a step's time is a median, without the
        loading of data. Steps that compiled after the warm-up are named. Where there are training steps, they are judged alone.
        """
        return _verdict.verdict(self.records, warmed_up=self.warmup_seconds, is_timed=self._backend.has_values)

    def __iter__(self) -> Iterator[Batch]:
        # What cannot be pickled or forked, a thread and a file, lives in this frame and not in the object.
        with (
            StepBar(length_hint(self._loader), self._pace, shown=self._progress) as bar,
            bar.heartbeat(),
            nullcontext() if self._step_log is None else open_log(self._step_log) as log,
            nullcontext() if self._guard is None else self._guard.attached(self._meter),
        ):
            before = len(self.records)
            try:
                asked = time.perf_counter()
                for batch in self._loader:
                    yield from self._step(batch, asked, bar, log)
                    asked = time.perf_counter()
            finally:
                self._read_loss()
                if len(self.records) > before:
                    bar.conclude(self.verdict, loss=self._last_loss())
                    _logger.info("%s", self.verdict)

    @contextmanager
    def warming_up(self) -> Iterator[None]:
        """What runs inside is a warm-up of its own: it belongs to no step, and what it compiles is in ``warmup_compiles``."""
        with warmup_bar(shown=self._progress):
            self._meter.start(record=self._predict or (self._guard is not None and self._backend.compiles() is None))
            began = time.perf_counter()
            try:
                yield
            finally:
                self.warmup_compiles = self._meter.stop().best
                self.warmup_seconds = time.perf_counter() - began

    def _step(self, batch: Batch, asked: float, bar: StepBar, log: StepLog | None) -> Iterator[Batch]:
        """Hands one batch out, and books what happened until the next is asked for."""
        phase, shapes = "train" if torch.is_grad_enabled() else "eval", shapes_of(batch)
        key = (phase, shapes)
        self._seen[key] += 1
        in_warmup = self._seen[key] <= WARMUP_STEPS
        recording = self._is_recording(key)
        # What the data set and the collate function do on the host is no part of the step: it is recorded from here on.
        self._meter.start(record=recording)
        bar.step_begins(len(self.records) + 1, in_warmup=in_warmup, compiles=self._counted())
        began = time.perf_counter()
        try:
            yield batch
        finally:  # also where the loop is left inside of this step: it counts, though nobody is there to be told
            compiles = self._meter.stop()
            now = time.perf_counter()
            record = self._book(key, in_warmup, now - began, compiles)
            state: State = "warm-up" if in_warmup else "shape drift" if record.compiles else "steady"
            bar.step_ends(state, seconds=now - asked, compiles=self._counted(), loss=self._last_loss())
            if log is not None:
                log.append(record)
        if self._guard is not None:
            self._guard.check(record, compiles, _caller())

    def _book(self, key: tuple[str, str], in_warmup: bool, seconds: float, compiles: Compiles) -> StepRecord:
        index = len(self.records) + 1
        record = StepRecord(index, *key, in_warmup, seconds, compiles.ops, compiles.graphs, compiles.native_ops)
        self.records.append(record)
        self._compiling_steps += bool(record.op_compiles)
        self._compiles += record.compiles
        self._quiet[key] = 0 if record.compiles else self._quiet[key] + 1
        return record

    def _is_recording(self, key: tuple[str, str]) -> bool:
        if self._backend.compiles() is None and self._guard is not None:
            return True  # a guard that counts nothing could find nothing
        if self._backend.compiles() is not None and self._predict:
            return True  # taking the recorder off changes what a lazy device traces: one more graph compile
        return self._predict and self._quiet[key] < QUIET_STEPS and self._compiling_steps < MOST_COMPILING_STEPS

    def _counted(self) -> int | None:
        """Compiles so far, to be shown; ``None`` where nothing counts them."""
        return self._compiles if self._counts else None

    def _last_loss(self) -> float | None:
        return self.losses[-1] if self.losses else None

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
    step_log: str | os.PathLike[str] | None = None,
) -> Watch[Batch]:
    """Iterates a loader as you iterate it now, and says what happens in each step: warm-up or steady, and what compiles.

    A step runs from the moment its batch is handed out until the next one is asked for. Its end is told to the backend, which
    on XLA runs the graph (so do not call ``torch_xla.sync()`` yourself). Batches are handed out as they are, not moved.
    Without ``predict`` it costs a few hundred microseconds of a 100 ms step, most of them for drawing the bar.

    The first steps on such a device are slow, and the bar says so: that this is a warm-up, how much compiled so far, and, from a
    thread that only draws, for how long a step has been running by now. The time that remains is told from steady steps alone.
    At the end of each loop :attr:`Watch.verdict` is the bar's last line, and is logged as ``fixshape.train``, level INFO.

    Args:
        loader: any iterable of batches.
        backend: a name for :func:`fixshape.get_backend`, or a backend.
        guard: warns or raises when a step compiles after the warm-up.
        predict: count op compiles with :class:`fixshape.OpRecorder` until a bucket is quiet for three steps, or twelve steps in
            all have compiled; a counted step is about a quarter slower. A guard counts at every step where the device does not
            count by itself. Where it does (XLA, a dry run on an NPU) you seldom need this, and the recorder stays on to the end:
            with it, XLA traces a slightly different graph.
        progress: a tqdm bar on stderr.
        step_log: a file to which each step adds its :class:`fixshape.train.StepRecord` as one line of JSON when it ends, with
            ``time``, the seconds since 1970 then (``pandas.read_json(path, lines=True)``). It is never emptied: a run that goes
            on goes on there. Each line is written at once and as a whole; a crash can leave only the last one incomplete, and
            the next run begins a line of its own. Give each process a file of its own, as the lines do not name theirs.

    Returns:
        A :class:`fixshape.train.Watch`: iterate it, once per epoch.

    Raises:
        BackendError: the backend is not there.
        OSError: ``step_log`` cannot be written to.
        ShapeDriftError: while iterating: the guard's action is ``"error"`` and something compiled after the warm-up.

    Warns:
        FixshapeWarning: a line could not be added to ``step_log``. The loop goes on, without it.

    Example:
        >>> import torch
        >>> watched = watch([torch.ones(4, 3)] * 4, backend="cpu", predict=True, progress=False)
        >>> for batch in watched:
        ...     watched.log((batch @ torch.ones(3, 2)).sum())
        >>> [record.op_compiles for record in watched.records][1:]
        [0, 0, 0]
        >>> watched.verdict
        'steady since step 2; warm-up ... a step, counting included'
    """
    chosen = get_backend(backend)
    if step_log is not None:
        with open_log(step_log):
            pass  # that it can be written to is known now, and not after the data has been loaded
    return Watch(loader, backend=chosen, guard=guard, predict=predict, progress=progress, step_log=step_log)


def _caller() -> Location:
    """The line of the loop, or of the call of :func:`fixshape.fit`: the innermost one outside of fixshape."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("fixshape."):
        frame = frame.f_back
    return Location(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_qualname)
