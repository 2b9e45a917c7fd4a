"""Which rules hold for gears: which axes may be -1, and how the gears are written?

Numbers B1 to B6 (``--dynamic_batch_size``), I1 to I6 (``--dynamic_image_size``) and D1 to D5 (``--dynamic_dims``). Sources:
``multi_batch_options.cc`` and ``option_utils.cc`` of the open GE sources, and the pages of these options in the atc manual
(CANN 8.5).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from fixshape._check import shown
from fixshape.export._atc_case import BATCH_OPTION, DIMS_OPTION, IMAGE_OPTION, STANDS_IN, UNKNOWN_SIDE, Case, Shape, instead
from fixshape.export._violation import Violation

_USUAL_BATCH = 2048
_OLD_WIDTH = 4


def batch(case: Case) -> Iterator[Violation]:
    """B1 to B6."""
    if case.gear_options != [BATCH_OPTION]:
        return
    text = case.get(BATCH_OPTION)
    if not re.fullmatch("[0-9,]+", text) or not case.clean_gears:
        numbers = [(int(number),) for number in re.findall("[0-9]{1,18}", text)]
        yield Violation(
            "B3", "E10003", f"--dynamic_batch_size is {shown(text)}, expected digits and commas: 1,2,4",
            "Spaces count as wrong characters, and so does a semicolon.", instead(case.with_gears(numbers)),
        )  # fmt: skip
    if case.mode:
        yield from _batch_axes(case)


def _batch_axes(case: Case) -> Iterator[Violation]:
    scalars = [shape.name for shape in case.shapes if not shape.dims]
    if scalars:
        yield Violation(
            "B6",
            "E10012",
            f"--dynamic_batch_size with the scalar input {shown(scalars[0])}, expected inputs with a first axis",
            "The manual shows a scalar beside batch gears as legal, the sources of 2026 refuse it. --dynamic_dims takes both.",
            instead(case.as_dims()),
            level="warning",
            doubtful=True,
        )
    first = [shape for shape in case.shapes if shape.free[:1] == [0]]
    beyond = [shape for shape in case.shapes if any(axis > 0 for axis in shape.free)]
    if first:
        for shape in beyond:
            axis = next(axis for axis in shape.free if axis > 0)
            fine = any(other not in beyond for other in first)
            closed = [case.fixed(other, [a for a in other.free if a > 0]) for other in case.shapes]
            yield Violation(
                "B1",
                "E10018",
                f"{shape}: axis {axis} is -1 with --dynamic_batch_size, expected -1 at axis 0 only",
                "A batch gear is one number, the batch."
                + (" Newer CANN reports it, goes on with the input that is right, and fails later." if fine else ""),
                instead(case.rewritten(closed), f"{STANDS_IN}; where those axes vary too, use --dynamic_dims"),
                doubtful=fine,
            )
    else:
        opened = [shape.put({0: "-1"}) if _may_be_batch(case, shape) else shape for shape in case.shapes]
        if beyond:
            fixed = instead(case.as_dims())
        elif opened != list(case.shapes):
            fixed = instead(case.rewritten(opened), "check that the first axis of each input is the batch")
        else:
            fixed = instead(case.single(), "no input has a batch")
        yield Violation(
            "B2",
            "E10031",
            "--dynamic_batch_size and no input has -1 at axis 0, expected one at least",
            "The gears have nowhere to go. A -1 at another axis is for --dynamic_dims.",
            fixed,
        )
    if len(first) > 1 and not beyond:
        yield Violation(
            "B4",
            None,
            f"{', '.join(shape.name for shape in first)} have a batch of -1 each, and one gear for all of them",
            "In a gear they all take the same number.",
            instead(case.as_dims(), "only where their batches differ from one another"),
            level="advice",
        )
    over = [gear[0] for gear in case.clean_gears if gear[0] > _USUAL_BATCH]
    if over:
        kept = [gear for gear in case.clean_gears if gear[0] <= _USUAL_BATCH] or [(_USUAL_BATCH,)]
        yield Violation(
            "B5",
            None,
            f"a batch of {over[0]:,}, expected at most {_USUAL_BATCH:,}",
            "The manual advises 1 to 2,048; 8 or 16 for images, multiples of 16 for text and speech.",
            instead(case.with_gears(kept)),
            level="advice",
        )


def _may_be_batch(case: Case, shape: Shape) -> bool:
    """Whether the first axis may be the batch: the model leaves it open, or leaves none open."""
    ports = case.header.inputs if case.header else ()
    opened = {port.name for port in ports if port.dims and not isinstance(port.dims[0], int)}
    return bool(shape.dims) and (not opened or shape.name in opened or case.port(shape.name) is None)


def image(case: Case) -> Iterator[Violation]:
    """I1 to I6."""
    if case.gear_options != [IMAGE_OPTION]:
        return
    text, format_ = case.get(IMAGE_OPTION), case.get("input_format")
    if format_ not in ("", "NCHW", "NHWC") and not case.command.is_open("input_format"):
        yield Violation(
            "I2", "E10003", f"--dynamic_image_size with --input_format={format_}, expected NCHW or NHWC",
            "Other formats do not say where height and width are. For them there is --dynamic_dims with ND.",
            _as_image(case),
        )  # fmt: skip
    if not re.fullmatch("[0-9,;]+", text) or re.search("[0-9]{19}", text):
        pairs = [tuple(map(int, re.findall("[0-9]{1,18}", gear)))[:2] for gear in text.split(";")]
        spaces = re.fullmatch("[0-9,; ]+", text)
        yield Violation(
            "I3",
            None if spaces else "E10003",
            f"--dynamic_image_size is {shown(text)}, expected digits, commas and semicolons: 800,1344;1344,800",
            "atc lets the space through here and fails inside the compiler." if spaces else "Other characters are refused.",
            instead(case.with_gears(_pairs(pairs))),
            doubtful=bool(spaces),
        )
    elif any(len(gear) != 2 for gear in case.gears):
        wrong = next(gear for gear in case.gears if len(gear) != 2)
        pairs = [tuple(int(number) for number in gear if number) for gear in case.gears]
        yield Violation(
            "I4",
            "E10020",
            f"the gear {shown(','.join(wrong))} of --dynamic_image_size has {len(wrong)} numbers, expected 2: height,width",
            "Each gear is one image size, also where all images are square.",
            instead(case.with_gears(_pairs(pairs))),
        )
    if case.mode:
        yield from _image_axes(case)


def _as_image(case: Case) -> str:
    """The command in a format that has images; with dims where an input is none."""
    pairs = case.clean_gears and all(len(gear) == 2 for gear in case.clean_gears)
    if pairs and any(shape.free and len(shape.dims) != 4 for shape in case.shapes):
        return instead(case.as_dims())
    return instead(case.command.with_options(input_format="NHWC" if case.get("framework") == "3" else "NCHW"))


def _pairs(gears: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Height and width of each gear; a side alone is a square, and numbers after the second are further gears."""
    flat: list[tuple[int, ...]] = []
    for gear in gears:
        flat += [(gear[i], gear[i + 1] if i + 1 < len(gear) else gear[i]) for i in range(0, len(gear), 2)]
    return flat


