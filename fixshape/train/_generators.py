"""The states of all random generators of this process, as values that ``torch.load(weights_only=True)`` reads."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def generators_state(device: torch.device) -> dict[str, Any]:
    """Of torch's generator on the host and on ``device`` (where that has a module in torch: not XLA), of numpy's and Python's."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, words, following = random.getstate()
    module = _of_device(device)
    return {
        "torch": torch.get_rng_state(),
        "device": None if module is None else module.get_rng_state(device).cpu(),
        "numpy": [str(kind), torch.from_numpy(np.asarray(keys).astype(np.int64)), int(position), int(has_gauss), float(gauss)],
        "python": [version, list(words), following],
    }


def set_generators(state: Mapping[str, Any], device: torch.device) -> None:
    """Puts them back."""
    torch.set_rng_state(state["torch"])
    module = _of_device(device)
    if module is not None and state["device"] is not None:
        module.set_rng_state(state["device"], device)
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    version, words, following = state["python"]
    random.setstate((version, tuple(words), following))


def _of_device(device: torch.device) -> Any:
    module = getattr(torch, device.type, None)
    return module if hasattr(module, "get_rng_state") else None
