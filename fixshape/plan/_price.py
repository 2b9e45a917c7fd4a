"""How many buckets are worth it? Each one more is a compile more and some padding less."""

from __future__ import annotations

import math

from fixshape._check import check_at_least
from fixshape.errors import ShapeError
from fixshape.plan._certificate import Certificate
from fixshape.plan._demand import gather_demand
from fixshape.plan._least_waste import LeastWaste
from fixshape.plan._plan_buckets import build_plan
from fixshape.plan._rows import Sizes
from fixshape.plan._shape_plan import ShapePlan


def plan_by_cost(
    sizes: Sizes,
    *,
    compile_seconds: float,
    step_seconds: float,
    epochs: int,
    batch_size: int,
    most: int = 16,
    multiple_of: int = 32,
    max_boxes: int | None = None,
    max_pixels: int | None = None,
    pixels_per_batch: int | None = None,
    fallback: bool = False,
) -> ShapePlan:
    """The plan with as many buckets as make the whole training shortest.

    With K buckets it is taken to last ``compile_seconds * K + step_seconds * steps * epochs * (1 + waste)`` seconds: each bucket
    compiles once, and a step takes as long as its padded pixels do. Where the forward pass is not linear in them (attention), or
    a compile is cached from an earlier run, the truth is another. Of equally long ones the plan with fewer buckets is taken.

    Args:
        sizes: [N, 2] or [N, 3] whole numbers: (height, width[, boxes]) per sample, pixels after the host resize.
        compile_seconds: that one bucket costs: the time of its first steps, less that of as many later ones. 0 or more.
        step_seconds: of one step after the warm-up on a batch without padding. Above 0.
        epochs: of the whole training.
        batch_size: images per step, on all devices together.
        most: buckets that are tried.
        multiple_of: as in :func:`~fixshape.plan.plan_buckets`.
        max_boxes: as there.
        max_pixels: as there.
        pixels_per_batch: as there; the seconds go by ``batch_size`` all the same.
        fallback: as there; its compile is not counted.

    Returns:
        A :class:`~fixshape.plan.ShapePlan`, as :func:`~fixshape.plan.plan_buckets` gives it for that many buckets.

    Raises:
        PlanError: as in :func:`~fixshape.plan.plan_buckets`; also where more than ``most`` buckets are needed under the cap.
        ShapeError: a number is out of range.

    Example:
        >>> sizes = [(480, 640)] * 60 + [(640, 480)] * 30 + [(320, 320)] * 10
        >>> len(plan_by_cost(sizes, compile_seconds=60, step_seconds=0.4, epochs=100, batch_size=2).buckets)
        3
        >>> len(plan_by_cost(sizes, compile_seconds=900, step_seconds=0.4, epochs=12, batch_size=2).buckets)
        1
    """
    where = "plan_by_cost"
    for name, seconds, open_end in (("compile_seconds", compile_seconds, False), ("step_seconds", step_seconds, True)):
        if not (isinstance(seconds, float | int) and math.isfinite(seconds) and (seconds > 0 if open_end else seconds >= 0)):
            expected = "above 0" if open_end else "of at least 0"
            raise ShapeError(f"{where}: {name} is {seconds!r}, expected a number of seconds {expected}.")
    for name, count in (("epochs", epochs), ("batch_size", batch_size), ("most", most)):
        check_at_least(where, name, count, 1)
    demand = gather_demand(
        where, sizes, multiple_of=multiple_of, max_pixels=max_pixels, pixels_per_batch=pixels_per_batch, fallback=fallback
    )
    plans = LeastWaste(where, demand)
    work = step_seconds * -(-len(demand.rows) // batch_size) * epochs
    start = plans.fewest
    shapes, certificate = plans.plan(min(start, most))  # a PlanError where so few cannot do
    shortest = compile_seconds * start + work * (1 + certificate.waste)
    unpadded = work * (1 + plans.floor().waste)
    for k in range(start + 1, min(most, plans.most) + 1):
        if compile_seconds * k + unpadded >= shortest:
            break  # from here on the compiles alone are too many
        found, proven = plans.plan(k)
        seconds = compile_seconds * k + work * (1 + proven.waste)
        if seconds < shortest:
            shapes, certificate, shortest = found, proven, seconds
    return build_plan(where, demand, shapes, certificate, max_boxes, pixels_per_batch)


def frontier(sizes: Sizes, most: int = 16, *, multiple_of: int = 32, max_pixels: int | None = None) -> tuple[Certificate, ...]:
    """What each number of buckets wastes.

    Args:
        sizes: [N, 2] or [N, 3] whole numbers: (height, width[, boxes]) per sample, pixels after the host resize.
        most: buckets at most.
        multiple_of: heights and widths of buckets are multiples of this, in pixels.
        max_pixels: no bucket has more pixels.

    Returns:
        The certificate of the plan of each number of buckets: from the fewest that cover all samples under the cap (1 without
        one) up to ``most``, or to the number of distinct sizes where that is less.

    Raises:
        PlanError: as in :func:`~fixshape.plan.plan_buckets`.
        ShapeError: a number is out of range.

    Example:
        >>> sizes = [(480, 640)] * 60 + [(640, 480)] * 30 + [(320, 320)] * 10
        >>> [round(certificate.waste, 2) for certificate in frontier(sizes)]
        [0.43, 0.07, 0.0]
    """
    check_at_least("frontier", "most", most, 1)
    plans = LeastWaste("frontier", gather_demand("frontier", sizes, multiple_of=multiple_of, max_pixels=max_pixels))
    first = min(plans.fewest, most)  # a PlanError where so few cannot do
    return tuple(plans.plan(k)[1] for k in range(first, min(most, plans.most) + 1))
