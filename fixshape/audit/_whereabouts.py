"""Whose is a tensor, the device's or the host's, in a script that runs on a CPU, where all lie in one place?

    images = images.to(device)          the device's, because the script says so
    loss = model(images).mean()         the device's, because an op made it
    shown = loss.detach().cpu()         the host's from here on, until the step ends
    (shown > 0).tolist()                the host's, because nothing but the host's went in

What came from elsewhere and was never moved, a batch as its loader gave it, is nobody's: to read it on the host is no sync, and
what an op makes of it is the device's. Parameters are the device's, and so is whatever a gradient goes through.

``x.cpu()`` of a CPU's tensor is ``x`` itself, so that the copy and what it is a copy of cannot be told apart: until the step ends
both are the host's, unless an op writes to them. A tensor is known by identity, and none is kept alive.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import torch

_Known = dict[int, weakref.ref[torch.Tensor]]
_is_grad_enabled = torch.is_grad_enabled


class Whereabouts:
    """The device's tensors as long as they live, and the host's of the open step."""

    def __init__(self) -> None:
        self._device: _Known = {}
        self._host: _Known = {}
        self._has_other_device = False

    def on_device(self, tensor: torch.Tensor) -> bool:
        """Whether a read of it on the host would wait for a device, though it is on the CPU."""
        if self._has_other_device or tensor.device.type != "cpu" or _knows(self._host, tensor):
            return False
        return tensor.requires_grad or _knows(self._device, tensor)

    def on_host(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Whether all of them have been fetched, or are made of what has been; False of none."""
        return bool(self._host and tensors) and all(_knows(self._host, tensor) for tensor in tensors)

    def move(self, tensor: torch.Tensor) -> None:
        """The script has said where it belongs, and that is the device."""
        self._device[id(tensor)] = weakref.ref(tensor)
        self._host.pop(id(tensor), None)

    def fetch(self, tensor: torch.Tensor) -> None:
        """The script has copied it to the host."""
        self._host[id(tensor)] = weakref.ref(tensor)

    def leave(self, tensors: Sequence[torch.Tensor]) -> None:
        """An op has carried them between kinds of devices: where there is a real one, the CPU's tensors are the host's own."""
        if any(tensor.device.type not in ("cpu", "meta") for tensor in tensors):
            self._has_other_device = True

    def follow(self, tensors: Sequence[torch.Tensor], results: Sequence[torch.Tensor], *, is_view: bool) -> bool:
        """Takes down whose the results of an op are; True where they are the host's."""
        if self._host:
            if self.on_host(tensors) and (is_view or not _has_gradient(tensors)):
                for result in results:
                    self.fetch(result)
                return True
            for result in results:
                self._host.pop(id(result), None)
        for result in results:
            self._device[id(result)] = weakref.ref(result)
        return False

    def close_step(self) -> None:
        self._host = {}
        self._device = {mine: tensor for mine, tensor in self._device.items() if tensor() is not None}


def _knows(known: _Known, tensor: torch.Tensor) -> bool:
    entry = known.get(id(tensor))
    return entry is not None and entry() is tensor


def _has_gradient(tensors: Sequence[torch.Tensor]) -> bool:
    return _is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
