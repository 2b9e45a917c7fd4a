"""How much padding and how many shapes each way of making batches costs, on real sizes.

    python tools/bench/plan.py [coco_shapes.json] [--buckets 8] [--seeds 3]

The file has one [height, width, boxes] row per image; without it, coco_shapes.json in the folder that FIXSHAPE_DATA names. Sizes
are resized as torchvision's 800/1333 does. "waste" is padded pixels / pixels of the images - 1 over one epoch. Three counts of
distinct shapes follow, each what a different device compiles for: (H, W) alone, with the largest box count of the batch, and with
the tuple of all its box counts. "left out" is how many images the epoch does not have. All are means over the seeds.

The baselines pad a batch to its largest height and width, rounded up to 32, and its boxes not at all. "torchvision" follows
references/detection/group_by_aspect_ratio.py (k=3, RandomSampler), "detectron2" its AspectRatioGroupedDataset (wider than high
or not), "one square" pads all to the largest side. Ours are BucketBatchSampler's batches (drop_last=True), padded to their bucket
and its box slots. What is left over in a group detectron2 leaves out, and torchvision partly completes with images that the epoch
has had; random batches end with a short one.
"""

from __future__ import annotations

import argparse
import bisect
import json
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fixshape.collate import BucketBatchSampler
from fixshape.plan import frontier, plan_buckets, resize_sizes

Ints = NDArray[np.int64]
Batch = tuple[list[int], tuple[int, int] | None, int | None]  # samples, their canvas and their box slots where these are fixed
BATCH_SIZES = (2, 8, 16)
SCALES = list(range(480, 801, 32))


def in_order(sizes: Ints, batch_size: int, seed: int) -> Iterator[Batch]:
    """Random batches."""
    order = shuffled(len(sizes), seed)
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size], None, None


def one_square(sizes: Ints, batch_size: int, seed: int) -> Iterator[Batch]:
    """Random batches, padded to the largest side of all."""
    side = up(int(sizes[:, :2].max()))
    for batch, _, _ in in_order(sizes, batch_size, seed):
        yield batch, (side, side), int(sizes[:, 2].max())


def two_groups(sizes: Ints, batch_size: int, seed: int) -> Iterator[Batch]:
    """Batches of images that are wider than high, or of the others."""
    return grouped([int(width > height) for height, width, _ in sizes.tolist()], batch_size, seed)


def by_aspect_ratio(sizes: Ints, batch_size: int, seed: int) -> Iterator[Batch]:
    """Batches of one of torchvision's groups of aspect ratios; the last ones are filled up from what the group had before."""
    edges = (2 ** np.linspace(-1, 1, 7)).tolist()
    groups = [bisect.bisect_right(edges, width / height) for height, width, _ in sizes.tolist()]
    expected = len(sizes) // batch_size
    made = 0
    for batch in grouped(groups, batch_size, seed, fill=expected):
        made += 1
        yield batch
    assert made == expected


def grouped(groups: list[int], batch_size: int, seed: int, fill: int = 0) -> Iterator[Batch]:
    """A batch as soon as a group has enough for one; then, up to ``fill`` batches, the fullest groups repeat their own."""
    buffers: dict[int, list[int]] = {}
    seen: dict[int, list[int]] = {}
    made = 0
    for index in shuffled(len(groups), seed):
        buffer = buffers.setdefault(groups[index], [])
        buffer.append(index)
        seen.setdefault(groups[index], []).append(index)
        if len(buffer) == batch_size:
            yield list(buffer), None, None
            buffer.clear()
            made += 1
    for group in sorted(buffers, key=lambda group: -len(buffers[group]))[: max(fill - made, 0)]:
        own = seen[group]
        missing = batch_size - len(buffers[group])
        yield buffers[group] + [own[place % len(own)] for place in range(missing)], None, None


