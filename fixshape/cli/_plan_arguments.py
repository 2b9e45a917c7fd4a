"""The options of ``fixshape plan``, and its help."""

from __future__ import annotations

import argparse
import re
from typing import Any, NamedTuple

from fixshape.cli._train_arguments import MODELS, _positive, _rate

MOST_SCALES = 64
USUAL_BUCKETS = 4

_EPILOG = """examples:
  the 5,000 images of COCO val2017 as torchvision's R-CNNs resize them; here sizes.json has rows [height, width, boxes]:
  $ fixshape plan sizes.json --resize 800,1333 --buckets 4 --batch-size 8 -o plan.json
  bucket    slots  images   share   waste  most boxes  over
  800x1088     63   1,814   36.3%   5.63%          63     0
  800x1216     56   1,612   32.2%   2.03%          56     0
  800x1344     41     346    6.9%  10.94%          41     0
  1344x800     45   1,228   24.6%  20.40%          45     0
  all              5,000  100.0%   8.42%          63     0
  8.42 % padding; no plan with 4 buckets has less than 8.41 %
  in whole batches of 8: 8.43% padding, 624 steps an epoch, 8 images left out

  as many buckets as make the whole training shortest, where one costs a minute to compile:
  $ fixshape plan sizes.json --resize 800,1333 --buckets auto --compile-seconds 60 --step-seconds 0.4 --epochs 12

  other sizes: all alike, as a model has them, or of scales that are drawn:
  $ fixshape plan instances.json --resize 320x320
  $ fixshape plan sizes.csv --model fasterrcnn_resnet50_fpn
  $ fixshape plan sizes.npy --scales 480-800 --buckets 8 --plot plan.png

  with batches of as many images as fit into memory, and a spare bucket for what comes later:
  $ fixshape plan instances.json --resize 800,1333 --pixels-per-batch 8000000 --fallback -o plan.json

waste is padded pixels / pixels of the images - 1; over counts images with more boxes than slots, which PadToBucket's overflow
policy is for. Images of COCO files are counted without their crowd annotations.

The JSON object of --json: schema_version, file, images (of the file), scales (that each counts once at), multiple_of, digest (of
the plan), report {images, waste, most_boxes, over, certificate {waste, lower_bound, buckets}, rows}, batches {batch_size, steps,
waste, left_out} (null with scales), frontier [{buckets, waste, lower_bound, seconds}] (null without auto).
"""


class Resize(NamedTuple):
    """What the data set does to an image: the arguments of :func:`fixshape.plan.resize_sizes`."""

    min_size: tuple[int, ...]
    max_size: int | None = None
    fixed_size: tuple[int, int] | None = None  # (width, height), as torchvision has it


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Adds the subcommand."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "plan",
        help="choose the few shapes to train with, from the sizes of a data set",
        description="Chooses the few shapes that a data set is padded to, with the fewest padded pixels, and says how few there"
        " could be at best.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "file",
        metavar="FILE",
        help="COCO annotations or rows [height, width, boxes] (.json), lines height,width[,boxes] (.csv), or an array of rows"
        " (.npy)",
    )
    sizes = parser.add_argument_group("sizes", "what is done to an image before it is padded (default: nothing)")
    sizes.add_argument(
        "--resize",
        type=_resize,
        metavar="SIZE",
        help="SHORT,LONG: torchvision's rule, 800,1333 for its R-CNNs; or HxW: every image becomes that",
    )
    sizes.add_argument(
        "--model", choices=MODELS, metavar="NAME", help="the own rule of a torchvision model, named as fixshape train names it"
    )
    sizes.add_argument(
        "--scales",
        type=_scales,
        metavar="LOW-HIGH[:STEP]",
        help="short sides that are drawn from (STEP: 32); the longer side is at most the LONG of --resize, or 1333",
    )
    plan = parser.add_argument_group("plan")
    plan.add_argument(
        "--buckets", type=_buckets, metavar="K|auto", help=f"how many; auto: as many as pay (default: {USUAL_BUCKETS})"
    )
    plan.add_argument(
        "--multiple-of",
        type=_positive,
        metavar="N",
        help="heights and widths are multiples of this (default: 32, or what the model of --model asks for)",
    )
    plan.add_argument("--max-boxes", type=_positive, metavar="N", help="box slots of every bucket (default: as its images need)")
    plan.add_argument("--max-pixels", type=_positive, metavar="N", help="no bucket has more pixels")
    plan.add_argument(
        "--pixels-per-batch", type=_positive, metavar="N", help="give each bucket the batch size that fits into this"
    )
    plan.add_argument("--fallback", action="store_true", help="add a bucket that covers all, compiled only when it is needed")
    plan.add_argument("--batch-size", type=_positive, default=8, metavar="N", help="images per step (default: 8)")
    price = parser.add_argument_group("price", "for --buckets auto, which needs all three")
    price.add_argument("--compile-seconds", type=_rate, metavar="S", help="that the first steps of one bucket take")
    price.add_argument("--step-seconds", type=_rate, metavar="S", help="that a later step takes")
    price.add_argument("--epochs", type=_positive, metavar="N", help="of the training")
    output = parser.add_argument_group("output")
    output.add_argument("-o", "--output", metavar="PLAN.json", help="write the plan there, for fixshape train --plan")
    output.add_argument("--plot", metavar="FILE", help="draw the sizes and the buckets there, .png or .svg; needs matplotlib")
    output.add_argument("--json", action="store_true", help="one JSON object on stdout instead of the table")
    return parser


def _resize(text: str) -> Resize:
    if match := re.fullmatch(r"(\d{1,6}),(\d{1,6})", text, re.ASCII):
        short, long = int(match[1]), int(match[2])
        if 1 <= short and 1 <= long:
            return Resize((short,), long)
    elif match := re.fullmatch(r"(\d{1,6})x(\d{1,6})", text, re.ASCII):
        height, width = int(match[1]), int(match[2])
        if height >= 1 and width >= 1:
            return Resize((height,), None, (width, height))
    raise argparse.ArgumentTypeError(f"{text!r} is neither SHORT,LONG (800,1333) nor HxW (320x320)")


def _scales(text: str) -> tuple[int, ...]:
    match = re.fullmatch(r"(\d{1,6})-(\d{1,6})(?::(\d{1,6}))?", text, re.ASCII)
    low, high, step = (int(part or 32) for part in match.groups()) if match else (0, 0, 0)
    if not (1 <= low <= high and step >= 1):
        raise argparse.ArgumentTypeError(f"{text!r} is not LOW-HIGH or LOW-HIGH:STEP (480-800:32)")
    scales = tuple(range(low, high + 1, step))
    if len(scales) > MOST_SCALES:
        raise argparse.ArgumentTypeError(f"{text!r} is {len(scales)} scales, at most {MOST_SCALES} are planned for")
    return scales


def _buckets(text: str) -> int | str:
    """How many, or ``auto``."""
    if text == "auto":
        return text
    try:
        return _positive(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a whole number of at least 1 nor auto") from None
