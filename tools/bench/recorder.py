"""What the recorder costs: an SSDlite training step with it against the same step without, one after the other in turn.

    python tools/bench/recorder.py [--steps 20] [--json]

Two workloads, torchvision's own ``ssdlite320_mobilenet_v3_large``, batch 2, SGD: images and boxes of one size (few new keys, so
the cost of counting), and of random sizes (many new keys, so the cost of lines and texts too). The figure is the median over
pairs of neighbouring steps of ``seconds with / seconds without``.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable

import torch
import torchvision

from fixshape.audit import OpRecorder

Batch = tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="pairs of steps per workload")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = {"static": measure(_static_batch, options.steps), "dynamic": measure(_random_batch, options.steps)}
    if options.json:
        print(json.dumps({"torch": torch.__version__, "threads": options.threads, **results}))
        return
    for name, result in results.items():
        print(
            f"{name:8} {result['ratio']:.3f}x  ({result['without_ms']:.0f} ms without, {result['with_ms']:.0f} ms with;"
            f" per step {result['launches']:.0f} launches, {result['compiles']:.0f} op compiles)"
        )


def measure(make_batch: Callable[[random.Random], Batch], pairs: int) -> dict[str, float]:
    torch.manual_seed(0)
    rng = random.Random(0)
    model = torchvision.models.detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def step(batch: Batch) -> None:
        losses = model(*batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()

    recorder = OpRecorder()
    for _ in range(2):  # warm-up: the keys of the step, momentum buffers, allocator
        with recorder:
            step(make_batch(rng))
    recorder.step()
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for pair in range(pairs):
        batch = make_batch(rng)  # both of a pair have the same work; who goes first changes
        for recorded in (True, False) if pair % 2 else (False, True):
            begin = time.perf_counter()
            if recorded:
                with recorder:
                    step(batch)
            else:
                step(batch)
            seconds[recorded].append(time.perf_counter() - begin)
        recorder.step()
    steady = recorder.report().steps[1:]
    return {
        "ratio": statistics.median(a / b for a, b in zip(seconds[True], seconds[False], strict=True)),
        "with_ms": 1e3 * statistics.median(seconds[True]),
        "without_ms": 1e3 * statistics.median(seconds[False]),
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
