"""The options of ``fixshape train``, and its help."""

from __future__ import annotations

import argparse
from typing import Any

MODELS = (
    "ssdlite320_mobilenet_v3_large",
    "ssd300_vgg16",
    "retinanet_resnet50_fpn",
    "retinanet_resnet50_fpn_v2",
    "fcos_resnet50_fpn",
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "maskrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn_v2",
    "keypointrcnn_resnet50_fpn",
)

_EPILOG = """examples:
  an SSDlite on drawn shapes, random weights, nothing is downloaded:
  $ fixshape train
  model                        ssdlite320_mobilenet_v3_large on cpu
  steps                        60
  loss                         9.323 (first 10 steps) -> 5.207 (last 10)
  shapes used: 1               8x3x320x320, 12 boxes (60 steps)
  padding                      0.0% of pixels, 51.0% of box slots
  boxes dropped                0
  op compiles per step         578, 144, 0, 0, 0 (predicted)
  nothing compiled after step  2
  seconds per step             1.426 in the warm-up, 0.661 after it
  peak memory                  1892.0 MB

  on COCO annotations, which needs pycocotools:
  $ fixshape train --data coco --annotations instances.json --images DIR --model ssd300_vgg16 --lr 1e-4 --steps 50

  with four buckets instead of one shape that covers all, planned from the sizes:
  $ fixshape train --model fasterrcnn_mobilenet_v3_large_320_fpn --buckets 4 --batch-size 4 --steps 40

  a Mask R-CNN; on drawn shapes all models but the SSDs are resized to 320, on COCO to their own 800 to 1333:
  $ fixshape train --model maskrcnn_resnet50_fpn --lr 1e-3 --batch-size 2 --steps 8

  on an Ascend NPU that is not there: what would be compiled, by torch-npu's own dispatcher (needs torch-npu and a C compiler):
  $ fixshape train --backend npu --dry-run --batch-size 2 --steps 5

  on two processes, or devices, of this machine; the report is of both (losses: the mean; compiles: of the rank that has most):
  $ torchrun --standalone --nproc-per-node 2 -m fixshape train --backend cpu --batch-size 2 --steps 6

  a run that may be killed at any time, and goes on where its last checkpoint was when it is started again:
  $ fixshape train --steps 200 --checkpoint run --checkpoint-every 20 --resume

  with torchvision's own forward and batches that are not padded, for comparison:
  $ fixshape train --dynamic --steps 8 --json

The JSON object of --json: schema_version, model, backend, ranks, dynamic, steps, resumed_at (steps that an
earlier run made), losses, evaluation {AP, AP50, AP75} (null without --val-annotations), warmup {steps, compiles} (what several
buckets took before the first step; compiles is null where they were not counted), op_compiles_per_step (null where a step
was not counted), graph_compiles_per_step (null where the device does not count), compiles_after_step (the last step in which
something compiled; null where it did not come to rest), fallbacks (ops that ran on the host, reads included),
seconds_per_step {warmup, steady}, shapes, padding {pixels, slots} (null with --dynamic), boxes_dropped, peak_memory_mb, dry_run
{launches_per_step, waits, slow_forms} (null without --dry-run; with it op compiles are counted, and losses and seconds are null).
"""


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Adds the subcommand."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "train",
        help="train a detection model with static shapes",
        description="Trains a detection model of torchvision's with static shapes, and says what compiled and when it stopped.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data", choices=("shapes", "coco"), default="shapes", help="drawn shapes, or a COCO file (default: shapes)"
    )
    data.add_argument("--annotations", metavar="A.json", help="COCO annotation file (for --data coco)")
    data.add_argument("--images", metavar="DIR", help="folder of its images (for --data coco)")
    data.add_argument("--val-annotations", metavar="A.json", help="measure COCO's AP on this file at the end (needs pycocotools)")
    data.add_argument("--val-images", metavar="DIR", help="folder of its images")
    shapes = data.add_mutually_exclusive_group()
    shapes.add_argument("--plan", metavar="P.json", help="buckets to pad to, as fixshape plan writes them")
    shapes.add_argument(
        "--buckets", type=_positive, default=1, metavar="K", help="plan K buckets that pad least (default: 1, which covers all)"
    )
    data.add_argument("--workers", type=_count, default=0, help="DataLoader worker processes (default: 0)")
    model = parser.add_argument_group("model")
    names = f"one of {', '.join(MODELS)} (default: the first)"
    model.add_argument("--model", choices=MODELS, default=MODELS[0], metavar="NAME", help=names)
    model.add_argument("--weights", metavar="FILE", help="a state_dict to start from (default: random weights)")
    model.add_argument("--dynamic", action="store_true", help="torchvision's own forward and list batches, for comparison")
    run = parser.add_argument_group("run")
    run.add_argument("--steps", type=_positive, default=60, help="default: 60")
    run.add_argument("--batch-size", type=_positive, default=8, help="default: 8")
    run.add_argument("--lr", type=_rate, default=0.02, help="of SGD with momentum 0.9 (default: 0.02)")
    run.add_argument("--seed", type=int, default=0, help="of weights, order and drawn shapes (default: 0)")
    run.add_argument("--backend", choices=("auto", "npu", "cuda", "xla", "cpu"), default="auto", help="default: auto")
    run.add_argument(
        "--dry-run",
        action="store_true",
        help="with --backend npu: the real torch-npu over a stand-in for CANN that counts and computes nothing; needs no NPU",
    )
    run.add_argument(
        "--guard", choices=("warn", "error"), help="what to do when something compiles after the warm-up (counts all steps)"
    )
    output = parser.add_argument_group("output")
    output.add_argument("--checkpoint", metavar="DIR", help="keep the state of the run there: at its end, and every N steps")
    output.add_argument("--checkpoint-every", type=_positive, metavar="N", help="steps between checkpoints (default: at the end)")
    output.add_argument("--resume", action="store_true", help="go on from the newest whole checkpoint of --checkpoint DIR")
    output.add_argument(
        "--count-compiles",
        action="store_true",
        help="predict op compiles until steady (on for --json and drawn shapes, unless the device counts by itself)",
    )
    output.add_argument("--json", action="store_true", help="one JSON object on stdout instead of the summary")
    output.add_argument("--output", metavar="DIR", help="write model.pt (a state_dict), plan.json and summary.json there")
    return parser


def _positive(text: str) -> int:
    return _whole(text, 1)


def _count(text: str) -> int:
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return value


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value
