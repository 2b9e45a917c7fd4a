"""Which graphs would ``torch.compile`` make of this step? The prediction that :func:`fixshape.audit.predict` reads out.

Dynamo follows a function, and those that it calls, to the first call that it takes into no graph: a *cut*. What it had until then
is a piece; the call runs as it is, and the rest of the function is taken for a function of its own. Where the call is in a
function that was called, each function between is cut at its own call. A function that is cut inside of a loop is left to Python,
and so is torch's own Python; what they call is not. A piece is known by where it begins and by the calls of its ops in order.
"""

from __future__ import annotations

import dis
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from types import CodeType, FrameType
from typing import Any, NamedTuple

import torch

from fixshape.audit._operator import Operator
from fixshape.audit._report import Kind

_TORCH = os.path.dirname(torch.__file__) + os.sep
_HANDLERS = (os.path.dirname(__file__) + os.sep, _TORCH + "_")  # what runs between the line of an op and a dispatch mode
_FIRST_GRADIENT = "aten.ones_like.default"
_MOST_OPS = 50_000  # of one function: some 30 MB
_Path = tuple[Any, ...]  # of each frame its code and its instruction, the outermost first


class _Op(NamedTuple):
    path: _Path
    call: int | None  # ``None``: a cut
    name: str = ""


class _Run(NamedTuple):
    """Ops of one run of the frame at ``depth`` in their paths, from its instruction ``start`` on."""

    ops: Sequence[_Op]
    depth: int
    start: int = 0
    is_root: bool = False


class Pieces:
    """The ops of the open step's function, and how many pieces were new in each step. Keeps no tensor and no frame."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self._seen: set[int] = set()
        self._compiles = 0
        self._has_backward = False
        self._ops: list[_Op] = []  # since the last backward pass

    def follow(
        self,
        name: str,
        key: int,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        tensors: Sequence[torch.Tensor],
        frame: FrameType,
    ) -> None:
        """An op of the forward pass, seen in ``frame``; ``key`` says all of its key."""
        # Of these a device knows nothing, and torch.compile(dynamic=False) does: whether a gradient is wanted, Python floats.
        known: list[Any] = [tensor.requires_grad for tensor in tensors]
        known += [repr(value) for value in args if type(value) is float]
        if kwargs:
            known += [repr(value) for value in kwargs.values() if type(value) is float]
        self._ops.append(_Op(_path(frame), hash((name, key, *known)), name))
        if len(self._ops) >= _MOST_OPS:
            self._compile()

    def cut(self, frame: FrameType) -> None:
        """An op of the forward pass that is taken into no graph."""
        self._ops.append(_Op(_path(frame), None))

    def backward(self) -> None:
        """The backward pass is running: what came before it was the function."""
        self._has_backward = True
        if self._ops:
            if self._ops[-1].name == _FIRST_GRADIENT:
                self._ops.pop()  # backward() itself made it
            self._compile()

    def close_step(self) -> None:
        if not self._has_backward:
            self._compile()
        self.steps.append(self._compiles)
        self._ops, self._compiles, self._has_backward = [], 0, False

    def open_step(self) -> int:
        """Compiles of the open step if it ended here."""
        # What comes after the last backward pass is not the function: figures that are printed, say.
        return self._compiles + (0 if self._has_backward else len(_pieces(self._ops) - self._seen))

    def _compile(self) -> None:
        new = _pieces(self._ops) - self._seen
        self._compiles += len(new)
        self._seen |= new
        self._ops = []


def cuts(operator: Operator, kinds: Sequence[Kind]) -> bool:
    """Whether the call is a cut: a value is read, or a shape depends on values. A copy to the host is an op like any other."""
    # What is written to by a mask keeps its shape.
    return operator.syncs or ("dynamic" in kinds and "index_put" not in operator.name)


def _path(innermost: FrameType) -> _Path:
    path: list[Any] = []
    frame: FrameType | None = innermost
    while frame is not None and frame.f_code.co_filename.startswith(_HANDLERS):
        frame = frame.f_back
    while frame is not None:
        path += (frame.f_lasti, frame.f_code)
        frame = frame.f_back
    path.reverse()
    return tuple(path)


def _pieces(ops: Sequence[_Op]) -> set[int]:
    """Numbers of the pieces of one function: the innermost frame that all its ops are in."""
    found: set[int] = set()
    open_runs = [_Run(ops, _depth(ops), is_root=True)] if ops else []
    while open_runs:
        run = open_runs.pop()
        ops, depth, start, is_root = run
        code: CodeType = ops[0].path[depth]
        first = next((index for index, op in enumerate(ops) if op.call is None), None)
        if first is None and (is_root or not code.co_filename.startswith(_TORCH)):
            found.add(hash((code, start, *[op.call for op in ops])))
        elif first is None or code.co_filename.startswith(_TORCH) or _in_loop(run, first):
            for called in _runs(ops, depth):
                open_runs += _calls(called, depth + 2)
        else:
            begin, end = first, first + 1
            here = ops[first].path[depth + 1]
            while begin and ops[begin - 1].path[depth + 1] == here:
                begin -= 1
            while end < len(ops) and ops[end].path[depth + 1] == here:
                end += 1
            if begin:
                found.add(hash((code, start, *[op.call for op in ops[:begin]])))
            open_runs += _calls(ops[begin:end], depth + 2)
            if end < len(ops):
                open_runs.append(_Run(ops[end:], depth, here, is_root))
    return found


def _depth(ops: Sequence[_Op]) -> int:
    first = ops[0].path
    depth = len(first) - 2
    for op in ops:
        depth = min(depth, len(op.path) - 2)
        while op.path[:depth] != first[:depth]:
            depth -= 2
    return depth


def _in_loop(run: _Run, index: int) -> bool:
    """Whether the frame is at an op in a loop; not in the training loop, which is around the whole root and comes round later."""
    ops, depth, _, is_root = run
    here = [op.path[depth + 1] for op in ops]
    loops = [loop for loop in _loops(ops[0].path[depth]) if loop[0] <= here[index] <= loop[1]]
    if is_root and here == sorted(here):
        return any(here[0] < first or last < here[-1] for first, last in loops)
    return bool(loops)


def _runs(ops: Sequence[_Op], depth: int) -> Iterator[Sequence[_Op]]:
    """Neighbours that one instruction of the frame at ``depth`` ran."""
    begin = 0
    for index in range(1, len(ops) + 1):
        if index == len(ops) or ops[index].path[depth + 1] != ops[begin].path[depth + 1]:
            yield ops[begin:index]
            begin = index


def _calls(ops: Sequence[_Op], depth: int) -> Iterator[_Run]:
    """The runs of the frames that one instruction called; the ops of the instruction itself are in none."""
    begin = 0
    for index in range(1, len(ops) + 1):
        if index == len(ops) or _is_next(ops[index - 1].path[depth : depth + 2], ops[index].path[depth : depth + 2]):
            if len(ops[begin].path) > depth:
                yield _Run(ops[begin:index], depth)
            begin = index


def _is_next(before: _Path, after: _Path) -> bool:
    """Whether another frame has begun between two ops: the code is another, or has gone back without a loop."""
    if not before or not after or before[0] is not after[0]:
        return before != after
    return bool(after[1] < before[1]) and not any(first <= after[1] and before[1] <= last for first, last in _loops(after[0]))


@cache
def _loops(code: CodeType) -> tuple[tuple[int, int], ...]:
    """First and last instruction of each loop."""
    steps = [step for step in dis.get_instructions(code) if "JUMP" in step.opname]
    return tuple((step.argval, step.offset) for step in steps if isinstance(step.argval, int) and step.argval < step.offset)
