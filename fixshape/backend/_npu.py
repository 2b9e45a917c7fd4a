"""Ascend NPUs through torch-npu: eager; operators come built with CANN, or are compiled online, one for each new shape.

Ask for this backend before the first ``backward()`` of the process: autograd counts the device types when it first runs, and
one that registers later has no queue (torch 2.9, csrc/autograd/engine.cpp: an internal assert).

Never run on hardware. Each name of torch-npu that is used here is checked against the installed wheel, and each call is run in a
dry run (:class:`fixshape.backend._npu_dry_run.NpuDryRun`).
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from contextlib import AbstractContextManager, redirect_stdout
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from fixshape._check import check_choice

_RUNTIME = "libascendcl.so"
_dry = False  # whether this process holds the stand-in for CANN


def unavailable() -> str | None:
    """Why it cannot be used, or ``None``. Imports torch_npu where CANN is there."""
    reason = unavailable_package()
    if reason is not None:
        return reason
    if _dry:
        return "this process is in a dry run, and has no other NPU"
    if "torch_npu" not in sys.modules:
        try:
            ctypes.CDLL(_RUNTIME)
        except OSError as error:
            return f"CANN is not there ({error}): run 'source set_env.sh' in its folder. A dry run needs none"
    try:
        count = start().npu.device_count()
    except Exception as error:  # whatever a vendor's start-up raises is the reason
        return f"torch_npu does not start: {type(error).__name__}: {' '.join(str(error).split()):.300}"
    return None if count else "torch.npu.device_count() is 0: no NPU, or no driver, is visible to this process"


def unavailable_package() -> str | None:
    """Why torch-npu itself cannot be used, with CANN or without, or ``None``. Imports nothing."""
    wanted = ".".join(torch.__version__.split(".")[:2])
    install = f"python -m pip install --no-deps 'torch-npu=={wanted}.*'"
    if importlib.util.find_spec("torch_npu") is None:
        return f"torch_npu is not installed: {install}"
    found = package_version()
    if ".".join(found.split(".")[:2]) != wanted:
        return f"torch_npu {found} is not made for torch {torch.__version__}: {install}"
    return None


def package_version() -> str:
    """Of the installed torch-npu."""
    return metadata.version("torch-npu")


def package_folder() -> Path:
    """Of the installed torch-npu."""
    found = importlib.util.find_spec("torch_npu")
    assert found is not None and found.origin is not None
    return Path(found.origin).parent


def start(*, dry: bool = False) -> Any:
    """Imports torch_npu, which adds ``torch.npu``. What it prints goes to stderr.

    Args:
        dry: the stand-in for CANN is loaded, and torch-npu starts on that.
    """
    global _dry
    _dry = _dry or dry
    with redirect_stdout(sys.stderr):
        import torch_npu
    return torch_npu


class NpuBackend:
    """See :class:`fixshape.backend.Backend`.

    torch-npu keeps no count of compiles, and none of what ran on the host: it warns of each such operator once, on stderr. A dry
    run has both.
    """

    name = "npu"
    collective = "hccl"
    has_values = True

    def __init__(self) -> None:
        self._npu: Any = start().npu

    def device(self, index: int = 0) -> torch.device:
        return torch.device("npu", index)

    def synchronize(self) -> None:
        self._npu.synchronize()

    def step(self) -> None:
        """Nothing to cut."""

    def autocast(self, *, dtype: torch.dtype | None = None, enabled: bool = True) -> AbstractContextManager[None]:
        return torch.autocast("npu", dtype=dtype or torch.float16, enabled=enabled)

    def grad_scaler(self, *, enabled: bool = True) -> torch.amp.GradScaler:
        # Its own: an older NPU does not overflow to inf, and is asked for its overflow flag instead.
        scaler: torch.amp.GradScaler = self._npu.amp.GradScaler(enabled=enabled)
        return scaler

    def empty_cache(self) -> None:
        self._npu.empty_cache()

    def compiles(self) -> int | None:
        return None

    def fallbacks(self) -> dict[str, int]:
        return {}

    def peak_memory(self) -> int:
        return int(self._npu.max_memory_allocated())

    def set_compile_mode(self, *, online: bool) -> None:
        """Chooses between operators that are compiled online, for one shape each, and those that come built for all shapes.

        Call it before the first ``backward()``: autograd's thread keeps the mode that it began with (torch-npu 2.9, seen in a
        dry run).

        Args:
            online: compile them (``jit_compile=True``): slow at each new shape, and often faster after that. Without: built
                ones wherever there are.
        """
        self._npu.set_compile_mode(jit_compile=online)

    def set_compile_cache(self, folder: str | os.PathLike[str], mode: str = "enable") -> None:
        """Keeps operators that were compiled online on disk, for the next run.

        Args:
            folder: an existing folder.
            mode: ``"enable"``; ``"force"``: compile anew and replace what is there; ``"disable"``.

        Raises:
            ShapeError: ``mode`` is none of these.
        """
        check_choice("set_compile_cache", "mode", mode, ("enable", "force", "disable"))
        self._npu.set_option({"ACL_OP_COMPILER_CACHE_MODE": mode, "ACL_OP_COMPILER_CACHE_DIR": os.fspath(folder)})

    def allow_private_formats(self, allowed: bool) -> None:
        """Whether torch-npu may lay tensors out in the device's own formats. Without, no operator is launched to convert them."""
        self._npu.config.allow_internal_format = allowed

    def advice(self) -> tuple[str, ...]:
        """What to know of the settings as they are, each with the call that changes it."""
        lines = ["Private formats add operators that convert between layouts: try allow_private_formats(False)."]
        if self._npu.is_jit_compile_false():
            lines.append("Operators come built for all shapes: for static shapes, time set_compile_mode(online=True) too.")
        else:
            lines.append("Operators are compiled online: keep them for the next run with set_compile_cache(folder).")
            lines.append("add, ne, gather and index_select on int64 have a slow form: cast indices to int32 where they fit.")
        return tuple(lines)
