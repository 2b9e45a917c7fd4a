"""How are the gears said to TorchAir, and does it take them? ``torchair.inference.set_dim_gears``, with limits of its own.

Sources: the pages on set_dim_gears and on dynamic_gears_merge_policy of TorchAir's documentation (hiascend.com, Ascend Extension
for PyTorch 7.2.0), and torchair/inference/_gear_utils.py.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Literal

from fixshape.errors import UsageError
from fixshape.export._gears import BATCH, Gears
from fixshape.export._violation import Violation

MOST_GEARS = 100
_STATIC = "a second torch.compile with dynamic=False for the rest"


@dataclass(frozen=True, slots=True)
class DimGears:
    """Calls of ``set_dim_gears``, and how TorchAir joins the gears of several axes.

    Args:
        settings: for each call the name of a tensor, and for each of its dynamic axes the sizes.
        policy: ``"zip"``: the first sizes of all axes are one gear, the second ones the next; ``"product"``: each size of an axis
            goes with each of the others, also those of other tensors.
    """

    settings: tuple[tuple[str, Mapping[int, tuple[int, ...]]], ...]
    policy: Literal["zip", "product"] = "zip"

    @property
    def axes(self) -> list[tuple[str, int, tuple[int, ...]]]:
        """Name, axis and sizes of each axis that is set, in order."""
        return [(name, axis, tuple(sizes)) for name, axes in self.settings for axis, sizes in axes.items()]

    @property
    def total(self) -> int:
        """How many gears TorchAir makes of it."""
        lengths = [len(sizes) for _, _, sizes in self.axes]
        return prod(lengths) if self.policy == "product" else max(lengths, default=0)

    def gears(self) -> Iterator[tuple[int, ...]]:
        """The gears that TorchAir makes of it: a size for each axis of :attr:`axes`."""
        lists = [sizes for _, _, sizes in self.axes]
        return zip(*lists, strict=False) if self.policy == "zip" else product(*lists)


def dim_gears(gears: Gears) -> DimGears:
    """The settings that say the gears, with the policy ``"zip"``.

    Of an axis that has one size in all gears nothing is said: it stays what it is in the first call. ``"product"`` would be
    shorter, but it also joins the batch of one input with another batch of the next.

    Args:
        gears: what is to be run.

    Returns:
        One setting for each input that has an axis of several sizes.

    Example:
        >>> from fixshape.export import Gears, parse_inputs
        >>> sizes = ({"N": 2, "L": 128}, {"N": 2, "L": 512}, {"N": 4, "L": 128})
        >>> dim_gears(Gears(parse_inputs("tokens:N,L;mask:N,1"), sizes)).settings
        (('tokens', {0: (2, 2, 4), 1: (128, 512, 128)}), ('mask', {0: (2, 2, 4)}))
    """
    distinct = dict.fromkeys(tuple(gear[symbol] for symbol in gears.symbols) for gear in gears.values)
    sizes = dict(zip(gears.symbols, zip(*distinct, strict=True), strict=True))
    settings = []
    for entry in gears.inputs:
        axes = {axis: sizes[str(entry.dims[axis])] for axis in entry.dynamic if len(set(sizes[str(entry.dims[axis])])) > 1}
        if axes:
            settings.append((entry.name, axes))
    return DimGears(tuple(settings))


def check_torchair(gears: Gears) -> tuple[Violation, ...]:
    """Every limit of TorchAir that gears break.

    Args:
        gears: what is to be run.

    Returns:
        The violations; none where TorchAir takes the gears.

    Example:
        >>> from fixshape.export import Gears, parse_inputs
        >>> (violation,) = check_torchair(Gears(parse_inputs("x:N,3"), ({"N": 1}, {"N": 4})))
        >>> violation.message
        'N has a gear of 1, expected 2 or more'
    """
    several = [symbol for symbol in gears.symbols if len({gear[symbol] for gear in gears.values}) > 1]
    if not several:
        message = "no axis has several sizes, expected at least two sizes of one"
        way_out = "torch.compile(model, backend=backend, dynamic=False), without gears"
        return (Violation("A3", None, message, "set_dim_gears takes two gears or more for an axis.", way_out),)
    found = []
    for symbol in several:
        sizes = sorted({gear[symbol] for gear in gears.values})
        if sizes[0] < 2:
            kept = ", ".join(map(str, sizes[1:]))
            way_out = f"{symbol} {kept} as gears, and {_STATIC}"
            if symbol == BATCH:
                way_out += f", or pad a batch of 1 to {sizes[1]} with fillers"
            found.append(Violation("A2", None, f"{symbol} has a gear of {sizes[0]}, expected 2 or more", _NO_ONE, way_out))
    return (*found, *(entry for entry in check_dim_gears(dim_gears(gears)) if entry.rule != "A2"))


_NO_ONE = "torch makes no symbol of a size of 0 or 1, so that such a call is compiled anew and runs without gears."


def check_dim_gears(given: DimGears) -> tuple[Violation, ...]:
    """Every limit of TorchAir that settings break, also those that :func:`dim_gears` did not make.

    Args:
        given: the settings.

    Returns:
        The violations, in the order of the rules A1 to A7.

    Example:
        >>> [violation.rule for violation in check_dim_gears(DimGears((("x", {0: (2, 4)}), ("y", {0: (2, 4, 8)}))))]
        ['A4']
    """
    return tuple(violation for rule in _RULES for violation in rule(given))


def _total(given: DimGears) -> Iterator[Violation]:
    total = given.total
    if total > MOST_GEARS:
        way_out = "fewer buckets or batch sizes"
        if given.policy == "product":
            way_out += '; or dynamic_gears_merge_policy = "zip", with the gears that are meant and no others'
        message = f"{total} gears in all with the policy {given.policy}, expected at most {MOST_GEARS}"
        yield Violation("A1", None, message, "Each gear is a graph of its own, and TorchAir takes 100 of them.", way_out)


def _sizes(given: DimGears) -> Iterator[Violation]:
    for name, axis, sizes in given.axes:
        if any(size < 2 for size in sizes):
            message = f"axis {axis} of {name} has the gear {min(sizes)}, expected 2 or more"
            kept = [size for size in sizes if size > 1]
            yield Violation("A2", None, message, _NO_ONE, f"{{{axis}: {kept}}}, and {_STATIC}")


def _several(given: DimGears) -> Iterator[Violation]:
    for name, axis, sizes in given.axes:
        if len(sizes) < 2:
            message = f"axis {axis} of {name} has {len(sizes)} gears, expected at least two"
            way_out = f"leave axis {axis} out: it stays what it is in the first call"
            yield Violation("A3", None, message, "set_dim_gears refuses it: one size is no choice.", way_out)


def _equal(given: DimGears) -> Iterator[Violation]:
    if given.policy == "zip" and len({len(sizes) for _, _, sizes in given.axes}) > 1:
        told = ", ".join(f"{len(sizes)} for axis {axis} of {name}" for name, axis, sizes in given.axes)
        message = f"the axes have different numbers of gears with the policy zip: {told}"
        way_out = "for each axis its size in the first gear, in the second, and so on, repeated where it stays the same"
        yield Violation("A4", None, message, "zip takes the first of each, then the second of each.", way_out)


def _mixed(given: DimGears) -> Iterator[Violation]:
    names = list(dict.fromkeys(name for name, _, _ in given.axes))
    if given.policy == "product" and len(names) > 1:
        message = f"with the policy product, each size of {names[0]} goes with each of {names[1]}"
        why = "Gears in which the batches of two inputs differ are compiled too, and may not even compile."
        yield Violation("A5", None, message, why, 'dynamic_gears_merge_policy = "zip"', level="warning")


def _once(given: DimGears) -> Iterator[Violation]:
    for name in dict.fromkeys(name for name, _ in given.settings):
        own = [axes for other, axes in given.settings if other == name]
        if any(axes != own[0] for axes in own):
            joined = {axis: list(sizes) for axes in own for axis, sizes in axes.items()}
            message = f"{name} has {len(own)} different settings, expected one"
            way_out = f"torchair.inference.set_dim_gears({name}, {joined})"
            yield Violation("A6", None, message, "A tensor takes one call of set_dim_gears.", way_out)


def _distinct(given: DimGears) -> Iterator[Violation]:
    every = list(given.gears()) if given.total <= MOST_GEARS else []
    twice = next((gear for index, gear in enumerate(every) if gear in every[:index]), None)
    if twice is not None:
        message = f"the gear {', '.join(map(str, twice))} comes twice, expected each once"
        why = "The gears become the option ge.dynamicDims, and the same option of ATC refuses a duplicate."
        yield Violation("A7", "E10039", message, why, "each gear once", level="warning", doubtful=True)


_RULES = (_total, _sizes, _several, _equal, _mixed, _once, _distinct)


def torchair_code(gears: Gears) -> str:
    """Python that compiles a model with these gears.

    Args:
        gears: what is to be run.

    Returns:
        A program with a function ``compile_with_gears(model, ...)``, to be called once with the tensors of the first call.

    Raises:
        UsageError: TorchAir does not take the gears; the message has the first limit and the way out.

    Example:
        >>> from fixshape.export import Gears, parse_inputs
        >>> code = torchair_code(Gears(parse_inputs("x:N,3"), ({"N": 2}, {"N": 4})))
        >>> [line.strip() for line in code.splitlines() if "set_dim_gears" in line]
        ['torchair.inference.set_dim_gears(x, {0: [2, 4]})']
    """
    wrong = [violation for violation in check_torchair(gears) if violation.level == "error"]
    if wrong:
        raise UsageError(f"TorchAir: {wrong[0].message}. {wrong[0].why} Instead: {wrong[0].way_out}.")
    names = _arguments([entry.name for entry in gears.inputs])
    settings = dim_gears(gears).settings
    calls = "".join(
        f"    torchair.inference.set_dim_gears({names[name]}, {{"
        + ", ".join(f"{axis}: {list(sizes)}" for axis, sizes in axes.items())
        + "})\n"
        for name, axes in settings
    )
    words = list(names.values())
    return _CODE.format(parameters=_listed(["model", *words], 4), arguments=_listed(words, 12), calls=calls, count=len(gears))


def _listed(words: Sequence[str], indent: int) -> str:
    """What stands between parentheses, on lines of its own where it is long."""
    line = ", ".join(words)
    if len(line) <= _WIDTH:
        return line
    return "".join(f"\n{' ' * indent}{word}," for word in words) + "\n" + " " * (indent - 4)


def _arguments(names: Sequence[str]) -> dict[str, str]:
    """A Python name for each input."""
    found: dict[str, str] = {}
    for name in names:
        word = re.sub(r"\W", "_", name, flags=re.ASCII)
        word = word if word.isidentifier() and not keyword.iskeyword(word) and word not in _OWN_NAMES else f"input_{word}"
        while word in found.values():
            word += "_"
        found[name] = word
    return found


_WIDTH = 80  # of a list of arguments
_OWN_NAMES = {"model", "config", "backend", "compiled", "torch", "torch_npu", "torchair"}  # of the program
_CODE = '''"""Compiles a model with TorchAir for {count} gears."""

import torch
import torch_npu  # noqa: F401, it makes the device known to torch
import torchair


def compile_with_gears({parameters}):
    """Compiles the model and runs it on the tensors of the first call, whose shapes are those of a gear."""
    config = torchair.CompilerConfig()
    config.mode = "max-autotune"  # the one that knows gears
    config.inference_config.dynamic_gears_merge_policy = "zip"
    backend = torchair.get_npu_backend(compiler_config=config)
    compiled = torch.compile(model, backend=backend, dynamic=True, fullgraph=True)
    # Once, before the first call: later calls only have to come in the shape of a gear.
{calls}    with torch.no_grad():
        compiled({arguments})
    return compiled
'''
