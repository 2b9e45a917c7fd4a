"""``fixshape explain``: what a code of the audit means, why it costs, and what to write instead."""

from __future__ import annotations

import argparse
import json
from typing import Any

from fixshape.cli._exit import ExitCode

SCHEMA_VERSION = 1

_EPILOG = """examples:
  $ fixshape explain FS102
  FS102: a read by a bool mask
  ...
  After
      from fixshape.ops import masked_mean

      result = masked_mean(loss, valid_mask=mask)
  $ fixshape explain                 all codes
  $ fixshape explain FS102 --json    the same for a program
"""


def add_parser(commands: Any) -> None:
    """Adds the subcommand."""
    parser = commands.add_parser(
        "explain",
        help="what a code of the audit means, and the rewrite",
        description="What a code of the audit means, why it costs, and what to write instead. Without a code: all of them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("code", nargs="?", help="as the audit prints it, FS101")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> ExitCode:
    """Runs the subcommand."""
    from fixshape.audit._catalogue import CATALOGUE, explain

    text = explain(arguments.code) if arguments.code is not None else _table(CATALOGUE)
    if not arguments.json:
        print(text)
        return ExitCode.CLEAN
    chosen = CATALOGUE if arguments.code is None else {arguments.code.upper(): CATALOGUE[arguments.code.upper()]}
    entries = [
        {
            "code": code,
            "title": entry.title,
            "what": entry.what,
            "why": entry.why,
            "rewrite": entry.rewrite,
            "before": entry.before,
            "after": entry.after,
        }
        for code, entry in chosen.items()
    ]
    print(json.dumps({"schema_version": SCHEMA_VERSION, "codes": entries}, indent=2))
    return ExitCode.CLEAN


def _table(catalogue: Any) -> str:
    return "\n".join(f"{code}  {entry.title}" for code, entry in catalogue.items())
