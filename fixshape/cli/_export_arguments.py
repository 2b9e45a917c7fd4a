"""The options of ``fixshape export``, and its help."""

from __future__ import annotations

import argparse
from typing import Any

from fixshape.cli import _gears
from fixshape.cli._train_arguments import _positive

USUAL_OPSET = 18

_EPILOG = """examples:
  a classifier of torchvision for three buckets, proved at two batch sizes:
  $ fixshape export shufflenet_v2_x0_5 --plan plan.json --batch-sizes 1,4 --onnx model.onnx --output-names logits --verify
  model.onnx: images:N,3,H,W -> logits:N,1000, opset 18, 204 nodes, 5.8 MB
  images [1, 3, 64, 96]: equal to 3.7e-09
  images [4, 3, 64, 96]: equal to 5.6e-09
  ...

  a model of your own, of which an export would keep the example's batch:
  $ fixshape export my_models:make --plan plan.json --batch-sizes 2,4 --check-trace
  my_models.py:9: aten.view.default([4, 4, 96, 64]) has [4, 4, -1], and [2, 4, -1] in the trace: a Python number is frozen. ...

  padding too is proved where the model takes the sizes of the images on their canvas:
  $ fixshape export my_models:masked --inputs 'images:N,3,H,W;image_sizes:N,2' --plan plan.json --onnx model.onnx --verify
  ...
  images [1, 3, 96, 96], image_sizes [1, 2]: equal to 3.0e-07; 96x64 padded: equal to 3.0e-07

  a static detection model, one file for each canvas:
  $ fixshape export ssdlite320_mobilenet_v3_large --plan plan.json --batch-sizes 1,2 --onnx ssd.onnx --input-names data

  where scores are equal but for rounding, two runtimes find other boxes. Then the proof goes by decisions: the numbers of each
  are equal but for rounding, and on the file's numbers torch comes to the file's boxes:
  $ fixshape export retinanet_resnet50_fpn --plan plan.json --onnx retinanet.onnx --verify
  ...
  images [1, 3, 320, 480], image_sizes [1, 2]: equal to 0.0e+00 where torch decides on the file's numbers, 6.6e-06 from its own

  what the vendors' tools make of the plan, without a file:
  $ fixshape export shufflenet_v2_x0_5 --plan plan.json --batch-sizes 2,4 --targets

A factory gives a module, or a pair of a module and a function that makes its inputs: shapes by name in, a tuple of tensors out.
A TorchScript module is exported too, by torch's older exporter.

The exit code is 1 where the graph is not what was asked, a gear differs, or tracing would freeze a value; --targets leaves it.

The JSON object of --json: schema_version, model, error (why no file was written), onnx [{path, inputs, outputs, opset, nodes}],
gears [{shapes, differences, largest, image, padded, padded_largest, followed, padded_followed, ok}] (null without --verify),
blind (the model gives the same for any input), trace_breaks [{kind, site {file, line, function}, message, way_out}] (with
--check-trace), targets [{target, how, violations, legal}] (with --targets).
"""


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Adds the subcommand."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "export",
        help="write a model as ONNX for the buckets of a plan, and prove it in each",
        description="Writes a model as ONNX, with the axes dynamic that the buckets of a plan and the batch sizes differ in,"
        " checks that the graph has them, and runs it in onnxruntime against torch in every bucket.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a classification, segmentation, detection or video model of torchvision by the name of its builder, or"
        " package.module:factory, which gives a module, or a module and a function that makes its inputs from their shapes",
    )
    parser.add_argument("--weights", metavar="FILE", help="a saved state_dict of the model (default: random weights)")
    _gears.add_arguments(parser)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--onnx", metavar="FILE", help="the file to write; of a detection model one for each canvas, model_320x480.onnx"
    )
    output.add_argument("--input-names", type=_names, metavar="A,B", help="names of the inputs in the file, in their order")
    output.add_argument(
        "--output-names",
        type=_names,
        metavar="A,B",
        help="names of the outputs (default: keys and fields of what the model gives)",
    )
    output.add_argument(
        "--opset",
        type=_positive,
        default=USUAL_OPSET,
        metavar="N",
        help=f"default: {USUAL_OPSET}, the highest of ATC",
    )
    output.add_argument("--json", action="store_true", help="one JSON object on stdout")
    checks = parser.add_argument_group("checks")
    checks.add_argument(
        "--verify", action="store_true", help="compare with torch in every bucket and batch size; a file that differs is not kept"
    )
    checks.add_argument(
        "--check-trace", action="store_true", help="name the lines of the model whose values tracing would freeze"
    )
    checks.add_argument(
        "--targets", action="store_true", help="say what ATC, TensorRT, TorchAir and ONNX Runtime make of the plan"
    )
    checks.add_argument(
        "--soc-version",
        metavar="NAME",
        help="the chip that --targets takes for ATC, as npu-smi info shows it (default: Ascend310P3)",
    )
    return parser


def _names(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text!r} has an empty name, expected names with commas (boxes,scores)")
    return names
