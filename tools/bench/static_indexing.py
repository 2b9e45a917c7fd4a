"""Seconds of a loss inside ``static_indexing``, against its masked form written by hand and against the dynamic form.

    python tools/bench/static_indexing.py [--repeats 41] [--json]

Rows: one kind of op at a time (a selection with its sum, a chain of 20 elementwise ops, a count, a write, a loss of torch),
and two whole losses with their backward pass; of 100 rows, where nothing but overhead is left, and of 8732 rows, the anchors
of an SSD300, one in twenty of them chosen. The three forms run one after the other in an order that turns; ``/hand`` and
``/dynamic`` are the medians over the repeats of the ratio of neighbouring runs. ``us/op`` is what the block takes longer than
the hand-written form, for each call of torch that the code in it makes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import torchvision.ops as tv
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fixshape.ops import (
    masked_cross_entropy,
    masked_generalized_box_iou_loss,
    masked_mean,
    masked_smooth_l1_loss,
    masked_sum,
    static_indexing,
)

ROWS = (100, 8732)
Form = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class Case(NamedTuple):
    """One row of the table: ``(predicted [R, 4], wanted [R, 4], labels [R], valid [R])`` to a number, in two forms."""

    name: str
    dynamic: Form
    by_hand: Form
    backward: bool = False


def _chain(x: Tensor) -> Tensor:
    for _ in range(10):
        x = (x * 0.9).add(0.1)
    return x


def _write(predicted: Tensor, wanted: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    target = torch.zeros_like(predicted)
    target[valid] = wanted[valid]
    return target.sum()


def _write_by_hand(predicted: Tensor, wanted: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    return torch.where(valid[:, None], wanted, torch.zeros_like(predicted)).sum()


def _anchors(predicted: Tensor, wanted: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    rows = torch.nonzero(valid).squeeze(1)
    of_boxes = F.smooth_l1_loss(predicted[rows], wanted[rows], reduction="sum")
    return (of_boxes + F.cross_entropy(predicted[rows], labels[rows], reduction="sum")) / rows.numel()


def _anchors_by_hand(predicted: Tensor, wanted: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    of_boxes = masked_smooth_l1_loss(predicted, wanted, reduction="sum", valid_mask=valid[:, None].expand(-1, 4))
    return (of_boxes + masked_cross_entropy(predicted, labels, reduction="sum", valid_mask=valid)) / valid.sum()


def _boxes(x: Tensor) -> Tensor:
    return torch.cat([x[:, :2], x[:, :2] + x[:, 2:].exp()], 1)


def _overlaps(predicted: Tensor, wanted: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    return tv.generalized_box_iou_loss(_boxes(predicted[valid]), _boxes(wanted[valid]), reduction="mean")


def _overlaps_by_hand(predicted: Tensor, wanted: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    return masked_generalized_box_iou_loss(_boxes(predicted), _boxes(wanted), reduction="mean", valid_mask=valid)


CASES = [
    Case("x[mask].sum()", lambda p, w, c, v: p[v].sum(), lambda p, w, c, v: masked_sum(p, valid_mask=v[:, None].expand(-1, 4))),
    Case(
        "20 elementwise",
        lambda p, w, c, v: _chain(p[v]).mean(),
        lambda p, w, c, v: masked_mean(_chain(p), valid_mask=v[:, None].expand(-1, 4)),
    ),
    Case(
        "nonzero, count",
        lambda p, w, c, v: p[torch.nonzero(v).squeeze(1), 0].sum() / v[v].numel(),
        lambda p, w, c, v: masked_sum(p[:, 0], valid_mask=v) / v.sum(),
    ),
    Case("y[mask] = rows", _write, _write_by_hand),
    Case(
        "cross_entropy",
        lambda p, w, c, v: F.cross_entropy(p[v], c[v]),
        lambda p, w, c, v: masked_cross_entropy(p, c, valid_mask=v),
    ),
    Case("anchor loss", _anchors, _anchors_by_hand, backward=True),
    Case("box loss", _overlaps, _overlaps_by_hand, backward=True),
]


class Calls(TorchFunctionMode):
    """Counts what the code calls of torch, where no block is around it."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += getattr(func, "__name__", "") != "__get__"  # an attribute is no call
        return func(*args, **(kwargs or {}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=41, help="runs of each form")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [{"case": case.name, "rows": count, **measure(case, count, options.repeats)} for case in CASES for count in ROWS]
    if options.json:
        print(json.dumps({"torch": torch.__version__, "threads": options.threads, "rows": rows}))
        return
    print("  ".join(f"{name:>14}" for name in rows[0]))
    for row in rows:
        print("  ".join(f"{f'{value:.3g}' if isinstance(value, float) else value:>14}" for value in row.values()))


def measure(case: Case, count: int, repeats: int) -> dict[str, object]:
    predicted, *rest = draw(count)
    calls = Calls()
    with calls:
        want = case.dynamic(predicted, *rest)

    def run(form: Form, block: bool) -> Tensor:
        leaf = predicted.detach().requires_grad_(case.backward)
        if block:
            with static_indexing():
                value = form(leaf, *rest)
        else:
            value = form(leaf, *rest)
        if case.backward:
            value.backward()
        return value.detach()

    forms = {"block": (case.dynamic, True), "hand": (case.by_hand, False), "dynamic": (case.dynamic, False)}
    for form in forms.values():  # the warm-up, too
        torch.testing.assert_close(run(*form), want, rtol=1e-5, atol=1e-6)
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for repeat in range(repeats):
        names = list(forms)
        for name in names[repeat % 3 :] + names[: repeat % 3]:
            begin = time.perf_counter()
            run(*forms[name])
            seconds[name].append(time.perf_counter() - begin)
    more = [a - b for a, b in zip(seconds["block"], seconds["hand"], strict=True)]
    return {
        "calls": calls.count,
        **{f"{name}_us": 1e6 * statistics.median(taken) for name, taken in seconds.items()},
        "/hand": statistics.median(a / b for a, b in zip(seconds["block"], seconds["hand"], strict=True)),
        "/dynamic": statistics.median(a / b for a, b in zip(seconds["block"], seconds["dynamic"], strict=True)),
        "us/op": 1e6 * statistics.median(more) / calls.count,
    }


def draw(count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    predicted, wanted = torch.randn(2, count, 4, generator=generator)
    labels = torch.randint(0, 4, (count,), generator=generator)
    return predicted, wanted, labels, torch.rand(count, generator=generator) < 0.05


if __name__ == "__main__":
    main()
