"""One optimiser step over one batch or several: forward, backward, what is done to the gradients, and what follows the update."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from fixshape._check import shown
from fixshape.backend import Backend
from fixshape.errors import BackendError, DtypeError, ShapeError


class Step:
    """What :func:`fixshape.fit` does with a group of batches, and what it keeps from step to step.

    Args:
        model: called as ``model(*batch)``.
        optimizer: over its parameters.
        backend: whose autocast and gradient scaler are used.
        scheduler: of the learning rate.
        autocast: as ``fit`` has it.
        clip_norm: likewise.
        ema: likewise.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        backend: Backend,
        *,
        scheduler: LRScheduler | None,
        autocast: bool | torch.dtype,
        clip_norm: float | None,
        ema: AveragedModel | None,
    ) -> None:
        if autocast not in (True, False, torch.float16, torch.bfloat16):
            raise DtypeError(f"fit: autocast is {shown(autocast)}, expected True, False, torch.bfloat16 or torch.float16.")
        if clip_norm is not None and not clip_norm > 0:
            raise ShapeError(f"fit: clip_norm is {clip_norm}, expected a number above 0, or None.")
        self.model = model
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.ema = ema
        self.scaler = backend.grad_scaler(enabled=autocast in (True, torch.float16))
        if autocast is torch.float16 and backend.has_values and not self.scaler.is_enabled():
            raise BackendError(
                f"fit: autocast=torch.float16 on the {backend.name} backend, which does not scale gradients: they would"
                " underflow. Take autocast=True, the device's own type, or torch.bfloat16."
            )
        self._backend = backend
        self._autocast = autocast
        self._clip_norm = clip_norm

    def __call__(self, batches: Iterable[Any], count: int) -> Tensor:
        """Forward, backward and optimiser, without reading a value.

        Args:
            batches: on the device.
            count: how many they are.

        Returns:
            Their mean loss, without its graph.
        """
        losses = []
        for number, batch in enumerate(batches):
            if number:
                self._backend.step()  # a lazy device would trace all of them as one graph, and each mix of shapes anew
            with self._precision():
                loss = self._loss(batch)
                loss = loss / count if count > 1 else loss
            if not number:
                self.optimizer.zero_grad(set_to_none=True)
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        if count > 1:
            self._backend.step()  # the update is one graph, whatever the last batch was
        if self._clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(_parameters(self.optimizer), self._clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return sum(losses[1:], losses[0])

    def finish(self) -> None:
        """What follows the update: the schedule, then the averaged weights."""
        if self.scheduler is not None:
            self.scheduler.step()
        self.average()

    def average(self) -> None:
        """Takes the weights into their moving average."""
        if self.ema is not None:
            self.ema.update_parameters(self.model)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Puts the scaler and the averaged weights back in place; model and optimiser are :func:`fixshape.warmup`'s."""
        scaler = copy.deepcopy(self.scaler.state_dict())
        averaged = None if self.ema is None else {name: value.clone() for name, value in self.ema.state_dict().items()}
        try:
            yield
        finally:
            if scaler:
                self.scaler.load_state_dict(scaler)
            if self.ema is not None and averaged is not None:
                self.ema.load_state_dict(averaged)

    def _loss(self, batch: Any) -> Tensor:
        losses = self.model(*batch)
        return sum(losses.values()) if isinstance(losses, Mapping) else losses  # type: ignore[return-value]

    def _precision(self) -> AbstractContextManager[None]:
        if self._autocast is False:
            return nullcontext()
        return self._backend.autocast(dtype=None if self._autocast is True else self._autocast)


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
