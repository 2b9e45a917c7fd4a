"""A training loop for those who have none yet: watched, guarded, counted, and resumed where it was ended."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from fixshape._check import check_at_least
from fixshape.backend import Backend, get_backend
from fixshape.collate import BucketLoader, PaddingCounts, padding_fractions
from fixshape.errors import BackendError, CheckpointError, DtypeError, FixshapeWarning
from fixshape.train._batch import Group
from fixshape.train._checkpoint import Checkpoint
from fixshape.train._cuda_graph import GraphedStep, check_capturable
from fixshape.train._failures import Watchdog
from fixshape.train._guard import CompileGuard
from fixshape.train._prefetch import Ahead
from fixshape.train._records import TrainSummary
from fixshape.train._rounds import Rounds
from fixshape.train._step import Step
from fixshape.train._tensorboard import Board
from fixshape.train._warmup import warmup
from fixshape.train._watch import watch

_log = logging.getLogger(__name__)


def fit(
    model: nn.Module,
    loader: Iterable[Any],
    optimizer: torch.optim.Optimizer,
    *,
    epochs: int = 1,
    steps: int | None = None,
    scheduler: LRScheduler | None = None,
    accumulate: int = 1,
    autocast: bool | torch.dtype = False,
    clip_norm: float | None = None,
    ema: AveragedModel | None = None,
    evaluate: Callable[[nn.Module], Any] | None = None,
    log_dir: str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    backend: str | Backend = "auto",
    guard: CompileGuard | None = None,
    predict: bool = False,
    progress: bool = True,
    cuda_graph: bool = False,
    warm_up: Iterable[Any] | None = None,
) -> TrainSummary:
    """Trains: forward, sum of the losses, backward, optimiser, schedule, step after step, with the model in training mode.

    It takes a static model with batches of :class:`fixshape.PadToBucket`, and just as well torchvision's own with list batches,
    so that one run can be compared with the other. On devices other than the CPU the next batch is on its way while a step runs,
    from pinned memory on CUDA; the values are the same.

    Args:
        model: called as ``model(*batch)``; it returns a loss, or a mapping of losses. Already on the backend's device.
        loader: its batches are moved to the device.
        optimizer: over the model's parameters.
        epochs: how often the loader is run through.
        steps: end after this many optimiser steps in all, running through the loader as often as that takes; ``epochs`` is then
            unused.
        scheduler: stepped after each step.
        accumulate: batches of one optimiser step. Each loss is divided by their number before its backward, as in a loop by
            hand, and the step's loss is their mean: with losses that are normalised by what a batch holds (by its boxes, as most
            detection losses are) it is not that of one large batch. What is left at the end of a round is a step of fewer
            batches. Step, warm-up and compiles are told of the group of batches.
        autocast: mixed precision in forward and losses. ``True``: the device's own 16-bit type, float16 on CUDA and NPU, where
            gradients are scaled by the backend's gradient scaler; or ``torch.bfloat16``, unscaled, or ``torch.float16``.
        clip_norm: the most that the norm of all gradients together may be, after unscaling and accumulating
            (``torch.nn.utils.clip_grad_norm_``).
        ema: averaged weights, updated after each step; make it without ``device=``, so that its counter stays on the host:
            ``AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999))`` of ``torch.optim.swa_utils``. Buffers, as the
            statistics of batch-norm, are the model's own (or averaged, with its ``use_buffers=True``).
        evaluate: called with the model in evaluation mode, without gradients, each time the loader has been run through and at
            the end of ``steps``; with ``ema.module`` where there is one. It belongs to no step, and may compile. A mapping
            that it returns goes to TensorBoard.
        log_dir: a folder for TensorBoard: loss, learning rates, seconds and compiles of each step, and what ``evaluate``
            returns.
        checkpoint: a folder of this training alone, to which all of its state is saved between steps
            (:class:`fixshape.train.Checkpoint`). The loader has to be :func:`fixshape.make_loader`'s.
        checkpoint_every: save after so many steps. ``None``: after each round. Always at the end.
        resume: go on from the newest checkpoint of the folder; from the beginning, which is logged, where there is none yet.
            ``epochs`` and ``steps`` count what was done before. On the CPU the losses are then bit for bit those of a run that
            was never ended, unless transforms draw random numbers in DataLoader workers: those are not restored. An evaluation
            is made again where it was the last thing done.
        backend: see :func:`fixshape.watch`, as are the following. In a dry run no loss is read.
        guard: see there.
        predict: see there.
        progress: see there.
        cuda_graph: capture each shape's whole step in one CUDA graph after three eager ones, and replay it from then on. For a
            static model on a CUDA device; the optimiser has to be capturable. The recorder sees nothing of a replay. Written to
            torch's rules and never yet run on a GPU.
        warm_up: batches, one of each shape, that are stepped through before the first step (:func:`fixshape.warmup`); nothing of
            it remains. :meth:`fixshape.collate.BucketLoader.one_of_each` gives them.

    Returns:
        A :class:`fixshape.train.TrainSummary`, of the steps that this call made.

    Raises:
        NonFiniteLossError: the loss became NaN or infinite, and where the targets have ``image_id`` the message names the images;
            found one step later, since reading it at once would stall the device. Or a weight did, found when it was to be
            saved. Checkpoints hold finite weights only.
        OutOfMemoryError: a step, or the warm-up, asked for more memory than there is: the message has the shapes and the peak.
        WorkerError: a worker of the DataLoader died.
        BackendError: the device failed; the message has the step and the last checkpoint.
        CheckpointError: the newest in the folder is broken, or of another training; there is one, and ``resume`` is not given;
            the disk is full, and then the last one stays; or ``resume`` or ``checkpoint_every`` come without ``checkpoint``.
        BackendError: the backend is not there; ``cuda_graph`` on another device, or with an optimiser or a precision that a graph
            cannot hold; ``torch.float16`` where nothing scales gradients; ``checkpoint`` in a dry run.
        ShapeError: ``epochs``, ``steps``, ``accumulate`` or ``checkpoint_every`` is not a whole number of at least 1,
            ``clip_norm`` is not above 0, or the loader gives no batch.
        DtypeError: ``autocast`` is none of the above; ``checkpoint`` with another loader.
        ExtraError: ``log_dir``, and TensorBoard is not installed.
        ShapeDriftError: the guard's action is ``"error"`` and something compiled after the warm-up.

    Warns:
        FixshapeWarning: a batch has fillers while batch-norm is live: an all-padding image changes the statistics.
    """
    chosen = get_backend(backend)
    for name, value in (("epochs", epochs), ("accumulate", accumulate)):
        check_at_least("fit", name, value, 1)
    for name, given in (("steps", steps), ("checkpoint_every", checkpoint_every)):
        if given is not None:
            check_at_least("fit", name, given, 1)
    if checkpoint is None and (resume or checkpoint_every is not None):
        raise CheckpointError(f"fit: {'resume' if resume else 'checkpoint_every'}= without checkpoint=, the folder. Give it too.")
    step = Step(model, optimizer, chosen, scheduler=scheduler, autocast=autocast, clip_norm=clip_norm, ema=ema)
    device = next((parameter.device for parameter in model.parameters()), chosen.device())
    ahead = Ahead(torch.device("cpu") if cuda_graph else device)  # a graph copies into its own memory
    run = _graphed(step, chosen) if cuda_graph else lambda group: step(ahead.batches(group), len(group.batches))
    saved = None if checkpoint is None else _checkpoint(checkpoint, step, loader, chosen, resume=resume)
    loaded = None if saved is None or saved.newest() is None else saved.load()
    first = 0 if loaded is None else loaded.step
    watchdog = Watchdog(chosen, first, saved)
    padding = _Padding(model, sys._getframe(1))
    board = None if log_dir is None else Board(log_dir, first)

    def at_end() -> None:
        with watchdog.explaining("the evaluation"):
            result = _evaluate(model, ema, evaluate)
        if board is not None:
            board.evaluation(result, rounds.done)

    def after(group: Group) -> None:
        if board is not None:
            board.losses(watched.losses)
            board.step(watched.records[-1], optimizer)
        if saved is None:
            return
        ends_round, ends_all = rounds.is_over(group)
        if ends_all or (ends_round if checkpoint_every is None else rounds.done % checkpoint_every == 0):
            watchdog.require_finite([*watched.losses, float(loss)])
            saved.save(rounds.done, place=group.place, notes={"round": rounds.round + ends_round})

    rounds = Rounds(
        loader, epochs=epochs, steps=steps, accumulate=accumulate, places=saved is not None,
        ahead=ahead, before=padding.count, after=after, at_end=at_end,
    )  # fmt: skip
    if loaded is not None:
        rounds.resume(loaded.step, loaded.notes["round"])
    watched = watch(rounds, backend=chosen, guard=guard, predict=predict, progress=progress)
    model.train()
    warmup_steps = 0
    with ExitStack() as stack:
        stack.callback(rounds.let_go)
        if board is not None:
            stack.callback(board.close)
        stack.enter_context(watchdog.explaining())
        if warm_up is not None:
            with watched.warming_up():
                warmup_steps = _warm_up(step, warm_up, accumulate, chosen, watchdog)
        if saved is not None and loaded is not None:
            saved.restore_generators(loaded.generators)  # what was drawn for the warm-up is drawn back
        for group in watched:
            watchdog.begin(rounds.done + 1, group)
            loss = run(group)
            step.finish()
            if chosen.has_values:
                watched.log(loss)
                watchdog.require_finite(watched.losses)
        watchdog.require_finite(watched.losses)
        if board is not None:
            board.losses(watched.losses)
    return TrainSummary(
        tuple(watched.records),
        tuple(watched.losses),
        *padding.counts,
        padding.dropped,
        chosen.peak_memory(),
        warmup_steps,
        watched.warmup_compiles,
        first,
    )


def _graphed(step: Step, backend: Backend) -> Callable[[Group], Tensor]:
    if backend.name != "cuda":
        raise BackendError(f"fit: cuda_graph=True on the {backend.name} backend, expected cuda. Leave it out there.")
    if step.scaler.is_enabled():
        raise BackendError(
            "fit: cuda_graph=True with float16, whose gradient scaler reads a value at each step. Take autocast=torch.bfloat16."
        )
    check_capturable(step.optimizer, scheduled=step.scheduler is not None)
    graphed = GraphedStep(lambda batches: step(batches, len(batches)), backend.device())
    return lambda group: graphed(group.batches)


def _warm_up(step: Step, batches: Iterable[Any], accumulate: int, backend: Backend, watchdog: Watchdog) -> int:
    def one(*batch: Any) -> None:
        watchdog.begin(0, Group((batch,) * accumulate))
        step((batch,) * accumulate, accumulate)
        step.average()

    with step.kept():
        return warmup(one, batches, model=step.model, optimizer=step.optimizer, backend=backend)


def _checkpoint(folder: str | os.PathLike[str], step: Step, loader: Any, backend: Backend, *, resume: bool) -> Checkpoint:
    if not isinstance(loader, BucketLoader):
        raise DtypeError(
            f"fit: checkpoint= with a loader of type {type(loader).__name__}, which does not know how far it came: expected the"
            " loader of fixshape.make_loader."
        )
    if not backend.has_values:
        raise BackendError("fit: checkpoint= in a dry run, which has no values that could be saved. Leave it out there.")
    saved = Checkpoint(
        folder, model=step.model, optimizer=step.optimizer, scheduler=step.scheduler, scaler=step.scaler, ema=step.ema,
        loader=loader, backend=backend,
    )  # fmt: skip
    newest = saved.newest()
    if newest is not None and not resume:
        raise CheckpointError(
            f"fit: {newest} is there already, of a training that resume=True would go on with. Give that, or another folder."
        )
    if newest is None and resume:
        _log.warning("fit: resume=True, and no checkpoint in %s yet: from the beginning", folder)
    saved.clear_unfinished()
    return saved


class _Padding:
    """Counts what of the batches is padding; on the host, and outside of every step."""

    def __init__(self, model: nn.Module, caller: FrameType) -> None:
        self.counts = PaddingCounts(0, 0, 0, 0)
        self.dropped = 0
        self._model = model
        self._caller = (caller.f_code.co_filename, caller.f_lineno)  # the line that called fit
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
        warnings.warn_explicit(
            f"fit: a training batch has fillers while {len(live)} batch-norm layers are live ({live[0]}, ...): all-padding images"
            " change their statistics and the loss. Complete the batches with real samples, or drop the last (drop_last=True).",
            FixshapeWarning,
            *self._caller,
        )


def _evaluate(model: nn.Module, ema: AveragedModel | None, evaluate: Callable[[nn.Module], Any] | None) -> Any:
    if evaluate is None:
        return None
    evaluated: nn.Module = model if ema is None else ema.module
    evaluated.eval()
    with torch.no_grad():
        result = evaluate(evaluated)
    model.train()
    return result
