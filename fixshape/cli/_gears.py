"""What every command for a deployment target asks for: the plan, the batch sizes, the inputs."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fixshape.cli._exit import ExitCode
from fixshape.cli._plan_arguments import _resize
from fixshape.cli._train_arguments import _positive
from fixshape.errors import ExtraError, UsageError

if TYPE_CHECKING:
    from fixshape.export import Gears, Input, OnnxHeader, Violation
    from fixshape.plan import ShapePlan

USUAL_INPUTS = "images:N,3,H,W"


def add_arguments(parser: argparse.ArgumentParser, *, sizes: bool = False) -> None:
    """Adds the options that say which gears there are; ``sizes`` adds those that say how often each comes."""
    gears = parser.add_argument_group("gears", "the shapes that the model is run with: each bucket with each batch size")
    gears.add_argument("--plan", metavar="PLAN.json", help="the plan that the model was trained with, of fixshape plan -o")
    gears.add_argument("--batch-sizes", type=batch_sizes, default=(1,), metavar="N,N,...", help="images per call (default: 1)")
    gears.add_argument(
        "--inputs",
        metavar="NAME:DIMS;...",
        help=f"the inputs, '{USUAL_INPUTS};image_sizes:N,2' (default: those of the ONNX file, or {USUAL_INPUTS})",
    )
    if sizes:
        gears.add_argument(
            "--sizes",
            metavar="FILE",
            help="sizes of images as fixshape plan reads them: the bucket that most of them go to is opt",
        )
        gears.add_argument(
            "--resize", type=_resize, metavar="SIZE", help="what is done to those images before, as in fixshape plan"
        )


def batch_sizes(text: str) -> tuple[int, ...]:
    """Numbers with commas, each once."""
    try:
        return tuple(dict.fromkeys(_positive(part.strip()) for part in text.split(",")))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers of at least 1 (1,2,4,8)") from None


def read_gears(arguments: argparse.Namespace, header: OnnxHeader | None) -> Gears:
    """The gears that the options ask for."""
    from fixshape.export import header_inputs, parse_inputs, plan_gears
    from fixshape.plan import ShapePlan

    if arguments.plan is None:
        raise UsageError(f"{arguments.command}: --plan is needed: a file of fixshape plan -o.")
    plan = ShapePlan.load(arguments.plan)
    if arguments.inputs is not None:
        inputs = parse_inputs(arguments.inputs)
    else:
        inputs = header_inputs(header) if header is not None else parse_inputs(USUAL_INPUTS)
        _check_canvas(arguments.command, plan, inputs)
    return plan_gears(plan, inputs, batch_sizes=arguments.batch_sizes, counts=_counts(arguments, plan))


def _check_canvas(command: str, plan: ShapePlan, inputs: tuple[Input, ...]) -> None:
    """A file of one canvas must be of a canvas of the plan; its images are the inputs with four axes."""
    canvases = {entry.dims[2:]: entry.name for entry in inputs if len(entry.dims) == 4}
    known = {(bucket.height, bucket.width) for bucket in plan.shapes}
    if not canvases or any(isinstance(side, str) or canvas in known for canvas in canvases for side in canvas):
        return
    canvas, name = next(iter(canvases.items()))
    told = ", ".join(f"{height}x{width}" for height, width in sorted(known)[:8])
    raise UsageError(
        f"{command}: {name} is {canvas[0]}x{canvas[1]} in the file, and the plan has {told}: it is of another model. Give the"
        " plan that the model was trained with, or say what the inputs are with --inputs."
    )


def _counts(arguments: argparse.Namespace, plan: ShapePlan) -> list[int] | None:
    """How many of the images go to each shape of the plan."""
    path, resize = getattr(arguments, "sizes", None), getattr(arguments, "resize", None)
    if path is None:
        if resize is not None:
            raise UsageError(f"{arguments.command}: --resize is for the images of --sizes, which is not given.")
        return None
    try:
        from fixshape.collate import read_sizes
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise ExtraError(
            f"{arguments.command}: --sizes needs {package}, which is not installed here. Run this where it is, or leave --sizes"
            " out: opt is then the largest gear."
        ) from None
    from fixshape.plan import resize_sizes

    sizes = read_sizes(path)
    if resize is not None:
        sizes = resize_sizes(sizes, resize.min_size, resize.max_size, fixed_size=resize.fixed_size)
    assigned = plan.assign(sizes[:, :2])
    return [int((assigned == index).sum()) for index in range(len(plan.shapes))]


def exit_code(violations: Iterable[Violation]) -> ExitCode:
    """What a command that tells violations ends with."""
    from fixshape.export._violation import has_errors

    return ExitCode.FINDINGS if has_errors(violations) else ExitCode.CLEAN


def as_json(violations: Iterable[Violation]) -> list[dict[str, Any]]:
    """Violations for a program."""
    return [asdict(violation) for violation in violations]
