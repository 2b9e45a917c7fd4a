"""XLA devices through torch_xla: lazy, one graph compile for each new graph. ``PJRT_DEVICE=CPU`` is a real one without hardware.

Ask for this backend before the first ``backward()`` of the process: autograd counts the device types when it first runs, and
one that registers later has no queue (torch 2.9, csrc/autograd/engine.cpp: an internal assert).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from fixshape.backend._cpu import peak_resident


def unavailable() -> str | None:
    """Why it cannot be used, or ``None``. Imports torch_xla, which starts its runtime."""
    if importlib.util.find_spec("torch_xla") is None:
        return "torch_xla is not installed: python -m pip install 'fixshape[xla]'"
    try:
        import torch_xla

        torch_xla.device()
    except Exception as error:  # whatever a vendor's start-up raises is the reason
        return f"torch_xla does not start: {type(error).__name__}: {error}"
    return None


def is_emulated() -> bool:
    """Whether the XLA device is the host's own CPU, which nobody trains on by choice."""
    import torch_xla.runtime

    return str(torch_xla.runtime.device_type()) == "CPU"


def loop(
    step: Callable[[list[Tensor], list[Tensor]], tuple[list[Tensor], list[Tensor]]], state: list[Tensor], inputs: list[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Runs ``step(state, row) -> (state, output)`` over the rows of ``inputs`` as one loop of the graph, not unrolled.

    No gradient passes. Bool comes back as int64, so it must not be in the state.

    Returns:
        The last state, and the outputs stacked.
    """
    # The public scan prepares a backward pass, and for that wants a state of floating point; this is the part of it that loops.
    from torch_xla.experimental.scan import _scan_impl_flat

    return _scan_impl_flat(step, state, inputs)  # type: ignore[no-any-return]


class XlaBackend:
    """See :class:`fixshape.backend.Backend`."""

    name = "xla"
    collective = "xla"
    has_values = True

    def __init__(self) -> None:
        import torch_xla
        import torch_xla.debug.metrics

        self._xla: Any = torch_xla
        self._metrics: Any = torch_xla.debug.metrics

    def device(self, index: int = 0) -> torch.device:
        return torch.device(self._xla.device(index))

    def synchronize(self) -> None:
        self._xla.sync(wait=True)

    def step(self) -> None:
        self._xla.sync()

    def autocast(self, *, dtype: torch.dtype | None = None, enabled: bool = True) -> AbstractContextManager[None]:
        # Not torch_xla.amp.autocast: on a device other than TPU and Neuron it prints, and hands back an unusable object.
        return torch.autocast("xla", dtype=dtype or torch.bfloat16, enabled=enabled)

    def grad_scaler(self, *, enabled: bool = True) -> torch.amp.GradScaler:
        return torch.amp.GradScaler("xla", enabled=False)

    def empty_cache(self) -> None:
        """XLA's allocator has no call for it."""

    def compiles(self) -> int | None:
        measured = self._metrics.metric_data("CompileTime")
        return int(measured[0]) if measured else 0

    def fallbacks(self) -> dict[str, int]:
        names = [name for name in self._metrics.counter_names() if name.startswith("aten::")]
        return {name: int(self._metrics.counter_value(name)) for name in sorted(names)}

    def peak_memory(self) -> int:
        return peak_resident()
