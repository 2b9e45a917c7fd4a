"""Which rules hold for ``--input_shape`` and ranges? Numbers S1 to S4, S7 and S9 to S12.

Sources: ``api/aclgrph/option_utils.cc`` of the open GE sources, and the page ``--input_shape`` of the atc manual (CANN 8.5).
Where atc says nothing, the rule has no code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from fixshape._check import shown
from fixshape.export._atc_case import STANDS_IN, Case, Shape, instead, range_bounds
from fixshape.export._violation import Violation

_INT64 = 2**63 - 1


def syntax(case: Case) -> Iterator[Violation]:
    """S1, S2 and S3, and of S9 the ranges within ``--input_shape``."""
    for index, part in enumerate(case.parts):
        name, colon, dims = part.rpartition(":")
        if not colon or not name:
            yield Violation(
                "S1",
                "E10002",
                f"--input_shape has the part {shown(part)}, expected NAME:DIM,DIM,...",
                "Parts are separated by ;, and in each the last colon ends the name.",
                _replaced(case, index, _named(case, index, part)),
            )
            continue
        for dim in dims.split(",") if dims else ():
            found = _bad_dim(dim)
            if found:
                rule, code, expected = found
                yield Violation(
                    rule,
                    code,
                    f"{name} has the dim {shown(dim)}, expected {expected}",
                    "Brackets are for --input_shape_range alone." if "[" in dims
                    else "A dim is digits only, -1, or lo~hi: no point, no space, no sign.",
                    _replaced(case, index, f"{name}:{','.join(map(_repaired, dims.split(',')))}"),
                )  # fmt: skip
                break
    names = [shape.name for shape in case.shapes]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        once = {shape.name: shape for shape in case.shapes}
        yield Violation(
            "S1", None, f"--input_shape has {shown(twice)} more than once, expected each input once",
            "Which of them counts is written nowhere.",
            instead(case.rewritten(list(once.values())), "or the name that is missing"), level="warning", doubtful=True,
        )  # fmt: skip


def _bad_dim(dim: str) -> tuple[str, str, str] | None:
    """Rule, code and what is expected, for a dim that cannot be read."""
    if "~" in dim:
        return None if range_bounds(dim) else ("S9", "E10048", "lo~hi with two whole numbers")
    if not re.fullmatch("-?[0-9]+", dim):
        number = re.fullmatch(r"-?[0-9]+\.[0-9]*", dim)
        return ("S2", "E10002", "a whole number" if number else "digits only")
    return ("S3", "E10013", "a number that int64 holds") if abs(int(dim[:30])) > _INT64 or len(dim) > 19 else None


def _repaired(dim: str) -> str:
    """The dim that was most likely meant."""
    found = re.findall("[0-9]+", dim if "~" in dim else dim.split(".")[0])
    numbers = [number if len(number) < 19 else "1" for number in found] or ["1"]
    if "~" in dim and len(numbers) > 1:
        return "~".join(numbers[:2])
    return "-1" if dim.strip() == "-1" else numbers[0]


def _named(case: Case, index: int, part: str) -> str:
    """A part with a name: the model's input of that place where a model is given."""
    dims = part.rpartition(":")[2] if ":" in part else part
    if not re.fullmatch(r"[-\d,~]*", dims):
        dims = ""  # it is a name, and the dims are missing
    ports = case.header.inputs if case.header else ()
    name = ports[index].name if index < len(ports) else f"input{index}"
    if not dims and part.strip(":"):
        name = part.strip(":")
        port = case.port(name)
        dims = ",".join(case.size(name, axis, len(port.dims)) for axis in range(len(port.dims))) if port and port.dims else "1"
    return f"{name}:{dims}"


def _replaced(case: Case, index: int, part: str) -> str:
    parts = [*case.parts[:index], part, *case.parts[index + 1 :]]
    return instead(case.command.with_options(input_shape=";".join(parts)))


