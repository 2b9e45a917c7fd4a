"""A whole training step as one CUDA graph: one launch from the host for thousands of kernels.

A graph replays what was captured, on the memory it was captured with. So each shape of a batch has its own, batches are copied
into the captured one, and everything that a step depends on has to be on the device: no value is read, nothing is copied from the
host, the optimiser keeps its step count there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fixshape.errors import BackendError
from fixshape.train._batch import map_tensors, tensors_of, to_device

EAGER_STEPS = 3
"""Steps of a shape before its capture, in which libraries choose their kernels and the optimiser makes its state."""


class GraphedStep:
    """Runs ``step(batch)`` eagerly at first, then captures it and replays the capture: the same training, step for step.

    The steps before a capture are real ones, and the capture itself changes nothing until it is replayed.

    Args:
        step: forward, backward and optimiser on a batch that is on the device; it returns the loss. It may not read a value.
        device: a CUDA device.
    """

    def __init__(self, step: Callable[[Any], Tensor], device: torch.device) -> None:
        self._step = step
        self._device = device
        self._seen: Counter[Any] = Counter()
        self._captured: dict[Any, tuple[torch.cuda.CUDAGraph, Any, Tensor]] = {}
        self._side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __call__(self, batch: Any) -> Tensor:
        """The loss of one step; the batch may be on the host."""
        key = tuple((tuple(tensor.shape), tensor.dtype) for tensor in tensors_of(batch))
        if key not in self._captured:
            self._seen[key] += 1
            if self._seen[key] <= EAGER_STEPS:
                return self._eagerly(batch)
            self._captured[key] = self._capture(batch)
        graph, inputs, loss = self._captured[key]
        for place, value in zip(tensors_of(inputs), tensors_of(batch), strict=True):
            place.copy_(value, non_blocking=True)
        graph.replay()
        return loss.clone()  # the next replay overwrites it

    def _eagerly(self, batch: Any) -> Tensor:
        # On a stream of its own, as the capture will be: what a library sets up on its first call must not be captured.
        self._side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._side):
            loss = self._step(to_device(batch, self._device))
        torch.cuda.current_stream(self._device).wait_stream(self._side)
        return loss

    def _capture(self, batch: Any) -> tuple[torch.cuda.CUDAGraph, Any, Tensor]:
        # Copies, also where the batch is on the device already: later batches are written into them.
        inputs = map_tensors(torch.clone, to_device(batch, self._device))
        graph = torch.cuda.CUDAGraph()
        # Graphs that never run at the same time can share one pool of memory.
        pool = next((graph.pool() for graph, _, _ in self._captured.values()), None)
        with torch.cuda.graph(graph, pool=pool):
            loss = self._step(inputs)
        return graph, inputs, loss


def check_capturable(optimizer: torch.optim.Optimizer, *, scheduled: bool) -> None:
    """Raises :class:`BackendError` where a captured ``optimizer.step()`` would fail, or replay what has changed since.

    Args:
        optimizer: of the training.
        scheduled: whether its learning rate changes from step to step.
    """
    kind = type(optimizer).__name__
    for number, group in enumerate(optimizer.param_groups):
        if group.get("capturable") is False:
            raise BackendError(
                f"fit: cuda_graph=True, but parameter group {number} of {kind} counts its steps on the host (capturable=False)."
                f" Build it with torch.optim.{kind}(..., capturable=True)."
            )
        if scheduled and not (isinstance(group["lr"], Tensor) and (group.get("capturable") or group.get("fused"))):
            way_out = "capturable=True" if "capturable" in group else "fused=True"
            raise BackendError(
                f"fit: cuda_graph=True with a scheduler, but the learning rate of parameter group {number} of {kind} is a number,"
                " which the graph would replay for ever. Build it with lr=torch.tensor(..., device='cuda') and"
                f" {way_out}."
            )
