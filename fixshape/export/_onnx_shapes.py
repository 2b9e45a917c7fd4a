"""What an ONNX graph says of its shapes: read, written, cleared, and inferred again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fixshape.errors import UsageError
from fixshape.export._onnx_run import Array, graphs, need, unknown

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

Dims = tuple[int | str | None, ...]

PIXELS, OTHERS = 64, 8  # what stands for a symbol in a run: of an image, and of anything else


def inputs_of(model: ModelProto) -> list[ValueInfoProto]:
    """Inputs that a caller gives: old files list initializers too."""
    held = {tensor.name for tensor in model.graph.initializer} | {sparse.values.name for sparse in model.graph.sparse_initializer}
    return [port for port in model.graph.input if port.name not in held]


def input_dims(port: ValueInfoProto) -> Dims:
    """A size, a symbol, or ``None`` for each axis.

    Raises:
        UsageError: the file does not say how many axes there are.
    """
    if not port.type.HasField("tensor_type") or not port.type.tensor_type.HasField("shape"):
        raise UsageError(f"{port.name!r} has no shape in the file. Export the model with one.")
    return tuple(
        dim.dim_value if dim.HasField("dim_value") else (dim.dim_param or None) for dim in port.type.tensor_type.shape.dim
    )


def set_dims(port: ValueInfoProto, dims: Mapping[int, int | str | None]) -> None:
    """Writes some axes; ``None`` makes one unknown."""
    shape = port.type.tensor_type.shape
    for axis, size in dims.items():
        if axis >= len(shape.dim):
            continue
        shape.dim[axis].Clear()
        if isinstance(size, int):
            shape.dim[axis].dim_value = size
        elif size is not None:
            shape.dim[axis].dim_param = size


def clear_shapes(model: ModelProto) -> None:
    """Takes away what the file says of the shapes between inputs and outputs, in subgraphs too."""
    for graph in graphs(model.graph):
        del graph.value_info[:]
        if graph is not model.graph:
            for port in (*graph.input, *graph.output):
                port.type.tensor_type.ClearField("shape")


def fill_shapes(model: ModelProto, *, outputs: bool = False) -> None:
    """Writes what onnx infers of the shapes between inputs and outputs, where it can; ``outputs``: of the outputs too."""
    onnx = need("onnx")
    for port in model.graph.output if outputs else ():
        port.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError):
        return  # the shapes between are a help to readers, and no part of the function
    del model.graph.value_info[:]
    model.graph.value_info.extend(inferred.graph.value_info)
    for port, found in zip(model.graph.output, inferred.graph.output, strict=True) if outputs else ():
        port.CopyFrom(found)
        for dim in port.type.tensor_type.shape.dim:
            if dim.dim_param.startswith("unk__"):  # a name that inference made up
                dim.Clear()


def stand_ins(
    model: ModelProto, axes: Mapping[str, int], sizes: Mapping[str, int] | None, feeds: Mapping[str, Array] | None
) -> tuple[dict[str, tuple[int, ...]], bool]:
    """A shape for each input with a size for every symbol, and whether the batch is the one symbol.

    A symbol has the size that is given for it, else that of the array that is given for an input.

    Raises:
        UsageError: a size or an array is given for what the file does not have.
    """
    ports = {port.name: input_dims(port) for port in inputs_of(model)}
    for name in feeds or ():
        if name not in ports:
            raise UsageError(f"feeds: {unknown('input', name, ports)}")
    symbols = list(dict.fromkeys(dim for dims in ports.values() for dim in dims if isinstance(dim, str)))
    for symbol in sizes or ():
        if symbol not in symbols:
            raise UsageError(f"sizes: {unknown('symbol', symbol, symbols)}")
    known, shapes, is_static = dict(sizes or {}), {}, True
    for port in inputs_of(model):
        if feeds and port.name in feeds:
            pairs = zip(input_dims(port), feeds[port.name].shape, strict=False)
            known = {dim: size for dim, size in pairs if isinstance(dim, str)} | known
    for port in inputs_of(model):
        dims, shape = input_dims(port), []
        for axis, dim in enumerate(dims):
            if isinstance(dim, int):
                shape.append(dim)
                continue
            if axes.get(port.name) != axis:
                is_static = False
            shape.append(known.get(dim or "", PIXELS if len(dims) >= 4 else OTHERS))
        shapes[port.name] = tuple(shape)
    return shapes, is_static