def _image_axes(case: Case) -> Iterator[Violation]:
    sides = list(case.sides)
    opened = [shape for shape in case.shapes if shape.free]
    wrong = next((shape for shape in opened if len(shape.dims) != 4 or shape.free != sides), None)
    if wrong or not opened:
        if any(len(shape.dims) != 4 for shape in opened) or not any(len(shape.dims) == 4 for shape in case.shapes):
            pairs = all(len(gear) == 2 for gear in case.clean_gears)
            usable = opened and case.clean_gears and pairs
            fixed = instead(case.as_dims(), STANDS_IN) if usable else instead(case.single(), STANDS_IN)
        else:
            fixed = instead(case.rewritten([_image_shape(case, shape, bool(opened)) for shape in case.shapes]), STANDS_IN)
        yield Violation(
            "I1",
            "E10019",
            f"{wrong or 'no input'} has -1 with --dynamic_image_size, expected -1 at both height and width (axes {sides[0]} and"
            f" {sides[1]}) of inputs of 4 axes, and nowhere else",
            "An image gear is two numbers, height and width. Batch, channels and other inputs keep one size.",
            fixed,
        )
        return
    if case.get("insert_op_conf") and case.clean_gears:
        height, width = max(case.clean_gears, key=lambda gear: gear[0] * gear[-1])[:2]
        yield Violation(
            "I5",
            None,
            f"AIPP ({shown(case.get('insert_op_conf'))}) with --dynamic_image_size, expected a configuration without crop"
            " and padding",
            "Static AIPP: src_image_size_w and src_image_size_h are 0. Dynamic AIPP: max_src_image_size holds"
            f" {height}x{width}, the largest gear.",
            instead(case.command, "the command stays; look at the configuration"),
            level="advice",
        )
    for shape in opened:
        known = [case.model_dim(shape.name, axis) for axis in sides]
        if any(size is not None for size in known):
            yield Violation(
                "I6",
                None,
                f"{shape.name} is {known[0] or 'free'}x{known[1] or 'free'} in the model, and the gears have other sizes",
                "Each size must work in the model itself. A height and width that are fixed in the file were fixed when"
                " it was exported, and other sizes may fail or give wrong numbers.",
                instead(
                    case.single(tuple(size or UNKNOWN_SIDE for size in known)),
                    "or export with free H and W, and verify each size",
                ),
                level="warning",
                doubtful=True,
            )


