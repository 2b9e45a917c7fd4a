"""The constants of an ONNX graph, and how one that came from a size, as that of the batch, is written for any other.

A size that changes is a *symbol*: ``N`` the batch, ``H`` and ``W`` of an image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fixshape.export._onnx_infer import MOST_NUMBERS
from fixshape.export._onnx_run import need

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

Array = npt.NDArray[Any]


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


@dataclass(frozen=True)
class Repeat:
    """One row that is repeated along an axis, a symbol's size times a factor."""

    axis: int
    row: Array  # its size along the axis is 1
    symbol: str
    factor: int = 1

    def at(self, sizes: Mapping[str, int]) -> Array:
        """The constant for one size of each symbol."""
        before, after = self.row.shape[: self.axis], self.row.shape[self.axis + 1 :]
        return np.broadcast_to(self.row, (*before, self.factor * sizes[self.symbol], *after))


@dataclass(frozen=True)
class Stepped:
    """Rows along an axis, as many as a symbol says, each by a step larger than the one before: indices of samples."""

    axis: int
    row: Array  # the first; its size along the axis is 1
    step: int
    symbol: str

    def at(self, sizes: Mapping[str, int]) -> Array:
        """The constant for one size of each symbol."""
        steps = (self.step * np.arange(sizes[self.symbol])).astype(self.row.dtype)
        rows: Array = self.row + steps.reshape([-1 if axis == self.axis else 1 for axis in range(self.row.ndim)])
        return rows


def rows_of(array: Array, axis: int, symbol: str, size: int) -> Repeat | Stepped | None:
    """How the rows of a constant along an axis go on with a symbol of this size, where they are equal or in equal steps."""
    factor, rest = divmod(array.shape[axis], size)
    if rest or not factor:
        return None
    row = array.take([0], axis)
    if np.array_equal(np.broadcast_to(row, array.shape), array):
        return Repeat(axis, row, symbol, factor)
    if array.dtype.kind == "i" and factor == 1 < size:
        step = int((array.take([1], axis) - row).reshape(-1)[0])
        stepped = Stepped(axis, row, step, symbol)
        if np.array_equal(stepped.at({symbol: array.shape[axis]}), array):
            return stepped
    return None


Edit = Linear | Repeat | Stepped


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
