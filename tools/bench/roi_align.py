"""RoIAlign over four levels, forward and backward: each of fixshape's forms against torchvision's, seconds and memory.

    python tools/bench/roi_align.py [--canvas 320 320 --canvas 800 1344] [--form bags ...] [--repeats 5] [--json]
    PJRT_DEVICE=CPU python tools/bench/roi_align.py --xla

Two images of 512 boxes, 256 channels, 7 x 7 bins, sampling ratio 2, float32; the answer is flattened as a box head flattens it.
Each form is timed in a process of its own, in turn with torchvision's: the figure is the median over pairs of neighbouring runs
of ``seconds of the form / seconds of torchvision``. Memory is by how much the peak of a process that runs one of them twice
grows over what it holds before. With ``--xla`` there are the forms that lower, and torchvision's, which falls back to the host;
a value is fetched within the time, and the two runs that compile do not count.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import statistics
import time
from collections.abc import Callable
from typing import Any

SCALES = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
CPU_FORMS = ("bags", "torchvision", "gather", "matrices")
XLA_FORMS = ("gather", "matrices")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--canvas", type=int, nargs=2, action="append", metavar=("H", "W"), help="default: both of the above")
    parser.add_argument("--form", action="append", choices=CPU_FORMS, help="default: all that the device runs")
    parser.add_argument("--boxes", type=int, default=512, help="per image")
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5, help="pairs of runs, after two that do not count")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--xla", action="store_true", help="on the XLA device")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    options = parser.parse_args()
    results = []
    for canvas in options.canvas or [[320, 320], [800, 1344]]:
        memory = {} if options.xla else {"reference": alone(peak_megabytes, options, canvas, None)}
        for form in options.form or (XLA_FORMS if options.xla else CPU_FORMS):
            result = {"canvas": canvas, "form": form, **alone(measure, options, canvas, form)}
            if memory:
                memory[form] = alone(peak_megabytes, options, canvas, form)
                result |= {"peak_mb": memory[form], "reference_peak_mb": memory["reference"]}
            results.append(result)
            if not options.json:
                print(as_text(result), flush=True)
    if options.json:
        import torch

        print(json.dumps({"torch": torch.__version__, "threads": options.threads, "xla": options.xla, "results": results}))


def as_text(result: dict[str, Any]) -> str:
    height, width = result["canvas"]
    text = (
        f"{height} x {width} {result['form']:<11} / torchvision: time {result['ratio']:.2f}x  (forward + backward, ms:"
        f" {result['forward_ms']:.0f} + {result['backward_ms']:.0f}, torchvision {result['reference_forward_ms']:.0f} +"
        f" {result['reference_backward_ms']:.0f}; largest difference {result['difference']:.1e})"
    )
    if "peak_mb" in result:
        peak, reference = result["peak_mb"], max(result["reference_peak_mb"], 1)
        text += f"  memory {peak / reference:.2f}x  ({peak:.0f} MB, torchvision {reference:.0f})"
    if "compiles" in result:
        text += f"  compiles {result['compiles']}, fallbacks {result['fallbacks']}"
    return text


def alone(function: Callable[..., Any], options: argparse.Namespace, canvas: list[int], form: str | None) -> Any:
    """The answer of a fresh process: its peak is its own, and torch_xla must not be forked."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, (options, canvas, form))


def measure(options: argparse.Namespace, canvas: list[int], form: str) -> dict[str, Any]:
    device, backend = open_device(options)
    sides = {"": make_side(options, canvas, form, device), "reference_": make_side(options, canvas, None, device)}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    counts = []
    answers = {}
    for repeat in range(options.repeats + 2):
        for name in sides if repeat % 2 else reversed(sides):
            before = backend.compiles() if backend else 0
            *times, answers[name] = sides[name](backend)
            if repeat >= 2:
                seconds[name].append(tuple(times))
            if backend and not name:
                counts.append(backend.compiles() - before)
    ratios = [sum(a) / sum(b) for a, b in zip(*seconds.values(), strict=True)]
    difference = (answers[""] - answers["reference_"]).abs().max().item()
    result: dict[str, Any] = {"ratio": statistics.median(ratios), "difference": difference}
    for name, pairs in seconds.items():
        for part, times in zip(("forward", "backward"), zip(*pairs, strict=True), strict=True):
            result[f"{name}{part}_ms"] = 1e3 * statistics.median(times)
    if backend:
        result |= {"compiles": counts, "fallbacks": fallbacks_of(sides[""], backend)}
    return result