def positive(case: Case) -> Iterator[Violation]:
    """S4 and S11, for commands without gears."""
    if case.gear_options or case.get("input_shape_range") or not case.builds:
        return
    for index, shape in enumerate(case.shapes):
        bad = [axis for axis, dim in enumerate(shape.dims) if dim != "-1" and "~" not in dim and int(dim) < 1]
        others = list(case.shapes)
        if bad:
            others[index] = case.fixed(shape, bad)
            yield Violation(
                "S4",
                "E10011",
                f"{shape}: axis {bad[0]} is {shape.dims[bad[0]]}, expected at least 1",
                "Without gears a shape is fixed, and an empty or negative axis is none.",
                instead(case.rewritten(others), STANDS_IN),
            )
    if case.free_axes:
        fixed = [case.fixed(shape, shape.free) for shape in case.shapes]
        yield Violation(
            "S11",
            "E10011",
            f"{'; '.join(str(shape) for shape in case.shapes if shape.free)}: -1 and no gears, expected gears or fixed sizes",
            "Newer CANN builds a fully dynamic model and says nothing: the host launches each operator, and nothing of"
            " the compiled graph is left. Older CANN refuses it.",
            instead(case.rewritten(fixed), f"or gears for the -1; {STANDS_IN}"),
            level="warning",
            doubtful=True,
        )


def _number(dim: str) -> int | None:
    return int(dim) if re.fullmatch("-?[0-9]+", dim) else None


def ranges_and_gears(case: Case) -> Iterator[Violation]:
    """S7."""
    if not case.gear_options or not any("~" in dim for shape in case.shapes for dim in shape.dims):
        return
    option = case.gear_options[0]
    opened = [shape.put({axis: "-1" for axis, dim in enumerate(shape.dims) if "~" in dim}) for shape in case.shapes]
    yield Violation(
        "S7",
        "E10040",
        f"--input_shape has ~ and --{option} is set, expected -1 where the gears go",
        "A range and a gear are two ways to say which sizes come; atc takes one.",
        instead(case.rewritten(opened), f"or keep the range and leave --{option} away"),
    )


def range_option(case: Case) -> Iterator[Violation]:
    """S9 and S10: the deprecated ``--input_shape_range``."""
    text = case.get("input_shape_range")
    if not text:
        return
    shapes, broken = [], ""
    for part in filter(None, text.split(";")):
        found = re.fullmatch(r"(.+):\[([^\[\]]*)\]", part)
        dims = (found[2] if found else part.rpartition(":")[2]).strip("[]").split(",")
        if not found or any(not re.fullmatch(r"-1|[0-9]{1,18}|[0-9]{1,18}~[0-9]{1,18}", dim) for dim in dims):
            broken = broken or part
        name = found[1] if found else part.rpartition(":")[0].rstrip("[") or "input"
        shapes.append(Shape(name, tuple("-1" if dim.strip() == "-1" else _repaired(dim) for dim in dims)))
    new = case.command.with_options(input_shape_range=None, input_shape=";".join(map(str, shapes)))
    if broken or case.get("framework") in ("0", "1"):
        yield Violation(
            "S9",
            "E10048",
            f"--input_shape_range has {shown(broken)}, expected NAME:[DIM,lo~hi,-1]"
            if broken
            else f"--input_shape_range with --framework={case.get('framework')}, expected 3 or 5",
            "Each input has one pair of brackets, and only TensorFlow and ONNX models take ranges.",
            instead(new, "--input_shape takes ranges without brackets; --input_shape_range is deprecated"),
        )
    if case.get("input_shape"):
        yield Violation(
            "S10",
            None,
            "--input_shape and --input_shape_range are both set, expected one of them",
            "atc drops --input_shape, and says so only on the screen.",
            instead(new),
            level="warning",
        )


def silent_values(case: Case) -> Iterator[Violation]:
    """S12."""
    for index, shape in enumerate(case.shapes):
        fixed: dict[int, str] = {}
        for axis, dim in enumerate(shape.dims):
            bounds, number = range_bounds(dim), _number(dim)
            if bounds and bounds[0] > bounds[1]:
                fixed[axis] = f"{bounds[1]}~{bounds[0]}"
            elif case.gear_options and number is not None and number < 1 and number != -1:
                fixed[axis] = case.size(shape.name, axis, len(shape.dims))
        if fixed:
            axis = min(fixed)
            others = [*case.shapes[:index], shape.put(fixed), *case.shapes[index + 1 :]]
            yield Violation(
                "S12",
                None,
                f"{shape}: axis {axis} is {shape.dims[axis]}, expected lo at most hi" if "~" in shape.dims[axis]
                else f"{shape}: axis {axis} is {shape.dims[axis]}, expected -1 or at least 1",
                "atc does not look at it here, and builds from a shape that cannot be.",
                instead(case.rewritten(others), STANDS_IN),
            )  # fmt: skip
