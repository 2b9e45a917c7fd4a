"""``fixshape torchair``: the buckets of a plan as gears of TorchAir."""

from __future__ import annotations

import argparse
import json
from typing import Any

from fixshape.cli import _gears
from fixshape.cli._exit import ExitCode

SCHEMA_VERSION = 1

_EPILOG = """examples:
  $ fixshape torchair --plan plan.json --batch-sizes 2,4
  ...
      torchair.inference.set_dim_gears(images, {0: [2, 4, 2, 4], 3: [320, 320, 480, 480]})
  ...
  $ fixshape torchair --plan plan.json --batch-sizes 1,4
  error (A2): N has a gear of 1, expected 2 or more
      torch makes no symbol of a size of 0 or 1, so that such a call is compiled anew and runs without gears.
      instead: N 4 as gears, and a second torch.compile with dynamic=False for the rest, or pad a batch of 1 to 4 with fillers

The exit code is 1 where TorchAir does not take the gears.

The JSON object of --json: schema_version, code (null where TorchAir does not take the gears), policy, settings [{input, axes}],
violations [{rule, code, message, why, way_out, level, doubtful}].
"""


def add_parser(commands: Any) -> None:
    """Adds the subcommand."""
    parser = commands.add_parser(
        "torchair",
        help="set_dim_gears of TorchAir for the buckets of a plan",
        description="Writes the Python that compiles a model with TorchAir for the buckets of a plan, or says which of its limits"
        " they break.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _gears.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> ExitCode:
    """Runs the subcommand."""
    from fixshape.export import as_text, check_torchair, dim_gears, torchair_code

    gears = _gears.read_gears(arguments, None)
    violations = check_torchair(gears)
    exit_code = _gears.exit_code(violations)
    code = None if exit_code else torchair_code(gears)
    if arguments.json:
        given = dim_gears(gears)
        body = {
            "schema_version": SCHEMA_VERSION,
            "code": code,
            "policy": given.policy,
            "settings": [{"input": name, "axes": axes} for name, axes in given.settings],
            "violations": _gears.as_json(violations),
        }
        print(json.dumps(body, indent=2))
    else:
        print(as_text(violations) if code is None else code, end="\n" if code is None else "")
    return exit_code
