"""``fixshape onnx``: finished ONNX files, rewritten and proved, or refused."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import zipfile
from typing import TYPE_CHECKING, Any

from fixshape.cli import _gears
from fixshape.cli._exit import ExitCode
from fixshape.cli._output import check_replaced
from fixshape.cli._train_arguments import _positive
from fixshape.errors import ExportError, UsageError

if TYPE_CHECKING:
    from onnx import ModelProto

    from fixshape.export import Port

SCHEMA_VERSION = 1
_MOST_SHOWN = 4

_EPILOG = """examples:
  a file that was exported with 2 images and holds that number in 32 places:
  $ fixshape onnx set-batch shufflenet.onnx --to dynamic -o out.onnx
  shufflenet.onnx: batch size 2 -> N; 32 nodes held it: 'node_view' (Reshape), 'node_view_1' (Reshape), ... and 28 more
  proved in onnxruntime at batch sizes 1, 2, 5: each of 8 samples gets what the original gives it
  out.onnx is written

  one whose result has no fixed size, and which is refused:
  $ fixshape onnx set-batch points.onnx --to 4 -o out.onnx
  fixshape: ExportError: set_batch: at batch size 1 ... The batch is lost in 'node_NonZero_4' (NonZero). Nothing was written.

  names, fixed shapes, and two exports made into one dynamic file:
  $ fixshape onnx rename model.onnx images=data output=fc1 -o out.onnx
  $ fixshape onnx fix-shape model.onnx --input data:1,3,800,1344 -o out.onnx
  $ fixshape onnx diff at_256.onnx at_384.onnx --check at_512.onnx -o out.onnx

  what a file is against what is asked of it:
  $ fixshape onnx check model.onnx --plan plan.json --batch-sizes 1,4 --target atc
  error (O4): axis 0 of images is 2 in the file, expected to be dynamic (1, 4)
      The exporter fixed it, most often since the model makes a Python number of it; constants inside may hold it too.
      instead: fixshape onnx set-batch model.onnx --to dynamic -o out.onnx

Nothing is written where the proof fails; the exit code is 1 then, as it is where check finds an error.

