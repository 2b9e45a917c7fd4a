"""Where does a step end in a script that knows nothing of it, and how does the script stop after the last one?

Three may say that a step has ended. The user, by calling :func:`step`: from then on nobody else is heard. Else the data loader,
when it is asked for the next batch. Else, where no loader gives a batch between two of its steps, the first optimiser that was
seen.
"""

from __future__ import annotations

import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Literal

import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils.data import dataloader

from fixshape.audit._inputs import BatchShapes
from fixshape.audit._recorder import OpRecorder
from fixshape.audit._report import AuditReport

_MOST_REFUSALS = 20
_Loader: Any = dataloader.DataLoader
_BatchIterator: Any = dataloader._BaseDataLoaderIter
_running: Boundaries | None = None


class Stop(BaseException):
    """Leaves the script after its last step. No ``Exception``: a script that goes on after a failed step must not go on."""


class Terminated(BaseException):
    """SIGTERM came."""


def step() -> None:
    """Ends a step of a script that runs under ``fixshape audit``; anywhere else it does nothing.

    For loops with neither a data loader nor one optimiser's step for each step of theirs. Once it has been called, it alone
    divides the recording into steps. It counts in the thread and process that the audit has started, not in workers.

    Raises:
        BaseException: the last step that was asked for has ended. It is no ``Exception``; leave it alone, it ends the script.

    Example:
        >>> import fixshape
        >>> for batch in range(3):
        ...     fixshape.audit.step()  # at the end of the loop's body
    """
    if _running is not None:
        _running.user_step()