def fallbacks_of(side: Callable[..., Any], backend: Any) -> int:
    before = sum(backend.fallbacks().values())
    side(backend)
    return sum(backend.fallbacks().values()) - before - 1  # but for the value that is fetched


def peak_megabytes(options: argparse.Namespace, canvas: list[int], form: str | None) -> float:
    from fixshape import get_backend

    device, _ = open_device(options)
    small = argparse.Namespace(**{**vars(options), "boxes": 2, "channels": 2})
    make_side(small, [64, 64], form, device)(None)  # what is loaded on the first call is not what is measured
    side = make_side(options, canvas, form, device)
    backend = get_backend("cpu")
    before = backend.peak_memory()
    for _ in range(2):
        side(None)
    return (backend.peak_memory() - before) / 2**20


def open_device(options: argparse.Namespace) -> tuple[Any, Any]:
    """The device, and the XLA backend where it is that."""
    from fixshape import get_backend

    backend = get_backend("xla") if options.xla else None  # loads torch_xla before anything runs

    import torch

    torch.set_num_threads(options.threads)
    return (backend.device() if backend else torch.device("cpu")), backend


def make_side(options: argparse.Namespace, canvas: list[int], form: str | None, device: Any) -> Callable[..., Any]:
    """A function that runs ``form`` once, or torchvision's pooler where None: seconds forward and backward, and the answer."""
    import torch
    from torchvision.ops import MultiScaleRoIAlign
    from torchvision.ops.poolers import initLevelMapper

    from fixshape.ops import _roi_align, _roi_bags, _roi_gather, _roi_matrices, _roi_torchvision, multiscale_roi_align

    forms = {
        "bags": _roi_bags.pool_bags,
        "gather": _roi_gather.pool_gather,
        "matrices": _roi_matrices.pool_matrices,
        "torchvision": _roi_torchvision.pool_torchvision,
    }
    height, width = canvas
    generator = torch.Generator().manual_seed(0)
    features = [
        torch.randn(2, options.channels, math.ceil(height * s), math.ceil(width * s), generator=generator)
        .to(device)
        .requires_grad_()
        for s in SCALES
    ]
    boxes = draw_boxes(height, width, options.boxes, generator).to(device)
    valid_mask = torch.ones(2, options.boxes, dtype=torch.bool, device=device)
    gradient = torch.randn(2 * options.boxes, options.channels * 49, generator=generator).to(device)
    pooler = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    pooler.scales, pooler.map_levels = SCALES, initLevelMapper(2, 5)
    named = {str(k): feature for k, feature in enumerate(features)}

    def pool() -> Any:
        if form is None:
            return pooler(named, list(boxes), [(height, width)] * 2).flatten(1)
        _roi_align._form_for = lambda device, samples: forms[form]
        return multiscale_roi_align(features, boxes, 7, scales=SCALES, valid_mask=valid_mask).flatten(0, 1).flatten(1)

    def run(backend: Any) -> tuple[float, float, Any]:
        for feature in features:
            feature.grad = None
        begin = time.perf_counter()
        pooled = pool()
        middle = time.perf_counter()
        pooled.backward(gradient)
        if backend:  # one program of both, which nothing but a value waits for
            backend.step()
            middle = begin
            features[0].grad[0, 0, 0, 0].item()
        end = time.perf_counter()
        return middle - begin, end - middle, pooled.detach()

    return run


def draw_boxes(height: int, width: int, count: int, generator: Any) -> Any:
    """[2, count, 4] boxes inside the canvas whose sides are spread evenly over the octaves, so that all levels are used."""
    import torch

    size = torch.tensor([width, height])
    sides = (16 * (size / 16) ** torch.rand(2, count, 2, generator=generator)).minimum(size)
    corner = torch.rand(2, count, 2, generator=generator) * (size - sides)
    return torch.cat([corner, corner + sides], dim=-1)


if __name__ == "__main__":
    main()