def in_buckets(buckets: int) -> Callable[[Ints, int, int], Iterator[Batch]]:
    """BucketBatchSampler's batches."""

    def batches(sizes: Ints, batch_size: int, seed: int) -> Iterator[Batch]:
        plan = plan_buckets(sizes, buckets)
        for batch in BucketBatchSampler(plan, sizes, batch_size, seed=seed, rank=0, world_size=1):
            bucket = plan.shapes[batch[0].bucket]
            yield [int(index) for index in batch], (bucket.height, bucket.width), bucket.max_boxes

    return batches


def shuffled(count: int, seed: int) -> list[int]:
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return order


def up(pixels: int) -> int:
    return -(-pixels // 32) * 32


def measure(sizes: Ints, batches: Iterator[Batch]) -> tuple[float, int, int, int, int]:
    """Waste, distinct shapes by (H, W), with the largest box count and with all box counts, and how many images never came."""
    padded = true = 0
    plain, largest, tuples, came = set(), set(), set(), set()
    for batch, canvas, slots in batches:
        rows = sizes[batch]
        came.update(batch)
        height, width = canvas or (up(int(rows[:, 0].max())), up(int(rows[:, 1].max())))
        padded += height * width * len(rows)
        true += int((rows[:, 0] * rows[:, 1]).sum())
        boxes = tuple(rows[:, 2].tolist()) if slots is None else (slots,) * len(rows)
        plain.add((height, width))
        largest.add((height, width, max(boxes)))
        tuples.add((height, width, boxes))
    return padded / true - 1, len(plain), len(largest), len(tuples), len(sizes) - len(came)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    folder = os.environ.get("FIXSHAPE_DATA")
    default = Path(folder) / "coco_shapes.json" if folder else None
    parser.add_argument("sizes", nargs="?", type=Path, default=default, help="JSON rows of [height, width, boxes]")
    parser.add_argument("--buckets", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    if options.sizes is None:
        parser.error("no file of sizes was named, and FIXSHAPE_DATA is not set")
    coco = np.array(json.loads(options.sizes.read_text()))
    sizes = resize_sizes(coco, 800, 1333)

    print(f"{len(sizes):,} images after 800/1333, mean of {options.seeds} seeds")
    schemes: list[tuple[str, Callable[[Ints, int, int], Iterator[Batch]]]] = [
        ("random", in_order),
        ("one square", one_square),
        ("detectron2, 2 groups", two_groups),
        ("torchvision, k=3", by_aspect_ratio),
        (f"fixshape, {options.buckets} buckets", in_buckets(options.buckets)),
    ]
    print(f"{'batch':>5}  {'':<22}{'waste':>9}{'(H, W)':>9}{'+ largest count':>17}{'+ all counts':>14}{'left out':>10}")
    for batch_size in BATCH_SIZES:
        for name, scheme in schemes:
            found = [measure(sizes, scheme(sizes, batch_size, seed)) for seed in range(options.seeds)]
            waste, plain, largest, tuples, left = np.mean(found, axis=0)
            print(f"{batch_size:>5}  {name:<22}{waste:>9.2%}{plain:>9.0f}{largest:>17.0f}{tuples:>14.0f}{left:>10.1f}")

    every = resize_sizes(coco, SCALES, 1333)
    drawn = every.reshape(len(coco), len(SCALES), -1)[
        np.arange(len(coco)), np.random.default_rng(0).integers(0, len(SCALES), len(coco))
    ]
    print("\nplanning: wall and CPU seconds")
    for title, rows, counts in (
        ("800/1333", sizes, (2, 4, 8, 16)),
        ("480 to 800, one scale an image", drawn, (4, 8, 16)),
        ("480 to 800, all 11 of each image", every, (4, 8, 16)),
    ):
        for k in counts:
            start, cpu = time.perf_counter(), time.process_time()
            certificate = plan_buckets(rows, k).certificate
            spent = f"{time.perf_counter() - start:6.2f}{time.process_time() - cpu:6.2f}"
            print(f"  {title:<34}K={k:<4}{spent}  {certificate}")
    start = time.perf_counter()
    curve = ", ".join(f"{each.waste:.1%}" for each in frontier(sizes, 16))
    print(f"  frontier of 800/1333, 1 to 16: {curve} ({time.perf_counter() - start:.2f} s)")


if __name__ == "__main__":
    main()
