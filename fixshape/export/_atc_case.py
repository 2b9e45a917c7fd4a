"""What do the rules look at? A command with its shapes and gears taken apart, the model's header, and ways to write it anew."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from fixshape.export._atc_options import GEAR_OPTIONS, AtcCommand
from fixshape.export._onnx_header import OnnxHeader, Port
from fixshape.export._violation import Violation

BATCH_OPTION, IMAGE_OPTION, DIMS_OPTION = GEAR_OPTIONS
UNKNOWN_SIDE, UNKNOWN_LENGTH, UNKNOWN_CHANNELS = 640, 128, 3  # stand for sizes that neither the command nor the model says
STANDS_IN = "put your own sizes where the command could not tell them"
_WHOLE = re.compile(r"-?[0-9]{1,18}")
_RANGE = re.compile(r"([0-9]{1,18})~([0-9]{1,18})")

Rule = Callable[["Case"], Iterator[Violation]]


@dataclass(frozen=True, slots=True)
class Shape:
    """A part of ``--input_shape``: the name, and its dims as they were written."""

    name: str
    dims: tuple[str, ...]

    @property
    def free(self) -> list[int]:
        """The axes that are -1."""
        return [axis for axis, dim in enumerate(self.dims) if dim == "-1"]

    def put(self, sizes: dict[int, str]) -> Shape:
        """With other dims at some axes."""
        return Shape(self.name, tuple(sizes.get(axis, dim) for axis, dim in enumerate(self.dims)))

    def __str__(self) -> str:
        return f"{self.name}:{','.join(self.dims)}"


@dataclass(frozen=True)
class Case:
    """A command, and the model it is for where that is at hand."""

    command: AtcCommand
    header: OnnxHeader | None = None

    def get(self, name: str) -> str:
        """The value of an option, ``""`` where it is not given."""
        return self.command.get(name)

    @cached_property
    def builds(self) -> bool:
        """Whether an .om is built from a model, or the model checked as if one were."""
        return self.get("mode") in ("", "0", "3", "30") and not self.get("singleop")

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """The parts of ``--input_shape`` as they stand."""
        text = self.get("input_shape")
        return tuple(text.removesuffix(";").split(";")) if text else ()

    @cached_property
    def shapes(self) -> tuple[Shape, ...]:
        """The parts of ``--input_shape`` that are one; without those that S1 to S3 and S9 speak of."""
        shapes = []
        for part in self.parts:
            name, colon, dims = part.rpartition(":")
            if colon and name:
                shape = Shape(name, tuple(dims.split(",")) if dims else ())
                if all(_WHOLE.fullmatch(dim) or _RANGE.fullmatch(dim) for dim in shape.dims):
                    shapes.append(shape)
        return tuple(shapes)

    @cached_property
    def gear_options(self) -> list[str]:
        """Those of the three gear options that are set."""
        return [name for name in GEAR_OPTIONS if self.get(name)]

    @cached_property
    def mode(self) -> str:
        """The gear option that can be judged: the only one, over shapes that can be read; else ``""``."""
        clear = len(self.gear_options) == 1 and self.shapes and len(self.shapes) == len(self.parts)
        return self.gear_options[0] if clear else ""

    @cached_property
    def gears(self) -> list[tuple[str, ...]]:
        """The gears as they were written; one separator too many at the end is tolerated."""
        if len(self.gear_options) != 1:
            return []
        option = self.gear_options[0]
        text = self.get(option)
        between = "," if option == BATCH_OPTION else ";"
        return [tuple(gear.removesuffix(",").split(",")) for gear in text.removesuffix(between).split(between)]

    @cached_property
    def clean_gears(self) -> list[tuple[int, ...]]:
        """The gears as numbers, none where one of them is no number."""
        if all(re.fullmatch("[0-9]{1,18}", number) for gear in self.gears for number in gear):
            return [tuple(map(int, gear)) for gear in self.gears]
        return []

    @cached_property
    def has_range(self) -> bool:
        """Whether a shape is a range, by either option."""
        return bool(self.get("input_shape_range")) or any("~" in dim for shape in self.shapes for dim in shape.dims)

    @cached_property
    def sides(self) -> tuple[int, int]:
        """The axes of height and width; atc takes NHWC for a TensorFlow model where nothing is said."""
        usual = "NHWC" if self.get("framework") == "3" else "NCHW"
        return (1, 2) if (self.get("input_format") or usual) == "NHWC" else (2, 3)

    def open_sides(self, shape: Shape) -> Sequence[int]:
        """Height and width of an image; where there are other than four axes, the two that are open."""
        return self.sides if len(shape.dims) == 4 else shape.free if len(shape.free) == 2 else ()

    @property
    def free_axes(self) -> list[tuple[Shape, int]]:
        """Every -1, in the order of ``--input_shape``: what a gear of ``--dynamic_dims`` counts."""
        return [(shape, axis) for shape in self.shapes for axis in shape.free]

    def port(self, name: str) -> Port | None:
        """The model's input of that name."""
        return next((port for port in self.header.inputs if port.name == name), None) if self.header else None

    def model_dim(self, name: str, axis: int) -> int | None:
        """The size that the model has there, None where it has none or no model is given."""
        port = self.port(name)
        dims = port.dims if port and port.dims else ()
        dim = dims[axis] if axis < len(dims) else None
        return dim if isinstance(dim, int) and dim > 0 else None

    def size(self, name: str, axis: int, rank: int) -> str:
        """A size for an axis that has none: the model's, or one that stands for it."""
        known = self.model_dim(name, axis)
        if known:
            return str(known)
        if axis == 0:
            return "1"
        if rank != 4:
            return str(UNKNOWN_LENGTH)
        return str(UNKNOWN_SIDE if axis in self.sides else UNKNOWN_CHANNELS)

    def fixed(self, shape: Shape, axes: Sequence[int]) -> Shape:
        """With sizes at some axes."""
        return shape.put({axis: self.size(shape.name, axis, len(shape.dims)) for axis in axes})

    def rewritten(self, shapes: Sequence[Shape], **options: str | None) -> AtcCommand:
        """The command with other shapes and options."""
        return self.command.with_options(input_shape=";".join(map(str, shapes)), **options)

    def with_gears(self, gears: Sequence[tuple[int, ...]]) -> AtcCommand:
        """The command with these gears, each once; with one of them the shape is fixed, since atc takes no single gear."""
        gears = list(dict.fromkeys(gears))
        option = self.gear_options[0]
        if len(gears) < 2:
            return self.single(*gears)
        between = "," if option == BATCH_OPTION else ";"
        return self.command.with_options(**{option: between.join(",".join(map(str, gear)) for gear in gears)})

    def single(self, gear: tuple[int, ...] = ()) -> AtcCommand:
        """The command with the fixed shape that one gear is; with sizes of the model where the gear does not say them."""
        option, shapes, numbers = self.gear_options[0], [], iter(gear)
        for shape in self.shapes:
            sizes = {axis: self.size(shape.name, axis, len(shape.dims)) for axis in shape.free}
            for axis in shape.free if gear else ():
                if option == DIMS_OPTION:
                    sizes[axis] = str(next(numbers, sizes[axis]))
                elif option == BATCH_OPTION and axis == 0:
                    sizes[axis] = str(gear[0])
                elif option == IMAGE_OPTION and axis in self.sides and len(gear) == 2:
                    sizes[axis] = str(gear[self.sides.index(axis)])
            shapes.append(shape.put(sizes))
        return self.rewritten(shapes, **{option: None})

    def as_dims(self, shapes: Sequence[Shape] | None = None) -> AtcCommand:
        """The command with ``--dynamic_dims`` in place of its gear option: a number of each gear for each -1.

        An axis that the gears say nothing of gets the model's size, or one that stands for it.
        """
        shapes = self.shapes if shapes is None else shapes
        gears = []
        for gear in self.clean_gears:
            numbers = []
            for shape in shapes:
                for axis in shape.free:
                    if self.gear_options == [BATCH_OPTION] and (axis == 0 or not any(s.free[:1] == [0] for s in shapes)):
                        numbers.append(str(gear[0]))
                    elif self.gear_options == [IMAGE_OPTION] and axis in self.open_sides(shape):
                        numbers.append(str(gear[self.open_sides(shape).index(axis)]))
                    else:
                        numbers.append(self.size(shape.name, axis, len(shape.dims)))
            gears.append(tuple(map(int, numbers)))
        told = {BATCH_OPTION: None, IMAGE_OPTION: None, "input_format": "ND"}
        dims = ";".join(",".join(map(str, gear)) for gear in dict.fromkeys(gears))
        return self.rewritten(shapes, **told, **{DIMS_OPTION: dims})


def instead(command: AtcCommand, note: str = "") -> str:
    """A way out: the corrected command on the first line, and what is to be said about it under it."""
    return f"{command}\n        ({note})" if note else str(command)


def range_bounds(dim: str) -> tuple[int, int] | None:
    """The bounds of ``lo~hi``, None for what is no range."""
    found = _RANGE.fullmatch(dim)
    return (int(found[1]), int(found[2])) if found else None
