"""What ``watch`` without prediction costs: a loop with it against the same loop without, step by step in turn.

    python tools/bench/watch.py [--pairs 40] [--json]

Two steps: one that is busy for ~100 ms with matrix products, and an empty one. Both loops hand out batches of a detector, and
read their loss a step late; the progress bar writes to nowhere. The figures are the median over pairs of neighbouring steps of
``seconds with / seconds without``, and the microseconds that ``watch`` adds to an empty step.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from fixshape.train import watch

BUSY_SECONDS = 0.1
MOST_ADDED = 0.01
EMPTY_STEPS = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=40, help="pairs of busy steps")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        busy = measure_busy(options.pairs)
        empty = measure_empty()
    result = {"torch": torch.__version__, **busy, "microseconds_per_empty_step": empty}
    if options.json:
        print(json.dumps(result))
        return
    print(
        f"busy step   {busy['ratio']:.4f}x  ({1e3 * busy['seconds_without']:.1f} ms without; quartiles of the ratio"
        f" {busy['lower_quartile']:.4f} to {busy['upper_quartile']:.4f})"
    )
    print(f"empty step  {empty:.1f} us added, {empty / (1e6 * BUSY_SECONDS):.3%} of a {1e3 * BUSY_SECONDS:.0f} ms step")
    print(f"under {MOST_ADDED:.0%} of a {1e3 * BUSY_SECONDS:.0f} ms step: {'yes' if busy['ratio'] < 1 + MOST_ADDED else 'NO'}")


def measure_busy(pairs: int) -> dict[str, float]:
    """A watched and a plain loop, one step of each in turn; who goes first changes from pair to pair."""
    left = torch.rand(256, 256)
    rounds = calibrate(left)
    watched = watch(itertools.repeat(make_batch()), backend="cpu")
    steppers = {
        True: stepper(watched, lambda: spin(left, rounds), watched.log),
        False: stepper(itertools.repeat(make_batch()), lambda: spin(left, rounds), Plain().log),
    }
    for with_watch in (True, False):
        next(steppers[with_watch])
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for pair in range(pairs):
        for with_watch in (True, False) if pair % 2 else (False, True):
            begin = time.perf_counter()
            next(steppers[with_watch])
            seconds[with_watch].append(time.perf_counter() - begin)
    ratios = [a / b for a, b in zip(seconds[True], seconds[False], strict=True)]
    lower, middle, upper = statistics.quantiles(ratios, n=4)
    return {
        "ratio": middle,
        "lower_quartile": lower,
        "upper_quartile": upper,
        "seconds_without": statistics.median(seconds[False]),
    }


def measure_empty() -> float:
    """Microseconds that a watched loop takes longer per empty step, the median of seven runs of each in turn."""
    batch, loss, added = make_batch(), torch.tensor(1.0), []
    for _ in range(7):
        seconds = {}
        for with_watch in (True, False):
            loader = itertools.repeat(batch, EMPTY_STEPS)
            watched = watch(loader, backend="cpu") if with_watch else Plain()
            begin = time.perf_counter()
            for _ in stepper(watched if with_watch else loader, lambda: None, watched.log, loss):
                pass
            seconds[with_watch] = time.perf_counter() - begin
        added.append(1e6 * (seconds[True] - seconds[False]) / EMPTY_STEPS)
    return statistics.median(added)


class Plain:
    """What a loop does that is not watched: it reads its loss, a step late too."""

    def __init__(self) -> None:
        self.unread: torch.Tensor | None = None

    def log(self, loss: torch.Tensor) -> None:
        if self.unread is not None:
            float(self.unread)
        self.unread = loss.detach()


def stepper(
    loader: Any, work: Callable[[], Any], log: Callable[[torch.Tensor], None], loss: torch.Tensor | None = None
) -> Iterator[None]:
    """A training loop that stops after each step; its step ends when the next batch is there."""
    loss = torch.tensor(1.0) if loss is None else loss
    for _ in loader:
        work()
        log(loss)
        yield


def spin(left: torch.Tensor, rounds: int) -> None:
    for _ in range(rounds):
        left @ left


def calibrate(left: torch.Tensor) -> int:
    """How many products take as long as a busy step."""
    spin(left, 50)
    timings = []
    for _ in range(5):
        begin = time.perf_counter()
        spin(left, 20)
        timings.append((time.perf_counter() - begin) / 20)
    return max(1, round(BUSY_SECONDS / min(timings)))


def make_batch() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    return torch.zeros(2, 3, 320, 320), {"boxes": torch.zeros(2, 16, 4), "labels": torch.zeros(2, 16)}


if __name__ == "__main__":
    main()
