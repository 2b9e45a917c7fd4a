"""Which rules need the model's header: names, ranks, free axes, the opset, and operators whose result has no fixed shape?

Numbers G10 to G14, S5, S6, S8 and P7. Sources: the open GE sources, ``parser/onnx`` and ``multi_batch_clone_pass.cc``,
and the atc manual (CANN 8.5), page ``--framework`` for the opset.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

from fixshape._check import shown
from fixshape.export._atc_case import BATCH_OPTION, DIMS_OPTION, IMAGE_OPTION, STANDS_IN, Case, Shape, instead, range_bounds
from fixshape.export._atc_options import AtcCommand
from fixshape.export._onnx_header import DATA_DEPENDENT, OnnxHeader, Port
from fixshape.export._violation import Violation

LEAST_OPSET, MOST_OPSET = 11, 18
ONNX_DOMAINS = ("", "ai.onnx.ml")
_MOST_SHOWN = 6


def file(case: Case) -> Iterator[Violation]:
    """G13 and G14: what atc's ONNX parser asks of the file."""
    header = case.header
    if header is None:
        return
    command = instead(case.command, "the command stays, the model is exported again")
    if not header.inputs:
        yield Violation(
            "G14", "E16001", "the model has no input, expected one at least",
            "atc builds from the inputs on; a graph of constants alone is none.", command,
        )  # fmt: skip
    if header.absent:
        more = f" and {len(header.absent) - 1} more" if len(header.absent) > 1 else ""
        yield Violation(
            "G13", "E10041", f"the weights in {shown(header.absent[0])}{more} are not beside the model, expected that file there",
            "A model over 2 GB keeps its weights in files of their own, and atc cannot load it without them.",
            instead(case.command, "the command stays; copy the files of the weights together with the model"),
        )  # fmt: skip
    opset = header.opsets.get("", header.opsets.get("ai.onnx"))
    if opset is not None and not LEAST_OPSET <= opset <= MOST_OPSET:
        yield Violation(
            "G14",
            "E16002",
            f"the model has opset {opset}, expected {LEAST_OPSET} to {MOST_OPSET}",
            "These are the versions that the manual names. atc's parser looks up each operator, and may know newer ones of some.",
            instead(case.command, f"export the model again with opset_version={MOST_OPSET}; the command stays"),
            doubtful=True,
        )
    missing = sorted({node.domain for node in header.nodes} - set(header.opsets) - {"", "ai.onnx"})
    if missing:
        yield Violation(
            "G14", "E19999", f"nodes are of the domain {shown(missing[0])}, expected it among the opset imports",
            "atc ends with an inner error where it does not find the version of a node's domain.", command,
        )  # fmt: skip
    custom = [node for node in header.nodes if node.domain not in (*ONNX_DOMAINS, "ai.onnx") and node.domain not in missing]
    if custom:
        yield Violation(
            "G14",
            "E16002",
            f"{custom[0].domain}::{custom[0].op_type} ({custom[0].name or 'no name'}) is no operator of ONNX, expected"
            " ONNX's own",
            "atc has a parser for it only where a custom operator package for that domain is installed.",
            command,
            level="warning",
            doubtful=True,
        )
    elif len(header.opsets) > 1:
        yield Violation(
            "G14",
            "E16005",
            f"the model imports {len(header.opsets)} opsets"
            f" ({', '.join(domain or 'ai.onnx' for domain in header.opsets)}), expected one",
            "CANN has a code for it; in the sources of 2026 nothing raises it.",
            command,
            level="warning",
            doubtful=True,
        )