The JSON object of --json: schema_version, command, file, output, and what the command says: changed [node], proved [sentence]; or
violations [{rule, code, message, why, way_out, level, doubtful}].
"""


def add_parser(commands: Any) -> None:
    """Adds the subcommand."""
    parser = commands.add_parser(
        "onnx",
        help="rewrite a finished ONNX file: batch size, names, shapes; with proof",
        description="Rewrites finished ONNX files and runs the result in onnxruntime against the original; or says what of a"
        " file is not what is asked.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    actions = parser.add_subparsers(dest="action", metavar="action", required=True)

    batch = _action(actions, "set-batch", _set_batch, "another batch size, or a dynamic one, constants inside included")
    batch.add_argument(
        "--to",
        required=True,
        type=_to,
        metavar="N|dynamic|4",
        help="a batch size; or a symbol, which makes it dynamic (dynamic: N)",
    )
    batch.add_argument(
        "--axis", action="append", type=_axis, default=[], metavar="NAME=AXIS",
        help="the batch axis of each input that has one, where it is not axis 0 of all (h0=1; once for each)",
    )  # fmt: skip

    rename = _action(actions, "rename", _rename, "other names for inputs and outputs, everywhere they stand")
    rename.add_argument("names", nargs="+", type=_pair, metavar="OLD=NEW", help="the new name of an input or output")

    fix = _action(actions, "fix-shape", _fix_shape, "sizes in the place of symbols")
    fix.add_argument(
        "--input",
        action="append",
        required=True,
        metavar="NAME:DIMS",
        help="the shape of an input, data:1,3,800,1344 (once for each)",
    )

    diff = _action(actions, "diff", _diff, "the dynamic file behind two exports at different sizes")
    diff.add_argument("second", metavar="SECOND", help="the same model, exported at other sizes")
    diff.add_argument("--check", metavar="THIRD", help="a third export at sizes of its own, which the result must equal")

    for changing in (batch, rename, fix, diff):
        changing.add_argument("-o", "--output", required=True, metavar="OUT.onnx", help="write the result there")
        if changing is not diff:
            changing.add_argument(
                "--size", action="append", type=_size, default=[], metavar="SYMBOL=SIZE",
                help="a size for a symbol in the runs (default: 64 for pixels, 8 for others)",
            )  # fmt: skip
            changing.add_argument(
                "--feeds", metavar="FILE.npz", help="arrays for inputs that cannot be drawn: scales, lengths, token ids"
            )

    check = _action(actions, "check", _check, "what was asked against what the file is")
    _gears.add_arguments(check)
    check.add_argument("--target", choices=("atc", "trt", "ort"), help="check the opset and the operators for this tool too")
    check.add_argument("--run", action="store_true", dest="run_it", help="run the file at every gear too, in onnxruntime")


def _action(actions: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(
        name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False
    )
    parser.add_argument("file", metavar="MODEL.onnx", help="the ONNX file")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.set_defaults(run=_run, act=run)
    return parser


def _run(arguments: argparse.Namespace) -> ExitCode:
    """A refusal is a failed check, no wrong argument."""
    try:
        code: ExitCode = arguments.act(arguments)
    except ExportError as error:
        print(f"fixshape: {type(error).__name__}: {error}", file=sys.stderr)
        return ExitCode.FINDINGS
    return code


def _set_batch(arguments: argparse.Namespace) -> ExitCode:
    from fixshape.export import load_model, set_batch

    _check_output(arguments, arguments.file)
    axes = _once("--axis", arguments.axis) or None
    change = set_batch(load_model(arguments.file), arguments.to, axes=axes, **_inputs(arguments))
    proof = change.proof
    sizes = ", ".join(map(str, proof.batch_sizes))
    proved = f"proved in onnxruntime at batch sizes {sizes}: each of {proof.samples} samples gets what the original gives it"
    told = f"batch size {change.before} -> {change.after}; {_held(change.changed)}"
    body = {"before": change.before, "after": change.after, "changed": change.changed, "proved": [proved]}
    return _written(arguments, change.model, told, body)


def _rename(arguments: argparse.Namespace) -> ExitCode:
    from fixshape.export import load_model, rename

    _check_output(arguments, arguments.file)
    names = _once("rename", arguments.names)
    result = rename(load_model(arguments.file), names, **_inputs(arguments))
    told = ", ".join(f"{old} -> {new}" for old, new in names.items())
    return _written(arguments, result, told, {"changed": list(names), "proved": ["equals the original in onnxruntime"]})


def _fix_shape(arguments: argparse.Namespace) -> ExitCode:
    from fixshape.export import fix_shape, load_model, parse_inputs

    _check_output(arguments, arguments.file)
    shapes: dict[str, tuple[int, ...]] = {}
    for entry in parse_inputs(";".join(arguments.input)):
        if entry.dynamic:
            raise UsageError(
                f"onnx fix-shape: --input {entry}: {entry.dims[entry.dynamic[0]]} is no size, expected a whole number."
            )
        shapes[entry.name] = tuple(int(dim) for dim in entry.dims)
    result = fix_shape(load_model(arguments.file), shapes, **_inputs(arguments))
    told = "; ".join(f"{name} {','.join(map(str, shape))}" for name, shape in shapes.items())
    return _written(arguments, result, told, {"changed": list(shapes), "proved": ["equals the original in onnxruntime"]})


def _diff(arguments: argparse.Namespace) -> ExitCode:
    from fixshape.export import diff, load_model

    _check_output(arguments, arguments.file, arguments.second, arguments.check)
    third = None if arguments.check is None else load_model(arguments.check)
    found = diff(load_model(arguments.file), load_model(arguments.second), third)
    symbols = ", ".join(f"{symbol} ({one} and {two})" for symbol, (one, two) in found.symbols.items())
    body = {"symbols": found.symbols, "changed": found.changed, "proved": found.proved}
    return _written(arguments, found.model, f"{symbols}; {_held(found.changed)}", body)


def _check(arguments: argparse.Namespace) -> ExitCode:
    from fixshape.export import as_text, check_onnx, check_runs, read_header

    header = read_header(arguments.file)
    if arguments.inputs is None:
        arguments.inputs = ";".join(_asked(port) for port in header.inputs)
    gears = _gears.read_gears(arguments, header)
    violations = check_onnx(header, gears, target=arguments.target, path=arguments.file)
    wrong_inputs = any(violation.rule in ("O1", "O2", "O3") for violation in violations)
    if arguments.run_it and not wrong_inputs:
        violations += check_runs(arguments.file, header, gears)
    if arguments.json:
        body = {"schema_version": SCHEMA_VERSION, "command": "check", "file": arguments.file, "gears": len(gears)}
        print(json.dumps(body | {"violations": _gears.as_json(violations)}, indent=2))
    else:
        ran = f", and runs at every gear ({len(gears)})" if arguments.run_it else ""
        print(as_text(violations) if violations else f"{arguments.file}: is what was asked for{ran}")
    return _gears.exit_code(violations)


def _asked(port: Port) -> str:
    """What a plan asks of an input, whatever the file has fixed: the batch first, and an image's height and width."""
    dims = [str(dim or "N") for dim in port.dims or ()]
    dims[:1] = ["N"] if dims else []
    if len(dims) == 4:
        dims[2:] = ["H", "W"]
    return f"{port.name}:{','.join(dims)}"


