"""Is an ONNX file what a deployment asks for? Its inputs, outputs, opset and operators against the gears and the target.

Only the header is read, so that it works without the onnx package; :func:`check_runs` runs the file as well, since what a file
says of its shapes is not always what it computes.

Rules: O1 to O3 inputs, O4 and O5 their axes, O6 outputs that lost a symbol, O7 sizes that depend on data, O8 the opset of the
target, O9 what a run gives against what the file says.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Literal

from fixshape._check import check_choice
from fixshape.errors import ExportError
from fixshape.export._atc_rules_model import LEAST_OPSET, MOST_OPSET, data_dependent_nodes
from fixshape.export._gears import Gears, Input
from fixshape.export._onnx_header import UNBACKED, OnnxHeader, Port, dims_text
from fixshape.export._onnx_run import open_session, random_feeds, run, unknown
from fixshape.export._violation import Violation

Target = Literal["atc", "trt", "ort"]
TARGETS: tuple[Target, ...] = ("atc", "trt", "ort")
_MOST_SHOWN = 6


def check_onnx(
    header: OnnxHeader, gears: Gears, *, target: Target | None = None, path: str = "model.onnx"
) -> tuple[Violation, ...]:
    """What of an ONNX file is not what was asked for.

    It reads what the file says. A file can say a symbol over a graph that holds one size: :func:`check_runs` runs it.

    Args:
        header: of the file, from :func:`read_header`.
        gears: what was asked: an axis that has several sizes in them shall be dynamic in the file.
        target: what the file is for: its rules on opset and operators are checked too.
        path: of the file, for the commands in the ways out.

    Returns:
        The violations, in the order of the rules; none where all is as asked.

    Raises:
        ShapeError: there is no such target.

    Example:
        >>> from fixshape.export import parse_inputs
        >>> port = Port("x", "float32", (2, 3))
        >>> header = OnnxHeader((port,), (port,), {"": 18}, 8, ())
        >>> gears = Gears(parse_inputs("x:N,3"), ({"N": 1}, {"N": 2}))
        >>> [(violation.rule, violation.message) for violation in check_onnx(header, gears)]
        [('O4', 'axis 0 of x is 2 in the file, expected to be dynamic (1, 2)')]
    """
    if target is not None:
        check_choice("check_onnx", "target", target, TARGETS)
    return (
        *_inputs(header, gears, path),
        *_outputs(header),
        *_data_dependent(header, target),
        *_opset(header, target),
    )


def _inputs(header: OnnxHeader, gears: Gears, path: str) -> Iterator[Violation]:
    ports = {port.name: port for port in header.inputs}
    asked = {entry.name: entry for entry in gears.inputs}
    spare = [name for name in ports if name not in asked]
    for entry in gears.inputs:
        if entry.name not in ports:
            # One that is missing and one that is not asked for are most likely the same.
            old = spare[0] if len(spare) == 1 else next(iter(spare), "NAME")
            yield Violation(
                "O1", None, unknown("input", entry.name, ports), "Tools take inputs by their names.",
                f"fixshape onnx rename {path} {old}={entry.name} -o renamed.onnx",
            )  # fmt: skip
    for name in spare:
        yield Violation(
            "O2", None, f"{ports[name]} is an input of the file and was not asked for",
            "Every input needs a shape, or the tool takes one of its own.", f"--inputs '{_asked_with(gears, ports[name])}'",
        )  # fmt: skip
    for name, entry in asked.items():
        if name in ports and ports[name].dims is not None:
            yield from _axes(entry, ports[name], gears, path)


def _axes(entry: Input, port: Port, gears: Gears, path: str) -> Iterator[Violation]:
    dims = port.dims or ()
    if len(dims) != len(entry.dims):
        yield Violation(
            "O3", None, f"{port.name} has {len(dims)} axes in the file ({port}), expected {len(entry.dims)} ({entry})",
            "A shape gives every axis.", f"--inputs with {port.name}:{','.join('N' if d is None else str(d) for d in dims)}",
        )  # fmt: skip
        return
    for axis, dim in enumerate(dims):
        sizes = sorted({gears.shapes(index)[entry.name][axis] for index in range(len(gears))})
        if not isinstance(dim, int) or sizes == [dim]:
            continue
        expected = str(sizes[0]) if len(sizes) == 1 else f"to be dynamic ({', '.join(map(str, sizes[:_MOST_SHOWN]))})"
        to = str(sizes[0]) if len(sizes) == 1 else "dynamic"
        yield Violation(
            "O4" if len(sizes) > 1 else "O5",
            None,
            f"axis {axis} of {port.name} is {dim} in the file, expected {expected}",
            "The exporter fixed it, most often since the model makes a Python number of it; constants inside may hold it too.",
            f"fixshape onnx set-batch {path} --to {to} -o out.onnx" if axis == 0
            else "fixshape export with this axis dynamic, or two exports at different sizes and fixshape onnx diff",
        )  # fmt: skip


def _outputs(header: OnnxHeader) -> Iterator[Violation]:
    batch = next((port.dims[0] for port in header.inputs if port.dims and isinstance(port.dims[0], str)), None)
    if batch is None:
        return
    for port in header.outputs:
        if port.dims and isinstance(port.dims[0], int) and not any(isinstance(dim, str) and batch in dim for dim in port.dims):
            yield Violation(
                "O6", None, f"{port} does not have {batch}, which the inputs have, expected {batch} in one axis",
                "An output that loses the batch is one that a constant inside cut to the size of the example.",
                "fixshape onnx check --run, and fixshape onnx set-batch where it says so", level="warning",
            )  # fmt: skip


def _data_dependent(header: OnnxHeader, target: Target | None) -> Iterator[Violation]:
    nodes = data_dependent_nodes(header)
    ports = [str(port) for port in header.outputs if any(isinstance(d, str) and UNBACKED.search(d) for d in port.dims or ())]
    if not nodes and not ports:
        return
    listed = ", ".join(nodes[:_MOST_SHOWN]) + (f" and {len(nodes) - _MOST_SHOWN} more" if len(nodes) > _MOST_SHOWN else "")
    told = "; ".join(filter(None, [listed, f"outputs {', '.join(ports)}" if ports else ""]))
    why = {
        "atc": "ATC builds no gears with such an operator, and fails late.",
        "trt": "TensorRT must reserve memory for the largest result, and its consumer waits for the size.",
    }.get(target or "", "No fixed shape holds the result: ATC builds no gears of it, and other tools leave the fast path.")
    yield Violation(
        "O7", None, f"sizes depend on data: {told}", why,
        "the fixed-size forms of fixshape.ops (fixed_nonzero, batched_nms), or fixshape.to_static for detection models",
        level="error" if target == "atc" else "warning",
    )  # fmt: skip


def _opset(header: OnnxHeader, target: Target | None) -> Iterator[Violation]:
    opset = header.opsets.get("")
    if target == "atc" and opset is not None and not LEAST_OPSET <= opset <= MOST_OPSET:
        yield Violation(
            "O8", None, f"the file has opset {opset}, expected {LEAST_OPSET} to {MOST_OPSET} for ATC",
            "These are the versions that ATC's manual names (--framework); its parser may know newer ones of some operators.",
            f"fixshape export --opset {MOST_OPSET}", doubtful=True,
        )  # fmt: skip


def check_runs(path: str | os.PathLike[str], header: OnnxHeader, gears: Gears) -> tuple[Violation, ...]:
    """Runs the file at every gear in onnxruntime, on drawn inputs, and compares the shapes with what the file says.

    Numbers are not compared: that needs the model that the file came from (:func:`verify_onnx`).

    Args:
        path: the file.
        header: of it, from :func:`read_header`.
        gears: the shapes; their inputs are those of the file.

    Returns:
        A violation for each gear that does not run though the file's own inputs allow it, and for each output whose shape is not
        the one that the file says.

    Raises:
        ExportError: onnxruntime refuses the file.
        ExtraError: onnxruntime is not installed.
    """
    session, found = open_session(path), []
    said = {port.name: port.dims for port in header.inputs}
    for index in range(len(gears)):
        shapes = gears.shapes(index)
        if any(
            isinstance(dim, int) and dim != size
            for name, shape in shapes.items()
            for dim, size in zip(said.get(name) or (), shape, strict=False)
        ):
            continue  # the file says itself that it is of another size, and check_onnx tells it
        told = "; ".join(f"{name} {','.join(map(str, shape))}" for name, shape in shapes.items())
        try:
            values = run(session, random_feeds(session, shapes))
        except ExportError as error:
            way_out = "fixshape onnx set-batch, or fixshape export with these axes dynamic"
            found.append(Violation("O9", None, str(error), "The graph holds another size inside.", way_out))
            continue
        symbols = {
            dim: size
            for name, shape in shapes.items()
            for dim, size in zip(said.get(name) or (), shape, strict=False)
            if isinstance(dim, str)
        }
        for port in header.outputs:
            expected = _sizes(port, symbols)
            got = values[port.name].shape
            if expected is None:
                continue
            if len(expected) == len(got) and all(size in (None, n) for size, n in zip(expected, got, strict=True)):
                continue
            found.append(
                Violation(
                    "O9",
                    None,
                    f"at {told}: output {port.name} is {','.join(map(str, got))}, expected {dims_text(expected)} ({port})",
                    "The exporter wrote a symbol over a graph that holds one size, and the runtime takes its word.",
                    f"fixshape onnx set-batch {os.fspath(path)} --to dynamic -o out.onnx",
                )
            )
    return tuple(found)


def _sizes(port: Port, symbols: Mapping[str, int]) -> tuple[int | None, ...] | None:
    """The shape that the file promises at these sizes; ``None`` for an axis of which it promises nothing."""
    if port.dims is None:
        return None
    return tuple(dim if isinstance(dim, int) else symbols.get(dim or "") for dim in port.dims)


def _asked_with(gears: Gears, port: Port) -> str:
    return ";".join([*map(str, gears.inputs), str(port).replace("?", "N")])
