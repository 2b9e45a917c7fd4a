"""Is the graph what was asked for? Its inputs, outputs and opset against the gears, and what in it depends on data.

torch's exporter answers a dim that it cannot keep dynamic by a static one, and a low opset by a higher one, without a word that
reaches the caller (torch/onnx/_internal/exporter/_capture_strategies.py retries with the dims that an error suggests).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fixshape.export._export_eager import dynamic_symbols
from fixshape.export._export_line import innermost
from fixshape.export._gears import Gears
from fixshape.export._onnx_header import DATA_DEPENDENT, UNBACKED

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto

_STACK_TRACE = "pkg.torch.onnx.stack_trace"
_MOST = 5
Shape = tuple[int, ...]


def asked_against_got(
    model: ModelProto,
    gears: Gears,
    *,
    opset: int | None = None,
    outputs: Sequence[Mapping[str, Shape]] = (),
    data_dependent: bool = False,
) -> list[str]:
    """What differs between what was asked and what the graph says, a sentence or two each.

    A graph that says what was asked may compute something else all the same (a constant inside, behind outputs that are labelled
    by hand): :func:`fixshape.export.verify_onnx` runs it.

    Args:
        model: the graph.
        gears: what was asked: symbols that have several sizes shall be dynamic, under their name.
        opset: of the default domain; ``None`` asks for none.
        outputs: shapes that the torch model itself gives, by output name, in two or more gears.
        data_dependent: whether sizes may follow from data.

    Returns:
        Nothing where all is as asked.
    """
    return [
        *_opset(model, opset),
        *_inputs(model.graph, gears),
        *_outputs(model.graph, outputs),
        *(() if data_dependent else _data_dependent(model.graph)),
    ]


def _opset(model: ModelProto, opset: int | None) -> Iterator[str]:
    got = {entry.domain: entry.version for entry in model.opset_import}.get("")
    if opset is not None and got != opset:
        yield (
            f"the graph has opset {got}, asked was {opset}: torch's exporter writes 18 or later, and what it cannot convert it"
            " leaves as it is. Ask for --opset 18, the highest that ATC documents."
        )


def _inputs(graph: GraphProto, gears: Gears) -> Iterator[str]:
    constants = {tensor.name for tensor in graph.initializer}
    got = {port.name: _dims(port) for port in graph.input if port.name not in constants}
    for name in got.keys() - {entry.name for entry in gears.inputs}:
        yield f"input {name!r} is in the graph and was not asked for; asked were {', '.join(e.name for e in gears.inputs)}."
    dynamic = dynamic_symbols(gears)
    for entry in gears.inputs:
        if entry.name not in got:
            yield (
                f"input {entry.name!r} is not in the graph, which has {', '.join(got) or 'none'}: the model makes no use of it,"
                " or it has another name. Leave it out, or name it as the graph does."
            )
            continue
        dims = got[entry.name]
        if len(dims) != len(entry.dims):
            yield f"input {entry.name!r} has {len(dims)} axes in the graph, asked was {entry}."
            continue
        for axis, (dim, asked) in enumerate(zip(dims, entry.dims, strict=True)):
            if isinstance(asked, str) and asked not in dynamic:
                asked = gears.values[0][asked]
            yield from _axis(f"input {entry.name!r}: axis {axis}", dim, asked)


def _axis(where: str, got: int | str | None, asked: int | str) -> Iterator[str]:
    if isinstance(asked, str) and isinstance(got, int):
        yield (
            f"{where} was asked to be dynamic ({asked}) and is {got} in the graph: the model makes a Python number of this size."
            " fixshape export --check-trace names the line; write x.shape[i] where int(x.shape[i]) stands, and flatten or -1 for"
            " sizes that are products."
        )
    elif isinstance(asked, str) and got != asked:
        yield f"{where} is called {got or 'nothing'} in the graph, asked was {asked}: axes of one name are no longer one."
    elif isinstance(asked, int) and got != asked:
        yield f"{where} is {got} in the graph, asked was {asked}."


def _outputs(graph: GraphProto, outputs: Sequence[Mapping[str, Shape]]) -> Iterator[str]:
    got = {port.name: _dims(port) for port in graph.output}
    for name in outputs[0] if outputs else ():
        if name not in got:
            yield f"output {name!r} is not in the graph, which has {', '.join(got)}."
            continue
        shapes = [shapes[name] for shapes in outputs]
        ranks = {len(shape) for shape in shapes}
        if ranks != {len(got[name])}:
            yield f"output {name!r} has {len(got[name])} axes in the graph, and {sorted(ranks)} in the torch model."
            continue
        for axis, (dim, *sizes) in enumerate(zip(got[name], *shapes, strict=True)):
            if isinstance(dim, int) and set(sizes) != {dim}:
                seen = ", ".join(str(size) for size in sorted(set(sizes)))
                yield (
                    f"output {name!r}: axis {axis} is {dim} in the graph, and {seen} in the torch model from gear to"
                    " gear: it lost the symbol of the input, and other sizes would be computed as this one. fixshape export"
                    " --check-trace names the line that makes a number of it."
                )


def _data_dependent(graph: GraphProto) -> Iterator[str]:
    of_output = {
        port.name: [str(dim) for dim in _dims(port) if isinstance(dim, str) and UNBACKED.search(dim)] for port in graph.output
    }
    named = [f"output {name!r} has {', '.join(dims)}" for name, dims in of_output.items() if dims]
    unknown = {
        port.name
        for port in (*graph.value_info, *graph.output)
        if any(isinstance(dim, str) and UNBACKED.search(dim) for dim in _dims(port))
    }
    blamed: list[NodeProto] = []
    follows: set[str] = set()
    for node in _nodes(graph):
        # The first node of a chain is to blame: what it reads has known sizes, and what it gives has not.
        late = bool(follows & set(node.input))
        if node.op_type in DATA_DEPENDENT or (unknown & set(node.output) and not late and not unknown & set(node.input)):
            blamed.append(node)
            late = True
        if late:
            follows.update(node.output)
    if not blamed and not named:
        return
    nodes = "; ".join(_node(node) for node in blamed[:_MOST]) or "a node without known shapes"
    more = f" and {len(blamed) - _MOST} more" if len(blamed) > _MOST else ""
    yield (
        f"sizes depend on data: {nodes}{more}{' (' + '; '.join(named) + ')' if named else ''}. No fixed shape holds them, and ATC"
        " builds no gears with such an operator. fixshape.ops has the fixed-size forms (fixed_nonzero, batched_nms, masked_mean);"
        " fixshape audit names all lines. For"
        " onnxruntime alone, export_onnx(data_dependent=True) keeps them."
    )


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """Those of branches and loops too, before the node that holds them."""
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)
        yield node


def _node(node: NodeProto) -> str:
    stack = next((entry.value for entry in node.metadata_props if entry.key == _STACK_TRACE), "")
    line = innermost(stack)
    return f"{node.op_type} {node.name or node.output[0]!r}{f' ({line})' if line else ''}"


def _dims(port: ValueInfoProto) -> tuple[Any, ...]:
    if not port.type.tensor_type.HasField("shape"):
        return ()
    return tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in port.type.tensor_type.shape.dim)
