"""NVIDIA GPUs: eager, nothing is compiled for a shape unless CUDA graphs or torch.compile are used on top."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch


def unavailable() -> str | None:
    """Why it cannot be used, or ``None``."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return "torch.cuda.is_available() is False: no NVIDIA GPU, or no driver, is visible to this process"
    return None


class CudaBackend:
    """See :class:`fixshape.backend.Backend`."""

    name = "cuda"
    collective = "nccl"
    has_values = True

    def device(self, index: int = 0) -> torch.device:
        return torch.device("cuda", index)

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def step(self) -> None:
        """Nothing to cut."""

    def autocast(self, *, dtype: torch.dtype | None = None, enabled: bool = True) -> AbstractContextManager[None]:
        return torch.autocast("cuda", dtype=dtype or torch.float16, enabled=enabled)

    def grad_scaler(self, *, enabled: bool = True) -> torch.amp.GradScaler:
        return torch.amp.GradScaler("cuda", enabled=enabled)

    def empty_cache(self) -> None:
        torch.cuda.empty_cache()

    def compiles(self) -> int | None:
        return None

    def fallbacks(self) -> dict[str, int]:
        return {}

    def peak_memory(self) -> int:
        return torch.cuda.max_memory_allocated()