def names(case: Case) -> Iterator[Violation]:
    """G10 and G11."""
    if case.header is None:
        yield from _lost_separator(case)
        return
    inputs = [port.name for port in case.header.inputs]
    given = {shape.name for shape in case.shapes}
    for index, shape in enumerate(case.shapes):
        if shape.name in inputs:
            continue
        inner = {node.name for node in case.header.nodes} | {port.name for port in case.header.outputs}
        found = shape.name in inner and shape.name
        split = _split(shape)
        near = difflib.get_close_matches(shape.name, [name for name in inputs if name not in given], n=1, cutoff=0.0)
        others = list(case.shapes)
        others[index : index + 1] = split or [Shape(near[0], shape.dims)] if near or split else []
        yield Violation(
            "G11" if found else "G10",
            "E10017" if found else "E10016",
            f"{shown(shape.name)} is {'no input' if found else 'not in the model'}, expected one of {', '.join(inputs[:8])}",
            "Only an input takes a shape." if found else "The name must be the model's, and ; separates the parts.",
            instead(case.rewritten(others)),
        )


def _lost_separator(case: Case) -> Iterator[Violation]:
    """G10 without a model: a name that looks like a part and the start of the next."""
    for index, shape in enumerate(case.shapes):
        split = _split(shape)
        if split:
            yield Violation(
                "G10",
                "E10016",
                f"{shown(shape.name)} is a name, since the last colon ends it; expected ; between two inputs",
                "Inputs are separated by ;, and a name may hold colons and commas.",
                instead(case.rewritten([*case.shapes[:index], *split, *case.shapes[index + 1 :]])),
                level="warning",
                doubtful=True,
            )


def _split(shape: Shape) -> list[Shape]:
    """The two parts that a comma or a space was put between."""
    found = re.fullmatch(r"([^:]+):(-?\d+(?:,-?\d+)*)[, |/]+([^:,\s]+)", shape.name)
    return [Shape(found[1], tuple(found[2].split(","))), Shape(found[3], shape.dims)] if found else []


def ranks(case: Case) -> Iterator[Violation]:
    """S6."""
    for index, shape in enumerate(case.shapes):
        port = case.port(shape.name)
        if port is None or port.dims is None:
            continue
        others = list(case.shapes)
        if len(port.dims) != len(shape.dims):
            others[index] = Shape(shape.name, tuple(_dim(case, port, axis) for axis in range(len(port.dims))))
            yield Violation(
                "S6",
                "E10049",
                f"{shape} has {len(shape.dims)} axes, expected {len(port.dims)} as in the model: {port}",
                "A shape gives every axis.",
                instead(case.rewritten(others), STANDS_IN),
            )
            continue
        for axis, dim in enumerate(shape.dims):
            known, bounds = case.model_dim(shape.name, axis), range_bounds(dim)
            image = case.mode == IMAGE_OPTION and len(shape.dims) == 4 and axis in case.sides
            if known is None or dim == str(known) or image:  # I6 speaks of images
                continue
            others[index] = shape.put({axis: str(known)})
            outside = bounds is not None and not bounds[0] <= known <= bounds[1]
            yield Violation(
                "S6",
                "E10050" if outside else None,
                f"{shape}: axis {axis} is {dim}, expected {known} as in the model: {port}",
                "The model's own size is not in the range." if outside
                else "The size was fixed when the file was exported: others may fail or give wrong numbers.",
                instead(_closed(case, others), "or export the model with this axis free"),
                level="error" if outside else "warning",
                doubtful=not outside,
            )  # fmt: skip


def _closed(case: Case, shapes: list[Shape]) -> AtcCommand:
    """The command with sizes where there were -1: a gear loses their numbers, and where none is left the gears go."""
    command = case.rewritten(shapes)
    left = {(shape.name, axis) for shape in shapes for axis in shape.free}
    kept = [index for index, (shape, axis) in enumerate(case.free_axes) if (shape.name, axis) in left]
    if not case.mode or len(kept) == len(case.free_axes):
        return command
    if not kept:
        return command.with_options(**{case.mode: None})
    if case.mode == DIMS_OPTION and case.clean_gears:
        gears = [tuple(gear[index] for index in kept if index < len(gear)) for gear in case.clean_gears]
        return Case(command, case.header).with_gears(gears)
    return command


