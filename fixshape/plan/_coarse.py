"""What if there are too many distinct sizes? Heights and widths are put into groups, once upward and once downward.

Shapes: ``C`` cells, ``K`` buckets.

Upward, each size becomes the largest of its group: a plan of that covers the true sizes, and its buckets then shrink to what
their samples take. Downward, each becomes the smallest of its group: every plan of the true sizes, taken down so, is a plan of
that and no larger, so that a bound on those plans is a bound on all.
"""

from __future__ import annotations

import numpy as np

from fixshape.plan._lengths import best_ends
from fixshape.plan._problem import Ints, count_candidates

_GROUPS = (160, 112, 80, 56, 40, 28)  # of heights, and of widths; 28 ** 4 is few enough whatever the sizes


def coarsen(cells: Ints, counts: Ints, most_entries: int) -> tuple[tuple[Ints, Ints], tuple[Ints, Ints]]:
    """Cells [C', 2] and counts [C'] of the sizes taken upward, and downward: with as many groups as the limit allows."""
    for groups in _GROUPS:
        upward, downward = _taken(cells, counts, groups)
        if max(len(taken[0]) * count_candidates(taken[0]) for taken in (upward, downward)) <= most_entries:
            break
    return upward, downward


def _taken(cells: Ints, counts: Ints, groups: int) -> tuple[tuple[Ints, Ints], tuple[Ints, Ints]]:
    up, down = np.empty_like(cells), np.empty_like(cells)
    for side in (0, 1):
        values, which = np.unique(cells[:, side], return_inverse=True)
        weights = np.bincount(which, weights=counts).astype(np.int64)
        ends = np.array(best_ends(values, weights, min(groups, len(values))))
        starts = np.concatenate([[0], ends[:-1] + 1])
        group = np.searchsorted(ends, which)
        up[:, side], down[:, side] = values[ends[group]], values[starts[group]]
    return _merged(up, counts), _merged(down, counts)


def shrink(cells: Ints, counts: Ints, shapes: Ints) -> tuple[Ints, int]:
    """``shapes`` [K, 2] made as small as their cells allow, until each cell is in the smallest that covers it; and the pixels.

    Shapes that no cell is in are left out.
    """
    while True:
        shapes = shapes[np.lexsort((shapes[:, 0], shapes.prod(axis=1)))]
        nearest = np.full(len(cells), -1)
        for index in reversed(range(len(shapes))):
            nearest[(cells <= shapes[index]).all(axis=1)] = index
        smaller = np.array([cells[nearest == index].max(axis=0) for index in np.unique(nearest)])
        if np.array_equal(smaller, shapes):
            return shapes, int((counts * shapes.prod(axis=1)[nearest]).sum())
        shapes = smaller


def _merged(cells: Ints, counts: Ints) -> tuple[Ints, Ints]:
    distinct, which = np.unique(cells, axis=0, return_inverse=True)
    merged = np.zeros(len(distinct), np.int64)
    np.add.at(merged, which.reshape(-1), counts)
    return distinct, merged
