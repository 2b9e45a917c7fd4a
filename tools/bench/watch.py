"""What ``watch`` without prediction costs: a loop with it against the same loop without, step by step in turn.

    python tools/bench/watch.py [--pairs 120] [--json]

Three steps: one that is busy for ~100 ms with matrix products, one that sleeps for as long, and an empty one. Both loops hand out
batches of a detector, and read their loss a step late; the progress bar writes to nowhere, the step log to a temporary file.

    busy      the median over pairs of neighbouring steps of ``seconds with / seconds without``, with the half width of its 95 %
              interval; and the same of two plain loops, which shows what the machine alone makes of it
    sleeping  processor time that ``watch`` adds to a step, what its bar draws included: it hardly depends on other processes
    empty     microseconds that ``watch`` adds, with a step log and without. These steps are too short for the bar to be drawn in
              each, and find everything in the caches: they are the least that it costs, and no more
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from fixshape.train import watch

BUSY_SECONDS = 0.1
MOST_ADDED = 0.01
EMPTY_STEPS = 20_000
SLEEPING_STEPS = 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=120, help="pairs of busy steps")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stderr(nowhere),
        tempfile.NamedTemporaryFile(suffix=".jsonl") as log,
    ):
        result = {
            "torch": torch.__version__,
            "busy": measure_busy(options.pairs, log.name),
            "control": measure_busy(options.pairs, None),
            "sleeping_microseconds": measure_sleeping(log.name),
            "empty_microseconds": measure_empty(None),
            "empty_microseconds_with_log": measure_empty(log.name),
        }
    if options.json:
        print(json.dumps(result))
        return
    for name in ("busy", "control"):
        found = result[name]
        seconds = f"{1e3 * found['seconds_without']:.1f} ms without"
        print(f"{name:<18}{found['ratio']:.4f}x +- {found['half_width']:.4f} ({seconds})")
    for name in ("sleeping", "empty"):
        print(f"{name:<18}{in_words(result[f'{name}_microseconds'])}")
    print(f"{'empty, with a log':<18}{in_words(result['empty_microseconds_with_log'])}")
    under = result["sleeping_microseconds"] < MOST_ADDED * 1e6 * BUSY_SECONDS
    print(f"processor time under {MOST_ADDED:.0%} of a {1e3 * BUSY_SECONDS:.0f} ms step: {'yes' if under else 'NO'}")
    high = result["busy"]["ratio"] + result["busy"]["half_width"]
    print(f"busy ratio under {1 + MOST_ADDED:.2f} with its interval: {'yes' if high < 1 + MOST_ADDED else 'NO'}")


def in_words(added: float) -> str:
    return f"{added:.1f} us added, {added / (1e6 * BUSY_SECONDS):.3%} of a {1e3 * BUSY_SECONDS:.0f} ms step"


def measure_busy(pairs: int, log: str | None) -> dict[str, float]:
    """A watched and a plain loop, one step of each in turn; who goes first changes from pair to pair. No log: two plain loops."""
    left = torch.rand(256, 256)
    rounds = calibrate(left)
    batches = itertools.repeat(make_batch())
    watched: Any = Plain() if log is None else watch(batches, backend="cpu", step_log=log)
    steppers = {
        True: stepper(batches if log is None else watched, lambda: spin(left, rounds), watched.log),
        False: stepper(batches, lambda: spin(left, rounds), Plain().log),
    }
    for with_watch in (True, False) * 3:  # its warm-up, in which each change of state is drawn
        next(steppers[with_watch])
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for pair in range(pairs):
        for with_watch in (True, False) if pair % 2 else (False, True):
            begin = time.perf_counter()
            next(steppers[with_watch])
            seconds[with_watch].append(time.perf_counter() - begin)
    ratios = [a / b for a, b in zip(seconds[True], seconds[False], strict=True)]
    lower, middle, upper = statistics.quantiles(ratios, n=4)
    # Of a median, where the middle half lies as a normal distribution's does: 1.96 * 1.2533 * (upper - lower) / 1.349 / sqrt(n).
    half_width = 1.82 * (upper - lower) / math.sqrt(pairs)
    return {"ratio": middle, "half_width": half_width, "seconds_without": statistics.median(seconds[False])}


def measure_sleeping(log: str) -> float:
    """Microseconds of processor time that a watched loop adds to a sleeping step, the median of five runs of each in turn."""
    batch, added = make_batch(), []
    for _ in range(5):
        taken = {}
        for with_watch in (True, False):
            loader = itertools.repeat(batch, SLEEPING_STEPS)
            watched: Any = watch(loader, backend="cpu", step_log=log) if with_watch else Plain()
            begin = time.process_time()
            for _ in stepper(watched if with_watch else loader, lambda: time.sleep(BUSY_SECONDS), watched.log):
                pass
            taken[with_watch] = time.process_time() - begin
        added.append(1e6 * (taken[True] - taken[False]) / SLEEPING_STEPS)
    return statistics.median(added)


def measure_empty(log: str | None) -> float:
    """Microseconds that a watched loop takes longer per empty step, the median of seven runs of each in turn."""
    batch, loss, added = make_batch(), torch.tensor(1.0), []
    for _ in range(7):
        seconds = {}
        for with_watch in (True, False):
            loader = itertools.repeat(batch, EMPTY_STEPS)
            watched = watch(loader, backend="cpu", step_log=log) if with_watch else Plain()
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
