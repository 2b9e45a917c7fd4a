"""Seconds of non-maximum suppression: fixshape's against torchvision's, one after the other in turn, at the sizes detectors use.

    python tools/bench/nms.py [--repeats 9] [--json]
    python tools/bench/nms.py --xla

Rows: the proposals of an RPN, 10 sets (2 images of 5 levels) of 1000 and of 2000 boxes, threshold 0.7; the candidates of an
R-CNN, 2 images of 90 classes of 1000 boxes of which one in twenty is real, and those of a RetinaNet, 2 images of 4600 boxes of
90 classes, threshold 0.5. Boxes are drawn in clusters, as a trained model gives them, or on a grid with little to suppress.
torchvision is called once for each set, with the real boxes of that set cut out beforehand.
The figure is the median over pairs of neighbouring runs of ``seconds static / seconds torchvision``.

With ``--xla``, on the device of torch_xla (``PJRT_DEVICE=CPU`` for the host): seconds of the first call, tracing and compiling
included, and of a later one. Both end with the answer on the host. torchvision's form has no lowering to XLA, and what the
boxes are makes no difference there.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")  # for --xla: torch_xla is imported, nothing else is loaded

import torch
import torchvision.ops as tv
from torch import Tensor

from fixshape.ops import NMSResult, batched_nms, nms


class Case(NamedTuple):
    """One row of the table."""

    name: str
    sets: tuple[int, ...]
    count: int
    threshold: float
    real: float = 1.0  # share of the boxes
    classes: int = 0  # told by idxs, in one set


CASES = [
    Case("rpn 1000", (2, 5), 1000, 0.7),
    Case("rpn 2000", (2, 5), 2000, 0.7),
    Case("r-cnn", (2, 90), 1000, 0.5, real=0.05),
    Case("retinanet", (2,), 4600, 0.5, classes=90),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9, help="pairs of runs")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--xla", action="store_true", help="time the first call and a later one on torch_xla instead")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    measure = measure_xla if options.xla else functools.partial(measure_pairs, repeats=options.repeats)
    rows = [
        {"case": case.name, "boxes": family.__name__, **measure(case, *draw(case, family))}
        for case in CASES
        for family in ((cluster,) if options.xla else (cluster, grid))
    ]
    if options.json:
        print(json.dumps({"torch": torch.__version__, "threads": options.threads, "rows": rows}))
        return
    print("  ".join(f"{name:>14}" for name in rows[0]))
    for row in rows:
        print("  ".join(f"{f'{value:.3g}' if isinstance(value, float) else value:>14}" for value in row.values()))


def measure_pairs(
    case: Case, boxes: Tensor, scores: Tensor, idxs: Tensor, valid_mask: Tensor, *, repeats: int
) -> dict[str, object]:
    flat = zip(boxes.flatten(0, -3), scores.flatten(0, -2), idxs.flatten(0, -2), valid_mask.flatten(0, -2), strict=True)
    real = [(b[v], s[v], i[v]) for b, s, i, v in flat]

    def torchvision() -> list[Tensor]:
        if case.classes:
            return [tv.batched_nms(*one, case.threshold) for one in real]
        return [tv.nms(b, s, case.threshold) for b, s, _ in real]

    static = functools.partial(run, case, boxes, scores, idxs, valid_mask)
    kept = sum(len(indices) for indices in torchvision())
    assert kept == int(static().valid_mask.sum())
    seconds: dict[str, list[float]] = {"static": [], "torchvision": []}
    sides: dict[str, Callable[[], object]] = {"static": static, "torchvision": torchvision}
    for repeat in range(repeats):
        for name in sides if repeat % 2 else reversed(sides):
            begin = time.perf_counter()
            sides[name]()
            seconds[name].append(time.perf_counter() - begin)
    ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
    return {
        "kept": kept,
        "static_ms": 1e3 * statistics.median(seconds["static"]),
        "torchvision_ms": 1e3 * statistics.median(seconds["torchvision"]),
        "ratio": statistics.median(ratios),
    }


def measure_xla(case: Case, *tensors: Tensor) -> dict[str, object]:
    import torch_xla

    want = run(case, *tensors)
    seconds = []
    compiles = fallbacks = 0
    for _ in range(4):
        on_device = [tensor.to(torch_xla.device()) for tensor in tensors]
        torch_xla.sync(wait=True)
        before = xla_counts()
        begin = time.perf_counter()
        result = run(case, *on_device)
        host = torch.cat([result.indices, result.valid_mask.long()]).cpu()  # one read, one graph
        seconds.append(time.perf_counter() - begin)
        now = xla_counts()
        compiles, fallbacks = compiles + now[0] - before[0], fallbacks + now[1] - before[1]
    assert torch.equal(host, torch.cat([want.indices, want.valid_mask.long()]))
    return {"first_s": seconds[0], "later_s": min(seconds[1:]), "compiles": compiles, "fallbacks": fallbacks}


def xla_counts() -> tuple[int, int]:
    """Graph compiles so far, and calls of ops that ran on the host for want of a lowering."""
    import torch_xla.debug.metrics as metrics

    compiled = metrics.metric_data("CompileTime")
    fallbacks = [name for name in metrics.counter_names() if name.startswith("aten::")]
    return int(compiled[0]) if compiled else 0, sum(metrics.counter_value(name) for name in fallbacks)


def run(case: Case, boxes: Tensor, scores: Tensor, idxs: Tensor, valid_mask: Tensor) -> NMSResult:
    if case.classes:
        return batched_nms(boxes, scores, idxs, case.threshold, size=case.count, valid_mask=valid_mask)
    return nms(boxes, scores, case.threshold, size=case.count, valid_mask=valid_mask)


def draw(case: Case, family: Callable[..., Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (*case.sets, case.count)
    boxes = family(shape, generator)
    scores, share = torch.rand(2, *shape, generator=generator)
    return boxes, scores, torch.randint(0, max(case.classes, 1), shape, generator=generator), share < case.real


def cluster(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Boxes of 20 to each object of a canvas of 320 x 320, some pixels off."""
    objects = torch.rand(*shape[:-1], shape[-1] // 20, 4, generator=generator)
    objects = torch.cat([objects[..., :2] * 240, 10 + objects[..., 2:] * 70], dim=-1)
    which = torch.randint(0, objects.shape[-2], shape, generator=generator)
    near = objects.gather(-2, which.unsqueeze(-1).expand(*shape, 4)) + torch.randn(*shape, 4, generator=generator) * 3
    return torch.cat([near[..., :2], near[..., :2] + near[..., 2:].clamp(min=1)], dim=-1)


def grid(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Boxes of one size at the points of a grid of 8 pixels: most of them stay."""
    points = torch.rand(*shape, generator=generator).argsort(dim=-1)
    corner = torch.stack([points % 40, points // 40], dim=-1) * 8.0
    return torch.cat([corner, corner + 32 + torch.randn(*shape, 2, generator=generator)], dim=-1)


if __name__ == "__main__":
    main()
