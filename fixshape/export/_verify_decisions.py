"""Do torch and an ONNX file decide alike where they have the same numbers to decide on?

A model that selects takes decisions: the best scores, the overlaps above a threshold, the level of a box. Two runtimes round
differently, and where two numbers are equal but for rounding, rounding decides. Then one finds another box, and neither is wrong.
That a file is right is shown in two parts then. At each decision the numbers of the two are equal but for rounding; and where
torch decides on the file's numbers instead of its own, it comes to the file's results. Both must hold, so that another weight
is found by the first, and another threshold, order or overlap by the second.

The file's numbers are had by running it with more outputs. Which decision of torch is which of the file follows from the order
and the shapes of both; a wrong pair would fail the first part.
"""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from difflib import SequenceMatcher
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fixshape.errors import ExportError, FixshapeError
from fixshape.export._export_eager import run_model
from fixshape.export._export_line import innermost
from fixshape.export._onnx_run import Array, Arrays, load_model, need, open_session, run

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fixshape.export._export_eager import Outputs

    Compare = Callable[[Arrays, Outputs], tuple[tuple[str, ...], float | None]]

_NODE = "pkg.torch.onnx.fx_node"  # torch's exporter notes there which of its operators a node stands for
_TARGET = re.compile(r"target=torch\.ops\.aten\.(\w+)\.")
# Operators of torch that select or decide, and the first operator of ONNX that reads what they decide on.
_DECIDES = {
    "topk": ("TopK",), "sort": ("IsNaN", "TopK"), "argmax": ("ArgMax",), "argmin": ("ArgMin",), "gather": ("GatherElements",),
    "gt": ("Greater",), "ge": ("GreaterOrEqual",), "lt": ("Less",), "le": ("LessOrEqual",), "floor": ("Floor",),
}  # fmt: skip
# What rounding may come to: of the spread of the numbers, and of the largest one. Of torchvision's RetinaNet and Faster R-CNN
# with random weights it comes to 2e-4 of the spread, and to 8e-6 of the largest number.
_OF_SPREAD, _OF_LARGEST = 1e-3, 1e-5
_MOST = 3


class Compared(NamedTuple):
    """What differs between torch and a file in one run."""

    told: tuple[str, ...]  # a sentence each
    largest: float | None  # difference of a number in the results; None where they could not be compared
    followed: float | None = None  # of a number that torch decided on in the file's stead, relative to the largest one there


class _Followed(NamedTuple):
    """What torch gives when it decides on the file's numbers."""

    expected: Outputs  # of torch
    got: Arrays  # of the file, from the run that the numbers are of
    apart: tuple[str, ...]  # decisions whose numbers are not equal but for rounding, a sentence each
    largest: float  # the largest distance of such a number, relative to the largest one of its tensor


