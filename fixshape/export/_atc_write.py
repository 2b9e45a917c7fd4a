"""Which ``atc`` command builds a model for these gears? One gear is a fixed shape; several choose the option that says them.

The order of choice is that of the atc manual: batch alone, height and width alone, and for anything else dims with ND.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from fixshape._check import shown
from fixshape.errors import UsageError
from fixshape.export._atc_options import AtcCommand
from fixshape.export._atc_rules import check_atc
from fixshape.export._gears import BATCH, HEIGHT, WIDTH, Gears
from fixshape.export._onnx_header import OnnxHeader
from fixshape.export._violation import Violation

_Shapes = list[tuple[tuple[int, ...], ...]]  # per gear, per input
_SIDES = (2, 3)


class AtcBuild(NamedTuple):
    """An atc command, and what is to be said about it.

    Args:
        command: what to run; ``str()`` of it is a line for a shell.
        violations: what :func:`check_atc` finds in it, and what the gears cost.
        why: its option for the gears, or none, was chosen.
    """

    command: AtcCommand
    violations: tuple[Violation, ...]
    why: str


def write_atc(
    gears: Gears,
    *,
    model: str,
    soc_version: str,
    output: str | None = None,
    header: OnnxHeader | None = None,
) -> AtcBuild:
    """The atc command for an ONNX model that is run with some gears.

    It promises a command that breaks no rule of :func:`check_atc` as long as the gears, the chip and the model do not: too many
    gears, a chip without gears or a model of too new an opset are told, not worked around.

    Args:
        gears: the shapes; an axis that is the same in all of them is fixed.
        model: path of the ONNX file, as it is on the host where atc runs.
        soc_version: of the chip that the model will run on, ``"Ascend310P3"``.
        output: path of the .om without its suffix; the model's name in the current folder by default.
        header: of the file, from :func:`read_header`: the rules on names, opset and operators are then checked too.

    Returns:
        The command and the violations.

    Raises:
        UsageError: the name of an input holds ``;`` or a character that cannot be printed.

    Example:
        >>> from fixshape.export import Gears, parse_inputs
        >>> gears = Gears(parse_inputs("x:N,3,H,W"), tuple({"N": n, "H": 320, "W": 480} for n in (1, 2, 4)))
        >>> build = write_atc(gears, model="m.onnx", soc_version="Ascend310P3")
        >>> build.command.get("input_shape"), build.command.get("dynamic_batch_size"), build.why
        ('x:-1,3,320,480', '1,2,4', 'the batch alone varies')
    """
    for entry in gears.inputs:
        if not entry.name.isprintable() or ";" in entry.name:
            raise UsageError(
                f"write_atc: the input {shown(entry.name)} cannot be named in --input_shape, whose parts are separated by ;."
                " Rename the input: fixshape onnx rename model.onnx OLD=NEW -o renamed.onnx."
            )
    shapes = list(dict.fromkeys(tuple(gears.shapes(index).values()) for index in range(len(gears))))
    names = [entry.name for entry in gears.inputs]
    shape_options, why = _shape_options(names, shapes)
    options = {
        "model": model,
        "framework": "5",
        "output": os.path.splitext(os.path.basename(model))[0] if output is None else output,
        "soc_version": soc_version,
        **shape_options,
    }
    command = AtcCommand(tuple(options.items()))
    product = _product(gears)
    found = [violation for violation in check_atc(command, header) if not (product and violation.rule == "P6")]
    return AtcBuild(command, (*product, *found), why)


def _shape_options(names: list[str], shapes: _Shapes) -> tuple[dict[str, str], str]:
    """The options that say shapes and gears, and why these."""
    varying = [
        {axis for axis in range(len(first)) if any(shape[i][axis] != first[axis] for shape in shapes)}
        for i, first in enumerate(shapes[0])
    ]
    inputs = [i for i, axes in enumerate(varying) if axes]
    if not inputs:
        return {"input_shape": _written(names, shapes[0], varying)}, "no size varies, and atc takes no single gear"
    if all(varying[i] == {0} for i in inputs) and all(shapes[0]):
        batches = [[shape[i][0] for shape in shapes] for i in inputs]
        if all(batch == batches[0] for batch in batches):
            return {
                "input_shape": _written(names, shapes[0], varying),
                "dynamic_batch_size": ",".join(map(str, batches[0])),
            }, "the batch alone varies"
    if all(varying[i] <= set(_SIDES) and len(shapes[0][i]) == 4 for i in inputs):
        sizes = [[shape[i][2:] for shape in shapes] for i in inputs]
        if all(size == sizes[0] for size in sizes):
            opened = [set(_SIDES) if axes else axes for axes in varying]
            return {
                "input_format": "NCHW",
                "input_shape": _written(names, shapes[0], opened),
                "dynamic_image_size": ";".join(f"{height},{width}" for height, width in sizes[0]),
            }, "height and width alone vary"
    numbers = [[str(shape[i][axis]) for i in inputs for axis in sorted(varying[i])] for shape in shapes]
    return {
        "input_format": "ND",
        "input_shape": _written(names, shapes[0], varying),
        "dynamic_dims": ";".join(map(",".join, numbers)),
    }, _varies(names, shapes, varying)


def _varies(names: list[str], shapes: _Shapes, varying: list[set[int]]) -> str:
    """Why the options for a batch or for images do not do."""
    if not all(shapes[0]):
        return f"the scalar {names[shapes[0].index(())]} is beside gears"
    axes = [f"{name} axis {', '.join(map(str, sorted(open_)))}" for name, open_ in zip(names, varying, strict=True) if open_]
    return (
        "what varies is neither one batch nor one height and width: " + "; ".join(axes[:3]) + ("; ..." if len(axes) > 3 else "")
    )


def _written(names: list[str], shape: tuple[tuple[int, ...], ...], free: Sequence[set[int]]) -> str:
    parts = zip(names, shape, free, strict=True)
    return ";".join(
        f"{name}:{','.join('-1' if axis in axes else str(size) for axis, size in enumerate(dims))}" for name, dims, axes in parts
    )


def _product(gears: Gears) -> list[Violation]:
    """What it costs where batch sizes and canvases multiply."""
    batches = {gear[BATCH] for gear in gears.values if BATCH in gear}
    canvases = {(gear.get(HEIGHT), gear.get(WIDTH)) for gear in gears.values}
    if len(batches) < 2 or len(canvases) < 2:
        return []
    return [
        Violation(
            "P6",
            None,
            f"{len(batches)} batch sizes and {len(canvases)} canvases are {len(gears)} gears",
            "Each gear is compiled as a model of its own, and the .om takes the memory of the largest.",
            "one batch size, or fewer buckets: fixshape plan --buckets 4",
            level="warning",
        )
    ]
