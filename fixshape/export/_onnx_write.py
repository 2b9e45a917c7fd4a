"""Writes constants of an ONNX graph anew: as numbers for given sizes, or as nodes that compute them from the inputs' shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fixshape.export._onnx_constants import Array, Edit, Grid, Length, Linear, Size, Use
from fixshape.export._onnx_run import graphs, need

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Edits = Mapping[Use, Edit]
Axis = tuple[str, int]  # of an input


def write_constants(model: ModelProto, edits: Edits, sizes: Mapping[str, int]) -> None:
    """Gives each use its constant for one size of each symbol."""
    writer = _Writer(model, {})
    for use in sorted(edits):
        node = model.graph.node[use.node]
        node.input[use.slot] = writer.constant(f"{node.input[use.slot]}_sized", edits[use].at(sizes))


def write_computed(model: ModelProto, edits: Edits, axes: Mapping[str, Axis]) -> None:
    """Gives each use its constant for any size: ``axes`` says which axis of which input is a symbol's size."""
    writer = _Writer(model, axes)
    for use in sorted(edits):
        node = model.graph.node[use.node]
        node.input[use.slot] = writer.computed(node, use, edits[use])
    for offset, node in enumerate(writer.nodes):
        model.graph.node.insert(offset, node)


def names_of(model: ModelProto) -> set[str]:
    """Every name of a value, in subgraphs too."""
    taken: set[str] = set()
    for graph in graphs(model.graph):
        taken |= {name for node in graph.node for name in (*node.input, *node.output)}
        taken |= {port.name for port in (*graph.input, *graph.output, *graph.value_info)}
        taken |= {tensor.name for tensor in graph.initializer} | {sparse.values.name for sparse in graph.sparse_initializer}
    return taken - {""}


class _Writer:
    """Adds initializers to a model at once, and collects nodes, whose order the caller keeps."""

    def __init__(self, model: ModelProto, axes: Mapping[str, Axis]) -> None:
        self.graph, self.axes = model.graph, axes
        self.nodes: list[NodeProto] = []
        self.taken = names_of(model)
        self.sizes: dict[tuple[Size, bool], str] = {}

    def computed(self, node: NodeProto, use: Use, edit: Edit) -> str:
        """The name of what holds the constant for any size."""
        stem = f"{node.input[use.slot]}_sized"
        if isinstance(edit, Linear):
            grows = sum((factor != 0 for _, factor in edit.terms), np.zeros(edit.fixed.shape, bool))
            if not np.any(grows):
                return self.constant(stem, edit.fixed)
            # One axis may be left to Reshape itself: a graph with fewer nodes, which more tools take.
            if node.op_type == "Reshape" and np.count_nonzero(grows) == 1 and not (edit.fixed == -1).any():
                return self.constant(stem, np.where(grows, np.array(-1, edit.fixed.dtype), edit.fixed))
            return self.linear(stem, edit)
        return self.grid(stem, edit)

    def grid(self, stem: str, edit: Grid) -> str:
        total, rank = self.constant(stem, edit.first), edit.first.ndim
        rows, terms = np.ones(rank, np.int64), list[tuple[Size, Array]]()
        for axis, length, step in edit.along:
            if step is None:
                grows = np.zeros(rank, np.int64)
                rows[axis], grows[axis] = length.rest, length.factor
                terms.append((length.size, grows))
                continue
            bounds = [self.constant(stem, np.array(0, np.int64)), self.length(stem, length)]
            numbers = self.add("Range", [*bounds, self.constant(stem, np.array(1, np.int64))], stem)
            along = np.array([-1 if other == axis else 1 for other in range(rank)], np.int64)
            numbers = self.cast(self.add("Reshape", [numbers, self.constant(stem, along)], stem), step.dtype, stem)
            total = self.add("Add", [self.add("Mul", [numbers, self.constant(stem, step)], stem), total], stem)
        return self.add("Expand", [total, self.linear(stem, Linear(rows, tuple(terms)))], stem) if terms else total

    def length(self, stem: str, length: Length) -> str:
        return self.linear(stem, Linear(np.array(length.rest), ((length.size, np.array(length.factor)),)))

    def linear(self, stem: str, edit: Linear) -> str:
        kind = np.int64 if edit.fixed.dtype.kind in "iu" else edit.fixed.dtype
        total = self.constant(stem, edit.fixed.astype(kind))
        for given, factor in edit.terms:
            size = self.cast(self.size(given, scalar=edit.fixed.ndim == 0), np.dtype(kind), stem)
            total = self.add("Add", [self.add("Mul", [size, self.constant(stem, factor.astype(kind))], stem), total], stem)
        return total if edit.fixed.dtype == kind else self.cast(total, edit.fixed.dtype, stem)

    def size(self, size: Size, *, scalar: bool) -> str:
        """A size, as [] or as [1] int64; computed once."""
        if (size, scalar) not in self.sizes:
            symbols, divisor = size
            if divisor > 1:
                whole, by = self.size(Size(symbols), scalar=scalar), np.array(divisor if scalar else [divisor], np.int64)
                made = self.add("Div", [whole, self.constant(f"{size}_divisor", by)], str(size))
            elif len(symbols) > 1:
                parts = [self.size(Size(part), scalar=scalar) for part in (symbols[:-1], symbols[-1:])]
                made = self.add("Mul", parts, str(size))
            else:
                name, axis = self.axes[symbols[0]]
                index = self.constant(f"{symbols[0]}_axis", np.array(axis if scalar else [axis], np.int64))
                shape = self.add("Shape", [name], f"{name}_shape")
                made = self.add("Gather", [shape, index], f"{symbols[0]}_size")
            self.sizes[size, scalar] = made
        return self.sizes[size, scalar]

    def cast(self, name: str, dtype: np.dtype[Any], stem: str) -> str:
        kind = need("onnx").helper.np_dtype_to_tensor_dtype(dtype)
        return name if dtype == np.int64 else self.add("Cast", [name], stem, to=kind)

    def constant(self, stem: str, array: Array) -> str:
        name = self.fresh(stem)
        held = np.ascontiguousarray(array).reshape(array.shape)
        self.graph.initializer.append(need("onnx").numpy_helper.from_array(held, name))
        return name

    def add(self, op_type: str, inputs: list[str], stem: str, **attributes: Any) -> str:
        name = self.fresh(stem)
        self.nodes.append(need("onnx").helper.make_node(op_type, inputs, [name], name=name, **attributes))
        return name

    def fresh(self, stem: str) -> str:
        """A name that no value has."""
        name, number = stem, 1
        while name in self.taken:
            number += 1
            name = f"{stem}_{number}"
        self.taken.add(name)
        return name
