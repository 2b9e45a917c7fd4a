"""Makes one dynamic ONNX file of two that were exported from one model at different sizes.

Node by node the two graphs are the same; what differs are constants and dims. An axis of an input that differs is a symbol; every
other number that differs must then be in proportion to a symbol or to a product of two, or a multiple with a fixed part. The
idea is old (onnx/onnx-caffe2 issue 70); what is proved is what is run.

Symbols: ``N`` axis 0, ``H`` and ``W`` axes 2 and 3 of an image; others are named after their input and axis.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fixshape.errors import ExportError
from fixshape.export._gears import BATCH, HEIGHT, WIDTH
from fixshape.export._onnx_constants import Array, Constants, Edit, Length, Linear, Size, Use, grid_of, label
from fixshape.export._onnx_prove import places_by_run, prove_equal, prove_rows
from fixshape.export._onnx_run import need, open_session, random_feeds, run
from fixshape.export._onnx_shapes import Dims, clear_shapes, fill_shapes, input_dims, inputs_of, set_dims, stand_ins
from fixshape.export._onnx_write import write_computed

if TYPE_CHECKING:
    from onnx import AttributeProto, ModelProto, NodeProto


class Difference(NamedTuple):
    """What :func:`diff` found."""

    model: ModelProto
    symbols: dict[str, tuple[int, int]]  # the size of each in the first file and in the second
    changed: tuple[str, ...]  # nodes that hold a constant which differs, 'name' (op)
    proved: tuple[str, ...]  # a sentence each


def diff(first: ModelProto, second: ModelProto, third: ModelProto | None = None) -> Difference:
    """The dynamic model behind two exports at different sizes.

    The result is run in onnxruntime and equals both files, and the third where one is given. Where batches differ it is run at a
    third batch size without one, sample by sample against the first. For heights, widths and lengths two files cannot prove a
    third size: give a third file. A size that a stride divides, as ``H // 8``, is rounded down.

    Args:
        first: of :func:`load_model`. Not changed.
        second: the same model exported with other sizes; each axis that shall be dynamic has another size than in ``first``,
            and axes that are not one size grow by different factors; axes of two inputs that are equal in both files are one.
            Sizes of 1 are best avoided: exporters write them differently.
        third: the same at other sizes again, a check.

    Returns:
        :class:`Difference`.

    Raises:
        ExportError: the graphs are not the same but for their sizes, a number that differs cannot be said in the symbols, or
            the result does not equal one of the files; the message names the node.
        ExtraError: onnx or onnxruntime is not installed.

    Example:
        >>> from onnx import parser
        >>> first, second = (parser.parse_model(f'''<ir_version: 8, opset_import: ["" : 18]> baked (float[{n}, 3, 4] x)
        ... => (float[{n}, 12] y) <int64[2] shape = {{{n}, 12}}> {{ y = Reshape(x, shape) }}''') for n in (2, 3))
        >>> found = diff(first, second)
        >>> found.symbols, found.changed
        ({'N': (2, 3)}, ("'y' (Reshape)",))
    """
    models = [need("onnx.inliner").inline_local_functions(model) if len(model.functions) else model for model in (first, second)]
    axes, symbols = _symbols(models[0], models[1])
    edits = dict(_edits(models[0], models[1], symbols))
    result = copy.deepcopy(models[0])
    clear_shapes(result)
    write_computed(result, edits, {symbol: places[0] for symbol, places in axes.items()})
    for port in inputs_of(result):
        set_dims(port, {axis: symbol for symbol, places in axes.items() for name, axis in places if name == port.name})
    for port, one, two in zip(result.graph.output, *(model.graph.output for model in models), strict=True):
        _name_output(port, one, two, symbols)
    proved = _prove(result, models[0], models[1], third, axes, symbols)
    fill_shapes(result)
    changed = dict.fromkeys(label(models[0].graph.node[use.node]) for use in sorted(edits))
    return Difference(result, symbols, tuple(changed), proved)


def _symbols(first: ModelProto, second: ModelProto) -> tuple[dict[str, list[tuple[str, int]]], dict[str, tuple[int, int]]]:
    """The axes that each symbol stands for, and its two sizes."""
    ports, others = inputs_of(first), {port.name: port for port in inputs_of(second)}
    if [port.name for port in ports] != list(others):
        raise ExportError(f"diff: the inputs are {[port.name for port in ports]} and {list(others)}, expected the same.")
    axes: dict[str, list[tuple[str, int]]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for port in ports:
        one, two = input_dims(port), input_dims(others[port.name])
        if len(one) != len(two):
            raise ExportError(f"diff: input {port.name!r} has {len(one)} axes in one file and {len(two)} in the other.")
        for axis, pair in enumerate(zip(one, two, strict=True)):
            if pair[0] == pair[1]:
                continue
            if not isinstance(pair[0], int) or not isinstance(pair[1], int):
                raise ExportError(f"diff: axis {axis} of {port.name!r} is {pair[0]} and {pair[1]}: expected two fixed sizes.")
            own = [symbol for symbol, places in axes.items() if any(name == port.name for name, _ in places)]
            symbol = _name(port.name, axis, len(one), (pair[0], pair[1]), sizes, own)
            axes.setdefault(symbol, []).append((port.name, axis))
            sizes[symbol] = (pair[0], pair[1])
    if not sizes:
        raise ExportError("diff: both files have the same input sizes. Export the second one at other sizes.")
    for one_symbol, other in itertools.combinations(sizes, 2):
        (a, b), (c, d) = sizes[one_symbol], sizes[other]
        if a * d == b * c:
            raise ExportError(
                f"diff: {one_symbol} goes from {a} to {b} and {other} from {c} to {d}, by the same factor, so that numbers which"
                " follow them cannot be told apart. Export the second file with different factors, as 1.5 and 2."
            )
    return axes, sizes


def _name(
    name: str, axis: int, rank: int, pair: tuple[int, int], sizes: Mapping[str, tuple[int, int]], own: Collection[str]
) -> str:
    usual = {0: BATCH}.get(axis) or ({2: HEIGHT, 3: WIDTH}.get(axis) if rank == 4 else None)
    if usual and sizes.get(usual, pair) == pair:
        return usual
    # Of two inputs that have the same sizes in both files, nothing tells the axes apart: they are one.
    shared = next((symbol for symbol, other in sizes.items() if other == pair and symbol not in own), None)
    if shared:
        return shared
    word = "".join(letter if letter.isalnum() else "_" for letter in name)
    return f"{word}_{axis}" if not word[:1].isdigit() else f"input_{word}_{axis}"


# What differs -----------------------------------------------------------------------------------------------------------------


def _edits(first: ModelProto, second: ModelProto, symbols: Mapping[str, tuple[int, int]]) -> Iterator[tuple[Use, Edit]]:
    """Every use of a constant that differs, in the symbols."""
    nodes, others = list(first.graph.node), list(second.graph.node)
    constants = Constants(first), Constants(second)
    same = {one.name: two.name for one, two in zip(inputs_of(first), inputs_of(second), strict=True)} | {"": ""}
    live = [[node for node in graph if not _is_constant(node)] for graph in (nodes, others)]
    for one, two in itertools.zip_longest(*live):
        if one is None or two is None or (one.op_type, one.domain, len(one.input), len(one.output)) != (
            two.op_type, two.domain, len(two.input), len(two.output)
        ):  # fmt: skip
            raise ExportError(
                f"diff: the graphs are not the same: where the first has {_told(one)} the second has {_told(two)}."
                " Export both with the same exporter, at sizes above 1."
            )
        _check_attributes(one, two)
        index = nodes.index(one)
        for slot, (name, other) in enumerate(zip(one.input, two.input, strict=True)):
            if name in constants[0].arrays and other in constants[1].arrays:
                edit = _edit(one, name, constants[0].arrays[name], constants[1].arrays[other], symbols)
                if edit is not None:
                    yield Use(index, slot), edit
            elif same.get(name) != other:
                raise ExportError(f"diff: the graphs are not the same: {label(one)} reads {name!r} and {other!r}.")
        same.update(zip(one.output, two.output, strict=True))


def _is_constant(node: NodeProto) -> bool:
    return node.op_type == "Constant" and not node.domain


def _told(node: NodeProto | None) -> str:
    return "no more nodes" if node is None else label(node)


def _check_attributes(one: NodeProto, two: NodeProto) -> None:
    """Attributes cannot follow a symbol: they are numbers in the file."""
    values = [{entry.name: _comparable(entry) for entry in node.attribute} for node in (one, two)]
    for name in sorted(values[0].keys() | values[1].keys()):
        if values[0].get(name) != values[1].get(name):
            got = [need("onnx").helper.get_attribute_value(e) for node in (one, two) for e in node.attribute if e.name == name]
            shown = " and ".join(str(value) for value in got) if not any(hasattr(value, "node") for value in got) else "graphs"
            raise ExportError(
                f"diff: node {label(one)}: attribute {name} differs ({shown}), and an attribute cannot follow a size. Change the"
                " model so that it does not depend on the size there."
            )


def _comparable(entry: AttributeProto) -> bytes:
    plain = copy.deepcopy(entry)
    plain.doc_string = ""
    data: bytes = plain.SerializeToString(deterministic=True)
    return data


def _edit(node: NodeProto, name: str, one: Array, two: Array, symbols: Mapping[str, tuple[int, int]]) -> Edit | None:
    if one.shape == two.shape and one.dtype == two.dtype and np.array_equal(one, two, equal_nan=one.dtype.kind == "f"):
        return None
    problem = f"diff: node {label(node)}: constant {name!r}"
    if one.ndim != two.ndim or one.dtype != two.dtype:
        raise ExportError(f"{problem} has shape {list(one.shape)} {one.dtype} and {list(two.shape)} {two.dtype}.")
    if one.shape != two.shape:
        return _grown(problem, one, two, symbols)
    if one.dtype.kind not in "iu" or one.size > 64:
        raise ExportError(
            f"{problem} differs in its numbers ({int((one != two).sum())} of {one.size}, {one.dtype}): only whole numbers, and"
            " few, are said in symbols. A weight or a table that was computed from the size must be computed in the graph."
        )
    fixed, terms = one.copy(), dict[Size, Array]()
    for place in zip(*np.nonzero(one != two), strict=True):
        found = _term(int(one[place]), int(two[place]), symbols)
        if found is None:
            known = ", ".join(f"{symbol} {a} and {b}" for symbol, (a, b) in symbols.items())
            raise ExportError(f"{problem} is {one[place]} and {two[place]}, which does not follow from the sizes ({known}).")
        size, factor, rest = found
        fixed[place] = rest
        terms.setdefault(size, np.zeros_like(one))[place] = factor
    return Linear(fixed, tuple(terms.items()))


def _term(one: int, two: int, symbols: Mapping[str, tuple[int, int]]) -> tuple[Size, int, int] | None:
    """``factor * size + rest`` that is ``one`` and ``two``: in proportion to a symbol or two, or the simplest with a rest."""
    products = [(symbol,) for symbol in symbols] + list(itertools.combinations_with_replacement(symbols, 2))
    for product in products:
        small, large = (math.prod(symbols[symbol][which] for symbol in product) for which in (0, 1))
        if one * large == two * small:
            common = math.gcd(one, small)
            return Size(product, small // common), one // common, 0
    rests = []
    for product in products:
        small, large = (math.prod(symbols[symbol][which] for symbol in product) for which in (0, 1))
        if large == small:
            continue
        factor, left = divmod(two - one, large - small)
        divisor = 1
        if left and BATCH not in product and not (large - small) % (two - one):  # a stride divides
            factor, divisor = 1, (large - small) // (two - one)
        size = Size(product, abs(divisor))
        factor = factor if divisor > 0 else -factor
        rest = one - factor * (small // size.divisor)
        if factor and factor * (large // size.divisor) + rest == two:
            rests.append((abs(rest), len(product), abs(factor), size, factor, rest))
    return min(rests)[3:] if rests else None


def _grown(problem: str, one: Array, two: Array, symbols: Mapping[str, tuple[int, int]]) -> Edit:
    """A constant with another size: even along the axes that differ."""
    lengths = dict[int, Length]()
    for axis, (small, large) in enumerate(zip(one.shape, two.shape, strict=True)):
        term = _term(small, large, symbols) if small != large else None
        if term is not None:
            lengths[axis] = Length(*term)
        elif small != large:
            break
    else:
        edit = grid_of(two, lengths)
        if edit is not None and np.array_equal(edit.at({symbol: sizes[0] for symbol, sizes in symbols.items()}), one):
            return edit
    raise ExportError(
        f"{problem} has shape {list(one.shape)} and {list(two.shape)}, and is neither one row that repeats nor rows in equal"
        " steps: it was computed from the size when the model was exported. Compute it in the graph."
    )


def _name_output(port: Any, one: Any, two: Any, symbols: Mapping[str, tuple[int, int]]) -> None:
    if not all(side.type.tensor_type.HasField("shape") for side in (one, two)):
        port.type.tensor_type.ClearField("shape")
        return
    dims: list[Dims] = [input_dims(side) for side in (one, two)]
    if len(dims[0]) != len(dims[1]):
        port.type.tensor_type.ClearField("shape")
        return
    named: dict[int, int | str | None] = {}
    for axis, pair in enumerate(zip(*dims, strict=True)):
        if pair[0] == pair[1]:
            continue
        term = _term(pair[0], pair[1], symbols) if isinstance(pair[0], int) and isinstance(pair[1], int) else None
        size, factor, rest = term or (None, 0, 1)
        named[axis] = None if rest else str(size) if factor == 1 else f"{factor}*{size}"
    set_dims(port, named)


# That it is right -------------------------------------------------------------------------------------------------------------


def _prove(
    result: ModelProto,
    first: ModelProto,
    second: ModelProto,
    third: ModelProto | None,
    axes: Mapping[str, Sequence[tuple[str, int]]],
    symbols: Mapping[str, tuple[int, int]],
) -> tuple[str, ...]:
    said = []
    for which, (name, model) in enumerate((("first", first), ("second", second), ("third", third))):
        if model is None:
            continue
        shapes, _ = stand_ins(model, {}, None, None)
        feeds = random_feeds(open_session(model), shapes, seed=which)
        prove_equal("diff", model, result, feeds)
        told = "; ".join(f"{port} {','.join(map(str, dims))}" for port, dims in shapes.items())
        said.append(f"equals the {name} file at {told}")
    shapes, _ = stand_ins(first, {}, None, None)
    if BATCH in symbols and third is None:
        own, other = symbols[BATCH]
        places = places_by_run(result, shapes, dict(axes[BATCH]), own)
        sizes = (1, own, own + other)
        prove_rows("diff", first, result, shapes, dict(axes[BATCH]), places, own, sizes)
        said.append(f"gives every sample what the first file gives it, at batch sizes {', '.join(map(str, sizes))}")
    _run_crossed(result, shapes, axes, symbols)
    return tuple(said)


def _run_crossed(
    result: ModelProto,
    shapes: Mapping[str, tuple[int, ...]],
    axes: Mapping[str, Sequence[tuple[str, int]]],
    symbols: Mapping[str, tuple[int, int]],
) -> None:
    """One symbol at a time at its second size: a number that was said in the wrong one does not fit then."""
    session = open_session(result)
    for symbol in symbols if len(symbols) > 1 else ():
        crossed = {
            name: tuple(symbols[symbol][1] if (name, axis) in axes[symbol] else size for axis, size in enumerate(shape))
            for name, shape in shapes.items()
        }
        try:
            run(session, random_feeds(session, crossed))
        except ExportError as error:
            raise ExportError(
                f"diff: the result does not run where {symbol} alone is {symbols[symbol][1]}: {error} A number that differs was"
                f" taken for a multiple of another size than it is. Export two files that differ in {symbol} alone."
            ) from None
