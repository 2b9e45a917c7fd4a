"""``fixshape atc``: the atc command for a plan, the rules that a command breaks, and what a log of atc complains of."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from fixshape.cli import _gears
from fixshape.cli._exit import ExitCode
from fixshape.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fixshape.export import AtcCommand, AtcLogEntry, OnnxHeader, Violation

SCHEMA_VERSION = 1
_WIDTH = 118  # of a line of a command
_CHOOSES = {
    "dynamic_batch_size": "aclmdlSetDynamicBatchSize",
    "dynamic_image_size": "aclmdlSetDynamicHWSize",
    "dynamic_dims": "aclmdlSetInputDynamicDims",
}
_EPILOG = """examples:
  the command for a plan of four canvases, at one batch size:
  $ fixshape atc --onnx model.onnx --plan plan.json --soc-version Ascend310P3
  atc --model=model.onnx --framework=5 --output=model --soc_version=Ascend310P3 --input_format=NCHW \\
      --input_shape=images:1,3,-1,-1 --dynamic_image_size="800,1088;800,1216;800,1344;1344,800"
  4 gears by --dynamic_image_size: height and width alone vary
  at run time aclmdlSetDynamicHWSize chooses the gear, and where it is not called, the largest runs

  what is wrong with a command that somebody wrote:
  $ fixshape atc --check 'atc --model=m.onnx --framework=5 --output=m --soc_version=Ascend310P3 \\
      --input_shape="images:-1,3,640,640" --dynamic_batch_size=8'
  error E10035 (P1): --dynamic_batch_size has 1 gear, expected 2 to 100
      One gear is a fixed shape, and is written as one.
      instead: atc --model=m.onnx --framework=5 --output=m --soc_version=Ascend310P3 --input_shape=images:8,3,640,640

  the same for the command in a script:
  $ fixshape atc --check "$(cat build.sh)" --onnx model.onnx

  what went wrong in a log, and one code by itself:
  $ fixshape atc --log atc.log
  $ fixshape explain E10018

  in a script, where only the command is wanted, and none where it would be refused:
  $ fixshape atc --onnx model.onnx --plan plan.json --soc-version Ascend310P3 --batch-sizes 1,2,4 --emit | sh

Nothing of CANN, onnx or torch is needed. The rules were read in the sources and the manual of atc, and not run with it; those on
which the two disagree say "to be checked on the device".

exit codes:
  0  nothing that atc refuses; warnings and advice may be printed
  1  an error among the rules, or a complaint in the log
  2  a wrong argument, or a file that cannot be used

