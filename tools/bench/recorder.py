"""What the recorder costs: an SSDlite training step with it, and with torch's own modes, against the same step with none.

    python tools/bench/recorder.py [--steps 20] [--json]

Two workloads, torchvision's own ``ssdlite320_mobilenet_v3_large``, batch 2, SGD: images and boxes of one size (few new keys, so
the cost of counting), and of random sizes (many new keys, so the cost of texts and causes too). Each step is run once with each
mode, one after the other in an order that turns; the figure is the median over steps of ``seconds with / seconds without``.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torchvision
from torch.utils._debug_mode import DebugMode
from torch.utils.flop_counter import FlopCounterMode

from fixshape.audit import OpRecorder

Batch = tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="steps per workload")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = {"static": measure(_static_batch, options.steps), "dynamic": measure(_random_batch, options.steps)}
    if options.json:
        print(json.dumps({"torch": torch.__version__, "threads": options.threads, **results}))
        return
    for name, result in results.items():
        print(f"{name}: {result['launches']:.0f} launches and {result['compiles']:.0f} op compiles a step")
        for mode, milliseconds in result["milliseconds"].items():
            print(f"    {mode:20} {milliseconds:5.0f} ms  {result['ratios'][mode]:.3f}x")


def measure(make_batch: Callable[[random.Random], Batch], steps: int) -> dict[str, Any]:
    torch.manual_seed(0)
    rng = random.Random(0)
    model = torchvision.models.detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def step(batch: Batch) -> None:
        losses = model(*batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()

    counting, lines = OpRecorder(lines=False), OpRecorder()
    modes: dict[str, Callable[[], AbstractContextManager[Any]]] = {
        "none": nullcontext,
        "counting": lambda: counting,
        "with lines": lambda: lines,
        "FlopCounterMode": lambda: FlopCounterMode(display=False),
        "DebugMode": DebugMode,
    }
    for _ in range(2):  # warm-up: the keys of the step, momentum buffers, allocator
        for mode in modes.values():
            with mode():
                step(make_batch(rng))
        counting.step()
        lines.step()
    seconds: dict[str, list[float]] = {name: [] for name in modes}
    for number in range(steps):
        batch = make_batch(rng)  # the same work for all of them
        names = list(modes)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            begin = time.perf_counter()
            with modes[name]():
                step(batch)
            seconds[name].append(time.perf_counter() - begin)
        counting.step()
        lines.step()
    steady = lines.report().steps[2:]
    return {
        "ratios": {
            name: statistics.median(a / b for a, b in zip(taken, seconds["none"], strict=True)) for name, taken in seconds.items()
        },
        "milliseconds": {name: 1e3 * statistics.median(taken) for name, taken in seconds.items()},
        "launches": statistics.mean(counts.launches for counts in steady),
        "compiles": statistics.mean(counts.compiles for counts in steady),
    }


def _static_batch(rng: random.Random) -> Batch:
    return [torch.rand(3, 320, 320) for _ in range(2)], [_target(8, rng) for _ in range(2)]


def _random_batch(rng: random.Random) -> Batch:
    images = [torch.rand(3, rng.randint(240, 480), rng.randint(240, 480)) for _ in range(2)]
    return images, [_target(rng.randint(1, 19), rng) for _ in range(2)]


def _target(boxes: int, rng: random.Random) -> dict[str, torch.Tensor]:
    corners = torch.tensor([[rng.uniform(0, 150), rng.uniform(0, 150)] for _ in range(boxes)])
    extents = torch.tensor([[rng.uniform(10, 80), rng.uniform(10, 80)] for _ in range(boxes)])
    labels = torch.tensor([rng.randrange(1, 91) for _ in range(boxes)])
    return {"boxes": torch.cat([corners, corners + extents], dim=1), "labels": labels}


if __name__ == "__main__":
    main()
