"""An eager static training step against torchvision's own, on the same images: seconds and memory.

    python tools/bench/train_step.py [--model all] [--canvas 320 320] [--batch-size 2] [--steps 12] [--coco DIR] [--json]

Both sides in one process, paired and alternating on the same samples, median of the ratio. Memory is the peak of a process that
runs one side alone.

The SSDs resize every image to one size, so that their dynamic side is what a user has today: images of their own size, list
batches, torchvision's transform on them. The static side gets the same images after ``host_transform`` and ``PadToBucket``, whose
time has a line of its own: a data loader does that in its workers. For the other models torchvision is put on the same canvas:
both sides get images that were resized to fit it, torchvision's transform normalises and pads them to it, and resizes nothing.
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
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.ops.poolers import initLevelMapper
from torchvision.transforms.v2 import functional

from fixshape import PadToBucket, get_backend, to_static
from fixshape.detection import SUPPORTED, CocoSamples, DrawnShapes, host_transform
from fixshape.plan import Bucket


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ssdlite320_mobilenet_v3_large", choices=(*SUPPORTED, "all"))
    parser.add_argument("--canvas", type=int, nargs=2, default=(320, 320), metavar=("H", "W"), help="of all but the SSDs")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--steps", type=int, default=12, help="pairs that count, after two that do not")
    parser.add_argument("--coco", help="folder with instances.json and images/ (default: drawn shapes)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    for name in SUPPORTED if arguments.model == "all" else [arguments.model]:
        arguments.model = name
        # Each model in processes of its own: what one leaves in the allocator is not the next one's.
        result = alone(measure, arguments)
        result["peak_memory_mb"] = {side: alone(peak_megabytes, arguments, side) for side in ("static", "torchvision")}
        print(json.dumps({"model": name, **result}) if arguments.json else as_text(arguments, result), flush=True)


def alone(function: Any, *arguments: Any) -> Any:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def is_ssd(arguments: argparse.Namespace) -> bool:
    return arguments.model.startswith("ssd")


def load(arguments: argparse.Namespace) -> Any:
    """Samples, and how many classes and keypoints they have."""
    keypoints = "keypoint" in arguments.model
    if arguments.coco:
        folder = Path(arguments.coco)
        file = "person_keypoints.json" if keypoints else "instances.json"
        return CocoSamples(folder / "images", folder / file, masks="mask" in arguments.model, keypoints=keypoints)
    return DrawnShapes(seed=0)


def build(arguments: argparse.Namespace, samples: Any) -> nn.Module:
    torch.manual_seed(0)
    options: dict[str, Any] = {"num_classes": 91}
    if not is_ssd(arguments):
        options["min_size"], options["max_size"] = min(arguments.canvas), max(arguments.canvas)
        options["_skip_resize"] = True
    if "keypoint" in arguments.model:
        options.update(num_classes=2, num_keypoints=samples.num_keypoints)
    elif isinstance(samples, DrawnShapes):
        options["num_classes"] = samples.num_classes
    builder = getattr(detection, arguments.model)
    return builder(weights=None, weights_backbone=None, **options).to(arguments.device).train()


def on_canvas(model: nn.Module, canvas: tuple[int, int]) -> nn.Module:
    """torchvision's model, padding to the canvas and pooling at its scales; to be called after its static twin was made."""

    def pad_to_canvas(images: list[Tensor], size_divisible: int = 32) -> Tensor:
        batch = images[0].new_zeros(len(images), 3, *canvas)
        for row, image in zip(batch, images, strict=True):
            row[:, : image.shape[1], : image.shape[2]] = image
        return batch

    model.transform.batch_images = pad_to_canvas
    for name in ("box_roi_pool", "mask_roi_pool", "keypoint_roi_pool"):
        pool = getattr(getattr(model, "roi_heads", None), name, None)
        if pool is not None:
            # A MobileNet pyramid has two levels of the same stride, a ResNet one four.
            steps = [5, 5] if len(model.backbone.fpn.inner_blocks) == 2 else [2, 3, 4, 5]
            pool.scales, pool.map_levels = [2.0**-step for step in steps], initLevelMapper(steps[0], steps[-1])
    return model


