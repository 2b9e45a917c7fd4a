"""Which shapes is a deployed model run with? A plan's buckets times the batch sizes, over the model's inputs.

A *gear* is Ascend's word for one of them: a size for every symbol of the inputs.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from fixshape._check import check_at_least, shown
from fixshape.errors import UsageError
from fixshape.export._onnx_header import OnnxHeader, Port, dims_text
from fixshape.plan import ShapePlan

BATCH, HEIGHT, WIDTH = "N", "H", "W"
_SYMBOL = re.compile(r"[A-Za-z_]\w*")
_NUMBER = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class Input:
    """One input of a model: its name, and for each axis a size or a symbol.

    Args:
        name: as the model has it.
        dims: whole numbers of at least 1, and symbols for the axes whose size a gear gives; ``()`` is a scalar.

    Raises:
        ShapeError: a dim is a number below 1.
        UsageError: the name is empty, or a symbol is not a word.

    Example:
        >>> images = Input("images", ("N", 3, "H", "W"))
        >>> str(images), images.dynamic
        ('images:N,3,H,W', (0, 2, 3))
    """

    name: str
    dims: tuple[int | str, ...]

    def __post_init__(self) -> None:
        if not self.name:
            raise UsageError("Input: the name is empty, expected the name that the model gives this input.")
        for dim in self.dims:
            if not isinstance(dim, str):
                check_at_least("Input", f"a dim of {self.name!r}", dim, 1)
            elif not _SYMBOL.fullmatch(dim):
                raise UsageError(f"Input: a dim of {self.name!r} is {shown(dim)}, expected a number or a word such as N, H, W.")

    @property
    def dynamic(self) -> tuple[int, ...]:
        """The axes that a gear gives the size of."""
        return tuple(axis for axis, dim in enumerate(self.dims) if isinstance(dim, str))

    def __str__(self) -> str:
        return f"{self.name}:{','.join(map(str, self.dims))}"


def parse_inputs(text: str) -> tuple[Input, ...]:
    """Inputs as they are written on a command line.

    Args:
        text: ``"images:N,3,H,W;image_sizes:N,2"``. The last colon of each part ends the name, so that names may have colons;
            nothing after it is a scalar.

    Returns:
        The inputs in their order.

    Raises:
        UsageError: a part is not of that form, or a name comes twice; the message names the part.
        ShapeError: a size is below 1.

    Example:
        >>> parse_inputs("tokens:N,L; temperature:")
        (Input(name='tokens', dims=('N', 'L')), Input(name='temperature', dims=()))
    """
    inputs: list[Input] = []
    for part in text.split(";"):
        name, colon, dims = part.strip().rpartition(":")
        if not colon or not name:
            raise UsageError(
                f"inputs: {shown(part)} is not NAME:DIM,DIM,...; write for example 'images:N,3,H,W;image_sizes:N,2'."
            )
        if any(name == other.name for other in inputs):
            raise UsageError(f"inputs: {shown(name)} comes twice, expected each input once.")
        inputs.append(Input(name, tuple(_dim(part, dim.strip()) for dim in dims.split(",")) if dims.strip() else ()))
    return tuple(inputs)


def _dim(part: str, text: str) -> int | str:
    if _NUMBER.fullmatch(text):
        return int(text)
    if _SYMBOL.fullmatch(text):
        return text
    raise UsageError(f"inputs: {shown(text)} in {shown(part)} is no dim, expected a whole number or a word such as N, H, W.")


@dataclass(frozen=True, slots=True)
class Gears:
    """The shapes that a model is run with, in order: for each gear a size for every symbol of the inputs.

    Args:
        inputs: of the model, in its order.
        values: one mapping from symbol to size per gear.
        counts: how often each gear comes, in the same order; ``None`` where that is not known.

    Raises:
        UsageError: there is no input or no gear, a gear lacks a symbol, or there are other counts than gears.
        ShapeError: a size is below 1, or a count below 0.

    Example:
        >>> gears = Gears((Input("tokens", ("N", "L")),), ({"N": 1, "L": 128}, {"N": 1, "L": 512}), counts=(90, 10))
        >>> gears.shapes(1), gears.most_frequent
        ({'tokens': (1, 512)}, 0)
    """

    inputs: tuple[Input, ...]
    values: tuple[Mapping[str, int], ...]
    counts: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not self.inputs or not self.values:
            raise UsageError(f"Gears: got {len(self.inputs)} inputs and {len(self.values)} gears, expected at least one of each.")
        for index, gear in enumerate(self.values):
            missing = [symbol for symbol in self.symbols if symbol not in gear]
            if missing:
                raise UsageError(
                    f"Gears: gear {index} has sizes for {', '.join(gear) or 'nothing'}, and none for {', '.join(missing)} of"
                    f" {';'.join(map(str, self.inputs))}. Write the size itself in the input, or give it in each gear."
                )
            for symbol in self.symbols:
                check_at_least("Gears", f"{symbol} of gear {index}", gear[symbol], 1)
        if self.counts is not None:
            if len(self.counts) != len(self.values):
                raise UsageError(f"Gears: got {len(self.counts)} counts for {len(self.values)} gears, expected one for each.")
            for index, count in enumerate(self.counts):
                check_at_least("Gears", f"the count of gear {index}", count, 0)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def symbols(self) -> tuple[str, ...]:
        """Each symbol once, in the order of the inputs' axes."""
        return tuple(dict.fromkeys(dim for entry in self.inputs for dim in entry.dims if isinstance(dim, str)))

    def shapes(self, index: int) -> dict[str, tuple[int, ...]]:
        """The shape of each input in one gear."""
        gear = self.values[index]
        return {entry.name: tuple(gear[dim] if isinstance(dim, str) else dim for dim in entry.dims) for entry in self.inputs}

    @property
    def largest(self) -> int:
        """The gear with the most elements over all inputs; the first of those that are equal."""
        return max(range(len(self)), key=lambda index: sum(prod(shape) for shape in self.shapes(index).values()))

    @property
    def most_frequent(self) -> int:
        """The gear that comes most often; the largest where counts are not known."""
        counts = self.counts
        return self.largest if counts is None else max(range(len(self)), key=lambda index: counts[index])


