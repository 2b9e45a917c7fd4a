"""What the rest of fixshape may ask of a device family."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


class Backend(Protocol):
    """A device family. ``fixshape.backend.conformance`` holds the checks that each one passes.

    Attributes:
        name: ``torch.device.type`` of its devices.
        collective: the ``torch.distributed`` backend that goes with it.
        has_values: whether it computes. Without (a dry run), reading a value of a tensor there is a
            :class:`fixshape.errors.BackendError`.
    """

    name: str
    collective: str
    has_values: bool

    def device(self, index: int = 0) -> torch.device:
        """The device with that index."""
        ...

    def synchronize(self) -> None:
        """Waits until all launched work is done."""
        ...

    def step(self) -> None:
        """Marks the end of a training step: where a lazy device cuts its graph. Nothing on an eager one."""
        ...

    def autocast(self, *, dtype: torch.dtype | None = None, enabled: bool = True) -> AbstractContextManager[None]:
        """Mixed precision; ``None`` takes the device's own 16-bit type (float16 on CUDA and NPU, else bfloat16)."""
        ...

    def grad_scaler(self, *, enabled: bool = True) -> torch.amp.GradScaler:
        """A gradient scaler for float16. Where autocast is bfloat16 it is always a disabled one: nothing underflows."""
        ...

    def empty_cache(self) -> None:
        """Hands cached memory back, where the device keeps any."""
        ...

    def compiles(self) -> int | None:
        """Compiles of this process so far by the device's own count, or ``None`` where it keeps none.

        Of graphs on XLA, of operators in a dry run on an NPU.
        Where it is ``None``, :class:`fixshape.OpRecorder` predicts op compiles instead.
        """
        ...

    def fallbacks(self) -> dict[str, int]:
        """How often an op ran on the host because the device has no kernel for it, by op; reads such as ``item()`` included."""
        ...

    def peak_memory(self) -> int:
        """The most memory this process has held so far, in bytes: the device's where it counts its own, else the host's."""
        ...
