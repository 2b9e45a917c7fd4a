"""An eager static training step against torchvision's own, on the same images: seconds and memory.

    python tools/bench/train_step.py [--model ssd300_vgg16] [--batch-size 4] [--steps 12] [--coco DIR] [--json]

Both sides in one process, paired and alternating on the same samples, median of the ratio. The dynamic side is what a user has
today: images of their own size, list batches, torchvision's transform on them. The static side gets the same images after
``host_transform`` and ``PadToBucket``, whose time has a line of its own: a data loader does that in its workers. Memory is the
peak of a process that runs one side alone.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torchvision.models import detection
from torchvision.transforms.v2 import functional

from fixshape import PadToBucket, get_backend, to_static
from fixshape.detection import CocoSamples, DrawnShapes, host_transform
from fixshape.plan import Bucket


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default="ssdlite320_mobilenet_v3_large", choices=("ssdlite320_mobilenet_v3_large", "ssd300_vgg16")
    )
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--steps", type=int, default=12, help="pairs that count, after two that do not")
    parser.add_argument("--coco", help="folder with instances.json and images/ (default: drawn shapes)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    timings = measure(arguments)
    context = multiprocessing.get_context("spawn")
    memory = {}
    for side in ("static", "torchvision"):
        with context.Pool(1) as pool:
            memory[side] = pool.apply(peak_megabytes, (arguments, side))
    result = {**timings, "peak_memory_mb": memory}
    print(json.dumps(result) if arguments.json else as_text(arguments, result))


def load(arguments: argparse.Namespace) -> tuple[Any, int]:
    if arguments.coco:
        folder = Path(arguments.coco)
        return CocoSamples(folder / "images", folder / "instances.json"), 91
    return DrawnShapes(seed=0), DrawnShapes.num_classes


def batches(arguments: argparse.Namespace, model: torch.nn.Module, samples: Any, count: int) -> Any:
    """Pairs (list batch, padded batch, seconds to make the padded one from the list)."""
    transform = host_transform(model)
    slots = max((row[2] for row in samples.sizes()), default=1) if hasattr(samples, "sizes") else samples.max_boxes
    collate = PadToBucket(Bucket(*transform.size(1, 1), slots), invalid="drop")
    for number in range(count):
        indices = [(number * arguments.batch_size + offset) % len(samples) for offset in range(arguments.batch_size)]
        pairs = []
        for image, target in map(samples.__getitem__, indices):
            pixels = functional.to_dtype(functional.to_image(image), torch.float32, scale=True).as_subclass(torch.Tensor)
            pairs.append((pixels, {key: torch.as_tensor(target[key]) for key in ("boxes", "labels")}))
        began = time.perf_counter()
        padded = collate([transform(*pair) for pair in pairs])
        yield [list(side) for side in zip(*pairs, strict=True)], padded, time.perf_counter() - began


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: Any) -> float:
    began = time.perf_counter()
    optimizer.zero_grad(set_to_none=True)
    sum(model(*batch).values()).backward()
    optimizer.step()
    return time.perf_counter() - began


def build(arguments: argparse.Namespace, num_classes: int) -> torch.nn.Module:
    torch.manual_seed(0)
    return getattr(detection, arguments.model)(weights=None, weights_backbone=None, num_classes=num_classes).train()


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    samples, num_classes = load(arguments)
    models = {"torchvision": build(arguments, num_classes)}
    models["static"] = to_static(copy.deepcopy(models["torchvision"]))
    optimizers = {side: torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9) for side, model in models.items()}
    seconds: dict[str, list[float]] = {"torchvision": [], "static": [], "host": []}
    for number, (listed, padded, host) in enumerate(batches(arguments, models["torchvision"], samples, arguments.steps + 2)):
        sides = {"torchvision": listed, "static": padded}
        for side in sorted(sides, reverse=bool(number % 2)):  # who goes first alternates
            taken = step(models[side], optimizers[side], sides[side])
            if number >= 2:
                seconds[side].append(taken)
        if number >= 2:
            seconds["host"].append(host)
    pairs = list(zip(seconds["static"], seconds["torchvision"], strict=True))
    with_host = [(static + host) / dynamic for (static, dynamic), host in zip(pairs, seconds["host"], strict=True)]
    return {
        "seconds": {side: statistics.median(values) for side, values in seconds.items()},
        "ratio": statistics.median(static / dynamic for static, dynamic in pairs),
        "ratio_with_host": statistics.median(with_host),
    }


def peak_megabytes(arguments: argparse.Namespace, side: str) -> float:
    samples, num_classes = load(arguments)
    model = build(arguments, num_classes)
    transformed = model
    if side == "static":
        model = to_static(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    for listed, padded, _ in batches(arguments, transformed, samples, 4):
        step(model, optimizer, padded if side == "static" else listed)
    return round(get_backend("cpu").peak_memory() / 2**20, 1)


def as_text(arguments: argparse.Namespace, result: dict[str, Any]) -> str:
    seconds, memory = result["seconds"], result["peak_memory_mb"]
    machine = f"float32, CPU, {torch.get_num_threads()} threads, torch {torch.__version__}"
    ratios = f"{result['ratio']:.3f} (median of {arguments.steps} pairs); with resize + pad: {result['ratio_with_host']:.3f}"
    return "\n".join(
        (
            f"{arguments.model}, batch {arguments.batch_size}, {machine}",
            f"torchvision   {seconds['torchvision']:.3f} s a step   peak {memory['torchvision']} MB",
            f"static        {seconds['static']:.3f} s a step   peak {memory['static']} MB",
            f"resize + pad  {seconds['host']:.3f} s a batch, on the host",
            f"static / torchvision: {ratios}",
        )
    )


if __name__ == "__main__":
    main()