class FileRuns:
    """Runs of an ONNX file that torch's exporter wrote, beside those of the model: its results, and what it decides on."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = path
        self.session = open_session(Path(path))

    def compare(
        self, model: nn.Module, inputs: Sequence[Tensor], feeds: Mapping[str, Array], said: str, compare: Compare
    ) -> Compared:
        """Compares torch on ``inputs`` with the file on ``feeds``; where they differ, once more on the file's decisions.

        An :class:`ExportError` of either run, or of ``compare``, is what differs then.
        """
        try:
            expected = run_model(model, inputs, said)
            first = Compared(*compare(run(self.session, feeds), expected))
        except ExportError as error:
            return Compared((str(error),), None)
        return self._explained(first, model, inputs, feeds, said, compare) if first.told else first

    def _explained(
        self, first: Compared, model: nn.Module, inputs: Sequence[Tensor], feeds: Mapping[str, Array], said: str, compare: Compare
    ) -> Compared:
        """Whether what differs is rounding: torch decides on the numbers that the file has.

        It is ``first`` where there is nothing to follow: no decision in the file, none that torch takes on tensors of that shape,
        or a file that is too large to be loaded once more.
        """
        try:
            followed = self._follow(model, inputs, feeds, said)
        except FixshapeError:
            return first
        if followed is None:
            return first
        if followed.apart:
            return Compared((*followed.apart, *first.told), first.largest)
        told, largest = compare(followed.got, followed.expected)
        if told:
            return Compared(("torch comes to other results on the numbers that the file decides on too", *told), largest)
        return Compared((), largest, followed.largest)

    def _follow(self, model: nn.Module, inputs: Sequence[Tensor], feeds: Mapping[str, Array], said: str) -> _Followed | None:
        names, session = self._opened
        if not names:
            return None
        values = run(session, feeds)
        known = [(operator, values[name]) for operator, name in names if values[name].dtype.kind == "f"]
        seen = _deciding({})
        with seen:
            run_model(model, inputs, said)
        blocks = SequenceMatcher(None, seen.keys, [(operator, value.shape) for operator, value in known], autojunk=False)
        given = {
            block.a + offset: known[block.b + offset][1] for block in blocks.get_matching_blocks() for offset in range(block.size)
        }
        if not given:
            return None
        deciding = _deciding(given)
        with deciding:
            expected = run_model(model, inputs, said)
        got = {name: values[name] for name in self._outputs}
        return _Followed(expected, got, tuple(deciding.apart[:_MOST]), deciding.largest)

    @cached_property
    def _opened(self) -> tuple[list[tuple[str, str]], Any]:
        """The decisions, as an operator and the value that it reads, and a session that gives those values too."""
        onnx, model = need("onnx"), load_model(self._path)
        names, seen = list[tuple[str, str]](), set[str]()
        made = {name for node in model.graph.node for name in node.output}
        for node in model.graph.node:
            text = next((entry.value for entry in node.metadata_props if entry.key == _NODE), "")
            target = _TARGET.search(text)
            if target and text not in seen and node.op_type in _DECIDES.get(target[1], ()) and node.input[0] in made:
                seen.add(text)  # one operator of torch may be several nodes: the first reads
                names.append((target[1], node.input[0]))
        self._outputs = [port.name for port in model.graph.output]
        for name in dict.fromkeys(name for _, name in names):
            if name not in self._outputs:
                model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
        return names, open_session(model) if names else None


def _deciding(given: Mapping[int, Array]) -> Any:
    """A mode of torch that notes each decision, and takes some on given numbers: by their place in the order of all."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Deciding(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.keys: list[tuple[str, tuple[int, ...]]] = []
            self.apart: list[str] = []
            self.largest = 0.0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            operator = func._schema.name.removeprefix("aten::")
            if operator not in _DECIDES or not isinstance(args[0], torch.Tensor) or not args[0].is_floating_point():
                return func(*args, **(kwargs or {}))
            place = len(self.keys)
            self.keys.append((operator, tuple(args[0].shape)))
            if place not in given:
                return func(*args, **(kwargs or {}))
            own = args[0]
            numbers = torch.from_numpy(given[place].copy()).to(own)
            self._compare(operator, own, numbers)
            return _decide(func, operator, numbers, args, kwargs or {})

        def _compare(self, operator: str, own: Tensor, numbers: Tensor) -> None:
            finite = own[own.isfinite()].double()
            if not finite.numel():
                return
            most, spread = float(finite.abs().max()), float(finite.std(unbiased=False))
            distance = torch.where((own == numbers) | (own.isnan() & numbers.isnan()), 0, (own.double() - numbers.double()).abs())
            found = float(distance.max())
            self.largest = max(self.largest, found / most if most else found)
            if not found <= _OF_SPREAD * spread + _OF_LARGEST * most:
                line = innermost("".join(traceback.format_stack()))
                self.apart.append(
                    f"{operator} at {line} decides on numbers that are up to {found:.1e} apart, of a spread of {spread:.1e} and"
                    f" {most:.1e} at most: more than rounding"
                )

    return Deciding()


def _decide(func: Any, operator: str, numbers: Tensor, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The operator on these numbers; of equal ones the first comes first, as ONNX has it (docs/Operators.md, TopK)."""
    import torch

    if operator == "topk":
        count = args[1]
        dim, largest = args[2] if len(args) > 2 else -1, args[3] if len(args) > 3 else True
        found = torch.sort(numbers, dim=dim, descending=largest, stable=True)
        return tuple(part.narrow(dim, 0, count) for part in found)
    return func(numbers, *args[1:], **kwargs)
