"""Is it a size? What every source of sizes asks of its rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fixshape.errors import DatasetError

LONGEST_SIDE = 1 << 20  # pixels; more is a typing error or an attack, and areas of it might not fit an int64
MOST_BOXES = 1 << 20
MOST_ROWS = 1 << 27  # 3 GB of int64


def is_side(value: Any) -> bool:
    """Whether it can be a height or a width: a whole number of pixels."""
    return type(value) is int and 1 <= value <= LONGEST_SIDE


def is_count(value: Any) -> bool:
    """Whether it can be a number of boxes."""
    return type(value) is int and 0 <= value <= MOST_BOXES


def check_rows(where: str, rows: NDArray[Any], name: Callable[[int], str]) -> NDArray[np.int64]:
    """[N, 2] or [N, 3] int64. Raises :class:`DatasetError` where there is no row, or one is no size; ``name`` says which."""
    if len(rows) == 0:
        raise no_image(where)
    sides, boxes = rows[:, :2], rows[:, 2:]
    wrong = ((sides < 1) | (sides > LONGEST_SIDE)).any(1) | ((boxes < 0) | (boxes > MOST_BOXES)).any(1)
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise not_a_size(where, name(first), rows[first].tolist())
    return np.array(rows, np.int64, order="C")


def no_image(where: str) -> DatasetError:
    """The error that there is nothing to plan for."""
    return DatasetError(f"{where}: there is no image in it, expected at least one.")


def not_a_size(where: str, name: str, got: Sequence[Any]) -> DatasetError:
    """The error that a row is no size."""
    shown = " x ".join("missing" if value is None else repr(value)[:40] for value in got[:2])
    boxes = f" with {got[2]!r:.40} boxes" if len(got) > 2 else ""
    return DatasetError(
        f"{where}: {name} is {shown} (height x width){boxes}, expected whole numbers of pixels from 1 to {LONGEST_SIDE:,}"
        f"{' and of boxes from 0' if boxes else ''}. Correct it, or leave it out."
    )