def _image_shape(case: Case, shape: Shape, some: bool) -> Shape:
    """-1 at height and width and nowhere else, for an image that had some -1, or for all where none had."""
    if len(shape.dims) != 4 or (some and not shape.free):
        return shape
    closed = case.fixed(shape, [axis for axis in shape.free if axis not in case.sides])
    return closed.put(dict.fromkeys(case.sides, "-1"))


def dims(case: Case) -> Iterator[Violation]:
    """D1 to D5."""
    if case.gear_options != [DIMS_OPTION]:
        return
    text = case.get(DIMS_OPTION)
    width = len(case.free_axes)
    if case.mode and not width:
        yield Violation(
            "D1",
            "E10001",
            "--dynamic_dims and no -1 in --input_shape, expected one for each number of a gear",
            "The gears have nowhere to go.",
            _with_axes(case),
        )
    if not case.clean_gears:
        numbers = [tuple(map(int, re.findall("[0-9]{1,18}", gear))) for gear in text.split(";")]
        wrong = next(number for gear in case.gears for number in gear if not re.fullmatch("[0-9]{1,18}", number))
        yield Violation(
            "D3",
            "E10001",
            f"--dynamic_dims has {shown(wrong)}, expected digits: 1,320;4,320",
            "No spaces, no signs; commas within a gear, semicolons between gears.",
            instead(case.with_gears(_of_width(numbers, width) if case.mode else list(filter(None, numbers)))),
        )
    elif case.mode and width and any(len(gear) != width for gear in case.gears):
        wrong_gear = next(gear for gear in case.gears if len(gear) != width)
        yield Violation(
            "D2",
            "E10003",
            f"the gear {shown(','.join(wrong_gear))} has {len(wrong_gear)} numbers, expected {width}: one for each -1 of"
            " --input_shape",
            "A gear says every -1, in the order of --input_shape: "
            + ", ".join(f"{shape.name} axis {axis}" for shape, axis in case.free_axes[:6])
            + (", ..." if width > 6 else "") + ".",
            instead(case.with_gears(_of_width(case.clean_gears, width)), STANDS_IN),
        )  # fmt: skip
    if case.get("input_format") != "ND" and not case.command.is_open("input_format"):
        given = case.get("input_format")
        yield Violation(
            "D4",
            None,
            f"--dynamic_dims with {f'--input_format={given}' if given else 'the default --input_format'}, expected ND",
            "The manual pairs them: with another format axes get a meaning that a gear does not have. Whether atc refuses it is"
            " not known.",
            instead(case.command.with_options(input_format="ND")),
            level="warning",
            doubtful=True,
        )
    if case.mode and width > _OLD_WIDTH:
        yield Violation(
            "D4",
            None,
            f"{width} numbers a gear, and CANN 6 has at most {_OLD_WIDTH}",
            "Later manuals have no such limit.",
            instead(case.single(*case.clean_gears[:1]), "only for an old CANN: fewer -1"),
            level="warning",
            doubtful=True,
        )


def no_gears_for_air(case: Case) -> Iterator[Violation]:
    """D5."""
    if case.gear_options and case.get("framework") == "1":
        fixed = case.single(*case.clean_gears[:1]) if len(case.gear_options) == 1 else case.command
        yield Violation(
            "D5",
            None,
            f"--{case.gear_options[0]} with --framework=1, expected no gears",
            "The manuals of CANN 8.0 and 8.1 have no gears for MindSpore's .air files.",
            instead(fixed, "or export the model to ONNX"),
            doubtful=True,
        )


def _with_axes(case: Case) -> str:
    """-1 at the model's free axes where a gear has as many numbers, else the fixed shape."""
    if case.header:
        free = [
            shape.put({axis: "-1" for axis in range(len(shape.dims)) if not case.model_dim(shape.name, axis)})
            if case.port(shape.name) else shape
            for shape in case.shapes
        ]  # fmt: skip
        if {len(gear) for gear in case.clean_gears} == {sum(len(shape.free) for shape in free)}:
            return instead(case.rewritten(free))
    return instead(case.command.with_options(**{DIMS_OPTION: None}), "or write -1 at the axes that the gears are for")


def _of_width(gears: list[tuple[int, ...]], width: int) -> list[tuple[int, ...]]:
    """Gears of as many numbers as there are -1: those that have more are cut, those that have fewer are filled up."""
    good = next((gear for gear in gears if len(gear) == width), (1,) * width)
    return [gear[:width] + good[len(gear) :] for gear in gears if gear]
