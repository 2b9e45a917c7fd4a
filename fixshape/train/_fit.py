"""A training loop for those who have none yet: watched, guarded, and counted."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fixshape._check import check_at_least
from fixshape.backend import Backend, get_backend
from fixshape.collate import PaddingCounts, padding_fractions
from fixshape.errors import BackendError, FixshapeWarning, NonFiniteLossError, ShapeError
from fixshape.train._batch import to_device
from fixshape.train._cuda_graph import GraphedStep, check_capturable
from fixshape.train._guard import CompileGuard
from fixshape.train._records import TrainSummary
from fixshape.train._warmup import warmup
from fixshape.train._watch import watch


def fit(
    model: nn.Module,
    loader: Iterable[Any],
    optimizer: torch.optim.Optimizer,
    *,
    epochs: int = 1,
    steps: int | None = None,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    evaluate: Callable[[nn.Module], Any] | None = None,
    backend: str | Backend = "auto",
    guard: CompileGuard | None = None,
    predict: bool = False,
    progress: bool = True,
    cuda_graph: bool = False,
    warm_up: Iterable[Any] | None = None,
) -> TrainSummary:
    """Trains: forward, sum of the losses, backward, optimiser, schedule, step after step, with the model in training mode.

    It takes a static model with batches of :class:`fixshape.PadToBucket`, and just as well torchvision's own with list batches,
    so that one run can be compared with the other.

    Args:
        model: called as ``model(*batch)``; it returns a loss, or a mapping of losses. Already on the backend's device.
        loader: its batches are moved to the device.
        optimizer: over the model's parameters.
        epochs: how often the loader is run through.
        steps: end after this many steps in all, running through the loader as often as that takes; ``epochs`` is then unused.
        scheduler: stepped after each step.
        evaluate: called with the model in evaluation mode, without gradients, each time the loader has been run through and at
            the end of ``steps``. It belongs to no step, and may compile.
        backend: see :func:`fixshape.watch`, as are the following.
        guard: see there.
        predict: see there.
        progress: see there.
        cuda_graph: capture each shape's whole step in one CUDA graph after three eager ones, and replay it from then on. For a
            static model on a CUDA device; the optimiser has to be capturable. The recorder sees nothing of a replay. Written to
            torch's rules and never yet run on a GPU.
        warm_up: batches, one of each shape, that are stepped through before the first step (:func:`fixshape.warmup`); nothing of
            it remains. :meth:`fixshape.collate.BucketLoader.one_of_each` gives them.

    Returns:
        A :class:`fixshape.train.TrainSummary`.

    Raises:
        NonFiniteLossError: the loss became NaN or infinite; found one step later, since reading it at once would stall the
            device.
        BackendError: the backend is not there; ``cuda_graph`` on another device, or with an optimiser that a graph cannot hold.
        ShapeError: ``epochs`` or ``steps`` is not a whole number of at least 1, or the loader gives no batch.
        ShapeDriftError: the guard's action is ``"error"`` and something compiled after the warm-up.

    Warns:
        FixshapeWarning: a batch has fillers while batch-norm is live: an all-padding image changes the statistics.
    """
    chosen = get_backend(backend)
    check_at_least("fit", "epochs", epochs, 1)
    if steps is not None:
        check_at_least("fit", "steps", steps, 1)
    device = chosen.device()

    def step(batch: Any) -> Tensor:
        losses = model(*batch)
        loss: Any = sum(losses.values()) if isinstance(losses, Mapping) else losses
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()  # type: ignore[no-any-return]

    def eager(batch: Any) -> Tensor:
        return step(to_device(batch, device))

    run: Callable[[Any], Tensor] = _graphed(step, chosen, optimizer, scheduler) if cuda_graph else eager
    padding = _Padding(model)
    rounds = _Rounds(loader, epochs, steps, padding.count, lambda: _evaluate(model, evaluate))
    watched = watch(rounds, backend=chosen, guard=guard, predict=predict, progress=progress)
    model.train()
    warmup_steps = 0
    if warm_up is not None:
        with watched.warming_up():
            warmup_steps = warmup(lambda *batch: step(batch), warm_up, model=model, optimizer=optimizer, backend=chosen)
    for batch in watched:
        loss = run(batch)
        if scheduler is not None:
            scheduler.step()
        watched.log(loss)
        _require_finite(watched.losses)
    _require_finite(watched.losses)
    return TrainSummary(
        tuple(watched.records),
        tuple(watched.losses),
        *padding.counts,
        padding.dropped,
        chosen.peak_memory(),
        warmup_steps,
        watched.warmup_compiles,
    )


def _graphed(
    step: Callable[[Any], Tensor],
    backend: Backend,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None,
) -> GraphedStep:
    if backend.name != "cuda":
        raise BackendError(f"fit: cuda_graph=True on the {backend.name} backend, expected cuda. Leave it out there.")
    check_capturable(optimizer, scheduled=scheduler is not None)
    return GraphedStep(step, backend.device())


class _Padding:
    """Counts what of the batches is padding; on the host, and outside of every step."""

    def __init__(self, model: nn.Module) -> None:
        self.counts = PaddingCounts(0, 0, 0, 0)
        self.dropped = 0
        self._model = model
        self._has_warned = False

    def count(self, batch: Any) -> None:
        match batch:
            case [Tensor() as images, {"valid_mask": _, "image_sizes": _, "image_valid": _, "boxes_dropped": _} as targets]:
                self.counts = PaddingCounts(*map(sum, zip(self.counts, padding_fractions(images, targets), strict=True)))
                self.dropped += int(targets["boxes_dropped"].sum())
                if not self._has_warned and not targets["image_valid"].all():
                    self._warn_of_fillers()

    def _warn_of_fillers(self) -> None:
        live = [name for name, module in self._model.named_modules() if isinstance(module, _BatchNorm) and module.training]
        if not live:
            return
        self._has_warned = True
        warnings.warn(
            f"fit: a training batch has fillers while {len(live)} batch-norm layers are live ({live[0]}, ...): all-padding images"
            " change their statistics and the loss. Complete the batches with real samples, or drop the last (drop_last=True).",
            FixshapeWarning,
            stacklevel=6,  # the line that called fit
        )


class _Rounds:
    """A loader, run through several times as one.

    Outside of every step ``before`` is called with the batch that comes next, and ``at_end`` between two rounds.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        epochs: int,
        steps: int | None,
        before: Callable[[Any], None],
        at_end: Callable[[], None],
    ) -> None:
        self._loader = loader
        self._epochs = epochs
        self._steps = steps
        self._before = before
        self._at_end = at_end

    def __len__(self) -> int:
        return self._steps if self._steps is not None else self._epochs * len(self._loader)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        done = 0
        for _ in range(self._epochs) if self._steps is None else itertools.count():
            before = done
            for batch in self._loader:
                self._before(batch)
                yield batch
                done += 1
                if done == self._steps:
                    break
            if done == before:
                raise ShapeError(
                    "fit: the loader gave no batch. Has it fewer samples than a batch, with drop_last? An iterator can be run"
                    " through only once."
                )
            self._at_end()
            if done == self._steps:
                return


def _evaluate(model: nn.Module, evaluate: Callable[[nn.Module], Any] | None) -> None:
    if evaluate is not None:
        model.eval()
        with torch.no_grad():
            evaluate(model)
        model.train()


def _require_finite(losses: list[float]) -> None:
    if losses and not math.isfinite(losses[-1]):
        before = ", ".join(f"{loss:.4g}" for loss in losses[-4:-1]) or "none"
        raise NonFiniteLossError(
            f"fit: the loss of step {len(losses)} is {losses[-1]}, expected a finite number."
            f" The losses before it: {before}. Lower the learning rate, or warm it up."
        )
