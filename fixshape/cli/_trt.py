"""``fixshape trt``: optimization profiles for the buckets of a plan, and what is wrong with a trtexec command."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from fixshape.cli import _gears
from fixshape.cli._exit import ExitCode
from fixshape.cli._train_arguments import _positive
from fixshape.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fixshape.export import OnnxHeader, Profile

SCHEMA_VERSION = 1

_EPILOG = """examples:
  one profile for each bucket, as the command that builds the engine:
  $ fixshape trt --onnx model.onnx --plan plan.json
  trtexec --onnx=model.onnx --profile=0 --minShapes=images:1x3x320x320 --optShapes=images:1x3x320x320 ...

  one range over all of them, best where most images of a data set are:
  $ fixshape trt --onnx model.onnx --plan plan.json --batch-sizes 1,4 --ranges 1 --sizes sizes.csv --emit onnxruntime
  {
    "trt_profile_min_shapes": "images:1x3x320x320",
    "trt_profile_opt_shapes": "images:4x3x320x480",
    "trt_profile_max_shapes": "images:4x3x480x480"
  }

  a command from an older tutorial:
  $ fixshape trt --check 'trtexec --onnx=m.onnx --minShapes=x:1x512 --optShapes=x:1x1600 --maxShapes=x:1x1024 --buildOnly'
  error (T2): --buildOnly is gone: the trtexec of TensorRT 10 and later does not know it
      --skipInference has taken its place.
      instead: --skipInference
  error (T10): x: min 1x512, opt 1x1600, max 1x1024: on axis 1, opt 1600 is not between 512 and 1024
      A profile is a range: kernels are chosen for opt, and must run everything from min to max.
      instead: --minShapes=x:1x512 --optShapes=x:1x1024 --maxShapes=x:1x1600
  corrected: trtexec --onnx=m.onnx --minShapes=x:1x512 --optShapes=x:1x1024 --maxShapes=x:1x1600 --skipInference

The exit code is 1 where something is an error; warnings and advice leave it at 0.

The JSON object of --json: schema_version, violations [{rule, code, message, why, way_out, level, doubtful}], and with --check
corrected (a command, or null where only its author can know), else emit, text and profiles [{input: {min, opt, max}}].
"""


def add_parser(commands: Any) -> None:
    """Adds the subcommand."""
    parser = commands.add_parser(
        "trt",
        help="TensorRT profiles for the buckets of a plan, or check a trtexec command",
        description="Writes the optimization profiles that a plan needs, or checks a trtexec command that somebody wrote."
        " TensorRT need not be installed; the flags are those of TensorRT 11.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--onnx", metavar="FILE", help="the model; with --check, its inputs are compared with the command's shapes"
    )
    parser.add_argument(
        "--check", metavar="COMMAND", help="a trtexec command, in quotes; what stands around it in a script may be there too"
    )
    parser.add_argument(
        "--emit", choices=("trtexec", "python", "onnxruntime"), help="what to write the profiles as (default: trtexec)"
    )
    parser.add_argument("--ranges", type=_positive, metavar="K", help="at most so many profiles (default: one for each gear)")
    parser.add_argument("--engine", metavar="FILE", help="the engine that is built (default: the model's name with .plan)")
    _gears.add_arguments(parser, sizes=True)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> ExitCode:
    """Runs the subcommand."""
    from fixshape.export import read_header

    if arguments.check is None and arguments.onnx is None:
        raise UsageError("trt: give --onnx with --plan, or --check with a command.")
    header = read_header(arguments.onnx) if arguments.onnx is not None else None
    return _check(arguments, header) if arguments.check is not None else _emit(arguments, header)


def _check(arguments: argparse.Namespace, header: OnnxHeader | None) -> ExitCode:
    from fixshape.export import as_text, check_trtexec, correct_trtexec

    for name in ("plan", "emit", "ranges", "engine", "inputs", "sizes"):
        if getattr(arguments, name) is not None:
            raise UsageError(f"trt: --check looks at a command as it is: it cannot be used with --{name}.")
    violations = check_trtexec(arguments.check, header=header)
    corrected = correct_trtexec(arguments.check, header=header) if violations else None
    if arguments.json:
        body = {"schema_version": SCHEMA_VERSION, "violations": _gears.as_json(violations), "corrected": corrected}
        print(json.dumps(body, indent=2))
    elif violations:
        print(as_text(violations))
        print(f"corrected: {corrected}" if corrected else "What is meant cannot be told from the command: correct it by hand.")
    else:
        print("no rule is broken")
    return _gears.exit_code(violations)


def _emit(arguments: argparse.Namespace, header: OnnxHeader | None) -> ExitCode:
    from fixshape.export import as_text, builder_code, check_trtexec, onnxruntime_options, plan_profiles, trtexec_command

    gears = _gears.read_gears(arguments, header)
    emit = arguments.emit or "trtexec"
    ranges = 1 if emit == "onnxruntime" and arguments.ranges is None else arguments.ranges
    profiles = plan_profiles(gears, ranges=ranges, header=header)
    engine = arguments.engine or str(PurePath(arguments.onnx).with_suffix(".plan"))
    command = trtexec_command(profiles, onnx=arguments.onnx, engine=engine)
    violations = check_trtexec(command, header=header)
    if emit == "trtexec":
        text = command
    elif emit == "python":
        text = builder_code(profiles, onnx=arguments.onnx, engine=engine).rstrip("\n")
    else:
        text = json.dumps(onnxruntime_options(profiles), indent=2)
    if arguments.json:
        body = {
            "schema_version": SCHEMA_VERSION,
            "emit": emit,
            "text": text,
            "profiles": _profiles(profiles),
            "violations": _gears.as_json(violations),
        }
        print(json.dumps(body, indent=2))
    else:
        print(text)
        if violations:
            print(as_text(violations), file=sys.stderr)
    return _gears.exit_code(violations)


def _profiles(profiles: Sequence[Profile]) -> list[dict[str, dict[str, tuple[int, ...]]]]:
    return [
        {name: {"min": span.smallest, "opt": span.opt, "max": span.largest} for name, span in profile.ranges.items()}
        for profile in profiles
    ]
