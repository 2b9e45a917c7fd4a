"""Which ``nn.Module`` is running? Its path, as the outermost running module names it."""

from __future__ import annotations

from types import CodeType, FrameType

import torch

MODULE_CALL: CodeType = torch.nn.Module.__call__.__code__  # its frame's ``self`` is a module that runs; it needs no hook


class ModulePaths:
    """Paths of the modules that ran in the open step. It keeps their outermost ones alive until :meth:`forget`."""

    def __init__(self) -> None:
        self._paths: dict[int, str] = {}
        self._kept: list[torch.nn.Module] = []

    def path(self, module: torch.nn.Module, frame: FrameType | None) -> str:
        """Path of ``module``, which runs in ``frame`` or above it."""
        known = self._paths.get(id(module))
        return self._name(module, frame) if known is None else known

    def forget(self) -> None:
        """Modules may be built and dropped between steps."""
        self._paths = {}
        self._kept = []

    def _name(self, module: torch.nn.Module, frame: FrameType | None) -> str:
        outermost = module
        while frame is not None:
            if frame.f_code is MODULE_CALL:
                outermost = frame.f_locals["self"]
            frame = frame.f_back
        self._kept += [outermost, module]
        for path, part in outermost.named_modules():
            self._paths.setdefault(id(part), path or type(part).__name__)
        # A module that none holds as a child, such as a loss in a plain attribute or a list.
        return self._paths.setdefault(id(module), type(module).__name__)
