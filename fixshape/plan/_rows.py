"""What sizes are: rows of whole numbers, checked once and then trusted.

Shapes: ``N`` samples. A row is (height, width) or (height, width, boxes), in pixels after the host resize.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fixshape._check import shown
from fixshape.errors import PlanError, ShapeError

Sizes = Iterable[Sequence[int]] | npt.NDArray[np.integer[Any]]
Rows = npt.NDArray[np.int64]

MOST_PIXELS = 1 << 32  # a larger canvas is a typing error or an attack, not a picture
_MOST_SIDE = 1 << 24  # two sides then have a product that int64 holds, rounded up too
MOST_BOXES = 1 << 32


def as_rows(where: str, sizes: Sizes, *, empty: bool = False) -> Rows:
    """Sizes as int64 [N, 3]; without a third column no sample has a box.

    Args:
        where: the public function that was called, for the message.
        sizes: the rows.
        empty: whether no rows at all are right too.

    Raises:
        PlanError: there are no rows.
        ShapeError: a row is not two or three whole numbers in range, or not as long as the others; the message names the first.
    """
    given = sizes if isinstance(sizes, np.ndarray) else list(sizes)
    if not len(given):
        if empty:
            return np.zeros((0, 3), np.int64)
        raise PlanError(f"{where}: got no sizes, expected at least one (height, width[, boxes]).")
    rows = _whole(given)
    if rows is None:
        raise _first_bad(where, given)
    limit = np.array([_MOST_SIDE, _MOST_SIDE, MOST_BOXES])
    bad = ((rows < [1, 1, 0]) | (rows > limit)).any(axis=1) | (rows[:, 0] * rows[:, 1] > MOST_PIXELS)
    if bad.any():
        index = int(bad.argmax())
        raise _bad(where, index, given[index])
    return rows


def has_boxes(sizes: Sizes) -> bool:
    """Whether checked sizes have a column of boxes."""
    return len(next(iter(sizes), ())) == 3


def round_up(rows: Rows, multiple_of: int) -> Rows:
    """Each number rounded up to a multiple."""
    return -(-rows // multiple_of) * multiple_of


def _whole(given: Any) -> Rows | None:
    """int64 [N, 3], or None where some row is wrong."""
    try:
        array = np.asarray(given)
    except (ValueError, OverflowError, TypeError):
        return None
    if array.ndim != 2 or array.shape[1] not in (2, 3) or array.dtype.kind not in "iu":
        return None
    if array.dtype.kind == "u" and array.max() > np.iinfo(np.int64).max:
        return None
    rows = np.zeros((len(array), 3), np.int64)
    rows[:, : array.shape[1]] = array
    return rows


def _first_bad(where: str, given: Any) -> ShapeError:
    width = 0
    for index, row in enumerate(given):
        try:
            numbers = list(row)
        except TypeError:
            return _bad(where, index, row)
        width = width or len(numbers)
        fits = len(numbers) == width and len(numbers) in (2, 3)
        if not fits or any(isinstance(number, bool | np.bool_) or not hasattr(number, "__index__") for number in numbers):
            return _bad(where, index, row)
        if any(not 0 <= number.__index__() <= MOST_BOXES for number in numbers):
            return _bad(where, index, row)
    return ShapeError(f"{where}: got {shown(given)}, expected rows of (height, width[, boxes]).")


def _bad(where: str, index: int, row: Any) -> ShapeError:
    row = row.tolist() if isinstance(row, np.ndarray | np.generic) else row
    return ShapeError(
        f"{where}: row {index} is {shown(row)}, expected (height, width) or (height, width, boxes), as all rows: whole numbers,"
        f" height and width from 1 to {_MOST_SIDE:,} with at most {MOST_PIXELS:,} pixels, boxes from 0."
    )
