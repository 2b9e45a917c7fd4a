"""Renames inputs and outputs of an ONNX file, everywhere that their names stand."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING

from fixshape.errors import UsageError
from fixshape.export._onnx_prove import prove_equal
from fixshape.export._onnx_run import Array, open_session, random_feeds, unknown
from fixshape.export._onnx_shapes import inputs_of, stand_ins
from fixshape.export._onnx_write import names_of

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto


def rename(
    model: ModelProto,
    names: Mapping[str, str],
    *,
    sizes: Mapping[str, int] | None = None,
    feeds: Mapping[str, Array] | None = None,
) -> ModelProto:
    """Gives inputs and outputs other names.

    A name stands in more places than at the boundary: in nodes, in the graphs inside If, Loop and Scan, which read it without
    having it as an input, in initializers that are listed as inputs, in what the file says of shapes, quantization and
    training. All are renamed. An output that is an input is one value and gets one name. Two names may be swapped. Free text
    that mentions a name, as metadata may, is left as it is.

    The result is run in onnxruntime on drawn inputs and equals the original.

    Args:
        model: of :func:`load_model`. It is not changed.
        names: the new name of each input or output that gets one.
        sizes: of symbols, for the run; 64 for pixels and 8 for others where it is not given.
        feeds: arrays for inputs that are not to be drawn: scales, lengths, token ids. They are repeated or cut to the shape.

    Returns:
        The new model.

    Raises:
        UsageError: there is no such input or output, or a new name is empty, given twice, or another value's already.
        ExportError: onnxruntime cannot run it.
        ExtraError: onnx or onnxruntime is not installed.

    Example:
        >>> from onnx import parser
        >>> model = parser.parse_model('''<ir_version: 8, opset_import: ["" : 18]>
        ... twice (float[N, 3] images) => (float[N, 3] output) { output = Add(images, images) }''')
        >>> renamed = rename(model, {"images": "data", "output": "fc1"})
        >>> renamed.graph.node[0].input, renamed.graph.output[0].name
        (['data', 'data'], 'fc1')
    """
    _check_names(model, names)
    result = copy.deepcopy(model)
    _rename_graph(result.graph, dict(names))
    for training in result.training_info:
        for binding in (*training.initialization_binding, *training.update_binding):
            binding.key, binding.value = names.get(binding.key, binding.key), names.get(binding.value, binding.value)
        _rename_graph(training.algorithm, dict(names))
    shapes, _ = stand_ins(model, {}, sizes, feeds)
    prove_equal("rename", model, result, random_feeds(open_session(model), shapes, given=feeds), names)
    return result


def _check_names(model: ModelProto, names: Mapping[str, str]) -> None:
    ports = list(dict.fromkeys([port.name for port in (*inputs_of(model), *model.graph.output)]))
    for name in names:
        if name not in ports:
            raise UsageError(f"rename: {unknown('input or output', name, ports)}")
    taken = names_of(model) - set(names)
    new: set[str] = set()
    for old, name in names.items():
        if not name:
            raise UsageError(f"rename: the new name of {old!r} is empty.")
        if name in new:
            raise UsageError(f"rename: two values would be named {name!r}. Give each its own name.")
        if name in taken:
            raise UsageError(f"rename: {old!r} cannot be named {name!r}: another value of the file is. Give another name.")
        new.add(name)


def _rename_graph(graph: GraphProto, names: dict[str, str]) -> None:
    for port in (*graph.input, *graph.output, *graph.value_info):
        port.name = names.get(port.name, port.name)
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = names.get(sparse.values.name, sparse.values.name)
    for annotation in graph.quantization_annotation:
        annotation.tensor_name = names.get(annotation.tensor_name, annotation.tensor_name)
        for entry in annotation.quant_parameter_tensor_names:
            entry.value = names.get(entry.value, entry.value)
    for node in graph.node:
        _rename_node(node, names)


def _rename_node(node: NodeProto, names: dict[str, str]) -> None:
    for values in (node.input, node.output):
        for slot, name in enumerate(values):
            values[slot] = names.get(name, name)
    for configuration in getattr(node, "device_configurations", ()):  # since IR version 11
        for sharding in configuration.sharding_spec:
            sharding.tensor_name = names.get(sharding.tensor_name, sharding.tensor_name)
    for attribute in node.attribute:
        for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
            # What a graph defines itself hides the outer value of that name.
            own = {port.name for port in inner.input} | {name for each in inner.node for name in each.output}
            own |= {tensor.name for tensor in inner.initializer} | {sparse.values.name for sparse in inner.sparse_initializer}
            _rename_graph(inner, {old: new for old, new in names.items() if old not in own})
