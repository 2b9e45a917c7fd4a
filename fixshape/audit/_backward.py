"""Which line of the forward pass does an op of the backward pass belong to?

Autograd numbers its nodes in the order in which a thread makes them, and makes an op's node before the op is dispatched. So the
number that is next at an op tells which nodes were made since the op before it: the last is this op's own, and any before that
were made as the earlier op returned (a write through a view has a second node). In the backward pass the running node has the
number still. A node of a custom function is made before the function runs: it belongs to the first op in it.
"""

from __future__ import annotations

import threading
from types import FrameType

import torch

from fixshape.audit._frames import Frames, Place
from fixshape.audit._phase import BACKWARD

_next_number = torch._C._autograd._get_sequence_nr
_current_node = torch._C._current_autograd_node
_get_ident = threading.get_ident


class ForwardOp:
    """What is remembered of an op for the nodes that it made: its place, and causes (sets of bits) of sizes that it met."""

    __slots__ = ("place", "sizes")

    def __init__(self, place: Place) -> None:
        self.place = place
        self.sizes: dict[int, int] = {}


class Links:
    """The forward op of each autograd node of the open step; no tensor and no node is kept."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self._ops: dict[int, ForwardOp] = {}
        self._last = 0
        self._latest: ForwardOp | None = None
        self._thread = 0

    def enter(self) -> None:
        """Begins to follow this thread; nodes that were made while nobody followed belong to no op."""
        self._last = _next_number()
        self._latest = None
        self._thread = _get_ident()

    def forget(self) -> None:
        """Ends a step: what its nodes belong to is dropped."""
        self._ops = {}
        self._latest = None

    def follow(self, frame: FrameType, phase: int) -> ForwardOp | None:
        """The forward op that is about to run in ``frame``, if a node was made for it."""
        number = _next_number()
        if number == self._last or (phase == BACKWARD and _get_ident() != self._thread):  # a device's thread counts for itself
            return None
        if self._latest is not None:
            for made in range(self._last, number - 1):
                self._ops[made] = self._latest
        self._last = number
        self._latest = self._ops[number - 1] = ForwardOp(self.place(frame, phase))
        return self._latest

    def running(self, phase: int) -> ForwardOp | None:
        """The forward op whose gradient is being computed."""
        if phase != BACKWARD:
            return None
        node = _current_node()
        return None if node is None else self._ops.get(node._sequence_nr())

    def place(self, frame: FrameType, phase: int) -> Place:
        """Where an op that runs in ``frame`` belongs."""
        if phase != BACKWARD:
            return self._frames.place(frame)
        # Python that autograd calls is a line of its own: a custom function's backward, a hook, a checkpoint that runs again.
        own = self._frames.place(frame, in_backward=True)
        forward = self.running(phase)
        if forward is not None:
            known = forward.place
            site = own.site or known.site
            return Place(site, own.caller or known.caller, own.module or known.module)
        node = _current_node()
        started = self._frames.place(frame)
        return Place(
            own.site or started.site, own.caller or started.caller, own.module, "" if own.site or node is None else node.name()
        )