def batches(arguments: argparse.Namespace, model: nn.Module, samples: Any, count: int) -> Any:
    """Pairs (list batch, padded batch, seconds to make the padded one from the list)."""
    keys = ["boxes", "labels"] + [key for key in ("masks", "keypoints") if key[:-1] in arguments.model]
    transform = host_transform(model)
    slots = max((row[2] for row in samples.sizes()), default=1) if hasattr(samples, "sizes") else samples.max_boxes
    canvas = transform.size(1, 1) if is_ssd(arguments) else tuple(arguments.canvas)
    collate = PadToBucket(Bucket(*canvas, slots), invalid="drop")
    for number in range(count):
        indices = [(number * arguments.batch_size + offset) % len(samples) for offset in range(arguments.batch_size)]
        pairs = []
        for image, target in map(samples.__getitem__, indices):
            pixels = functional.to_dtype(functional.to_image(image), torch.float32, scale=True).as_subclass(Tensor)
            target = {key: torch.as_tensor(target[key]) for key in keys}
            if "keypoints" in keys:
                target["labels"] = torch.ones_like(target["labels"])
            pairs.append((pixels, target) if is_ssd(arguments) else fit(pixels, target, canvas))
        began = time.perf_counter()
        padded = collate([transform(*pair) if is_ssd(arguments) else pair for pair in pairs])
        seconds = time.perf_counter() - began
        yield [list(side) for side in zip(*pairs, strict=True)], padded, seconds


def fit(image: Tensor, target: dict[str, Tensor], canvas: tuple[int, int]) -> tuple[Tensor, dict[str, Tensor]]:
    """A sample resized to be as large as the canvas allows."""
    scale = min(side / own for side, own in zip(canvas, image.shape[1:], strict=True))
    shorter, longer = sorted(int(own * scale) for own in image.shape[1:])
    resized, target = detection.transform.GeneralizedRCNNTransform(shorter, longer, [0.0], [1.0]).resize(image, target)
    return resized, target


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any, device: str) -> float:
    batch = on_device(batch, device)
    wait(device)
    began = time.perf_counter()
    optimizer.zero_grad(set_to_none=True)
    sum(model(*batch).values()).backward()
    optimizer.step()
    wait(device)
    return time.perf_counter() - began


def on_device(value: Any, device: str) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: on_device(item, device) for key, item in value.items()}
    return [on_device(item, device) for item in value]


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    samples = load(arguments)
    models = {"torchvision": build(arguments, samples)}
    models["static"] = to_static(copy.deepcopy(models["torchvision"]))
    if not is_ssd(arguments):
        on_canvas(models["torchvision"], tuple(arguments.canvas))
    optimizers = {side: torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9) for side, model in models.items()}
    seconds: dict[str, list[float]] = {"torchvision": [], "static": [], "host": []}
    for number, (listed, padded, host) in enumerate(batches(arguments, models["torchvision"], samples, arguments.steps + 2)):
        sides = {"torchvision": listed, "static": padded}
        for side in sorted(sides, reverse=bool(number % 2)):  # who goes first alternates
            taken = step(models[side], optimizers[side], sides[side], arguments.device)
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
    samples = load(arguments)
    model = build(arguments, samples)
    transformed = model
    if side == "static":
        model = to_static(model)
    elif not is_ssd(arguments):
        on_canvas(model, tuple(arguments.canvas))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    for listed, padded, _ in batches(arguments, transformed, samples, 2):
        step(model, optimizer, padded if side == "static" else listed, arguments.device)
    return round(get_backend(arguments.device).peak_memory() / 2**20, 1)


def as_text(arguments: argparse.Namespace, result: dict[str, Any]) -> str:
    seconds, memory = result["seconds"], result["peak_memory_mb"]
    canvas = "" if is_ssd(arguments) else f", canvas {arguments.canvas[0]}x{arguments.canvas[1]}"
    machine = f"float32, {arguments.device}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    ratios = f"{result['ratio']:.3f} (median of {arguments.steps} pairs); with resize + pad: {result['ratio_with_host']:.3f}"
    return "\n".join(
        (
            f"{arguments.model}, batch {arguments.batch_size}{canvas}, {machine}",
            f"torchvision   {seconds['torchvision']:.3f} s a step   peak {memory['torchvision']} MB",
            f"static        {seconds['static']:.3f} s a step   peak {memory['static']} MB"
            f"   {memory['static'] / memory['torchvision']:.2f} of it",
            f"resize + pad  {seconds['host']:.3f} s a batch, on the host",
            f"static / torchvision: {ratios}",
        )
    )


if __name__ == "__main__":
    main()
