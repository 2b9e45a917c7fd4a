"""The checks that every backend passes, as data: a new backend is done when ``for check in CHECKS: check(backend)`` is quiet.

They run real work on the device: a step of a small model forwards, backwards and through an optimiser, in full and in mixed
precision, and compare its numbers with the host's. A backend without values has no numbers to compare: there, reading one has to
be an error.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from fixshape.backend._protocol import Backend
from fixshape.errors import BackendError


def _require(holds: bool, backend: Backend, what: str) -> None:
    if not holds:
        raise BackendError(f"conformance: backend {backend.name!r} fails: {what}.")


def _described(tensor: torch.Tensor) -> str:
    return f"{tensor.dtype}{list(tensor.shape)}"


def _on_host(backend: Backend, tensor: torch.Tensor) -> torch.Tensor | None:
    """The tensor's values; ``None`` where there are none, and nobody can read them."""
    if backend.has_values:
        return tensor.cpu()
    try:
        found = tensor.cpu()
    except BackendError:
        return None
    raise BackendError(f"conformance: backend {backend.name!r} fails: it has no values, and reading one gives {found}.")


def check_device(backend: Backend) -> None:
    """Its devices have its name, and tensors live on them."""
    device = backend.device()
    _require(device.type == backend.name, backend, f"device() is {device}, expected type {backend.name!r}")
    held = torch.ones(3, device=device)
    _require(held.device.type == backend.name, backend, f"a tensor made on {device} is on {held.device}")


def check_step(backend: Backend) -> None:
    """A training step gives the host's numbers."""
    torch.manual_seed(0)
    weight, batch = torch.randn(4, 3), torch.randn(5, 4)
    reference = _descend(weight, batch, None)
    stepped = _descend(weight.to(backend.device()), batch.to(backend.device()), backend)
    same = stepped.shape == weight.shape and stepped.dtype == weight.dtype
    _require(same, backend, f"two SGD steps make a weight {_described(stepped)}, expected {_described(weight)}")
    result = _on_host(backend, stepped)
    far = 0.0 if result is None else (reference - result).abs().max().item()
    _require(far < 1e-5, backend, f"two SGD steps differ from the host's by {far:.1e}, expected less than 1e-5")


def check_autocast(backend: Backend) -> None:
    """Inside autocast a matrix product is 16-bit, of the type that was asked for; outside, or disabled, it is not."""
    matrix = torch.ones(4, 4, device=backend.device())
    with backend.autocast():
        dtype = (matrix @ matrix).dtype
    _require(dtype in (torch.float16, torch.bfloat16), backend, f"autocast() makes a matrix product {dtype}")
    with backend.autocast(dtype=torch.bfloat16):
        dtype = (matrix @ matrix).dtype
    _require(dtype == torch.bfloat16, backend, f"autocast(dtype=torch.bfloat16) makes a matrix product {dtype}")
    with backend.autocast(enabled=False):
        _require((matrix @ matrix).dtype == torch.float32, backend, "autocast(enabled=False) changes a matrix product")
    _require((matrix @ matrix).dtype == torch.float32, backend, "autocast outlives its block")


def check_grad_scaler(backend: Backend) -> None:
    """A disabled scaler hands the loss through; an enabled one, where there is one, unscales to the same gradient."""
    for enabled in (False, True):
        weight = torch.ones(3, device=backend.device(), requires_grad=True)
        optimizer = torch.optim.SGD([weight], lr=0.5)
        scaler = backend.grad_scaler(enabled=enabled)
        loss = (weight * 2).sum()
        scaled = scaler.scale(loss)
        if backend.has_values:
            _require(enabled or bool(scaled == loss), backend, "grad_scaler(enabled=False) scales the loss")
        scaled.backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)
        scaler.update()
        backend.step()
        stepped = _on_host(backend, weight.detach())
        same = stepped is None or bool((stepped == 0).all())
        _require(same, backend, f"a step through grad_scaler(enabled={enabled}) is not the step without it")


def check_counters(backend: Backend) -> None:
    """Counters only grow, and a count of ``None`` stays ``None``."""
    before, fallen_back, peak = backend.compiles(), backend.fallbacks(), backend.peak_memory()
    _on_host(backend, torch.full((7,), 3.0, device=backend.device()).sum())
    backend.synchronize()
    after = backend.compiles()
    _require((before is None) == (after is None), backend, f"compiles() went from {before} to {after}")
    if before is not None and after is not None:
        _require(after >= before, backend, f"compiles() fell from {before} to {after}")
    counts = backend.fallbacks()
    _require(all(count > 0 for count in counts.values()), backend, f"fallbacks() is {counts}, expected counts above 0")
    grown = all(counts.get(op, 0) >= count for op, count in fallen_back.items())
    _require(grown, backend, f"fallbacks() fell from {fallen_back} to {counts}")
    _require(backend.peak_memory() > 0, backend, "peak_memory() is not positive")
    _require(backend.peak_memory() >= peak, backend, f"peak_memory() fell from {peak} to {backend.peak_memory()}")


def check_collective(backend: Backend) -> None:
    """The collective backend has a name, and emptying the cache harms nothing."""
    _require(bool(backend.collective), backend, "collective is empty")
    held = torch.ones(3, device=backend.device())
    backend.empty_cache()
    total = _on_host(backend, held.sum())
    _require(total is None or bool(total == 3.0), backend, "empty_cache() lost a tensor that was in use")


CHECKS: tuple[Callable[[Backend], None], ...] = (
    check_device,
    check_step,
    check_autocast,
    check_grad_scaler,
    check_counters,
    check_collective,
)


def _descend(weight: torch.Tensor, batch: torch.Tensor, backend: Backend | None) -> torch.Tensor:
    weight = weight.clone().requires_grad_()
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        (batch @ weight).square().mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if backend is not None:
            backend.step()
    if backend is not None:
        backend.synchronize()
    return weight.detach()
