"""The constants of an ONNX graph, and how one that came from a size, as that of the batch, is written for any other.

A size that changes is a *symbol*: ``N`` the batch, ``H`` and ``W`` of an image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fixshape.export._onnx_infer import MOST_NUMBERS
from fixshape.export._onnx_run import need

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

Array = npt.NDArray[Any]
_ROUNDED = 8  # units of the largest number's last place; sums in another order differ by one or two


class Use(NamedTuple):
    """One input of one node. A constant is changed for one use: others may need it as it is."""

    node: int
    slot: int


class Size(NamedTuple):
    """A product of symbols, divided by a whole number as strides divide: ``H // 8``."""

    symbols: tuple[str, ...]
    divisor: int = 1

    def at(self, sizes: Mapping[str, int]) -> int:
        """The number for one size of each symbol."""
        return math.prod(sizes[symbol] for symbol in self.symbols) // self.divisor

    def __str__(self) -> str:
        product = "*".join(self.symbols)
        return product if self.divisor == 1 else f"({product}//{self.divisor})"


@dataclass(frozen=True)
class Linear:
    """Numbers that grow with symbols: ``fixed`` and, for each size, a factor times it."""

    fixed: Array
    terms: tuple[tuple[Size, Array], ...]

    def at(self, sizes: Mapping[str, int]) -> Array:
        """The constant for one size of each symbol."""
        value = self.fixed
        for size, factor in self.terms:
            value = value + factor * np.array(size.at(sizes), factor.dtype)
        return value


class Length(NamedTuple):
    """``factor * size + rest``: how long an axis is."""

    size: Size
    factor: int = 1
    rest: int = 0

    def at(self, sizes: Mapping[str, int]) -> int:
        """The number for one size of each symbol."""
        return self.factor * self.size.at(sizes) + self.rest


class Growth(NamedTuple):
    """Along an axis, as many numbers as a length says, each by a step larger than the one before."""

    axis: int
    length: Length
    step: Array | None  # of the shape of the first; None repeats


@dataclass(frozen=True)
class Grid:
    """Numbers that grow evenly along axes: one row that repeats, as an initial state does, or indices that count."""

    first: Array  # its size along those axes is 1
    along: tuple[Growth, ...]

    def at(self, sizes: Mapping[str, int]) -> Array:
        """The constant for one size of each symbol."""
        lengths = {axis: length.at(sizes) for axis, length, _ in self.along}
        return self.of([lengths.get(axis, size) for axis, size in enumerate(self.first.shape)])

    def of(self, shape: Sequence[int]) -> Array:
        """The constant of a shape."""
        value = self.first
        for axis, _, step in self.along:
            if step is not None:
                counted = np.arange(shape[axis]).reshape([-1 if other == axis else 1 for other in range(len(shape))])
                value = value + (counted * step).astype(value.dtype)
        return np.broadcast_to(value, shape)


def grid_of(array: Array, lengths: Mapping[int, Length]) -> Grid | None:
    """How a constant goes on along axes that follow sizes, where it is even along them but for rounding."""
    if not array.size:
        return None

    def row(place: Mapping[int, int]) -> Array:
        return array[tuple(slice(place[axis], place[axis] + 1) if axis in place else slice(None) for axis in range(array.ndim))]

    start = dict.fromkeys(lengths, 0)
    first, along = row(start), []
    for axis, length in lengths.items():
        counts = array.dtype.kind == "i" and array.shape[axis] > 1
        step = row(start | {axis: 1}) - first if counts else None
        along.append(Growth(axis, length, step if step is not None and step.any() else None))
    grid = Grid(first, tuple(along))
    return grid if is_rounded(grid.of(array.shape), array) else None


def is_rounded(one: Array, two: Array) -> bool:
    """Whether constants of one shape are equal, floats but for rounding: a folded table has a row computed anew per sample."""
    if one.dtype.kind != "f" or one.dtype != two.dtype:
        return np.array_equal(one, two)
    largest = np.abs(two, where=np.isfinite(two), out=np.zeros_like(two)).max(initial=0)
    return np.allclose(one, two, rtol=0, atol=float(_ROUNDED * np.finfo(two.dtype).eps * largest), equal_nan=True)


Edit = Linear | Grid


class Constants:
    """Initializers and Constant nodes of the main graph, by name."""

    def __init__(self, model: ModelProto) -> None:
        onnx = need("onnx")
        self.arrays: dict[str, Array] = {}
        self.types: dict[str, int] = {}
        for tensor in _constant_tensors(model.graph):
            self.arrays[tensor.name] = onnx.numpy_helper.to_array(tensor)
            self.types[tensor.name] = tensor.data_type
        for node in model.graph.node:
            if node.op_type == "Constant" and node.output[0] not in self.arrays:
                value = _listed(node)
                if value is not None:
                    self.arrays[node.output[0]] = value
                    self.types[node.output[0]] = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)


def _constant_tensors(graph: GraphProto) -> list[Any]:
    onnx = need("onnx")
    found = list(graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                tensor = onnx.TensorProto()
                tensor.CopyFrom(attribute.t)
                tensor.name = node.output[0]
                found.append(tensor)
    return found


def _listed(node: NodeProto) -> Array | None:
    """The numbers of a Constant whose attribute is no tensor (since opset 12)."""
    for attribute in node.attribute:
        if attribute.name == "value_int":
            return np.array(attribute.i, np.int64)
        if attribute.name == "value_ints":
            return np.array(attribute.ints, np.int64)
        if attribute.name == "value_float":
            return np.array(attribute.f, np.float32)
        if attribute.name == "value_floats":
            return np.array(attribute.floats, np.float32)
    return None


def is_number(array: Array) -> bool:
    """Whether the numbers of a constant are kept: as shapes, indices and scales, not as weights."""
    return array.size <= MOST_NUMBERS and array.dtype.kind in "iufb"


def label(node: NodeProto) -> str:
    """How a node is named in a message."""
    return f"{node.name or node.output[0]!r} ({node.op_type})"
