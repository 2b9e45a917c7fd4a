"""Losses, rates and times of a training for TensorBoard, as its own writer of torch's stores them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fixshape.errors import ExtraError
from fixshape.train._records import StepRecord


class Board:
    """Writes what is known after each step: a loss is known one step late.

    Args:
        log_dir: of ``torch.utils.tensorboard.SummaryWriter``.
        before: steps of an earlier process; what it wrote of later steps is taken off the board.

    Raises:
        ExtraError: TensorBoard is not installed.
    """

    def __init__(self, log_dir: str | os.PathLike[str], before: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ExtraError(
                f"fit: log_dir needs TensorBoard, which is not installed ({error}): python -m pip install tensorboard"
            ) from None
        self._writer: Any = SummaryWriter(os.fspath(log_dir), purge_step=before + 1)
        self._before = before
        self._losses = 0

    def step(self, record: StepRecord, optimizer: torch.optim.Optimizer) -> None:
        """A step has ended."""
        step = self._before + record.index
        for number, group in enumerate(optimizer.param_groups):
            self._writer.add_scalar(f"learning_rate/{number}", float(group["lr"]), step)
        self._writer.add_scalar("seconds_per_step", record.seconds, step)
        if record.is_counted:
            self._writer.add_scalar("compiles", record.compiles, step)

    def losses(self, known: Sequence[float]) -> None:
        """All losses that are known so far."""
        for loss in known[self._losses :]:
            self._losses += 1
            self._writer.add_scalar("loss", loss, self._before + self._losses)

    def evaluation(self, result: Any, step: int) -> None:
        """What ``evaluate`` returned, where it is a mapping of names to numbers."""
        if isinstance(result, Mapping):
            for name, value in result.items():
                self._writer.add_scalar(f"evaluate/{name}", float(value), step)

    def close(self) -> None:
        """All that was given is on disk from here on."""
        self._writer.close()
