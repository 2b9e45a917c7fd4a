"""``fixshape``: reads the arguments, calls one subcommand, and turns errors into exit codes."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

from fixshape import __version__
from fixshape.cli import _atc, _audit, _env, _explain, _export, _onnx, _plan, _torchair, _train, _trt
from fixshape.cli._audit_arguments import split
from fixshape.cli._exit import ExitCode
from fixshape.errors import FixshapeError, NonFiniteLossError, ShapeDriftError

_EPILOG = """examples:
  $ fixshape train           the main job on drawn shapes, in about a minute; nothing is downloaded
  $ fixshape plan sizes.csv  the few shapes to pad a data set to
  $ fixshape audit train.py  what is dynamic in a training script, where, and what it costs
  $ fixshape explain FS101   what a finding of the audit means, and the rewrite
  $ fixshape env             what can be used here, and why not the rest
  $ fixshape train --help    more, with output

exit codes:
  0  it ran, and found nothing
  1  it ran, and a check failed
  2  a wrong argument, or a file or device that cannot be used
  3  a defect of fixshape
"""


def make_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands."""
    parser = argparse.ArgumentParser(
        prog="fixshape",
        description="Static-shape training in PyTorch for devices that compile per shape.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"fixshape {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    for command in (_train, _plan, _audit, _export, _onnx, _atc, _trt, _torchair, _explain, _env):
        command.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code; a wrong argument ends in ``SystemExit(2)``, as argparse has it.

    Args:
        arguments: without the program's name; ``None`` takes the process's own.
    """
    # With a vendor's plug-in installed, torch loads it at import, and fails where that vendor's driver is missing.
    os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")
    own, script_arguments = split(sys.argv[1:] if arguments is None else arguments)
    parsed = make_parser().parse_args(own, argparse.Namespace(script_arguments=script_arguments))
    try:
        code: int = parsed.run(parsed)
    except (ShapeDriftError, NonFiniteLossError) as error:
        return _fail(ExitCode.FINDINGS, error)
    except (FixshapeError, OSError) as error:
        return _fail(ExitCode.USAGE, error)
    except Exception:
        traceback.print_exc()
        return ExitCode.INTERNAL
    return code


def _fail(code: ExitCode, error: Exception) -> ExitCode:
    print(f"fixshape: {type(error).__name__}: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
