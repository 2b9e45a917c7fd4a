"""The torch dispatch mode that sees every op."""

from __future__ import annotations

import os
import sys
from types import FrameType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fixshape.audit._key import hashable_key, op_key
from fixshape.audit._operator import leaves_device
from fixshape.audit._phase import PhaseTracker
from fixshape.audit._record import COMPILES, DYNAMIC, LAUNCHES, SYNCS, Record
from fixshape.audit._report import Kind, Location
from fixshape.audit._trace import Trace
from fixshape.audit._whereabouts import Whereabouts

_getpid = os.getpid
_GUARDS_KNOW_MODES = hasattr(torch._C._dynamo.guards, "set_is_in_mode_without_ignore_compile_internals")


class RecorderMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts an op into a :class:`Record`, then runs it as it is. An op that raises has been counted."""

    supports_higher_order_operators = True

    def __init__(self, record: Record, phase: PhaseTracker, trace: Trace | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._record = record
        self._phase = phase
        self._trace = trace
        self._process = _getpid()

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        # False makes torch.compile run a function eagerly under a mode: other kernels, other rounding, another program. True is
        # of use where the guards of a compiled function know of it; in torch 2.9 they fail at every call, and each compiles anew.
        return _GUARDS_KNOW_MODES

    @property
    def hears_reads(self) -> bool:
        """Whether it also counts what the host reads without an op."""
        return self._trace is not None and _getpid() == self._process

    @property
    def whereabouts(self) -> Whereabouts:
        assert self._trace is not None
        return self._trace.whereabouts

    @property
    def syncs(self) -> int:
        """Of the open step."""
        return sum(counts[SYNCS] for counts in self._record.open_counts)

    def site(self, frame: FrameType) -> Location | None:
        """The innermost line outside torch."""
        return self._record.frames.place(frame).site

    def read(self, name: str, tensor: torch.Tensor, frame: FrameType, *, waits: bool) -> None:
        """Follows that the host reads a tensor, and counts it where the host waits."""
        phase = self._phase.current()
        self._record.open_counts[phase][SYNCS] += waits
        assert self._trace is not None
        self._trace.read(name, phase, tensor, frame, waits=waits)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # A forked data loader worker inherits the mode; what it does is not this process's.
        if _getpid() != self._process:
            return func(*args, **kwargs)
        record = self._record
        operator, keys = record.operators.get(func) or record.meet(func)
        if operator.idle and self._trace is None:
            return func(*args, **kwargs)
        phase = self._phase.current()
        key: tuple[Any, ...] = ()
        kinds: list[Kind] = []
        if not operator.idle:
            counts = record.open_counts[phase]
            launches, syncs = operator.launches, operator.syncs
            if operator.copies:
                moves, waits = leaves_device(args, kwargs)
                launches, syncs = not moves, waits
            if syncs and self._trace is not None and self._trace.on_host(args):
                syncs = False  # what it reads has been fetched: that is where the host waited
            if launches:
                counts[LAUNCHES] += 1
                record.launches += 1
                key = op_key(args, kwargs)
                try:
                    is_new = key not in keys
                except TypeError:
                    key = hashable_key(key)
                    is_new = key not in keys
                if is_new:
                    keys.add(key)
                    counts[COMPILES] += 1
                    record.compiles += 1
                    kinds.append("compile")
            if operator.dynamic is not None and operator.dynamic(args, kwargs):
                counts[DYNAMIC] += 1
                kinds.append("dynamic")
            if syncs:
                counts[SYNCS] += 1
                kinds.append("sync")
        # The frame is handed on and given no name here: one that knows itself would live, with its tensors, until garbage is
        # collected. In an autograd thread there is no other frame.
        if self._trace is not None:
            return self._trace.run(func, operator, phase, args, kwargs, key, kinds, sys._getframe())
        if kinds:
            record.note(kinds, operator.name, phase, args, kwargs, record.frames.place(sys._getframe()))
        return func(*args, **kwargs)
