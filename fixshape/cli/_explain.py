"""``fixshape explain``: what a code of the audit or of atc means, where it comes from, and what to write instead."""

from __future__ import annotations

import argparse
import difflib
import json
from typing import Any

from fixshape.cli._exit import ExitCode
from fixshape.errors import UsageError

SCHEMA_VERSION = 1

_EPILOG = """examples:
  $ fixshape explain FS102
  FS102: a read by a bool mask
  ...
  After
      from fixshape.ops import masked_mean

      result = masked_mean(loss, valid_mask=mask)
  $ fixshape explain E10018
  E10018: -1 outside of the batch
  ...
  $ fixshape explain                 all codes
  $ fixshape explain FS102 --json    the same for a program
"""


def add_parser(commands: Any) -> None:
    """Adds the subcommand."""
    parser = commands.add_parser(
        "explain",
        help="what a code of the audit or of atc means, and the rewrite",
        description="What a code of the audit or of Ascend's atc means, where it comes from, and what to write instead. Without a"
        " code: all of them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("code", nargs="?", help="as the audit or atc prints it, FS101 or E10018")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> ExitCode:
    """Runs the subcommand."""
    from fixshape.export._atc_codes import ATC_CODES, explain_atc_code

    code = None if arguments.code is None else arguments.code.upper()
    if code in ATC_CODES:  # without the audit, which needs torch
        entries, text = [_of_atc(code)], explain_atc_code(code)
    else:
        from fixshape.audit._catalogue import CATALOGUE, explain

        if code is None:
            entries = [*map(_of_audit, CATALOGUE), *map(_of_atc, ATC_CODES)]
            text = "\n".join(f"{entry['code']}  {entry['title']}" for entry in entries)
        elif code in CATALOGUE:
            entries, text = [_of_audit(code)], explain(code)
        else:
            codes = [*CATALOGUE, *ATC_CODES]
            near = difflib.get_close_matches(code, codes, n=3, cutoff=0.6) or codes
            raise UsageError(f"explain: there is no code {arguments.code[:60]!r}. Near it: {', '.join(near)}.")
    print(json.dumps({"schema_version": SCHEMA_VERSION, "codes": entries}, indent=2) if arguments.json else text)
    return ExitCode.CLEAN


def _of_audit(code: str) -> dict[str, str | None]:
    from fixshape.audit._catalogue import CATALOGUE

    entry = CATALOGUE[code]
    names = ("title", "what", "why", "rewrite", "before", "after")
    return {"code": code, **{name: getattr(entry, name) for name in names}}


def _of_atc(code: str) -> dict[str, str | None]:
    """In the same fields; there is no code to rewrite."""
    from fixshape.export._atc_codes import ATC_CODES

    entry = ATC_CODES[code]
    return {
        "code": code,
        "title": entry.title,
        "what": entry.what,
        "why": entry.why,
        "rewrite": entry.do,
        "before": None,
        "after": None,
    }
