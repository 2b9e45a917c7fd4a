"""The CPU: eager, nothing is compiled; the reference that every other backend is compared with."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager

import torch


def unavailable() -> str | None:
    """Why it cannot be used, or ``None``."""
    return None


class CpuBackend:
    """See :class:`fixshape.backend.Backend`."""

    name = "cpu"
    collective = "gloo"
    has_values = True

    def device(self, index: int = 0) -> torch.device:
        return torch.device("cpu", index)

    def synchronize(self) -> None:
        """Nothing to wait for: an op has ended when its call returns."""

    def step(self) -> None:
        """Nothing to cut."""

    def autocast(self, *, dtype: torch.dtype | None = None, enabled: bool = True) -> AbstractContextManager[None]:
        return torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=enabled)

    def grad_scaler(self, *, enabled: bool = True) -> torch.amp.GradScaler:
        return torch.amp.GradScaler("cpu", enabled=False)

    def empty_cache(self) -> None:
        """The host's allocator keeps nothing that could be handed back."""

    def compiles(self) -> int | None:
        return None

    def fallbacks(self) -> dict[str, int]:
        return {}

    def peak_memory(self) -> int:
        return peak_resident()


def peak_resident() -> int:
    """Peak resident memory of this process in bytes.

    Not ``ru_maxrss`` where there is better: on Linux a process starts with that of the one that forked it, exec or not.
    """
    try:
        with open("/proc/self/status", "rb") as status:
            (peak,) = (int(line.split()[1]) for line in status if line.startswith(b"VmHWM:"))
        return peak * 1024
    except (OSError, ValueError):
        import resource  # not on Windows

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
