"""The options of ``fixshape audit``, and its help."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

KINDS = {"dynamic": "FS1", "sync": "FS2", "drift": "FS3", "device": "FS4"}
UNKNOWN = "unknown"
FORMATS = ("text", "json", "html", "sarif")

_USAGE = """fixshape audit [options] SCRIPT [-- ARGUMENT ...]
       fixshape audit [options] -m MODULE [-- ARGUMENT ...]
       fixshape audit --backend npu --dry-run [options] SCRIPT [-- ARGUMENT ...]
       fixshape audit --compare BEFORE.json AFTER.json [--format text|html] [--output FILE]"""

_EPILOG = """examples:
  the first five steps of a training script, as it is:
  $ fixshape audit train.py --steps 4 -- --lr 0.01 --data DIR
  56 op compiles a step after the warm-up (655, 225, 63, 49), 54 of them from three lines:
    27  train.py:47
    21  torchvision/models/detection/ssd.py:277
     6  torchvision/models/detection/ssd.py:323
  ...

  a page to look at, and a file to compare with later:
  $ fixshape audit train.py --format html --output audit.html
  $ fixshape audit train.py --format json --output before.json
  $ fixshape audit --compare before.json after.json

  in continuous integration, where only what is new fails:
  $ fixshape audit train.py --fail-on dynamic,sync,drift --max-compiles 0 --baseline audit.json

  on an Ascend NPU that is not there (needs torch-npu and a C compiler): op compiles, what has no kernel there, slow forms:
  $ fixshape audit --backend npu --dry-run train.py --steps 5 -- --device npu

  two ranks, one report:
  $ torchrun --nproc-per-node 2 -m fixshape audit train.py --output audit.txt

A step ends where a DataLoader is asked for its next batch; where it gives none between two steps of the optimiser, after the
first optimiser's step; or only where the script calls fixshape.audit.step(), once it does. The first two steps are the warm-up.
After the last step the script is stopped by an exception, so that its own clean-up runs.

With --output, what was recorded is written after each step, as often as that takes little time: it is there after a crash too,
with the status "running". Without it, what the script prints goes to stderr, and the report alone to stdout. Under torchrun
each rank writes FILE.rankN.json, and rank 0 writes FILE from all of them; the others end with 0 unless their script failed.

exit codes:
  0  nothing that --fail-on or --max-compiles speaks of
  1  something of it
  2  a wrong argument, a script that is missing or is not Python, or one that never makes a step
  3  a defect of fixshape
  A script that raises or exits with another code than 0 keeps its code (1 for an exception), SIGINT gives 130 and SIGTERM 143;
  status and exit_code of --format json tell which it was.
"""


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Adds the subcommand."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "audit",
        help="what is dynamic in a training script, where, and what it costs",
        description="Runs a training script as it is for a few steps, and says what a static-shape device cannot do well in it.",
        usage=_USAGE,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("script", nargs="?", metavar="SCRIPT", help="run as python SCRIPT; its arguments come after --")
    parser.add_argument("-m", dest="module", metavar="MODULE", help="run a module instead, as python -m MODULE")
    parser.add_argument("--backend", choices=("npu",), help="with --dry-run: the device that the script itself uses")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="run on torch-npu over a stand-in for CANN, which counts and computes nothing; the script may read no value there",
    )
    parser.add_argument("--steps", type=_whole(1), default=5, metavar="N", help="stop after N steps (default: 5)")
    parser.add_argument("--format", choices=FORMATS, default="text", help="of the report (default: text)")
    parser.add_argument("--output", metavar="FILE", help="write the report there instead of stdout")
    parser.add_argument(
        "--fail-on",
        type=_kinds,
        default=frozenset(KINDS),
        metavar="KINDS",
        help=f"findings that end in 1, any of {', '.join((*KINDS, UNKNOWN))} with commas, or none (default: {','.join(KINDS)})",
    )
    parser.add_argument(
        "--max-compiles", type=_whole(0), metavar="N", help="end in 1 if a step after the warm-up has more op compiles than N"
    )
    parser.add_argument("--baseline", metavar="AUDIT.json", help="an earlier report: what it has does not end in 1")
    parser.add_argument(
        "--compare", nargs=2, metavar=("BEFORE.json", "AFTER.json"), help="run nothing: what two reports differ in"
    )
    return parser


def split(arguments: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """The command line's own arguments, and those after ``--`` that belong to the script under ``fixshape audit``."""
    own = list(arguments)
    if own[:1] != ["audit"] or "--" not in own:
        return own, ()
    at = own.index("--")
    return own[:at], tuple(own[at + 1 :])


def _kinds(text: str) -> frozenset[str]:
    if text == "none":
        return frozenset()
    kinds = frozenset(part.strip() for part in text.split(","))
    wrong = kinds - {*KINDS, UNKNOWN}
    if wrong:
        raise argparse.ArgumentTypeError(
            f"{', '.join(map(repr, sorted(wrong)))} is none of {', '.join((*KINDS, UNKNOWN))}; none alone is nothing"
        )
    return kinds


def _whole(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return value

    return parse
