"""How is a choice of shapes made better? One is exchanged for another, the best exchange first, until none helps.

Shapes: ``C`` cells, ``S`` candidates, ``K`` chosen ones.
"""

from __future__ import annotations

import numpy as np

from fixshape.plan._problem import Ints, Problem


def improve(problem: Problem, chosen: Ints) -> tuple[Ints, int]:
    """The choice [K] at the end of the exchanges, ascending, and its pixels.

    Of exchanges that are equally good the first is made: of the lowest place in ``chosen``, then the lowest candidate.
    """
    chosen, total = np.sort(chosen), problem.total(chosen)
    while True:
        after = _after_exchange(problem, chosen)
        best = int(after.argmin())
        if int(after.flat[best]) >= total:
            return chosen, total
        place, candidate = divmod(best, after.shape[1])
        total = int(after.flat[best])
        chosen[place] = candidate
        chosen = np.sort(chosen)


def _after_exchange(problem: Problem, chosen: Ints) -> Ints:
    """[K, S] pixels once a chosen shape has been exchanged for a candidate."""
    own = problem.cost[:, chosen]
    order = own.argsort(axis=1, kind="stable")
    nearest = order[:, 0]
    first = np.take_along_axis(own, order[:, :1], axis=1)
    second = np.full_like(first, problem.never) if len(chosen) == 1 else np.take_along_axis(own, order[:, 1:2], axis=1)
    with_both = np.minimum(problem.cost, first)  # the candidate is added and nothing leaves
    extra = np.minimum(problem.cost, second) - with_both  # what a cell pays more where its shape leaves
    by_nearest = nearest.argsort(kind="stable")
    used, starts = np.unique(nearest[by_nearest], return_index=True)
    after = np.repeat(with_both.sum(axis=0)[None], len(chosen), axis=0)
    after[used] += np.add.reduceat(extra[by_nearest], starts, axis=0)
    return after


def add_greedily(problem: Problem, chosen: Ints, k: int) -> Ints:
    """``chosen`` and the candidates that save most, one after the other, up to ``k``."""
    while len(chosen) < k:
        now = (
            problem.cost[:, chosen].min(axis=1, keepdims=True) if len(chosen) else np.full((len(problem.cost), 1), problem.never)
        )
        chosen = np.append(chosen, np.minimum(problem.cost, now).sum(axis=0).argmin())
    return chosen


def fewest(problem: Problem) -> Ints:
    """As few candidates as cover all cells.

    The cells that no other dominates lie on a staircase, of which each candidate covers a stretch: the one that reaches farthest
    from the first cell that is left is always right.
    """
    heights, widths = problem.cells.T
    # Ascending by width, a cell counts where it is higher than all that are wider.
    order = np.lexsort((heights, widths))
    tallest_after = np.maximum.accumulate(heights[order][::-1])[::-1]
    stairs = order[heights[order] > np.append(tallest_after[1:], 0)]
    covers = problem.cost[stairs] < problem.never
    chosen: list[int] = []
    step = 0
    while step < len(stairs):
        reach = np.where(covers[step], (~covers[step:]).argmax(axis=0), 0)
        reach[covers[step:].all(axis=0)] = len(stairs) - step
        best = int(reach.argmax())
        chosen.append(best)
        step += int(reach[best])
    return np.array(sorted(chosen), np.int64)
