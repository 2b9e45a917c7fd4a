"""What is to be decided? Which candidate shapes to take, as a p-median problem in whole numbers.

Shapes: ``N`` samples, ``C`` cells (distinct sizes after rounding up to the alignment), ``S`` candidate shapes.

A bucket need not be larger than the (largest height, largest width) of its samples, so the candidates are the pairs of a cell's
height and a cell's width that are such a maximum. Everything is int64 and exact: a plan is the same on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fixshape.errors import PlanError
from fixshape.plan._rows import MOST_PIXELS

Ints = npt.NDArray[np.int64]
MOST_ENTRIES = 1 << 21  # of the cost matrix; beyond, cells are put together
_BITS = 61


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """Cells, candidates, and the pixels that each pair costs.

    Args:
        cells: [C, 2] height and width of each cell, ascending.
        counts: [C] samples of each cell, in units.
        unit: samples; what the numbers of all cells have in common.
        shapes: [S, 2] height and width of each candidate, ascending.
        cost: [C, S] pixels that the cell's samples take, by unit, in that shape; ``never`` where it does not cover them.
        never: more than any plan costs that covers every cell.
    """

    cells: Ints
    counts: Ints
    unit: int
    shapes: Ints
    cost: Ints
    never: int

    def total(self, chosen: Ints) -> int:
        """Pixels of a plan of these candidates, every cell in the smallest that covers it."""
        return int(self.cost[:, chosen].min(axis=1).sum())


def gather(needed: Ints) -> tuple[Ints, Ints]:
    """The cells [C, 2] among what the samples need [N, 2], and how many samples each has [C]."""
    cells, counts = np.unique(needed, axis=0, return_counts=True)
    return cells, counts.astype(np.int64)


def make_problem(where: str, cells: Ints, counts: Ints, most_pixels: int = MOST_PIXELS) -> Problem:
    """The problem of cells [C, 2] with counts [C], over candidates of at most ``most_pixels``.

    Raises:
        PlanError: costs are too large for 64 bits.
    """
    unit = int(np.gcd.reduce(counts))
    counts = counts // unit
    shapes = _candidates(cells, most_pixels)
    covers = (cells[:, None, :] <= shapes[None, :, :]).all(axis=2)
    areas = shapes.prod(axis=1)
    never = int(counts.sum()) * int(areas.max()) + 1
    if (never * (len(cells) + 1)).bit_length() > _BITS:
        raise PlanError(
            f"{where}: {int(counts.sum()):,} samples in shapes of up to {int(areas.max()):,} pixels are too many to add up"
            " exactly. Plan with a part of the samples, or with max_pixels."
        )
    cost = np.where(covers, counts[:, None] * areas[None, :], never)
    return Problem(cells, counts, unit, shapes, cost, never)


def count_candidates(cells: Ints) -> int:
    """How many candidates :func:`make_problem` would have without a cap."""
    return int(_tight(cells)[2].sum())


def _candidates(cells: Ints, most_pixels: int) -> Ints:
    heights, widths, tight = _tight(cells)
    small = heights[:, None] * widths[None, :] <= most_pixels
    rows, columns = np.nonzero(tight & small)
    return np.stack([heights[rows], widths[columns]], axis=1)


def _tight(cells: Ints) -> tuple[Ints, Ints, npt.NDArray[np.bool_]]:
    """The heights, the widths, and which pairs are the maximum of some cells.

    That is where a cell of that height is no wider, and one of that width no higher.
    """
    heights, of_height = np.unique(cells[:, 0], return_inverse=True)
    widths, of_width = np.unique(cells[:, 1], return_inverse=True)
    narrowest, lowest = np.full(len(heights), widths[-1]), np.full(len(widths), heights[-1])
    np.minimum.at(narrowest, of_height, cells[:, 1])
    np.minimum.at(lowest, of_width, cells[:, 0])
    return heights, widths, (narrowest[:, None] <= widths[None, :]) & (lowest[None, :] <= heights[:, None])
