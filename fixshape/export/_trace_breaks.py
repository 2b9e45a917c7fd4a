"""Which values would tracing freeze, and at which line? The model runs in several gears, and so does its trace of one.

A trace (``torch.jit.trace``, and the exporters built on it) records operators, and of Python only the numbers that it came to.
In another gear it goes on with those: where an operator of the trace then has another number than the module's own has, on
tensors of equal shapes, that number is frozen. What shows without a trace: the host reads a value, the number of parts of a
tensor follows its size, a tensor is made of other Python numbers, other operators run.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

from fixshape.audit._report import Location
from fixshape.errors import ExportError, UsageError
from fixshape.export._export_eager import (
    call_model,
    device_of,
    dynamic_symbols,
    evaluating,
    example_gear,
    gear_text,
    inputs_of,
    other_gears,
    run_model,
)
from fixshape.export._export_line import blamed
from fixshape.export._gears import Gears
from fixshape.export._onnx_run import differences

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fixshape.export._export_eager import MakeInputs

_READS = "a value of the data is read by the host, and a trace keeps the one of its example"
_FRESH = ("aten.lift_fresh.default", "aten.lift_fresh_copy.default", "aten.lift.default")
_MOST_VALUES = 64


@dataclass(frozen=True, slots=True)
class TraceBreak:
    """One line at which a trace would keep what belongs to its example.

    Args:
        kind: ``"read"`` (``.item()``, ``.tolist()``, a tensor in ``if``), ``"number"`` (a Python number made of a size),
            ``"parts"`` (a tensor is iterated over, or cut in a number of parts that follows its size), ``"list"`` (a tensor is
            made of Python numbers that follow a size), ``"path"`` (other operators run from gear to gear), ``"untraceable"``
            (there is no trace at all), ``"result"`` (the trace gives other results, and no line shows why).
        site: the line, ``None`` where it is not known.
        message: what happens there.
        way_out: what to write instead.
    """

    kind: str
    site: Location | None
    message: str
    way_out: str

    def __str__(self) -> str:
        return f"{self.site or 'an unknown line'}: {self.message}. {self.way_out}."


def trace_breaks(model: nn.Module, gears: Gears, *, make_inputs: MakeInputs | None = None) -> tuple[TraceBreak, ...]:
    """The lines of a model that do not survive ``torch.jit.trace`` and the exporters built on it.

    It runs the model, so that it finds what happens in a few gears with the inputs it is given, and no more. A number that is
    made of a frozen one is named too; after the first operator that the trace cannot run in another gear, no numbers are
    compared.

    Args:
        model: any module that runs in evaluation mode on the gears' inputs.
        gears: at least two that differ.
        make_inputs: as for :func:`fixshape.export.export_onnx`.

    Returns:
        Each line and kind once, in the order in which they run.

    Raises:
        UsageError: the gears do not differ, or the module is TorchScript, whose numbers are frozen already.
        ExportError: the model refuses a gear.

    Example:
        >>> import torch
        >>> from fixshape.export import Gears, parse_inputs
        >>> class Halves(torch.nn.Module):
        ...     def forward(self, x):
        ...         return x[:, : int(x.shape[1]) // 2]
        >>> gears = Gears(parse_inputs("x:N,L"), ({"N": 2, "L": 8}, {"N": 3, "L": 16}))
        >>> [found.kind for found in trace_breaks(Halves(), gears)]
        ['number']
    """
    import torch

    if isinstance(model, torch.jit.ScriptModule):
        raise UsageError(
            "trace_breaks: got a TorchScript module, in which nothing is left to find. Give the module it was made of."
        )
    if not dynamic_symbols(gears):
        raise UsageError(f"trace_breaks: got one shape, {gear_text(gears, 0)}, expected two gears that differ.")
    first = example_gear(gears)
    # Gears in which every symbol differs, and the largest, which may take a branch that small ones do not.
    others = dict.fromkeys((*other_gears(gears, first), gears.largest))
    others.pop(first, None)
    with evaluating(model):
        example = inputs_of(gears, first, make_inputs, device_of(model))
        here = _record(model, example, gear_text(gears, first))
        found = list(_reads(model, example))
        reads = bool(found)
        trace = _trace(model, example)
        if isinstance(trace, TraceBreak):
            found.append(trace)
        for index in others:
            inputs = inputs_of(gears, index, make_inputs, device_of(model))
            there = _record(model, inputs, gear_text(gears, index))
            parts = list(_parts(here, there))
            found += [*parts, *_lists(here, there)]
            # A branch on data goes its own way with each example, and what follows a number of parts is told with it.
            found += [] if reads or parts else _paths(here, there)
            found += [] if isinstance(trace, TraceBreak) else _numbers(trace, inputs, there)
            found += [] if found else _results(trace, model, inputs, gear_text(gears, index))
    unique = {(entry.kind, entry.site): entry for entry in reversed(found)}
    order = {call.site: place for place, call in reversed(list(enumerate(here)))}
    return tuple(sorted(reversed(unique.values()), key=lambda entry: order.get(entry.site, -1)))


@dataclass(frozen=True, slots=True)
class _Call:
    """One operator as it ran."""

    name: str
    shapes: tuple[str, ...]
    numbers: tuple[str, ...]
    parts: int | None
    values: str
    site: Location | None


def _record(model: Any, inputs: Sequence[Tensor], said: str) -> list[_Call]:
    calls: list[_Call] = []
    with _mode(calls):
        call_model(model, inputs, said)
    return calls


def _mode(calls: list[_Call]) -> Any:
    from torch.utils._python_dispatch import TorchDispatchMode

    from fixshape.audit._frames import Frames

    frames = Frames()

    class Calls(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            site = frames.place(sys._getframe()).site
            shapes, numbers = _described([*args, *kwargs.values()])
            entry = _Call(str(func), shapes, numbers, None, "", site)
            calls.append(entry)  # before it runs: of what fails in the trace, the numbers matter most
            result = func(*args, **kwargs)
            parts = len(result) if isinstance(result, list) else None
            values = str(args[0].tolist()) if entry.name in _FRESH and args[0].numel() <= _MOST_VALUES else ""
            calls[-1] = _Call(entry.name, shapes, numbers, parts, values, site)
            return result

    return Calls()  # type: ignore[no-untyped-call]


def _described(values: Sequence[Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Shapes of tensors, and all other arguments. A trace hands a Python number on as a tensor without axes: both are numbers."""
    import torch

    shapes: list[str] = []
    numbers: list[str] = []
    for value in values:
        if isinstance(value, torch.Tensor) and value.dim() > 0:
            shapes.append(str(list(value.shape)))
        elif isinstance(value, torch.Tensor):
            numbers.append(str(complex(value.item())))
        elif isinstance(value, (list, tuple)):
            of_shapes, of_numbers = _described(value)
            shapes += of_shapes
            numbers.append(f"[{', '.join(of_numbers)}]" if of_numbers or not of_shapes else "")
        elif isinstance(value, (bool, int, float, complex)):
            numbers.append(str(complex(value)))
        else:
            numbers.append(str(value))
    return tuple(shapes), tuple(numbers)


def _reads(model: Any, inputs: Sequence[Tensor]) -> Iterator[TraceBreak]:
    from fixshape.audit import OpRecorder

    with OpRecorder() as recorder:
        call_model(model, inputs, "the example")
    for event in recorder.report().events:
        if event.kind == "sync":
            yield TraceBreak("read", event.site, f"{event.op}: {_READS}", "Keep it a tensor: torch.where for a branch")


def _parts(here: Sequence[_Call], there: Sequence[_Call]) -> Iterator[TraceBreak]:
    for one, other in _aligned(here, there):
        if one.parts != other.parts:
            yield TraceBreak(
                "parts",
                one.site,
                f"{one.name} makes {one.parts} parts of {one.shapes[0]} and {other.parts} of {other.shapes[0]}, and a trace has"
                f" {one.parts} for ever",
                "Compute on the whole tensor instead of one part after the other",
            )


def _lists(here: Sequence[_Call], there: Sequence[_Call]) -> Iterator[TraceBreak]:
    for one, other in _aligned(here, there):
        if one.values != other.values:
            yield TraceBreak(
                "list",
                one.site,
                f"a tensor is made of the Python numbers {one.values} here and {other.values} in another gear, and a trace keeps"
                " the first",
                "Make it of tensors: torch.arange, torch.full, or an input of the model",
            )


def _paths(here: Sequence[_Call], there: Sequence[_Call]) -> list[TraceBreak]:
    for tag, start, stop, start_there, stop_there in _matcher(here, there).get_opcodes():
        if tag != "equal":
            calls, others = here[start:stop], there[start_there:stop_there]
            called = (others or calls)[0]
            return [
                TraceBreak(
                    "path",
                    called.site,
                    f"{len(calls)} operators run here in one gear and {len(others)} in the other, beginning with {called.name},"
                    " and a trace has those of its example",
                    "Compute on whole tensors, without a loop or a branch over a size",
                )
            ]
    return []


def _trace(model: Any, example: Sequence[Tensor]) -> Any:
    """The trace, or the break that says why there is none."""
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.jit.trace(model, tuple(example), check_trace=False, strict=False)  # type: ignore[no-untyped-call]
    except Exception as error:
        return TraceBreak("untraceable", None, f"torch.jit.trace fails: {blamed(error)}", "Take tensors, and return tensors")


def _numbers(trace: Any, inputs: Sequence[Tensor], own: Sequence[_Call]) -> list[TraceBreak]:
    import torch

    calls: list[_Call] = []
    optimized: Any = torch.jit.optimized_execution  # type: ignore[attr-defined]  # it would fuse what is to be compared
    with torch.no_grad(), optimized(False), _mode(calls):
        try:
            trace(*inputs)
        except RuntimeError:
            pass  # a frozen number often does not fit: what ran until then says which
    return [
        TraceBreak(
            "number",
            call.site,
            f"{call.name}({', '.join(call.shapes)}) has {own_number}, and {kept} in the trace: a Python number is frozen",
            "Write x.shape[i] where int(x.shape[i]), len(x) or a computation in Python stands, or -1 for one size of a view",
        )
        for call, traced in _aligned(own, calls)
        if call.shapes == traced.shapes
        for own_number, kept in _differing(call, traced)
    ]


def _results(trace: Any, model: Any, inputs: Sequence[Tensor], said: str) -> list[TraceBreak]:
    """What no number has shown: a slice of everything, say, is no operator in the module's own run and one in the trace."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        expected = run_model(model, inputs, said)
        torch.manual_seed(0)
        try:
            got = run_model(trace, inputs, said)
        except ExportError as error:
            told = [str(error).partition(". Is it")[0]]
        else:
            told = differences(*({name: value.numpy() for name, value in each.items()} for each in (got, expected)))
    return [
        TraceBreak(
            "result",
            None,
            f"with {said} the trace gives other results, and no number or operator that differs was seen: {told[0]}",
            "Look for a size that is read as a Python number, as in x[:, : int(n)]",
        )
        for _ in told[:1]
    ]


def _differing(call: _Call, traced: _Call) -> list[tuple[str, str]]:
    """The first number that differs. The inner form of an operator has more of them at its end."""
    pairs = zip(call.numbers, traced.numbers, strict=False)
    return [(_plain(own), _plain(kept)) for own, kept in pairs if own != kept][:1]


def _plain(text: str) -> str:
    return re.sub(r"(?<![\d.])0j", "0", text.replace("+0j", "")).replace("(", "").replace(")", "")


def _aligned(here: Sequence[_Call], there: Sequence[_Call]) -> Iterator[tuple[_Call, _Call]]:
    for block in _matcher(here, there).get_matching_blocks():
        yield from zip(here[block.a : block.a + block.size], there[block.b : block.b + block.size], strict=True)


def _matcher(here: Sequence[_Call], there: Sequence[_Call]) -> SequenceMatcher[str]:
    return SequenceMatcher(a=list(map(_aligned_by, here)), b=list(map(_aligned_by, there)), autojunk=False)


def _aligned_by(call: _Call) -> str:
    if call.name == "aten.slice.Tensor" and call.numbers:
        return f"{call.name} {call.numbers[0]}"  # a trace slices x[:, 1:] along its first axis too, where eager torch does not
    return call.name.replace("aten._conv", "aten.conv")  # which a trace calls by the name of its inner form
