"""Gives a finished ONNX file another batch size, or a dynamic one, and proves it by running.

To write another number at the inputs and outputs is not enough: a Reshape to [2, 12] still makes two samples of any number.
The constants that came from the batch size are found (``_onnx_trace``), written anew, and the result is run against the
original (``_onnx_prove``).

Shapes: ``N`` the batch size.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from fixshape._check import check_at_least
from fixshape.errors import ExportError, UsageError
from fixshape.export._gears import BATCH
from fixshape.export._onnx_constants import label
from fixshape.export._onnx_prove import Proof, places_by_run, prove_rows, resized
from fixshape.export._onnx_run import Array, need, open_session, random_feeds, run, unknown
from fixshape.export._onnx_shapes import clear_shapes, fill_shapes, input_dims, inputs_of, set_dims, stand_ins
from fixshape.export._onnx_trace import Place, Trace, trace_batch
from fixshape.export._onnx_write import write_computed, write_constants

if TYPE_CHECKING:
    from onnx import ModelProto

_TRIED = (1, 2, 3, 4, 5, 6, 7, 8, 16, 32)  # batch sizes that a file with a symbol may have been made with


class BatchChange(NamedTuple):
    """What :func:`set_batch` did."""

    model: ModelProto
    before: int | str  # the batch size, or the symbol, of the original
    after: int | str
    changed: tuple[str, ...]  # nodes that held the batch size, 'name' (op)
    proof: Proof


def set_batch(
    model: ModelProto,
    to: int | str = "dynamic",
    *,
    axes: Mapping[str, int] | None = None,
    sizes: Mapping[str, int] | None = None,
    feeds: Mapping[str, Array] | None = None,
) -> BatchChange:
    """Gives a model another batch size, or a dynamic one.

    The batch size is looked for wherever an exporter writes it: targets of Reshape and Expand, repeats of Tile, bounds of Slice
    and Split, sizes of Resize, shapes of zeros and the numbers that these are computed from, and tensors that repeat one row, as
    the initial state of an LSTM. A file whose inputs have a symbol already is looked through in the same way, since
    exporters write symbols over graphs that hold one size.

    The result is run in onnxruntime at three batch sizes. At each, every sample must get what the original gives it, to
    a relative 1e-3. That is no proof for inputs that were not drawn; of models that join the samples of a batch there is no
    such result, and they are refused. What is inside If, Loop and Scan is not rewritten.

    Args:
        model: of :func:`load_model`. It is not changed.
        to: a batch size, or a symbol for a dynamic one; ``"dynamic"`` is the symbol N.
        axes: the batch axis of each input that has one. Without it: axis 0 of every input, which must then be one size.
        sizes: of symbols other than the batch, for the runs; 64 for pixels and 8 for others where it is not given.
        feeds: arrays for inputs that are not to be drawn: scales, lengths, token ids. They are repeated or cut to the shape.

    Returns:
        :class:`BatchChange`: the new model, the nodes that held the batch size, and what was proved.

    Raises:
        ExportError: the model cannot be rewritten or not be proved; the message names the node.
        UsageError: ``axes`` names no input or no axis, or is needed and not given; ``to`` is no symbol.
        ShapeError: ``to`` is below 1.
        ExtraError: onnx or onnxruntime is not installed.

    Example:
        >>> from onnx import parser
        >>> model = parser.parse_model('''<ir_version: 8, opset_import: ["" : 18]>
        ... baked (float[2, 3, 4] x) => (float[2, 12] y) <int64[2] shape = {2, 12}> { y = Reshape(x, shape) }''')
        >>> change = set_batch(model)
        >>> change.changed, change.proof.batch_sizes
        (("'y' (Reshape)",), (1, 2, 5))
    """
    name = _symbol(to)
    original = need("onnx.inliner").inline_local_functions(model) if len(model.functions) else model
    axes = _axes(original, axes)
    shapes, is_static = stand_ins(original, axes, sizes, feeds)
    own, symbol = _own_size(original, axes)
    if symbol is not None:
        own = _true_size(original, shapes, axes, feeds)
    shapes = resized(shapes, axes, own)
    file = _File(original, shapes, axes, own, is_static, feeds)
    try:
        result, trace, proof = _changed(file, name, count_zeros=False)
    except ExportError as error:
        if own > 1:
            raise
        # In a file for one sample, the indices of the samples are zeros, as many other constants are.
        try:
            result, trace, proof = _changed(file, name, count_zeros=True)
        except ExportError:
            raise error from None
    fill_shapes(result)
    changed = dict.fromkeys(label(original.graph.node[use.node]) for use in sorted(trace.edits))
    return BatchChange(result, symbol or own, name, tuple(changed), proof)


class _File(NamedTuple):
    """A model, and how it is run."""

    model: ModelProto
    shapes: Mapping[str, tuple[int, ...]]  # of the inputs, at its own batch size
    axes: Mapping[str, int]
    own: int
    is_static: bool  # the batch is the one symbol
    feeds: Mapping[str, Array] | None


def _changed(file: _File, to: int | str, *, count_zeros: bool) -> tuple[ModelProto, Trace, Proof]:
    """The model at its new batch size, proved."""
    model, shapes, axes, own, is_static, feeds = file
    trace = trace_batch(model, shapes, axes, own, is_static=is_static, count_zeros=count_zeros)
    dynamic = _rewrite(model, trace, axes, to if isinstance(to, str) else BATCH, own)
    places = trace.places | _unknown_places(dynamic, trace, file)
    counts = (1, 2, 3) if own == 1 else (1, own, 2 * own + 1)
    proof = prove_rows("set_batch", model, dynamic, shapes, axes, places, own, counts, feeds=feeds)
    if isinstance(to, str):
        return dynamic, trace, proof
    fixed = _rewrite(model, trace, axes, to, own)
    prove_rows("set_batch", model, fixed, shapes, axes, places, own, (to,), feeds=feeds, seed=1)
    return fixed, trace, proof


def _symbol(to: int | str) -> int | str:
    if not isinstance(to, str):
        return check_at_least("set_batch", "to", to, 1)
    if to == "dynamic":
        return "N"
    if not to.isidentifier():
        raise UsageError(f"set_batch: to is {to!r}, expected a batch size, 'dynamic', or a symbol such as N.")
    return to


def _axes(model: ModelProto, axes: Mapping[str, int] | None) -> dict[str, int]:
    """The batch axis of each input, checked."""
    dims = {port.name: input_dims(port) for port in inputs_of(model)}
    if axes is not None:
        for name, axis in axes.items():
            if name not in dims:
                raise UsageError(f"set_batch: axes: {unknown('input', name, list(dims))}")
            if not 0 <= axis < len(dims[name]):
                raise UsageError(f"set_batch: axes: {name!r} has {len(dims[name])} axes, 0 to {len(dims[name]) - 1}; got {axis}.")
        return dict(axes)
    found = {name: given[0] for name, given in dims.items() if given}
    if not found:
        raise UsageError("set_batch: no input has an axis, so that there is no batch.")
    if len(set(found.values())) > 1:
        told = ", ".join(f"{name} {list(given)}" for name, given in dims.items())
        raise UsageError(
            f"set_batch: axis 0 of the inputs is not one size: {told}. Name the batch axis of each input that has one."
        )
    return dict.fromkeys(found, 0)


def _own_size(model: ModelProto, axes: Mapping[str, int]) -> tuple[int, str | None]:
    """The batch size that a file is made for, or a stand-in and the symbol."""
    dims = {port.name: input_dims(port) for port in inputs_of(model)}
    found = {name: dims[name][axis] for name, axis in axes.items()}
    if len(set(found.values())) > 1:
        told = ", ".join(f"{name} has {size}" for name, size in found.items())
        raise UsageError(f"set_batch: the batch axes differ: {told}. Name the batch axis of each input that has one.")
    size = next(iter(found.values()))
    return (2, size or "N") if size is None or isinstance(size, str) else (size, None)


def _true_size(
    model: ModelProto, shapes: Mapping[str, tuple[int, ...]], axes: Mapping[str, int], feeds: Mapping[str, Array] | None
) -> int:
    """The batch size that a file with a symbol holds inside: 2 where it holds none."""
    session, failure, follows = open_session(model), "no output follows the batch", list[int]()
    leads = list[int]()  # those that are axis 0 of every output, which says more
    for count in _TRIED:
        try:
            values = run(session, random_feeds(session, resized(shapes, axes, count), given=feeds))
        except ExportError as error:
            failure = str(error)
            continue
        if any(count in value.shape for value in values.values()):
            follows.append(count)
        if all(value.ndim == 0 or value.shape[0] == count for value in values.values()):
            leads.append(count)
    if not follows:
        raise ExportError(
            f"set_batch: no batch size of {', '.join(map(str, _TRIED))} fits the file: {failure}{_chosen(model, shapes, axes)}"
        )
    best = leads or follows
    return 2 if 2 in best else best[0]


def _chosen(model: ModelProto, shapes: Mapping[str, tuple[int, ...]], axes: Mapping[str, int]) -> str:
    """The sizes that stand for symbols other than the batch, in a sentence."""
    told = {
        f"{dim} = {size}"
        for port in inputs_of(model)
        for axis, (dim, size) in enumerate(zip(input_dims(port), shapes[port.name], strict=True))
        if not isinstance(dim, int) and axes.get(port.name) != axis
    }
    return f" Other sizes were chosen, {', '.join(sorted(told))}: give them with sizes (--size)." if told else ""


def _unknown_places(dynamic: ModelProto, trace: Trace, file: _File) -> dict[str, Place]:
    """Where the batch is in outputs whose shape was not inferred, by a run."""
    if all(port.name in trace.shapes for port in dynamic.graph.output):
        return {}
    try:
        found = places_by_run(dynamic, file.shapes, file.axes, file.own, file.feeds)
    except ExportError:
        return {}  # the proof meets the same error and says where
    return {name: place for name, place in found.items() if name not in trace.shapes}


def _rewrite(model: ModelProto, trace: Trace, axes: Mapping[str, int], to: int | str, own: int) -> ModelProto:
    """The model with every edit written for one batch size or symbol."""
    result = copy.deepcopy(model)
    if isinstance(to, int):
        write_constants(result, trace.edits, {BATCH: to})
    else:
        write_computed(result, trace.edits, {BATCH: next(iter(axes.items()))})
    clear_shapes(result)
    for port in inputs_of(result):
        if port.name in axes:
            set_dims(port, {axes[port.name]: to})
    for port in result.graph.output:
        place, shape = trace.places.get(port.name), trace.shapes.get(port.name)
        if shape is None:
            port.type.tensor_type.ClearField("shape")
        elif place is not None:
            factor = shape[place.axis] // own
            set_dims(port, {place.axis: factor * to if isinstance(to, int) else (to if factor == 1 else f"{factor}*{to}")})
    return result
