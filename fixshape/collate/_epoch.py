"""Which samples share a batch, and in what order do the batches come? A pure function of (seed, epoch), equal on every rank.

Shapes: N samples, S scales that may be drawn, T steps, G samples of one step over all ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fixshape.plan import ShapePlan

Ints = NDArray[np.int64]


class Step(NamedTuple):
    """The samples [G] of all ranks at one step, all of ``bucket``; the last ``repeats`` of them are in the epoch elsewhere."""

    bucket: int
    samples: Ints
    repeats: int


@dataclass(frozen=True, slots=True)
class Epoch:
    """The steps in their order; ``scale`` [N] is the scale drawn for each sample, an index.

    ``promoted``, ``repeated`` and ``dropped`` count samples: in a larger bucket than they need, there twice, and left out.
    """

    steps: tuple[Step, ...]
    scale: Ints
    promoted: int
    repeated: int
    dropped: int


def order_epoch(
    seed: int, epoch: int, plan: ShapePlan, sizes: Ints, buckets: Ints, group: Sequence[int], *, drop_last: bool
) -> Epoch:
    """Permutes the samples, cuts each bucket's into steps, sees to what is left over, and permutes the steps.

    Args:
        seed: of the training.
        epoch: from 0.
        plan: its buckets are ordered from the cheapest; a tail is promoted along this order.
        sizes: [S, N, 2 or 3], (height, width[, boxes]) of each sample at each scale.
        buckets: [S, N], the smallest bucket that covers it, an index into ``plan.shapes``.
        group: G for each of ``plan.shapes``.
        drop_last: whether tails that nothing holds are dropped, or completed with samples that come in the epoch already.
    """
    count = buckets.shape[1]
    # numpy promises the raw bits of a generator for all its versions, but not what is drawn from them by other methods.
    bits = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(epoch,)))
    order = _permutation(bits, count)
    scale = np.asarray(bits.random_raw(count) % np.uint64(len(buckets)), np.int64)
    each = np.arange(count)
    own = buckets[scale, each]
    placed = _promote(order, own, sizes[scale, each], plan, group, drop_last)
    steps: list[Step] = []
    dropped = repeated = 0
    for index, size in enumerate(group):
        samples = order[placed[order] == index]
        whole = len(samples) // size * size
        steps += (Step(index, row, 0) for row in samples[:whole].reshape(-1, size))
        tail = samples[whole:]
        if len(tail) and drop_last:
            placed[tail] = own[tail]
            dropped += len(tail)
        elif len(tail):
            missing = size - len(tail)
            steps.append(Step(index, np.concatenate([tail, np.resize(samples, missing)]), missing))
            repeated += missing
    ordered = tuple(steps[step] for step in _permutation(bits, len(steps)))
    return Epoch(ordered, scale, int(np.count_nonzero(placed != own)), repeated, dropped)


def _permutation(bits: np.random.PCG64, count: int) -> Ints:
    return np.argsort(bits.random_raw(count), kind="stable") if count else np.zeros(0, np.int64)


def _promote(order: Ints, own: Ints, sizes: Ints, plan: ShapePlan, group: Sequence[int], drop_last: bool) -> Ints:
    """[N]: the bucket of each sample, after what is left over in one has moved to the cheapest larger one that holds it.

    Only buckets that have samples of their own in this epoch take others in, and the fallback never does: no shape is used that
    no sample needs. What is left over are samples that have somewhere to go, as far as there are such.
    """
    placed = own.copy()
    goals = [index for index in range(len(plan.buckets)) if (own == index).any()]
    for index, size in enumerate(group):
        samples = order[placed[order] == index]
        tail = len(samples) % size
        if not tail:
            continue
        goal = _next_larger(sizes[samples], index, plan, goals)
        chosen = np.argsort(goal, kind="stable")[:tail]
        chosen = chosen[goal[chosen] < len(plan.shapes)]
        # A bucket that has to be completed anyhow is best completed by what is its own.
        if drop_last or len(chosen) == tail:
            placed[samples[chosen]] = goal[chosen]
    return placed


def _next_larger(sizes: Ints, index: int, plan: ShapePlan, goals: Sequence[int]) -> Ints:
    """[n]: the first of ``goals`` after ``index`` that holds each of ``sizes`` [n, 2 or 3]; ``len(plan.shapes)`` if none does."""
    found = np.full(len(sizes), len(plan.shapes))
    for goal in reversed(goals):
        if goal > index:
            bucket = plan.shapes[goal]
            limits = np.array([bucket.height, bucket.width, bucket.max_boxes])[: sizes.shape[1]]
            found[(sizes <= limits).all(1)] = goal
    return found
