"""Is a rewritten ONNX file the same function? Both are run in onnxruntime, and every sample is compared on its own.

A file with a fixed batch size cannot be run at another, so that there is no result to compare with. There is one for every
sample: the original is run on as many samples at a time as it takes, and each must get what it gets in the larger batch.

Shapes: ``N`` the batch size.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fixshape.errors import ExportError
from fixshape.export._onnx_constants import label
from fixshape.export._onnx_header import DATA_DEPENDENT
from fixshape.export._onnx_infer import DRAWN
from fixshape.export._onnx_run import Array, Arrays, differences, graphs, need, open_session, random_feeds, run
from fixshape.export._onnx_trace import Place

if TYPE_CHECKING:
    from onnx import ModelProto

_NOTHING = "Nothing was written."
_STAND_INS = " Sizes and numbers that the file leaves open are chosen: give others, with sizes and feeds (--size, --feeds)."

Shapes = Mapping[str, Sequence[int]]


class Proof(NamedTuple):
    """What was run and found equal."""

    batch_sizes: tuple[int, ...]
    samples: int  # that were compared one by one
    outputs: int


def prove_rows(
    where: str,
    original: ModelProto,
    rewritten: ModelProto,
    shapes: Shapes,
    axes: Mapping[str, int],
    places: Mapping[str, Place],
    own: int,
    batch_sizes: Sequence[int],
    *,
    feeds: Mapping[str, Array] | None = None,
    seed: int = 0,
) -> Proof:
    """Runs the rewritten model at other batch sizes and compares each sample with what the original gives it.

    Args:
        where: the public function that was called, for the message.
        original: the model as it was; it is run at its own batch size only.
        rewritten: the model to be proved.
        shapes: of each input at the original's batch size.
        axes: the batch axis of each input that has one.
        places: where the batch is in each output that has one, and in values between, which serve to name the node at fault.
        own: the original's batch size.
        batch_sizes: what the rewritten model is run at.
        feeds: arrays for inputs that are not drawn.
        seed: of the drawn inputs.

    Raises:
        ExportError: onnxruntime fails, an output differs, or all samples give the same, which would prove nothing.
    """
    before, after = open_session(original), open_session(rewritten)
    outputs = [port.name for port in before.get_outputs()]
    told_apart, samples = False, 0
    for count in batch_sizes:
        drawn = random_feeds(after, resized(shapes, axes, count), seed=seed + count, given=feeds)
        try:
            got = run(after, drawn)
        except ExportError as error:
            failed = f"at batch size {count} the result does not run: {error}"
            raise ExportError(f"{where}: {failed}{_closed(original)} {_NOTHING}") from None
        expected, problem = _by_chunks(before, drawn, axes, places, own, count, outputs)
        if not problem and (found := differences(got, expected)):
            problem = f"the result is not what the original gives its samples: {found[0]}"
        if problem:
            node = _first_difference(original, rewritten, drawn, axes, places, own, count)
            node = node or f"The batch is lost in {_suspect(original, places)}."
            raise ExportError(f"{where}: at batch size {count} {problem}. {node}{_drawn(original)}{_closed(original)} {_NOTHING}")
        told_apart = told_apart or any(
            _varies(got[name], expected[name], places[name], count) for name in outputs if name in places
        )
        samples += count
    if not told_apart and max(batch_sizes) > 1:
        lost = f"no output of {', '.join(map(repr, outputs))} differs from sample to sample by more than rounding"
        raise ExportError(
            f"{where}: {lost}, so that a run on drawn inputs proves nothing. Export the model with trained weights. {_NOTHING}"
        )
    return Proof(tuple(batch_sizes), samples, len(outputs))


def prove_equal(
    where: str, original: ModelProto, rewritten: ModelProto, feeds: Arrays, names: Mapping[str, str] | None = None
) -> None:
    """Runs both on the same inputs.

    Args:
        where: the public function that was called, for the message.
        original: the model as it was.
        rewritten: the model to be proved.
        feeds: by the names of the original.
        names: of the inputs and outputs that have others in the rewritten model.

    Raises:
        ExportError: onnxruntime fails, or an output differs.
    """
    names = names or {}
    try:
        expected = {names.get(name, name): value for name, value in run(open_session(original), feeds).items()}
    except ExportError as error:
        raise ExportError(f"{where}: the original does not run, so that nothing can be proved: {error}{_STAND_INS}") from None
    try:
        got = run(open_session(rewritten), {names.get(name, name): value for name, value in feeds.items()})
    except ExportError as error:
        raise ExportError(f"{where}: the result does not run: {error} {_NOTHING}") from None
    if found := differences(got, expected):
        raise ExportError(f"{where}: the result is not what the original gives: {found[0]}.{_drawn(original)} {_NOTHING}")


def _drawn(model: ModelProto) -> str:
    """Names a node that draws random numbers, in a sentence."""
    nodes = [label(node) for graph in graphs(model.graph) for node in graph.node if node.op_type in DRAWN]
    return f" {nodes[0]} draws random numbers, and nothing that follows from them can be proved." if nodes else ""


def _closed(model: ModelProto) -> str:
    """Names the nodes with graphs inside, in a sentence."""
    nodes = [label(node) for node in model.graph.node if any(entry.HasField("g") for entry in node.attribute)]
    if not nodes:
        return ""
    more = f" and {len(nodes) - 1} more" if len(nodes) > 1 else ""
    return f" What is inside {nodes[0]}{more} is not rewritten, and may hold the batch size: export with a dynamic batch axis."


def _late(model: ModelProto) -> set[str]:
    """Every value that comes after a node whose size depends on data."""
    late: set[str] = set()
    for node in model.graph.node:
        if node.op_type in DATA_DEPENDENT or late.intersection(node.input):
            late.update(node.output)
    return late


def resized(shapes: Shapes, axes: Mapping[str, int], count: int) -> dict[str, tuple[int, ...]]:
    """Input shapes at another batch size."""
    return {
        name: tuple(count if axis == axes.get(name) else size for axis, size in enumerate(shape))
        for name, shape in shapes.items()
    }


def places_by_run(
    model: ModelProto,
    shapes: Mapping[str, tuple[int, ...]],
    axes: Mapping[str, int],
    own: int,
    feeds: Mapping[str, Array] | None = None,
) -> dict[str, Place]:
    """Where the batch is in each output: the one axis that follows it in a run.

    An output whose size depends on data has none: its axes are of one size or another by chance.
    """
    session, places, late = open_session(model), {}, _late(model)
    small, large = (run(session, random_feeds(session, resized(shapes, axes, count), given=feeds)) for count in (own, own + 1))
    for name, value in small.items():
        if name not in late and value.ndim == large[name].ndim:
            grown = [axis for axis, pair in enumerate(zip(value.shape, large[name].shape, strict=True)) if pair[0] != pair[1]]
            if len(grown) == 1:
                places[name] = Place(grown[0], 1)
    return places


def _by_chunks(
    session: Any, feeds: Arrays, axes: Mapping[str, int], places: Mapping[str, Place], own: int, count: int, names: Sequence[str]
) -> tuple[Arrays, str]:
    """What the original gives ``count`` samples, ``own`` at a time, and why it is not to be had where it is not.

    The last chunk is filled up with its first sample.
    """
    parts: list[Arrays] = []
    for start in range(0, count, own):
        rows = [start + offset if start + offset < count else start for offset in range(own)]
        chunk = {name: value.take(rows, axes[name]) if name in axes else value for name, value in feeds.items()}
        parts.append(run(session, chunk))
    joined: Arrays = {}
    for name in names:
        values = [part[name] for part in parts]
        if len({value.shape for value in values}) > 1:
            shapes = " and ".join(str(list(shape)) for shape in sorted({value.shape for value in values})[:2])
            return {}, f"output {name!r} has no size of its own: the original gives {shapes}, as the data says"
        if name in places:
            split = np.concatenate([_by_sample(value, places[name], own) for value in values], axis=places[name].axis + 1)
            kept = split.take(range(count), places[name].axis + 1)
            joined[name] = kept.reshape(*values[0].shape[: places[name].axis], -1, *values[0].shape[places[name].axis + 1 :])
        elif any(differences({name: value}, {name: values[0]}) for value in values[1:]):
            return {}, f"output {name!r} has no batch axis and is another for other samples: it joins the samples of a batch"
        else:
            joined[name] = values[0]
    return joined, ""


def _by_sample(value: Array, place: Place, count: int) -> Array:
    """The axis of the batch split in three: what is around the samples, the samples, and what one holds in a row."""
    axis, inner = place
    return value.reshape(*value.shape[:axis], -1, count, inner, *value.shape[axis + 1 :])


def _varies(value: Array, expected: Array, place: Place, count: int) -> bool:
    """Whether samples are farther from one another than the two runs are, ten times and more."""
    split = _by_sample(value, place, count)
    first = np.broadcast_to(split.take([0], place.axis + 1), split.shape)
    return _farthest(split, first) > 10 * _farthest(value, expected)


def _farthest(one: Array, other: Array) -> float:
    with np.errstate(invalid="ignore"):
        distance = np.where(one == other, 0.0, np.abs(one.astype(np.float64) - other.astype(np.float64)))
    return float(np.nan_to_num(distance, nan=0.0, posinf=np.inf).max(initial=0.0))


def _first_difference(
    original: ModelProto,
    rewritten: ModelProto,
    feeds: Arrays,
    axes: Mapping[str, int],
    places: Mapping[str, Place],
    own: int,
    count: int,
) -> str:
    """Names the first node of the original whose result differs, in a sentence."""
    names = [name for node in original.graph.node for name in node.output if name in places]
    if not names:
        return ""
    try:
        before, after = open_session(_told(original, names)), open_session(_told(rewritten, names))
        got = run(after, feeds)
        expected, _ = _by_chunks(before, feeds, axes, places, own, count, names)
    except ExportError:
        return ""  # a value between that cannot be an output
    for node in original.graph.node:
        for name in node.output:
            if name in expected and differences({name: got[name]}, {name: expected[name]}):
                return f"The first node that differs is {label(node)}."
    return ""


def _suspect(model: ModelProto, places: Mapping[str, Place]) -> str:
    """A node that reads the batch and gives something without it; one whose size depends on data before others."""
    losing = [
        node
        for node in model.graph.node
        if any(name in places for name in node.input)
        and not any(name in places for name in node.output)
        and node.op_type not in ("Shape", "Size")
    ]
    late = [node for node in model.graph.node if node.op_type in DATA_DEPENDENT]
    chosen = next(iter(late + losing), None)
    return label(chosen) if chosen is not None else "a node of unknown shape"


def _told(model: ModelProto, names: Sequence[str]) -> ModelProto:
    """The model with more outputs."""
    told = copy.deepcopy(model)
    del told.graph.output[:]
    told.graph.output.extend(need("onnx").helper.make_empty_tensor_value_info(name) for name in names)
    return told
