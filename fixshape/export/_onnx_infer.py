"""What does one node of an ONNX graph give: its shapes, by onnx's own inference, and its numbers where they are few and known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fixshape.export._onnx_run import need

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Shape = tuple[int, ...] | None
Value = npt.NDArray[Any] | None
Known = tuple[Any, Shape, Value]  # element type, shape, numbers

MOST_NUMBERS = 4096  # that are kept of a value: shapes, indices and scales have fewer
DRAWN = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}


def infer(
    model: ModelProto, node: NodeProto, inputs: Sequence[Known], outer: Mapping[str, tuple[Any, Shape]]
) -> dict[str, Known]:
    """Element type and shape of each output; what is not known is left out.

    Args:
        model: for its opsets.
        node: the node.
        inputs: of each input, in order.
        outer: element type and shape of what the node's subgraphs may read by name.

    Raises:
        ValueError: the inputs do not fit the node.
    """
    onnx = need("onnx")
    if any(attribute.HasField("g") for attribute in node.attribute):
        return _infer_in_graph(model, node, outer)
    opsets = _opsets(model)
    domain = "" if node.domain == "ai.onnx" else node.domain
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets.get(domain, 1), domain)
    except onnx.defs.SchemaError:
        return {}
    alone, types, data = onnx.NodeProto(), {}, {}
    alone.CopyFrom(node)
    for slot, (name, (kind, shape, value)) in enumerate(zip(node.input, inputs, strict=True)):
        if not name:
            continue
        alone.input[slot] = f"{slot}"  # one value may stand in two places, and be two values after an edit
        if not kind:
            return {}
        types[f"{slot}"] = onnx.helper.make_tensor_type_proto(kind, shape)
        if value is not None:
            data[f"{slot}"] = onnx.numpy_helper.from_array(value, f"{slot}")
    try:
        found = onnx.shape_inference.infer_node_outputs(
            schema, alone, types, data, opset_imports=list(model.opset_import), ir_version=model.ir_version
        )
    except onnx.shape_inference.InferenceError as error:
        raise ValueError(str(error).replace("[ShapeInferenceError]", "").strip()) from None
    return {name: _known(entry) for name, entry in found.items()}


def _opsets(model: ModelProto) -> dict[str, int]:
    return {"" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in model.opset_import}


def _infer_in_graph(model: ModelProto, node: NodeProto, outer: Mapping[str, tuple[Any, Shape]]) -> dict[str, Known]:
    """The same for If, Loop and Scan, as a graph of this one node."""
    onnx = need("onnx")
    ports = [onnx.helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in outer.items() if kind]
    results = [onnx.helper.make_empty_tensor_value_info(name) for name in node.output if name]
    graph = onnx.helper.make_graph([node], "node", ports, results)
    alone = onnx.helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version)
    try:
        inferred = onnx.shape_inference.infer_shapes(alone, strict_mode=True, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError) as error:
        raise ValueError(str(error)) from None
    return {port.name: _known(port.type) for port in inferred.graph.output}


def _known(entry: Any) -> Known:
    if not entry.HasField("tensor_type"):
        return None, None, None
    tensor = entry.tensor_type
    if not tensor.HasField("shape") or not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
        return tensor.elem_type, None, None
    return tensor.elem_type, tuple(dim.dim_value for dim in tensor.shape.dim), None


def evaluate(model: ModelProto, node: NodeProto, inputs: Sequence[Known]) -> tuple[npt.NDArray[Any], int] | None:
    """The numbers of a node's one output and their element type, where the inputs are known and few; else ``None``."""
    onnx, reference = need("onnx"), need("onnx.reference")
    if node.domain not in ("", "ai.onnx") or len(node.output) != 1 or node.op_type in DRAWN:
        return None
    if node.op_type in ("Shape", "Size"):
        shape = inputs[0][1]
        if shape is None:
            return None
        values: list[Value] = [np.broadcast_to(np.float32(0), shape)]
    else:
        values = [value for name, (_, _, value) in zip(node.input, inputs, strict=True) if name]
        if not values or any(value is None for value in values) or any(attribute.HasField("g") for attribute in node.attribute):
            return None
    try:
        feeds = dict(zip((name for name in node.input if name), values, strict=True))
        (result,) = reference.ReferenceEvaluator(node, opsets=_opsets(model)).run(None, feeds)
    except Exception:  # the reference has many kinds of its own; not to know a value is no failure
        return None
    result = np.asarray(result)
    if result.size > MOST_NUMBERS or result.dtype.kind not in "iufb":
        return None
    return result, onnx.helper.np_dtype_to_tensor_dtype(result.dtype)
