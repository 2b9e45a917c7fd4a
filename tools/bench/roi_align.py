"""Seconds of RoIAlign over four levels, forward and backward: fixshape's against torchvision's, one after the other in turn.

    python tools/bench/roi_align.py [--canvas 320 320] [--repeats 15] [--json]

Two images of 512 boxes, 256 channels, 7 x 7 bins, sampling ratio 2, float32; the answer is flattened as a box head flattens it.
The figure is the median over pairs of neighbouring runs of ``seconds static / seconds torchvision``.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

from fixshape.ops import multiscale_roi_align

SCALES = [1 / 4, 1 / 8, 1 / 16, 1 / 32]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--canvas", type=int, nargs=2, default=(320, 320), metavar=("H", "W"))
    parser.add_argument("--boxes", type=int, default=512, help="per image")
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=15, help="pairs of runs")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a line")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    result = measure(*options.canvas, options.boxes, options.channels, options.repeats)
    if options.json:
        print(json.dumps({"torch": torch.__version__, "threads": options.threads, **result}))
        return
    print(
        f"static / torchvision {result['ratio']:.3f}x  (forward + backward, ms: static {result['static_forward_ms']:.0f} +"
        f" {result['static_backward_ms']:.0f}, torchvision {result['torchvision_forward_ms']:.0f} +"
        f" {result['torchvision_backward_ms']:.0f}; largest difference {result['difference']:.1e})"
    )


def measure(height: int, width: int, count: int, channels: int, repeats: int) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    features = [
        torch.randn(2, channels, math.ceil(height * s), math.ceil(width * s), generator=generator).requires_grad_()
        for s in SCALES
    ]
    boxes = draw_boxes(height, width, count, generator)
    valid_mask = torch.ones(2, count, dtype=torch.bool)
    pooler = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    pooler.scales, pooler.map_levels = SCALES, initLevelMapper(2, 5)
    named = {str(k): feature for k, feature in enumerate(features)}

    def static() -> Tensor:
        return multiscale_roi_align(features, boxes, 7, scales=SCALES, valid_mask=valid_mask).flatten(0, 1).flatten(1)

    def torchvision() -> Tensor:
        return pooler(named, list(boxes), [(height, width)] * 2).flatten(1)

    with torch.no_grad():
        difference = (static() - torchvision()).abs().max().item()
    gradient = torch.randn(2 * count, channels * 49, generator=generator)
    seconds: dict[str, list[tuple[float, float]]] = {"static": [], "torchvision": []}
    sides = {"static": static, "torchvision": torchvision}
    for repeat in range(repeats + 2):  # two to warm up
        for name in sides if repeat % 2 else reversed(sides):
            forward_and_backward = time_once(sides[name], gradient, features)
            if repeat >= 2:
                seconds[name].append(forward_and_backward)
    ratios = [sum(a) / sum(b) for a, b in zip(seconds["static"], seconds["torchvision"], strict=True)]
    result = {"ratio": statistics.median(ratios), "difference": difference}
    for name, pairs in seconds.items():
        for part, times in zip(("forward", "backward"), zip(*pairs, strict=True), strict=True):
            result[f"{name}_{part}_ms"] = 1e3 * statistics.median(times)
    return result


def time_once(pool: Callable[[], Tensor], gradient: Tensor, features: list[Tensor]) -> tuple[float, float]:
    for feature in features:
        feature.grad = None
    begin = time.perf_counter()
    pooled = pool()
    middle = time.perf_counter()
    pooled.backward(gradient)
    return middle - begin, time.perf_counter() - middle


def draw_boxes(height: int, width: int, count: int, generator: torch.Generator) -> Tensor:
    """[2, count, 4] boxes inside the canvas whose sides are spread evenly over the octaves, so that all levels are used."""
    size = torch.tensor([width, height])
    sides = (16 * (size / 16) ** torch.rand(2, count, 2, generator=generator)).minimum(size)
    corner = torch.rand(2, count, 2, generator=generator) * (size - sides)
    return torch.cat([corner, corner + sides], dim=-1)


if __name__ == "__main__":
    main()