The JSON object of --json: schema_version, command, gears, option (null for a fixed shape), why, violations [{rule, code,
message, why, way_out, level, doubtful}]; with --check: schema_version, command, violations, corrected (null where the model is at
fault); with --log: schema_version, entries [{code, line, times, text, values, family, title, what, why, do}].
"""


def add_parser(commands: Any) -> None:
    """Adds the subcommand."""
    parser = commands.add_parser(
        "atc",
        help="the atc command of a plan, what is wrong with one, and what its log says",
        description="Writes the atc command that builds an ONNX model for the shapes of a plan, checks one that somebody wrote,"
        " or reads a log of atc.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--onnx", metavar="FILE", help="the model; with --check, names and operators are checked too")
    parser.add_argument(
        "--soc-version", metavar="NAME", help="of the chip, as npu-smi info shows it: Ascend310P3; the .om runs on that chip only"
    )
    parser.add_argument("--emit", action="store_true", help="print the command only; nothing where it would be refused")
    parser.add_argument(
        "--check",
        metavar="COMMAND",
        help="say which rules this command breaks, in quotes; what stands around it in a script may be there too",
    )
    parser.add_argument("--log", metavar="FILE", help="say what a log of atc complains of")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    _gears.add_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> ExitCode:
    """Runs the subcommand."""
    _check(arguments)
    if arguments.log is not None:
        return _log(arguments)
    return _command(arguments) if arguments.check is not None else _write(arguments)


def _check(arguments: argparse.Namespace) -> None:
    """What argparse cannot: options that need one another."""
    writing = ("plan", "soc_version", "inputs", "emit")
    given = [f"--{name.replace('_', '-')}" for name in writing if getattr(arguments, name)]
    given += ["--batch-sizes"] * (arguments.batch_sizes != (1,))
    for name in ("check", "log"):
        other = "log" if name == "check" else "check"
        if getattr(arguments, name) is None:
            continue
        extra = given + [f"--{other}"] * (getattr(arguments, other) is not None)
        extra += ["--onnx"] * (name == "log" and arguments.onnx is not None)
        if extra:
            raise UsageError(
                f"atc: --{name} cannot be used with {extra[0]}. Give it alone" + (" or with --onnx." if name == "check" else ".")
            )
        return
    missing = [name for name in ("onnx", "plan", "soc_version") if not getattr(arguments, name)]
    if missing:
        raise UsageError(
            f"atc: --{missing[0].replace('_', '-')} is missing. Give --onnx, --plan and --soc-version for a command, --check for"
            " one that is there, or --log for what it printed."
        )
    if arguments.emit and arguments.json:
        raise UsageError("atc: --emit cannot be used with --json, which holds the command too.")


def _write(arguments: argparse.Namespace) -> ExitCode:
    from fixshape.export import read_header, write_atc
    from fixshape.export._atc_options import GEAR_OPTIONS

    header = read_header(arguments.onnx)
    gears = _gears.read_gears(arguments, header)
    command, violations, why = write_atc(gears, model=arguments.onnx, soc_version=arguments.soc_version, header=header)
    option = next((name for name in GEAR_OPTIONS if command.get(name)), None)
    code = _gears.exit_code(violations)
    if arguments.json:
        _print_json(command=str(command), gears=len(gears), option=option, why=why, violations=_gears.as_json(violations))
    elif arguments.emit:
        if code is ExitCode.CLEAN:
            print(command)
        _print_text(violations, sys.stderr)
    else:
        print(_folded(command))
        if option:
            print(f"{len(gears)} gears by --{option}: {why}")
            print(f"at run time {_CHOOSES[option]} chooses the gear, and where it is not called, the largest runs")
        else:
            print(f"a fixed shape: {why}")
        _print_text(violations, sys.stdout)
    return code


def _command(arguments: argparse.Namespace) -> ExitCode:
    from fixshape.export import check_atc, correct_atc, parse_atc, read_header

    header: OnnxHeader | None = read_header(arguments.onnx) if arguments.onnx is not None else None
    command = parse_atc(arguments.check)
    violations = check_atc(command, header)
    corrected = correct_atc(command, header)
    if arguments.json:
        told = None if corrected is None else str(corrected)
        _print_json(command=str(command), violations=_gears.as_json(violations), corrected=told)
    elif violations:
        _print_text(violations, sys.stdout)
        errors = [violation for violation in violations if violation.level == "error"]
        if corrected is None:
            print("No command mends this: the model is at fault.")
        elif errors and [violation.way_out.partition("\n")[0] for violation in errors] != [str(corrected)]:
            print(f"corrected: {corrected}")
    else:
        print("no rule is broken" + ("" if header else "; names and operators were not checked, for which --onnx is needed"))
    return _gears.exit_code(violations)


def _log(arguments: argparse.Namespace) -> ExitCode:
    from fixshape.export._atc_log import read_atc_log

    entries = read_atc_log(arguments.log)
    if arguments.json:
        rows = [
            {
                **{name: getattr(entry, name) for name in ("code", "line", "times", "text", "values", "family")},
                **{name: getattr(entry.explained, name, None) for name in ("title", "what", "why", "do")},
            }
            for entry in entries
        ]
        print(json.dumps({"schema_version": SCHEMA_VERSION, "entries": rows}, indent=2))
    elif entries:
        print("\n\n".join(_told(entry) for entry in entries))
    else:
        print("no code of atc is in this log; with --log=debug atc says more")
    complaints = any(not (entry.code or "").startswith("W") for entry in entries)
    return ExitCode.FINDINGS if complaints else ExitCode.CLEAN


def _told(entry: AtcLogEntry) -> str:
    times = f", {entry.times} times" if entry.times > 1 else ""
    known = entry.explained
    title = known.title if known else f"not in the catalogue; it is of {entry.family}"
    lines = [f"{entry.code or 'atc'} (line {entry.line}{times}): {title}"]
    if entry.text:
        lines.append(f"    it says: {entry.text[:200]}")
    if entry.values:
        lines.append(f"    values:  {' | '.join(entry.values)}")
    if known:
        lines += [f"    {known.what}", f"    from:    {known.why}", f"    instead: {known.do}"]
    return "\n".join(lines)


def _print_text(violations: Sequence[Violation], stream: Any) -> None:
    from fixshape.export import as_text

    if violations:
        print(as_text(violations), file=stream)


def _print_json(**fields: Any) -> None:
    print(json.dumps({"schema_version": SCHEMA_VERSION, **fields}, indent=2))


def _folded(command: AtcCommand) -> str:
    """On several lines, where one is too long to read."""
    lines: list[str] = []
    for word in command.words:
        if lines and len(lines[-1]) + len(word) < _WIDTH:
            lines[-1] += f" {word}"
        else:
            lines.append(f"    {word}" if lines else word)
    return " \\\n".join(lines)
