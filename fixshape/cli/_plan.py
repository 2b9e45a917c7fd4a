"""``fixshape plan``: the sizes of a data set in, the few shapes to train with out."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

from fixshape.cli import _plan_arguments
from fixshape.cli._exit import ExitCode
from fixshape.cli._output import check_output
from fixshape.cli._plan_arguments import USUAL_BUCKETS, Resize
from fixshape.errors import FixshapeWarning, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fixshape.plan import ShapePlan

    Sizes = NDArray[np.int64]

SCHEMA_VERSION = 1
_MOST_BUCKETS = 16  # that auto tries
_LONG_SIDE = 1333  # of torchvision's R-CNNs, where scales are given alone


def add_parser(commands: Any) -> None:
    """Adds the subcommand."""
    parser = _plan_arguments.add_parser(commands)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> ExitCode:
    """Runs the subcommand."""
    _check(arguments)

    from fixshape.collate import read_sizes
    from fixshape.plan import as_json, as_text, describe, plot

    given = read_sizes(arguments.file)
    sizes, multiple_of = _resized(arguments, given)
    scales = len(sizes) // len(given)
    plan = _planned(arguments, sizes, multiple_of, scales)
    report = describe(plan, sizes)
    batches = _batches(plan, sizes, arguments.batch_size, report.over == 0) if scales == 1 else None
    prices = _prices(arguments, sizes, multiple_of, scales, len(plan.buckets)) if arguments.buckets == "auto" else None
    if arguments.plot:
        plot(plan, sizes, arguments.plot)
    if arguments.output:
        plan.save(arguments.output)
    if arguments.json:
        body = {
            "schema_version": SCHEMA_VERSION,
            "file": arguments.file,
            "images": len(given),
            "scales": scales,
            "multiple_of": multiple_of,
            "digest": plan.digest,
            "report": as_json(report),
            "batches": batches,
            "frontier": prices,
        }
        print(json.dumps(body, indent=2))
    else:
        said = f"{len(given):,} images, each at {scales} scales\n" if scales > 1 else ""
        print(said + as_text(report) + _batches_text(batches) + _prices_text(prices, len(plan.buckets)), end="")
    return ExitCode.CLEAN


def _check(arguments: argparse.Namespace) -> None:
    """What argparse cannot: options that need one another, and places to write to, before anything is read."""
    if arguments.model and (arguments.resize or arguments.scales):
        raise UsageError("plan: --model has its own resize: it cannot be used with --resize or --scales.")
    if arguments.scales and arguments.resize and arguments.resize.fixed_size:
        raise UsageError("plan: --scales draws the short side, but --resize HxW leaves nothing to draw. Give SHORT,LONG.")
    prices = {name: getattr(arguments, name) for name in ("compile_seconds", "step_seconds", "epochs")}
    if arguments.buckets == "auto" and None in prices.values():
        raise UsageError("plan: --buckets auto needs --compile-seconds, --step-seconds and --epochs.")
    given = [name.replace("_", "-") for name, value in prices.items() if value is not None]
    if arguments.buckets != "auto" and given:
        raise UsageError(f"plan: --{given[0]} is for --buckets auto, but --buckets is {arguments.buckets or USUAL_BUCKETS}.")
    for name in ("output", "plot"):
        path = getattr(arguments, name)
        if path is None:
            continue
        check_output(f"plan: --{name}", path)
        if os.path.exists(path) and os.path.exists(arguments.file) and os.path.samefile(path, arguments.file):
            raise UsageError(f"plan: --{name} {path} would overwrite the sizes that are read from it. Give another name.")


def _resized(arguments: argparse.Namespace, sizes: Sizes) -> tuple[Sizes, int]:
    """The sizes as the data set gives them, and what the buckets are multiples of."""
    from fixshape.plan import resize_sizes

    if arguments.model:
        import torch
        from torchvision.models import detection

        from fixshape.detection import host_transform

        with torch.device("meta"):  # its transform is asked for, and its weights take no memory
            model = getattr(detection, arguments.model)(weights=None, weights_backbone=None)
        return host_transform(model).sizes(sizes), arguments.multiple_of or model.transform.size_divisible
    rule: Resize | None = arguments.resize
    if arguments.scales:
        rule = Resize(arguments.scales, rule.max_size if rule else _LONG_SIDE)
    resized = sizes if rule is None else resize_sizes(sizes, rule.min_size, rule.max_size, fixed_size=rule.fixed_size)
    return resized, arguments.multiple_of or 32


def _planned(arguments: argparse.Namespace, sizes: Sizes, multiple_of: int, scales: int) -> ShapePlan:
    from fixshape.plan import plan_buckets, plan_by_cost

    options: dict[str, Any] = {
        "multiple_of": multiple_of,
        "max_boxes": arguments.max_boxes,
        "max_pixels": arguments.max_pixels,
        "pixels_per_batch": arguments.pixels_per_batch,
        "fallback": arguments.fallback,
    }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FixshapeWarning)
        if arguments.buckets == "auto":
            plan = plan_by_cost(
                sizes,
                compile_seconds=arguments.compile_seconds,
                step_seconds=arguments.step_seconds,
                epochs=arguments.epochs,
                batch_size=arguments.batch_size * scales,  # an image is once in an epoch, and here once at each scale
                most=_MOST_BUCKETS,
                **options,
            )
        else:
            plan = plan_buckets(sizes, arguments.buckets or USUAL_BUCKETS, **options)
    for warning in caught:
        if arguments.buckets is not None:  # that the usual number is too many is no news
            print(f"fixshape: warning: {warning.message}", file=sys.stderr)
    return plan


def _batches(plan: ShapePlan, sizes: Sizes, batch_size: int, boxes: bool) -> dict[str, Any]:
    """What an epoch of whole batches pads: a batch takes one bucket, and what is left over in one goes to a larger one."""
    from fixshape.collate import BucketBatchSampler

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FixshapeWarning)  # of images in no batch, which are counted below
        # With more boxes than slots an image has no bucket; the padder's overflow policy then goes by its pixels alone.
        sampler = BucketBatchSampler(plan, sizes if boxes else sizes[:, :2], batch_size)
    pixels = sizes[:, 0] * sizes[:, 1]
    steps = real = padded = 0
    for batch in sampler:
        steps += 1
        real += int(pixels[[int(index) for index in batch]].sum())
        padded += plan.shapes[batch[0].bucket].area * len(batch)
    return {
        "batch_size": batch_size if plan.batch_sizes is None else None,
        "steps": steps,
        "waste": padded / real - 1 if steps else None,
        "left_out": sampler.dropped,
    }


def _batches_text(batches: dict[str, Any] | None) -> str:
    if batches is None:
        return ""
    of = "its own size" if batches["batch_size"] is None else str(batches["batch_size"])
    if not batches["steps"]:
        return f"no bucket has the images of a whole batch of {of}\n"
    return (
        f"in whole batches of {of}: {batches['waste']:.2%} padding, {batches['steps']:,} steps an epoch,"
        f" {batches['left_out']:,} images left out\n"
    )


def _prices(
    arguments: argparse.Namespace, sizes: Sizes, multiple_of: int, scales: int, chosen: int
) -> list[dict[str, Any]] | None:
    """What more and fewer buckets than the chosen number would take, in padding and in seconds of the whole training."""
    from fixshape.plan import frontier

    caps = [cap for cap in (arguments.max_pixels, arguments.pixels_per_batch) if cap is not None]
    if caps and arguments.fallback:
        return None  # the samples over the cap have no bucket in a frontier
    most = min(_MOST_BUCKETS, chosen + 3)
    steps = -(-len(sizes) // (arguments.batch_size * scales)) * arguments.epochs
    return [
        {
            "buckets": point.buckets,
            "waste": point.waste,
            "lower_bound": point.lower_bound,
            "seconds": arguments.compile_seconds * point.buckets + arguments.step_seconds * steps * (1 + point.waste),
        }
        for point in frontier(sizes, most, multiple_of=multiple_of, max_pixels=min(caps, default=None))
    ]


def _prices_text(prices: list[dict[str, Any]] | None, chosen: int) -> str:
    if prices is None:
        return ""
    lines = ["", "buckets    waste  at least      hours"]
    for price in prices:
        mark = "  <- chosen" if price["buckets"] == chosen else ""
        least = math.floor(price["lower_bound"] * 10_000) / 10_000  # down: a bound that is rounded up may be false
        lines.append(f"{price['buckets']:7}  {price['waste']:7.2%}  {least:8.2%}  {price['seconds'] / 3600:9.3f}{mark}")
    return "\n".join(lines) + "\n"
