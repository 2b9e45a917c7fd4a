"""Forward, backward or optimiser: read from autograd's own state, and from hooks that torch's optimisers call."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from fixshape.audit._report import PHASES

FORWARD, BACKWARD, OPTIMIZER = range(len(PHASES))
_NO_TASK = -1
_graph_task_id = torch._C._current_graph_task_id
_is_grad_enabled = torch.is_grad_enabled


class PhaseTracker:
    """Knows the phase of the op that is being run, between :meth:`install` and :meth:`remove`."""

    def __init__(self) -> None:
        self._in_optimizer = False
        self._optimizer_task = _NO_TASK
        self._hooks: list[Any] = []

    def install(self) -> None:
        self._hooks = [register_optimizer_step_pre_hook(self._enter), register_optimizer_step_post_hook(self._leave)]

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self.reset()

    def reset(self) -> None:
        """Out of the optimiser: torch tells of a ``step`` that returns, not of one that raises."""
        self._in_optimizer = False

    def current(self) -> int:
        """Index into :data:`PHASES`."""
        task: int = _graph_task_id()
        # A closure inside step() runs with gradients on, and its backward pass as another task. A step() that a backward hook
        # calls runs in the task of that hook.
        if self._in_optimizer and task == self._optimizer_task and not _is_grad_enabled():
            return OPTIMIZER
        return FORWARD if task == _NO_TASK else BACKWARD

    def _enter(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self._in_optimizer = True
        self._optimizer_task = _graph_task_id()

    def _leave(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self._in_optimizer = False
