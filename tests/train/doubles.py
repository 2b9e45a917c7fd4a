"""A device that compiles graphs, made of nothing, and work for the loops to watch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from fixshape.backend._cpu import CpuBackend


class GraphDevice(CpuBackend):
    """Lazy: what is traced is compiled when the graph is cut, one compile for each new shape."""

    def __init__(self) -> None:
        self.cuts = 0
        self._pending: list[Any] = []
        self._compiled: set[Any] = set()

    def trace(self, shape: Any) -> None:
        self._pending.append(shape)

    def step(self) -> None:
        self.cuts += 1
        self._compiled.update(self._pending)
        self._pending.clear()

    def compiles(self) -> int:
        return len(self._compiled)


class Counted:
    """A loader that knows how many batches it has handed out; without a length unless asked for one."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches
        self.handed_out = 0

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            self.handed_out += 1
            yield batch


class WithLosses(nn.Module):
    """A static model in small: a convolution, a dictionary of two losses, batch-norm if asked for."""

    def __init__(self, *, norm: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4) if norm else nn.Identity(), nn.ReLU())
        self.modes: list[tuple[bool, bool]] = []

    def forward(self, images: torch.Tensor, targets: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        self.modes.append((self.training, torch.is_grad_enabled()))
        features = self.body(images)
        return {
            "size": features.square().mean(),
            "spread": (features.mean((1, 2, 3)) - targets["boxes"].mean((1, 2))).abs().mean(),
        }


def mode_is_active() -> bool:
    """Whether any dispatch mode, as the recorder's, is on."""
    return len(torch.utils._python_dispatch._get_current_dispatch_mode_stack()) > 0