def _written(arguments: argparse.Namespace, model: ModelProto, told: str, body: dict[str, Any]) -> ExitCode:
    from fixshape._files import write_atomic

    write_atomic(arguments.output, model.SerializeToString())
    if arguments.json:
        head = {"schema_version": SCHEMA_VERSION, "command": arguments.action, "file": arguments.file, "output": arguments.output}
        print(json.dumps(head | body, indent=2))
    else:
        print("\n".join([f"{arguments.file}: {told}", *body["proved"], f"{arguments.output} is written"]))
    return ExitCode.CLEAN


def _held(changed: tuple[str, ...]) -> str:
    if not changed:
        return "no node held it"
    more = f" and {len(changed) - _MOST_SHOWN} more" if len(changed) > _MOST_SHOWN else ""
    count = f"{len(changed)} nodes" if len(changed) > 1 else "1 node"
    return f"{count} held it: {', '.join(changed[:_MOST_SHOWN])}{more}"


def _check_output(arguments: argparse.Namespace, *sources: str | None) -> None:
    """That the result can be written, before anything is run for it."""
    path = arguments.output
    check_replaced("onnx: --output", path)
    for source in filter(None, sources):
        if os.path.exists(path) and os.path.exists(source) and os.path.samefile(path, source):
            raise UsageError(f"onnx: --output {path} would overwrite {source}. Give another name.")


def _inputs(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the runs are fed."""
    feeds = None
    if arguments.feeds is not None:
        import numpy as np

        try:
            with np.load(arguments.feeds, allow_pickle=False) as file:
                feeds = {name: file[name] for name in file.files}
        except (ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile):
            raise UsageError(f"onnx: --feeds {arguments.feeds} is no .npz file of arrays: write one by numpy.savez.") from None
    return {"sizes": _once("--size", arguments.size), "feeds": feeds}


def _once(option: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise UsageError(f"onnx: {option}: {name!r} is given twice.")
        found[name] = value
    return found


def _to(text: str) -> int | str:
    if re.fullmatch(r"[0-9]{1,9}", text):
        return _positive(text)
    if re.fullmatch(r"[A-Za-z_]\w*", text, re.ASCII):
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is neither a batch size, nor dynamic, nor a symbol such as N")


def _pair(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not equals or not old or not new:
        raise argparse.ArgumentTypeError(f"{text!r} is not OLD=NEW")
    return old, new


def _axis(text: str) -> tuple[str, int]:
    name, _, axis = text.rpartition("=")
    if not name or not re.fullmatch(r"[0-9]{1,2}", axis):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=AXIS (h0=1)")
    return name, int(axis)


def _size(text: str) -> tuple[str, int]:
    symbol, _, size = text.rpartition("=")
    if not symbol:
        raise argparse.ArgumentTypeError(f"{text!r} is not SYMBOL=SIZE (H=320)")
    return symbol, _positive(size)