def plan_gears(
    plan: ShapePlan,
    inputs: Sequence[Input],
    *,
    batch_sizes: Sequence[int] = (1,),
    counts: Sequence[int] | None = None,
) -> Gears:
    """The gears of a plan: ``N`` is one of the batch sizes, ``H`` and ``W`` are one of the plan's canvases.

    Canvases that differ in their box slots alone are one, since a deployed model has no targets. Where no input has ``H`` or
    ``W``, the gears are the batch sizes.

    Args:
        plan: the plan that the model was trained with.
        inputs: of the model, with the symbols ``N``, ``H``, ``W`` and no other.
        batch_sizes: at least one; each canvas is run with each of them.
        counts: how often a sample goes to each of ``plan.shapes``; it makes no difference between batch sizes.

    Returns:
        The gears in the plan's order, batch sizes within a canvas.

    Raises:
        UsageError: an input has another symbol, there is no batch size, or other counts than shapes.
        ShapeError: a batch size is below 1, or a count below 0.

    Example:
        >>> from fixshape.plan import Bucket
        >>> plan = ShapePlan([Bucket(320, 320, 8), Bucket(320, 480, 8)])
        >>> gears = plan_gears(plan, parse_inputs("images:N,3,H,W"), batch_sizes=(1, 4))
        >>> [gears.shapes(index)["images"] for index in range(len(gears))]
        [(1, 3, 320, 320), (4, 3, 320, 320), (1, 3, 320, 480), (4, 3, 320, 480)]
    """
    symbols = {dim for entry in inputs for dim in entry.dims if isinstance(dim, str)}
    unknown = sorted(symbols - {BATCH, HEIGHT, WIDTH})
    if unknown:
        raise UsageError(
            f"plan_gears: a plan has no sizes for {', '.join(unknown)} of {';'.join(map(str, inputs))}, it has {BATCH}, {HEIGHT},"
            f" {WIDTH}. Write the size itself, or make Gears(inputs, values) with sizes of your own."
        )
    if not batch_sizes:
        raise UsageError("plan_gears: got no batch size, expected at least one.")
    if counts is not None and len(counts) != len(plan.shapes):
        raise UsageError(
            f"plan_gears: got {len(counts)} counts for {len(plan.shapes)} shapes of the plan, expected one for each."
        )
    frequency: dict[tuple[tuple[str, int], ...], int] = {}
    for (index, bucket), batch in itertools.product(enumerate(plan.shapes), dict.fromkeys(batch_sizes)):
        sizes = {BATCH: batch, HEIGHT: bucket.height, WIDTH: bucket.width}
        gear = tuple((symbol, size) for symbol, size in sizes.items() if symbol in symbols)
        frequency[gear] = frequency.get(gear, 0) + (0 if counts is None else counts[index])
    return Gears(tuple(inputs), tuple(dict(gear) for gear in frequency), None if counts is None else tuple(frequency.values()))


def header_inputs(header: OnnxHeader) -> tuple[Input, ...]:
    """The inputs of an ONNX file with the plan's symbols at its free axes.

    An axis that is called N, H or W in the file is that; others go by their place: N first, then H and W where there are four.

    Args:
        header: of the file.

    Returns:
        The inputs in the file's order.

    Raises:
        UsageError: a free axis is none of these, or an input's rank is not known.

    Example:
        >>> images = Port("images", "float32", ("batch", 3, None, "width"))
        >>> header_inputs(OnnxHeader((images,), (), {"": 18}, 10, ()))[0].dims
        ('N', 3, 'H', 'W')
    """
    return tuple(Input(port.name, tuple(_symbol(port, axis) for axis in range(_rank(port)))) for port in header.inputs)


def _rank(port: Port) -> int:
    if port.dims is None:
        raise _untold(port)
    return len(port.dims)


def _symbol(port: Port, axis: int) -> int | str:
    dims = port.dims or ()
    dim = dims[axis]
    if isinstance(dim, int) and dim > 0:
        return dim
    if dim in (BATCH, HEIGHT, WIDTH):  # the file has the plan's own words, and the axes may be in another order
        return str(dim)
    symbol = {0: BATCH, 2: HEIGHT, 3: WIDTH}.get(axis) if len(dims) == 4 else {0: BATCH}.get(axis)
    if symbol is None:
        raise _untold(port)
    return symbol


def _untold(port: Port) -> UsageError:
    dims = enumerate(port.dims or (None, None))
    sizes = [str(dim) if isinstance(dim, int) and dim > 0 else "128" if axis else BATCH for axis, dim in dims]
    return UsageError(
        f"inputs: {shown(port.name)} is {dims_text(port.dims)}, and a plan has a batch size, a height and a width only. Say what"
        f" is what, and write the sizes of other axes: --inputs '{port.name}:{','.join(sizes)}'."
    )
