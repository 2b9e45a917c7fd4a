"""Which lengths? The exact answer for sequences: tokens, frames, waveforms.

Shapes: ``V`` distinct lengths after rounding up, ``K`` buckets.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from fixshape._check import check_at_least, shown
from fixshape.errors import FixshapeWarning, PlanError, ShapeError
from fixshape.plan._rows import round_up

Ints = npt.NDArray[np.int64]
MOST_LENGTH = 1 << 32
_BITS = 62


def plan_lengths(lengths: Iterable[int] | npt.NDArray[np.integer[Any]], k: int, *, multiple_of: int = 1) -> tuple[int, ...]:
    """The lengths to pad sequences to, so that the padding is the least there can be with so many of them.

    Exact: each sequence is padded to the first end that is no shorter, and no ``k`` ends give less padding in sum. Dynamic
    programming over the sorted lengths; the cost is Monge, so that each of its ``k`` rounds takes V log V steps by division
    (Yao 1980; Galil and Park 1992). Of choices that are equally good the one with the lowest ends is taken.

    Args:
        lengths: one whole number per sequence, 0 or more, in any order.
        k: how many ends there may be.
        multiple_of: each end is a multiple of this, and at least that, so that an empty sequence has a place too.

    Returns:
        Ends, ascending; the last one holds the longest sequence.

    Warns:
        FixshapeWarning: there are fewer distinct lengths than ``k`` after rounding up, so that fewer ends are returned.

    Raises:
        PlanError: there are no lengths, or so many and such long ones that 64 bits do not hold their sum.
        ShapeError: a length is not a whole number from 0 to 2 ** 32, or ``k`` or ``multiple_of`` is below 1.

    Example:
        >>> plan_lengths([3, 4, 4, 5, 40, 41, 100], 3, multiple_of=8)
        (8, 48, 104)
    """
    check_at_least("plan_lengths", "k", k, 1)
    check_at_least("plan_lengths", "multiple_of", multiple_of, 1)
    values, counts = np.unique(round_up(np.maximum(_checked(lengths), 1), multiple_of), return_counts=True)
    if (int(counts.sum()) * int(values[-1])).bit_length() > _BITS:
        raise PlanError(f"plan_lengths: {int(counts.sum()):,} lengths of up to {int(values[-1]):,} do not add up in 64 bits.")
    if len(values) < k:
        text = (
            f"plan_lengths: {k} ends were asked for, but there are {len(values)} distinct lengths at multiples of {multiple_of}"
        )
        warnings.warn(FixshapeWarning(f"{text}: {len(values)} ends are returned."), stacklevel=2)
    return tuple(int(values[index]) for index in best_ends(values, counts, min(k, len(values))))


def best_ends(values: Ints, counts: Ints, k: int) -> list[int]:
    """Indices of the ``k`` values to pad to, ascending, where ``values`` [V] ascend and ``counts`` [V] are above 0."""
    before = np.concatenate([[0], np.cumsum(counts)])  # samples among the first i values
    cost = before[1:] * values  # of the first j + 1 values in one bucket
    froms = []
    for done in range(1, k):
        cost, chosen = _one_more(cost, values, before, done)
        froms.append(chosen)
    ends = [len(values) - 1]
    for chosen in reversed(froms):
        ends.append(int(chosen[ends[-1]]))
    return ends[::-1]


def _one_more(cost: Ints, values: Ints, before: Ints, done: int) -> tuple[Ints, Ints]:
    """The cost [V] of the first values up to each with one bucket more than ``cost`` has, and the end before its last bucket.

    ``done`` buckets end at ``done - 1`` or later. The best end before does not fall as j rises, so the middle one of a stretch
    bounds both halves: all stretches of a depth are searched at once.
    """
    size = len(values)
    best = np.full(size, np.iinfo(np.int64).max)
    chosen = np.full(size + 1, -1, np.int64)
    places = np.arange(size)
    stride = 1 << (size - done).bit_length()
    while stride:
        middles = places[done + stride - 1 :: 2 * stride]
        if len(middles):
            left, right = middles - stride, middles + stride
            low = np.where(left < done, done - 1, chosen[np.maximum(left, 0)])
            high = np.where(right >= size, middles - 1, np.minimum(chosen[np.minimum(right, size)], middles - 1))
            lengths = high - low + 1
            starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
            owner = np.repeat(np.arange(len(middles)), lengths)
            ends = np.arange(int(lengths.sum())) - starts[owner] + low[owner]
            last = middles[owner]
            found = cost[ends] + (before[last + 1] - before[ends + 1]) * values[last]
            least = np.minimum.reduceat(found, starts)
            first = np.minimum.reduceat(np.where(found == least[owner], ends, size), starts)
            best[middles], chosen[middles] = least, first
        stride //= 2
    return best, chosen


def _checked(lengths: Iterable[int] | npt.NDArray[np.integer[Any]]) -> Ints:
    given = lengths if isinstance(lengths, np.ndarray) else list(lengths)
    if not len(given):
        raise PlanError("plan_lengths: got no lengths, expected at least one.")
    try:
        array = np.asarray(given)
    except (ValueError, OverflowError, TypeError):
        array = np.asarray(None)
    if array.ndim == 1 and array.dtype.kind in "iu" and int(array.min()) >= 0 and int(array.max()) <= MOST_LENGTH:
        return array.astype(np.int64)
    for index, value in enumerate(given):
        whole = hasattr(value, "__index__") and not isinstance(value, bool | np.bool_) and not hasattr(value, "shape")
        if not (whole or isinstance(value, np.integer)) or not 0 <= value.__index__() <= MOST_LENGTH:
            raise ShapeError(
                f"plan_lengths: length {index} is {shown(value)}, expected a whole number from 0 to {MOST_LENGTH:,}."
            )
    raise ShapeError(f"plan_lengths: lengths is {shown(given)}, expected a sequence of whole numbers.")
