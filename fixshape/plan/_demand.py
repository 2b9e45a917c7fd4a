"""What must be covered, and what may cover it? The sizes of a planning, with its alignment and its cap.

Shapes: ``N`` samples, ``C`` cells (distinct sizes after rounding up to the alignment).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fixshape._check import check_at_least, check_choice
from fixshape.errors import PlanError, ShapeError
from fixshape.plan._certificate import Certificate
from fixshape.plan._problem import Ints, gather
from fixshape.plan._rows import MOST_PIXELS, Rows, Sizes, as_rows, round_up

MOST_MULTIPLE = 1 << 24


@dataclass(frozen=True, slots=True, eq=False)
class Demand:
    """Samples, and the cells that the planned buckets must cover.

    Args:
        rows: [N, 3] all samples.
        cells: [C, 2] what those under the cap take at least, ascending.
        counts: [C] how many of them take it.
        most_pixels: of a bucket.
        pixels: of all samples, before any rounding.
        outside: pixels that the samples over the cap take in the fallback.
        fallback: its height and width, or None.
        multiple_of: the alignment.
    """

    rows: Rows
    cells: Ints
    counts: Ints
    most_pixels: int
    pixels: int
    outside: int
    fallback: tuple[int, int] | None
    multiple_of: int

    def certificate(self, total: int, bound: int, buckets: int) -> Certificate:
        """Of a plan whose buckets take ``total`` pixels, where no plan's take less than ``bound``.

        Division of whole numbers rounds to the nearest float. It never turns the order of two around, so that what is proven
        stays true of the waste of every plan, computed as here.
        """
        waste, bound_waste = ((self.outside + taken - self.pixels) / self.pixels for taken in (total, min(bound, total)))
        return Certificate(waste, max(bound_waste, 0.0), buckets)


def gather_demand(
    where: str,
    sizes: Sizes,
    *,
    multiple_of: int,
    max_pixels: int | None,
    pixels_per_batch: int | None = None,
    fallback: bool = False,
) -> Demand:
    """Checks the arguments that all planning shares.

    Raises:
        PlanError: there are no sizes, or one that no bucket under the cap covers and no fallback to take it.
        ShapeError: a size or an argument is out of range.
    """
    if check_at_least(where, "multiple_of", multiple_of, 1) > MOST_MULTIPLE:
        raise ShapeError(f"{where}: multiple_of is {multiple_of}, expected at most {MOST_MULTIPLE:,}.")
    check_choice(where, "fallback", fallback, (False, True))  # type: ignore[arg-type]
    cap, named = MOST_PIXELS, ""
    for name, value in (("max_pixels", max_pixels), ("pixels_per_batch", pixels_per_batch)):
        if value is not None and check_at_least(where, name, value, 1) < cap:
            cap, named = int(value), name
    rows = as_rows(where, sizes)
    needed = round_up(rows[:, :2], multiple_of)
    over = needed.prod(axis=1) > cap
    if over.all() or (over.any() and not fallback):
        first = int(over.argmax())
        raise _over_the_cap(where, named or "max_pixels", cap, first, rows[first], needed[first], int(needed.prod(axis=1).max()))
    largest = needed.max(axis=0)
    cells, counts = gather(needed[~over])
    return Demand(
        rows=rows,
        cells=cells,
        counts=counts,
        most_pixels=cap,
        pixels=int((rows[:, 0] * rows[:, 1]).sum()),
        outside=int(over.sum()) * int(largest.prod()),
        fallback=(int(largest[0]), int(largest[1])) if fallback else None,
        multiple_of=multiple_of,
    )


def _over_the_cap(where: str, name: str, cap: int, index: int, row: Any, needed: Any, most: int) -> PlanError:
    return PlanError(
        f"{where}: {name} is {cap:,}, but sample {index} of {row[0]}x{row[1]} (height x width) needs a bucket of"
        f" {needed[0]}x{needed[1]}, {int(needed.prod()):,} pixels."
        f" All samples need {name}={most} at least; or give fallback=True, or resize to less."
    )
