"""Which backends there are, which of them can be used here, and why not the others."""

from __future__ import annotations

import importlib
from typing import Any, cast

from fixshape.backend._protocol import Backend
from fixshape.errors import BackendError

BACKENDS = ("npu", "cuda", "xla", "cpu")
"""Every known name, in the order in which ``"auto"`` tries them."""

_CLASSES = {"npu": "NpuBackend", "cuda": "CudaBackend", "xla": "XlaBackend", "cpu": "CpuBackend"}


def unavailable_reason(name: str) -> str | None:
    """Why a backend cannot be used here, in one sentence; ``None`` if it can.

    Args:
        name: one of :data:`BACKENDS`.

    Returns:
        The reason, as text without a full stop, or ``None``.

    Raises:
        BackendError: the name is not known.
    """
    reason: str | None = _module(name).unavailable()
    return reason


def get_backend(name: str | Backend = "auto", *, dry_run: bool = False) -> Backend:
    """The backend with that name.

    Args:
        name: one of :data:`BACKENDS`; ``"auto"``: the first of them that is there (XLA only where it is more than the
            host's CPU); or a backend, which is handed back.
        dry_run: for ``"npu"``: the real torch-npu over a stand-in for CANN, which counts what would be launched and compiled and
            has no values. It needs no NPU, and a C compiler the first time. Ask before ``torch_npu`` is imported and before the
            first ``backward()``; it lasts to the end of the process.

    Returns:
        A :class:`fixshape.backend.Backend`; a dry run has ``steps``, ``counts()`` and ``slow_forms()`` besides.

    Raises:
        BackendError: the name is not known, or that backend cannot be used here; the message says why, and which can.
            ``dry_run`` of another backend.

    Example:
        >>> get_backend("cpu").device()
        device(type='cpu', index=0)
    """
    if dry_run:
        if name != "npu":
            raise BackendError(f"get_backend: only 'npu' has a dry run, not {name!r}.")
        return _make_dry_run()
    if not isinstance(name, str):
        return name
    if name == "auto":
        return _make(next(candidate for candidate in BACKENDS if _is_automatic(candidate)))
    reason = unavailable_reason(name)
    if reason is not None:
        usable = ", ".join(other for other in BACKENDS if other != name and unavailable_reason(other) is None)
        raise BackendError(f"get_backend: {name!r} cannot be used here: {reason}. These can: {usable}.")
    return _make(name)


def _is_automatic(name: str) -> bool:
    return unavailable_reason(name) is None and not (name == "xla" and _module(name).is_emulated())


def _module(name: str) -> Any:
    if name not in BACKENDS:
        known = ", ".join(map(repr, BACKENDS))
        raise BackendError(f"there is no backend {name!r}. Known are {known}; get_backend takes 'auto' too.")
    return importlib.import_module(f"fixshape.backend._{name}")


def _make(name: str) -> Backend:
    return cast(Backend, getattr(_module(name), _CLASSES[name])())


def _make_dry_run() -> Backend:
    from fixshape.backend._npu_dry_run import NpuDryRun

    return NpuDryRun()
