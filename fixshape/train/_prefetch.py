"""Batches on their way to the device while the step before them runs: the copy is issued ahead, so that no step waits for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from fixshape.train._batch import Group, map_tensors, tensors_of, to_device


class Ahead:
    """Moves each batch one ahead of its use; on the CPU nothing is moved, and nothing taken ahead.

    Where there is a next group, its first batch is moved before the group itself is handed out; the others of a group one by one,
    so that no more than two batches take the device's memory. The values are the same. On CUDA the copy is made from pinned
    memory, on a stream of its own: written to torch's rules and never yet run on a GPU.

    Args:
        device: where the batches go.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._moved: dict[int, tuple[Any, torch.cuda.Event | None]] = {}  # by the id of the batch, which its group holds
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def groups(self, groups: Iterable[Group]) -> Iterator[Group]:
        """The same groups, in order; each is asked for one early."""
        if self._device.type == "cpu":
            yield from groups
            return
        waiting: Group | None = None
        for group in groups:
            self._send(group.batches[0])
            if waiting is not None:
                yield waiting
            waiting = group
        if waiting is not None:
            yield waiting

    def batches(self, group: Group) -> Iterator[Any]:
        """The group's batches on the device, in order."""
        for batch, following in zip(group.batches, (*group.batches[1:], None), strict=True):
            moved = self._receive(batch)
            if following is not None and self._device.type != "cpu":
                self._send(following)
            yield moved

    def _send(self, batch: Any) -> None:
        if id(batch) not in self._moved:
            self._moved[id(batch)] = self._move(batch)

    def _receive(self, batch: Any) -> Any:
        moved, copied = self._moved.pop(id(batch)) if id(batch) in self._moved else self._move(batch)
        if copied is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(copied)
            for tensor in tensors_of(moved):
                if tensor.is_cuda:
                    tensor.record_stream(current)  # its memory came from the other stream
        return moved

    def _move(self, batch: Any) -> tuple[Any, torch.cuda.Event | None]:
        if self._side is None:
            return to_device(batch, self._device), None
        with torch.cuda.stream(self._side):
            moved = to_device(map_tensors(_pinned, batch), self._device)
            return moved, self._side.record_event()


def _pinned(tensor: Tensor) -> Tensor:
    """In memory from which a copy does not make the host wait."""
    return tensor.pin_memory() if tensor.device.type == "cpu" and not tensor.is_pinned() else tensor
