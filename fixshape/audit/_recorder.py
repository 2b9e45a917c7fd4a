"""The public recorder."""

from __future__ import annotations

from types import TracebackType

from fixshape.audit import _reads
from fixshape.audit._mode import RecorderMode
from fixshape.audit._phase import PhaseTracker
from fixshape.audit._record import Record
from fixshape.audit._report import AuditReport, OpEvent, StepCounts
from fixshape.audit._trace import Trace


class OpRecorder:
    """Counts what a training step launches, what a device that compiles per shape would compile, and what is dynamic in it.

    Every op that torch dispatches in this thread and in its backward pass is seen: forward, backward, optimiser, libraries.
    An *op compile* is the first launch of a key: operator, dtype, shape and device of each input, int and bool arguments, not
    Python floats. It is a prediction under that key, made without the device, not a measurement. Results are bitwise the same.

    With lines, ``.tolist()``, ``.numpy()``, ``np.asarray``, ``.cpu()`` and ``.to("cpu")`` of a tensor that is on the CPU already
    count as host syncs, though torch dispatches nothing there: as ``Tensor.tolist``, ``Tensor.numpy`` and ``Tensor.cpu``. They
    count where a device would wait: for what an op has made, for parameters, and for what ``.to(device)`` has moved; not for a
    batch as its loader gave it. What has been fetched by ``.cpu()`` is the host's until the step ends, and so is what is made of
    it alone: ``loss.cpu().item()`` is one sync. ``.to("cpu")`` is told from ``.to(device)`` by its line; with
    ``non_blocking=True`` nothing waits.

    What is *not* seen: views, allocations and size queries are no launches, and neither is a copy to another kind of device. What
    happens inside one kernel is one launch, and so is a higher-order operator. A tensor that is printed or handed on by DLPack is
    no sync, nor is the read of a buffer or a constant that no op has written and nothing has moved. A size that came from
    ``.item()`` is a Python int like any other: it shows in the key of what is made with it. Under a ``FakeTensorMode`` nothing
    runs, and what would run is counted. A region that :func:`torch.compile` compiled runs compiled, as it would without the
    recorder: its fused kernels are not seen, nor is a read of what they gave without a gradient; the ops that it still dispatches
    are. (The compiled functions of torch 2.9 do not bear a dispatch mode: there the region runs eagerly and is seen as such.)

    Ops of the host count as any others do: enter it around the step and not around the data loader. Forked workers do not count.

    Counts are exact for as long as it lives. Memory grows with the number of different keys, about 0.4 kB each, and not with
    steps; the list of events is bounded (see :class:`AuditReport`).

    It may be left and entered again, and goes on where it was; entered twice at once, it counts once.

    With lines, an op of the backward pass is given the lines and the module of its forward op, as far as the forward pass ran
    in the same step and in the thread that entered the recorder; and each op compile the dynamic op or the varying input that
    its shapes descend from (:attr:`AuditReport.causes`).

    Args:
        lines: follow each op's place and each tensor's shape from op to op. Without, a step costs less, and a report has no
            causes and no graphs, and ops of the backward pass have the line of ``loss.backward()``; the counts are the same, but
            for syncs: only with lines are those seen that are no op, and those left out that read what has been fetched.

    Example:
        >>> import torch
        >>> rows, more_rows = torch.ones(2, 3), torch.ones(4, 3)
        >>> recorder = OpRecorder()
        >>> for batch in (rows, rows, more_rows):
        ...     with recorder:
        ...         _ = batch.relu().sum()
        ...     recorder.step()
        >>> [(step.launches, step.compiles) for step in recorder.report().steps]
        [(2, 2), (2, 0), (2, 2)]
    """

    def __init__(self, *, lines: bool = True) -> None:
        self._record = Record()
        self._trace = Trace(self._record) if lines else None
        self._phase = PhaseTracker()
        self._mode: RecorderMode | None = None
        self._depth = 0

    def __enter__(self) -> OpRecorder:
        if self._depth == 0:
            mode = RecorderMode(self._record, self._phase, self._trace)
            if self._trace is not None:
                _reads.listen()
                self._trace.enter()
            mode.__enter__()  # type: ignore[no-untyped-call]
            self._mode = mode
            self._phase.install()
        self._depth += 1
        return self

    def __exit__(
        self, exception_type: type[BaseException] | None, exception: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth == 0 and self._mode is not None:
            if self._trace is not None:
                _reads.ignore()
            self._phase.remove()
            mode, self._mode = self._mode, None
            mode.__exit__(exception_type, exception, traceback)  # type: ignore[no-untyped-call]

    def step(self) -> None:
        """Ends a step: what is counted from here on belongs to the next one."""
        self._record.close_step()
        if self._trace is not None:
            self._trace.close_step()
        self._phase.reset()

    @property
    def launches(self) -> int:
        """Launches so far, in all steps."""
        return self._record.launches

    @property
    def compiles(self) -> int:
        """Op compiles so far, in all steps. Cheap: read it around a region to know what the region compiled."""
        return self._record.compiles

    @property
    def current(self) -> StepCounts:
        """Counts of the step that is open."""
        return self._record.open_step()

    @property
    def current_compiles(self) -> tuple[OpEvent, ...]:
        """The op compiles of the step that is open, at most the first 10,000 of them."""
        return tuple(self._record.open_compiles)

    def report(self) -> AuditReport:
        """All that was recorded so far. Ops after the last :meth:`step` are a last step of their own, if there are any."""
        report = self._record.report()
        return report if self._trace is None else self._trace.complete(report)
