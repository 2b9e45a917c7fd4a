"""Fixes the input shapes of an ONNX file, and what follows from them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fixshape._check import check_at_least
from fixshape.errors import UsageError
from fixshape.export._onnx_header import dims_text
from fixshape.export._onnx_prove import prove_equal
from fixshape.export._onnx_run import Array, open_session, random_feeds, unknown
from fixshape.export._onnx_shapes import clear_shapes, fill_shapes, input_dims, inputs_of, set_dims, stand_ins

if TYPE_CHECKING:
    from onnx import ModelProto


def fix_shape(
    model: ModelProto,
    shapes: Mapping[str, Sequence[int]],
    *,
    sizes: Mapping[str, int] | None = None,
    feeds: Mapping[str, Array] | None = None,
) -> ModelProto:
    """Writes sizes in the place of symbols.

    A symbol that gets a size gets it at every input that has it. The shapes of the outputs and between are inferred anew; where
    onnx infers none, the file says none, as a size that depends on the data is no size of the file.

    The result is run in onnxruntime on drawn inputs of these shapes and equals the original. A size that is fixed in the file
    already cannot be another one: for the batch there is :func:`set_batch`.

    Args:
        model: of :func:`load_model`. It is not changed.
        shapes: of each input whose shape shall be fixed.
        sizes: of symbols that stay, for the run; 64 for pixels and 8 for others where it is not given.
        feeds: arrays for inputs that are not to be drawn: scales, lengths, token ids. They are repeated or cut to the shape.

    Returns:
        The new model.

    Raises:
        UsageError: there is no such input, it has another number of axes or another fixed size, or a symbol would get two sizes.
        ShapeError: a size is below 1.
        ExportError: onnxruntime cannot run it at these shapes; the message names the node.
        ExtraError: onnx or onnxruntime is not installed.

    Example:
        >>> from onnx import parser
        >>> model = parser.parse_model('''<ir_version: 8, opset_import: ["" : 18]>
        ... twice (float[N, 3] x) => (float[N, 3] y) { y = Add(x, x) }''')
        >>> [dim.dim_value for dim in fix_shape(model, {"x": (4, 3)}).graph.output[0].type.tensor_type.shape.dim]
        [4, 3]
    """
    found = _symbols(model, shapes)
    result = copy.deepcopy(model)
    clear_shapes(result)
    for port in inputs_of(result):
        dims = input_dims(port)
        given = shapes.get(port.name)
        set_dims(port, {axis: size for axis, size in enumerate(given or ()) if dims[axis] is None})
        set_dims(port, {axis: found[dim] for axis, dim in enumerate(dims) if isinstance(dim, str) and dim in found})
    fill_shapes(result, outputs=True)
    run_shapes, _ = stand_ins(result, {}, sizes, feeds)
    prove_equal("fix_shape", model, result, random_feeds(open_session(result), run_shapes, given=feeds))
    return result


def _symbols(model: ModelProto, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """The size of each symbol that gets one, checked."""
    ports = {port.name: port for port in inputs_of(model)}
    found: dict[str, tuple[int, str]] = {}
    for name, shape in shapes.items():
        if name not in ports:
            raise UsageError(f"fix_shape: {unknown('input', name, ports)}")
        dims = input_dims(ports[name])
        if len(shape) != len(dims):
            raise UsageError(
                f"fix_shape: {name!r} is given {len(shape)} sizes, {dims_text(shape)}, and has {len(dims)} axes,"
                f" {dims_text(dims)}."
            )
        for axis, (size, dim) in enumerate(zip(shape, dims, strict=True)):
            check_at_least("fix_shape", f"axis {axis} of {name!r}", size, 1)
            if isinstance(dim, int) and dim != size:
                way_out = "fixshape onnx set-batch changes it" if axis == 0 else "export the model anew"
                raise UsageError(
                    f"fix_shape: axis {axis} of {name!r} is fixed to {dim} in the file, and given as {size}: {way_out}."
                )
            if isinstance(dim, str):
                before, where = found.setdefault(dim, (size, f"axis {axis} of {name!r}"))
                if before != size:
                    raise UsageError(
                        f"fix_shape: symbol {dim!r} is given as {before} at {where} and as {size} at axis {axis} of {name!r};"
                        " in the file they are one size."
                    )
    return {symbol: size for symbol, (size, _) in found.items()}
