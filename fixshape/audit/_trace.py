"""What has an op to do with those before it? The forward line it belongs to, the cause of its shapes, the graph it is part of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import FrameType
from typing import Any

import torch

from fixshape.audit._backward import Links
from fixshape.audit._cause import Causes
from fixshape.audit._key import hashable_key, op_key
from fixshape.audit._lazy import LazyGraphs
from fixshape.audit._operator import Operator
from fixshape.audit._phase import BACKWARD, FORWARD
from fixshape.audit._pieces import Pieces, cuts
from fixshape.audit._record import Record
from fixshape.audit._report import PHASES, WARM_UP, AuditReport, Kind, Origin
from fixshape.audit._whereabouts import Whereabouts

_Results = list[torch.Tensor]


class Trace:
    """Follows every op that a :class:`Record` counts, and views. Between steps it holds numbers and shapes, never a tensor."""

    def __init__(self, record: Record) -> None:
        self.whereabouts = Whereabouts()
        self._record = record
        self._links = Links(record.frames)
        self._causes = Causes()
        self._graphs = LazyGraphs()
        self._pieces = Pieces()

    def enter(self) -> None:
        self._links.enter()

    def close_step(self) -> None:
        self._links.forget()
        self._causes.forget()
        self.whereabouts.close_step()
        self._graphs.close_step()
        self._pieces.close_step()

    def complete(self, report: AuditReport) -> AuditReport:
        """The report with what was followed."""
        graphs, pieces = list(self._graphs.steps), list(self._pieces.steps)
        if len(report.steps) > len(graphs):
            graphs.append(self._graphs.open_step())
            pieces.append(self._pieces.open_step())
        return replace(report, causes=dict(self._causes.counts), graphs=tuple(graphs), pieces=tuple(pieces))

    def run(
        self,
        func: Any,
        operator: Operator,
        phase: int,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        key: tuple[Any, ...],
        kinds: Sequence[Kind],
        frame: FrameType,
    ) -> Any:
        """Runs the op, takes down what it did, and follows what came out."""
        causes, graphs, links, pieces = self._causes, self._graphs, self._links, self._pieces
        tensors = _tensors(args)
        if kwargs:
            tensors += _tensors(kwargs.values())
        name = operator.name
        forward = links.follow(frame, phase)
        place = forward.place if forward is not None else None
        for position, tensor in causes.unmet(tensors) if phase == FORWARD else ():
            place = place or links.place(frame, phase)
            origin = causes.varies(name, place, position, tensor)
            if origin is not None:
                self._record.note_input(origin, tensor)
        sizes = causes.sizes_in(tensors, links.running(phase))
        dynamic: Origin | None = None
        if kinds:
            place = place or links.place(frame, phase)
            cause = causes.cause(sizes) if "compile" in kinds else None
            self._record.note(kinds, name, phase, args, kwargs, place, cause)
            if cause is not None and self._record.step >= WARM_UP:
                causes.counts[cause] += 1
            if "dynamic" in kinds:
                dynamic = Origin(kind="dynamic", op=name, phase=PHASES[phase], **place._asdict())
            if "sync" in kinds or (dynamic is not None and not _is_index(name)):
                graphs.read(tensors)
        masks = _masks(args) if _is_index(name) else []
        if masks:
            graphs.read(masks)  # a lazy device makes integers of them on the host, to fill one value in too
        result = func(*args, **kwargs)
        results = _tensors((result,))
        if operator.copies and not key:  # it is no launch, and so left one kind of device for another
            self.whereabouts.leave((*tensors, *results))
        on_host = self.whereabouts.follow(tensors, results, is_view=operator.is_view)
        if forward is not None:
            # What the gradient will have to do with: sizes that go in and sizes that come out.
            out = causes.follow(func, args, tensors, results, sizes, dynamic)
            forward.sizes = {**sizes, **out} if out else dict(sizes)
        else:
            causes.follow(func, args, tensors, results, sizes, dynamic)
        number = _number(key or op_key(args, kwargs)) if results else 0
        if on_host or (dynamic is not None and not _is_index(name)):
            graphs.computed(results)
        elif results:
            call = (number, *map(_true, masks)) if masks else number
            graphs.follow(name, call, tensors, results, is_view=operator.is_view)
        if phase == BACKWARD:
            pieces.backward()
        elif phase == FORWARD:
            if cuts(operator, kinds):
                pieces.cut(frame)
            elif results:
                pieces.follow(name, number, args, kwargs, tensors, frame)
        return result

    def on_host(self, args: Sequence[Any]) -> bool:
        """Whether an op's tensors have all been fetched from the device before."""
        return self.whereabouts.on_host(_tensors(args))

    def read(self, name: str, phase: int, tensor: torch.Tensor, frame: FrameType, *, waits: bool) -> None:
        """Takes down that the host reads a tensor, and not by an op."""
        if waits:
            self._record.note(("sync",), name, phase, (tensor,), {}, self._links.place(frame, phase))
        self._graphs.read((tensor,))
        if phase == FORWARD and name == "Tensor.tolist":  # the compiler takes numpy() and cpu() into its graph
            self._pieces.cut(frame)


def _tensors(values: Iterable[Any]) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += [entry for entry in value if isinstance(entry, torch.Tensor)]
    return found


def _number(key: tuple[Any, ...]) -> int:
    try:
        return hash(key)
    except TypeError:
        return hash(hashable_key(key))


def _is_index(name: str) -> bool:
    return name.startswith(("aten.index.", "aten.index_put", "aten._index_put"))


def _masks(args: Sequence[Any]) -> list[torch.Tensor]:
    return [index for index in args[1] if index is not None and index.dtype in (torch.bool, torch.uint8)]


def _true(mask: torch.Tensor) -> int | None:
    """How many integers a mask makes; only where to ask costs nothing."""
    return int(mask.count_nonzero()) if type(mask) is torch.Tensor and mask.device.type == "cpu" else None