def _dim(case: Case, port: Port, axis: int) -> str:
    assert port.dims is not None
    return case.size(port.name, axis, len(port.dims))


def unlisted(case: Case) -> Iterator[Violation]:
    """G12, S8 and S5: inputs of the model that the command gives no shape."""
    if case.header is None or not case.builds or case.get("input_shape_range") or len(case.shapes) != len(case.parts):
        return
    given = {shape.name for shape in case.shapes}
    free = [port for port in case.header.inputs if port.name not in given and _free(port)]
    scalars = [port for port in case.header.inputs if port.name not in given and port.dims == ()]
    if free and not (case.gear_options and not case.parts):  # that is G7
        shapes = _with_free(case, free)
        dims = case.gear_options == [DIMS_OPTION]
        yield Violation(
            "S8" if dims else "G12",
            "E10001",
            f"{', '.join(map(str, free[:_MOST_SHOWN]))}: the model leaves sizes open and --input_shape says none,"
            " expected all of them",
            "With --dynamic_dims each input that is open must be listed." if dims
            else "atc compiles for sizes that it knows; where the model has none, the command must.",
            instead(case.rewritten(shapes), f"or -1 and gears; {STANDS_IN}"),
        )  # fmt: skip
    if scalars and case.gear_options and case.parts:
        listed = [*case.shapes, *(Shape(port.name, ()) for port in scalars)]
        batch = case.mode == BATCH_OPTION
        yield Violation(
            "S5",
            None,
            f"the scalar input {shown(scalars[0].name)} is not in --input_shape, expected {scalars[0].name}: with nothing"
            " after the colon",
            "With gears the manual asks for scalars too."
            + (" Batch gears may refuse it (B6), so that dims are safer." if batch else ""),
            instead(case.as_dims(listed) if batch and case.clean_gears else case.rewritten(listed)),
        )


def _with_free(case: Case, free: list[Port]) -> list[Shape]:
    """The shapes with those of open inputs: one under a name that the model does not have was most likely meant for one."""
    shapes = list(case.shapes)
    for port in free:
        rank = len(port.dims or ())
        index = next((i for i, shape in enumerate(shapes) if case.port(shape.name) is None and len(shape.dims) == rank), None)
        if index is None:
            shapes.append(Shape(port.name, tuple(_dim(case, port, axis) for axis in range(rank))))
        else:
            shapes[index] = Shape(port.name, shapes[index].dims)
    return shapes


def _free(port: Port) -> bool:
    return port.dims is None or any(not isinstance(dim, int) or dim < 1 for dim in port.dims)


def data_dependent(case: Case) -> Iterator[Violation]:
    """P7."""
    found = data_dependent_nodes(case.header) if case.header else []
    if not found:
        return
    gears = bool(case.gear_options)
    listed = ", ".join(found[:_MOST_SHOWN]) + (f" and {len(found) - _MOST_SHOWN} more" if len(found) > _MOST_SHOWN else "")
    yield Violation(
        "P7",
        "E19999",
        f"the model has {listed}, expected no operator whose result is as long as its values say",
        "With gears the manual allows none; atc fails late, with an inner error or one of an operator (E2xxxx)." if gears
        else "What follows such an operator has no fixed shape, and is not compiled with the rest.",
        instead(case.command, "rewrite the model with forms of fixed size (fixshape.ops, fixshape.to_static); the command stays"),
        level="error" if gears else "warning",
    )  # fmt: skip


def data_dependent_nodes(header: OnnxHeader) -> list[str]:
    """The nodes with a result as long as values say: ``"NonZero (/roi/NonZero)"``.

    Operators such as Range or Slice, whose sizes are an input, are left out: most often it is a constant.
    """
    return [
        f"{node.op_type} ({node.name or 'no name'})"
        for node in header.nodes
        if node.domain == "" and node.op_type in DATA_DEPENDENT
    ]
