"""What ended the training, in words that say which batch it was and what to change."""

from __future__ import annotations

import math
import re
import time
import traceback
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fixshape.backend import Backend
from fixshape.errors import BackendError, FixshapeError, NonFiniteLossError, OutOfMemoryError, WorkerError
from fixshape.train._batch import Group, shapes_of
from fixshape.train._checkpoint import Checkpoint

_NO_MEMORY = re.compile(r"out of memory|RESOURCE_EXHAUSTED|can't allocate memory|not enough memory", re.IGNORECASE)
_DEAD_WORKER = re.compile(r"DataLoader worker \(pid.*?\) (is killed|exited)")
# As CUDA's, CANN's and XLA's runtimes say it: none of them can be used any more by this process.
_DEAD_DEVICE = re.compile(
    r"(CUDA|HIP|NPU function|ACL stream) error|device.{0,40} (is lost|lost|unavailable)|^UNAVAILABLE:", re.IGNORECASE
)
_GRACE = 0.5  # seconds
_MOST_NAMED = 16  # images in a message


class Watchdog:
    """Knows the last steps, so that it can tell which one failed.

    Args:
        backend: whose peak memory is told.
        before: steps of an earlier process: the numbers go on from there.
        saved: where checkpoints are, if there are any.
    """

    def __init__(self, backend: Backend, before: int, saved: Checkpoint | None) -> None:
        self._backend = backend
        self._before = before
        self._saved = saved
        # Two: a loss is read one step late.
        self._recent: deque[tuple[int, Group]] = deque(maxlen=2)

    def begin(self, step: int, group: Group) -> None:
        """A step begins; 0 is the warm-up."""
        self._recent.append((step, group))

    def require_finite(self, losses: Sequence[float]) -> None:
        """Raises :class:`NonFiniteLossError` if the last of the losses that were read is not finite."""
        if not losses or math.isfinite(losses[-1]):
            return
        step = self._before + len(losses)
        before = ", ".join(f"{loss:.4g}" for loss in losses[-4:-1]) or "none"
        images = next((image_ids(group) for number, group in self._recent if number == step), [])
        named = ", ".join(map(str, images[:_MOST_NAMED])) + (", ..." if len(images) > _MOST_NAMED else "")
        raise NonFiniteLossError(
            f"fit: the loss of step {step} is {losses[-1]}, expected a finite number. The losses before it: {before}."
            f"{f' Its images (image_id): {named}.' if images else ''} Lower the learning rate, or warm it up."
            f"{self._last_good()}"
        )

    @contextmanager
    def explaining(self, where: str = "") -> Iterator[None]:
        """Turns torch's errors of memory and of workers into fixshape's; ``where`` is what runs, if no step."""
        try:
            yield
        except FixshapeError:
            raise
        except RuntimeError as error:
            text = " ".join(str(error).split())
            if _DEAD_WORKER.search(text):
                raise WorkerError(self._of_worker(text)) from error
            if isinstance(error, torch.OutOfMemoryError) or _NO_MEMORY.search(text):
                raise OutOfMemoryError(self._of_memory(text, where)) from error
            if _DEAD_DEVICE.search(text):
                raise BackendError(self._of_device(text, where)) from error
            raise
        except (OSError, EOFError) as error:
            said = _obituary(error)
            if not said:
                raise
            raise WorkerError(self._of_worker(said)) from error

    def _of_worker(self, text: str) -> str:
        reached = self._recent[-1][0] if self._recent else self._before
        said = " ".join(text.split()).rstrip(".")
        return (
            f"fit: a worker of the DataLoader died after {reached} steps: {said:.200}. The system kills workers where the host's"
            " memory, or /dev/shm, is too small: use fewer workers. A data set that crashes shows where with num_workers=0."
            f"{self._last_good()}"
        )

    def _of_device(self, text: str, where: str) -> str:
        reached = f"step {self._recent[-1][0]}" if self._recent else "the first step"
        return (
            f"fit: the {self._backend.name} device failed in {where or reached}, and this process can use it no more:"
            f" {text:.300}. Start it again, and resume=True goes on from the last checkpoint.{self._last_good()}"
        )

    def _of_memory(self, text: str, where: str) -> str:
        if not where and self._recent:
            step, group = self._recent[-1]
            where = f"{f'step {step}' if step else 'the warm-up'}, on {shapes_of(group)}"
        peak = f"{self._backend.peak_memory() / 2**20:,.0f} MiB"
        return (
            f"fit: out of memory in {where or 'the first step'}: {peak} were in use at most on {self._backend.name}. Lower"
            " the batch size (and raise accumulate= to keep what the optimiser sees), plan smaller buckets (max_pixels=, or"
            f" pixels_per_batch=), or use autocast=True. torch said: {text:.300}{self._last_good()}"
        )

    def _last_good(self) -> str:
        newest = None if self._saved is None else self._saved.newest()
        return "" if newest is None else f" The last checkpoint is {newest}."


def _obituary(error: Exception) -> str:
    """What is said of a worker that was gone when the tensors of its batch were fetched; nothing where that is not what happened.

    The error is one of sockets or files then. Torch's own comes when the system tells it, wherever the program is by that time.
    """
    try:
        frames = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
        if not any(code.co_name == "_try_get_data" and code.co_filename.endswith("dataloader.py") for code in frames):
            return ""
        time.sleep(_GRACE)
    except RuntimeError as told:
        return str(told)
    return f"{type(error).__name__}: {error}"


def image_ids(group: Group) -> list[Any]:
    """``image_id`` of the real images of a group, where its targets have them."""
    found: list[Any] = []
    for batch in group.batches:
        match batch:
            case [_, {"image_id": Tensor() as ids} as targets]:
                real = targets.get("image_valid", torch.ones_like(ids, dtype=torch.bool))
                found += ids[real].tolist()
            case [_, [*targets]]:
                each = [target["image_id"] for target in targets if isinstance(target, Mapping) and "image_id" in target]
                found += [value.item() if isinstance(value, Tensor) and value.numel() == 1 else value for value in each]
    return found