class Boundaries:
    """Records what runs between ``__enter__`` and ``__exit__``, in steps, and stops it after the last one.

    Args:
        steps: how many.
        on_step: called after each; it must run no op of torch. An error of it is kept in ``defect``, and stops the script.
        give_up: called where the script will not be stopped: it has swallowed :class:`Stop` or :class:`Terminated` 20 times.
    """

    def __init__(self, steps: int, *, on_step: Callable[[], None], give_up: Callable[[], None]) -> None:
        self.recorder = OpRecorder()
        self.shapes = BatchShapes()
        self.done = 0
        self.defect: Exception | None = None
        self._steps = steps
        self._on_step = on_step
        self._give_up = give_up
        self._ending: type[Stop] | type[Terminated] | None = None
        self._refusals = 0
        self._final: AuditReport | None = None
        self._decides: Literal["loader", "optimizer", "user"] | None = None
        self._optimizer: Callable[[], torch.optim.Optimizer | None] = lambda: None
        self._optimizer_steps = 0  # since the last batch
        self._datasets: list[Any] = []
        self._loading = False
        self._iterators: weakref.WeakSet[Any] = weakref.WeakSet()
        self._process = os.getpid()
        self._thread = threading.get_ident()

    def report(self) -> AuditReport:
        """What was recorded; of a stopped script only whole steps, and not what it does on its way out."""
        return self._final or self.recorder.report()

    def __enter__(self) -> Boundaries:
        global _running
        begin, give = self._given = _Loader.__iter__, _BatchIterator.__next__
        _Loader.__iter__ = lambda loader: self._begin_epoch(loader, begin)
        _BatchIterator.__next__ = lambda iterator: self._next_batch(iterator, give)
        self._hook = register_optimizer_step_post_hook(self._optimizer_stepped)
        self._until_called = register_module_forward_pre_hook(self._model_called)
        self._replaced = signal.signal(signal.SIGTERM, self._on_sigterm) if self._in_main_thread() else None
        _running = self
        self._record()
        return self

    def __exit__(
        self, exception_type: type[BaseException] | None, exception: BaseException | None, traceback: TracebackType | None
    ) -> None:
        global _running
        _running = None
        self._freeze()
        if self._is_on_top():
            self.recorder.__exit__(None, None, None)
        self._hook.remove()
        self._until_called.remove()
        _Loader.__iter__, _BatchIterator.__next__ = self._given
        # A script that has set a handler of its own keeps it.
        if self._in_main_thread() and signal.getsignal(signal.SIGTERM) == self._on_sigterm:
            signal.signal(signal.SIGTERM, self._replaced or signal.SIG_DFL)
        if os.getpid() == self._process:
            for iterator in list(self._iterators):
                iterator._shutdown_workers()

    def user_step(self) -> None:
        if self._is_ours():
            self._decides = "user"
            self._end_step()

    def _begin_epoch(self, loader: Any, begin: Callable[[Any], Any]) -> Any:
        """Draws a seed and starts workers, neither of which is the step's."""
        if not self._is_ours():
            return begin(loader)
        with self._aside():
            return begin(loader)

    def _next_batch(self, iterator: Any, given: Callable[[Any], Any]) -> Any:
        # A data set may itself read from a loader: that one's batches are no steps.
        if not self._is_ours() or self._loading:
            return given(iterator)
        self._begin_batch()
        self._loading = True
        try:
            with self._aside():
                batch = given(iterator)
                if hasattr(iterator, "_shutdown_workers"):
                    self._iterators.add(iterator)
                self.shapes.add(batch, self._number_of(iterator))
        finally:
            self._loading = False
        return batch

    def _begin_batch(self) -> None:
        if self._decides == "loader" or self._ending:
            self._end_step()
        elif self._decides is None:
            self._decides = "loader"
            self._begin_anew()
        elif self._decides == "optimizer" and not self._datasets:  # the first batch comes late; later ones have lost their say
            self._decides = "loader"
        self._optimizer_steps = 0

    def _model_called(self, module: torch.nn.Module, args: Any) -> None:
        # A loss or an activation has nothing to train, and may be called by a model that is no module.
        if self._is_ours() and next(module.parameters(), None) is not None:
            self._until_called.remove()
            if self._decides is None:
                self._begin_anew()

    def _begin_anew(self) -> None:
        """Forgets what came before the first batch, or the first call of a model: it built the model, and is part of no step."""
        if self._is_on_top():
            self.recorder.__exit__(None, None, None)
            self.recorder = OpRecorder()
            self._record()

    def _optimizer_stepped(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if not self._is_ours() or self._decides == "user":
            return
        if self._optimizer() is None:
            self._optimizer = weakref.ref(optimizer)
        if self._optimizer() is not optimizer:
            return
        self._optimizer_steps += 1
        if self._decides is None or (self._decides == "loader" and self._optimizer_steps > 1):
            self._decides = "optimizer"
        if self._decides == "optimizer" or self._ending:
            self._end_step()

    def _end_step(self) -> None:
        if self._ending is None and self.recorder.current.launches:
            self.recorder.step()
            self.done += 1
            try:
                self._on_step()
            except Exception as error:  # ours, and not the script's
                self.defect = error
            if self.defect or self.done >= self._steps:
                self._ending = Stop
                self._freeze()
        if self._ending:
            self._refusals += 1
            if self._refusals > _MOST_REFUSALS:
                self._give_up()
            raise self._ending

    def _freeze(self) -> None:
        self._final = self._final or self.recorder.report()

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a forked worker has the handler too, and shall die of the signal
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self._freeze()
        self._ending = Terminated
        raise Terminated

    def _record(self) -> None:
        self.recorder.__enter__()
        self._mode = _get_current_dispatch_mode()

    def _is_on_top(self) -> bool:
        """Whether the recorder can be left: torch's modes are a stack, and the script may have put another one on it."""
        return _get_current_dispatch_mode() is self._mode

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """What runs inside is not recorded, unless it runs under a mode of the script's own."""
        if not self._is_on_top():
            yield
            return
        self.recorder.__exit__(None, None, None)
        try:
            yield
        finally:
            self._record()

    def _is_ours(self) -> bool:
        return os.getpid() == self._process and threading.get_ident() == self._thread

    def _in_main_thread(self) -> bool:
        return threading.current_thread() is threading.main_thread()

    def _number_of(self, iterator: Any) -> int:
        dataset = iterator._dataset
        for number, known in enumerate(self._datasets, 1):
            if known is dataset:
                return number
        self._datasets.append(dataset)
        return len(self._datasets)
