"""How many compiles a step took: by the device's own count, and by the recorder's prediction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from fixshape.audit import OpEvent, OpRecorder
from fixshape.backend import Backend


class Compiles(NamedTuple):
    """Of one step.

    Attributes:
        ops: predicted by the recorder; ``None`` where it was not on.
        graphs: by the device's own count, where that is of graphs; else ``None``.
        native_ops: by the device's own count, where that is of operators; else ``None``.
        events: the ops that the recorder predicted, with their shapes and callers.
    """

    ops: int | None
    graphs: int | None
    native_ops: int | None
    events: tuple[OpEvent, ...]

    @property
    def best(self) -> int | None:
        """The device's own count where there is one, else the predicted one."""
        return next((known for known in (self.graphs, self.native_ops, self.ops) if known is not None), None)


class Meter:
    """Counts the compiles between :meth:`start` and :meth:`stop`; knows across steps what has compiled before.

    Args:
        backend: whose own count is read, and whose step is ended before it is.
        lines: whether somebody reads the lines of the events: a gradient's forward line costs time at every op.
    """

    def __init__(self, backend: Backend, *, lines: bool) -> None:
        self._backend = backend
        self._recorder = OpRecorder(lines=lines)
        self._recording = False
        self._before: int | None = None  # the device's own count
        # An NPU compiles operators, if it compiles; whatever else counts its compiles makes graphs.
        self._counts_ops = backend.name == "npu"

    def start(self, *, record: bool) -> None:
        """Begins a step, with the recorder on or off. What a lazy device has still to do is cut off, and not counted."""
        self._backend.step()
        self._before = self._backend.compiles()
        self._recording = record
        if record:
            self._recorder.__enter__()

    def stop(self) -> Compiles:
        """Ends the step: cuts the device's graph, so that its compile is counted here, and gives the counts."""
        ops: int | None = None
        events: tuple[OpEvent, ...] = ()
        if self._recording:
            self._recording = False
            self._recorder.__exit__(None, None, None)
            ops, events = self._recorder.current.compiles, self._recorder.current_compiles
            self._recorder.step()
        self._backend.step()
        after = self._backend.compiles()
        own = None if after is None or self._before is None else after - self._before
        graphs, native_ops = (None, own) if self._counts_ops else (own, None)
        return Compiles(ops, graphs, native_ops, events)

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """What runs inside belongs to no step: not recorded, its graphs cut off from the step's and not counted."""
        recording = self._recording
        self._backend.step()
        before = self._backend.compiles()
        if recording:
            self._recorder.__exit__(None, None, None)
        try:
            yield
        finally:
            if recording:
                self._recorder.__enter__()
            self._backend.step()
            after = self._backend.compiles()
            if after is not None and before is not None and self._before is not None:
                self._before += after - before
