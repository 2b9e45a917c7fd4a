"""``fixshape export``: a model as ONNX for the buckets of a plan, proved in each."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fixshape.cli import _export_arguments, _gears
from fixshape.cli._exit import ExitCode
from fixshape.cli._output import check_replaced
from fixshape.errors import ExportError, UsageError

if TYPE_CHECKING:
    from torch import nn

    from fixshape.export import Gears, OnnxHeader, Verification
    from fixshape.export._trace_breaks import TraceBreak

SCHEMA_VERSION = 1
_DETECTOR_INPUTS = "images:N,3,H,W;image_sizes:N,2"


def add_parser(commands: Any) -> None:
    """Adds the subcommand."""
    parser = _export_arguments.add_parser(commands)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> ExitCode:
    """Runs the subcommand."""
    _check(arguments)
    gears = _gears.read_gears(arguments, None)  # a plan that is none is told before a model is built

    from fixshape.cli._export_model import build
    from fixshape.detection import StaticDetector
    from fixshape.export._export_detector import deployed_detector
    from fixshape.export._trace_breaks import trace_breaks

    model, make_inputs = build(arguments.model, arguments.weights)
    detects = isinstance(model, StaticDetector)
    if detects:
        arguments.inputs = _DETECTOR_INPUTS
        gears = _gears.read_gears(arguments, None)
    else:
        gears = _renamed(arguments, gears)
    body: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "model": arguments.model, "onnx": [], "error": None}
    lines: list[str] = []
    clean = True
    if arguments.check_trace:
        try:
            breaks = trace_breaks(deployed_detector(model) if detects else model, gears, make_inputs=make_inputs)
        except ExportError as error:
            print(f"fixshape: ExportError: {error}", file=sys.stderr)
            if arguments.json:
                print(json.dumps(body | {"error": str(error)}, indent=2))
            return ExitCode.FINDINGS
        clean = not breaks
        body["trace_breaks"] = [_break_json(found) for found in breaks]
        lines += [str(found) for found in breaks] or ["tracing freezes nothing in the gears that were tried"]
    headers: list[tuple[str, OnnxHeader]] = []
    if arguments.onnx is not None:
        try:
            headers, verification = _export(arguments, model, gears, make_inputs)
        except ExportError as error:
            body["error"] = str(error)
            print(f"fixshape: ExportError: {error}", file=sys.stderr)
            clean = False
        else:
            kept = verification is None or verification.ok
            clean &= kept
            body["onnx"] = [_file_json(path, header) for path, header in headers] if kept else []
            body["gears"] = None if verification is None else [asdict(row) | {"ok": row.ok} for row in verification.rows]
            body["blind"] = None if verification is None else verification.blind
            lines += [
                _file_text(path, header) if kept else f"{path} is not written: it differs from torch" for path, header in headers
            ]
            lines += [] if verification is None else [str(verification)]
    if arguments.targets:
        from fixshape.export import legality, legality_text

        rows = legality(gears, soc_version=arguments.soc_version, header=headers[0][1] if len(headers) == 1 else None)
        body["targets"] = [asdict(row) | {"legal": row.legal} for row in rows]
        lines.append(legality_text(rows))
    print(json.dumps(body, indent=2) if arguments.json else "\n".join(lines))
    return ExitCode.CLEAN if clean else ExitCode.FINDINGS


def _check(arguments: argparse.Namespace) -> None:
    """What argparse cannot: options that need one another, and the place to write to, before anything is built."""
    if arguments.soc_version is not None and not arguments.targets:
        raise UsageError("export: --soc-version is for the rules of --targets, which is not given.")
    if arguments.onnx is None:
        for name in ("verify", "output_names"):
            if getattr(arguments, name):
                raise UsageError(f"export: --{name.replace('_', '-')} is for the file of --onnx, which is not given.")
        if not arguments.check_trace and not arguments.targets:
            raise UsageError("export: there is nothing to do: give --onnx FILE, --check-trace or --targets.")
    else:
        check_replaced("export: --onnx", arguments.onnx)


def _renamed(arguments: argparse.Namespace, gears: Gears) -> Gears:
    """With the names of ``--input-names``."""
    from fixshape.export import Gears as Renamed
    from fixshape.export import Input

    names = arguments.input_names
    if names is None:
        return gears
    if len(names) != len(gears.inputs) or len(set(names)) != len(names):
        raise UsageError(
            f"export: --input-names has {len(names)} names ({', '.join(names)}), expected one of its own for each of"
            f" {len(gears.inputs)} inputs: {', '.join(map(str, gears.inputs))}. --inputs says which there are."
        )
    inputs = tuple(Input(name, entry.dims) for name, entry in zip(names, gears.inputs, strict=True))
    return Renamed(inputs, gears.values, gears.counts)


def _export(
    arguments: argparse.Namespace, model: nn.Module, gears: Gears, make_inputs: Any
) -> tuple[list[tuple[str, OnnxHeader]], Verification | None]:
    """Writes the file, or those of a detection model; with ``--verify`` only what is equal to torch."""
    from fixshape.detection import StaticDetector
    from fixshape.export import export_onnx, read_header, verify_onnx
    from fixshape.export._export_detector import export_detector, verify_detector
    from fixshape.plan import ShapePlan

    target = Path(arguments.onnx)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        written = Path(folder) / target.name
        verification: Verification | None = None
        if isinstance(model, StaticDetector):
            plan = ShapePlan.load(arguments.plan)
            files = export_detector(model, plan, written, batch_sizes=arguments.batch_sizes, opset=arguments.opset)
            verification = verify_detector(model, files) if arguments.verify else None
            _rename(arguments, [file.path for file in files])
        else:
            names = arguments.output_names
            export_onnx(model, gears, written, make_inputs=make_inputs, output_names=names, opset=arguments.opset)
            verification = verify_onnx(model, written, gears, make_inputs=make_inputs) if arguments.verify else None
        # The data of a large model before the file that names it.
        found = sorted(Path(folder).iterdir(), key=lambda file: (file.suffix != ".data", file.name))
        headers = [(str(target.parent / file.name), read_header(file)) for file in found if file.suffix != ".data"]
        if verification is None or verification.ok:
            for file in found:
                os.replace(file, target.parent / file.name)
    return headers, verification


def _rename(arguments: argparse.Namespace, files: list[Path]) -> None:
    """A detection model's own names become those that were asked for; what comes after them keeps its name."""
    import onnx

    from fixshape.export import read_header
    from fixshape.export._onnx_rename import rename
    from fixshape.export._onnx_run import load_model

    for file in files:
        header = read_header(file)
        names: dict[str, str] = {}
        for option, ports in (("input_names", header.inputs), ("output_names", header.outputs)):
            asked = getattr(arguments, option) or ()
            if len(asked) > len(ports):
                raise UsageError(
                    f"export: --{option.replace('_', '-')} has {len(asked)} names ({', '.join(asked)}), expected at most"
                    f" {len(ports)}, for {', '.join(port.name for port in ports)}."
                )
            names |= {port.name: name for port, name in zip(ports, asked, strict=False) if port.name != name}
        if names:
            sizes = {"N": arguments.batch_sizes[0]} if "N" in (header.inputs[0].dims or ()) else None
            onnx.save(rename(load_model(file), names, sizes=sizes), file)


def _file_text(path: str, header: OnnxHeader) -> str:
    inputs, outputs = ("; ".join(map(str, ports)) for ports in (header.inputs, header.outputs))
    size = os.path.getsize(path) / 1e6
    opset = header.opsets.get("")
    return f"{path}: {inputs} -> {outputs}, opset {opset}, {len(header.nodes)} nodes, {size:.1f} MB"


def _file_json(path: str, header: OnnxHeader) -> dict[str, Any]:
    return {
        "path": path,
        "inputs": [asdict(port) for port in header.inputs],
        "outputs": [asdict(port) for port in header.outputs],
        "opset": header.opsets.get(""),
        "nodes": len(header.nodes),
    }


def _break_json(found: TraceBreak) -> dict[str, Any]:
    place = {"file": found.site.file, "line": found.site.line, "function": found.site.function} if found.site else None
    return {"kind": found.kind, "site": place, "message": found.message, "way_out": found.way_out}
