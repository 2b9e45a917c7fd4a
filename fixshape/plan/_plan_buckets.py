"""K buckets that pad least, with their box slots and batch sizes."""

from __future__ import annotations

import warnings

import numpy as np

from fixshape._check import check_at_least
from fixshape.errors import FixshapeWarning
from fixshape.plan._bucket import Bucket
from fixshape.plan._certificate import Certificate
from fixshape.plan._demand import Demand, gather_demand
from fixshape.plan._least_waste import LeastWaste
from fixshape.plan._problem import Ints
from fixshape.plan._rows import Sizes
from fixshape.plan._shape_plan import ShapePlan


def plan_buckets(
    sizes: Sizes,
    k: int,
    *,
    multiple_of: int = 32,
    max_boxes: int | None = None,
    max_pixels: int | None = None,
    pixels_per_batch: int | None = None,
    fallback: bool = False,
) -> ShapePlan:
    """The ``k`` buckets that cover every sample and have the fewest padded pixels in sum.

    The discrete two-dimensional assortment problem (Tripathy, Sural, Gerchak 1999, "Multidimensional assortment problem with an
    application"), searched by exchanges, with a Lagrangian bound. No algorithm is known to us that is exact and fast for every
    input, so the plan is not promised to be the best: its ``certificate`` says how much better any plan could be, and most often
    that is nothing. The same sizes give the same plan on every machine, in any order of the rows.

    Only pixels are weighed. A bucket's box slots follow from the samples that go there.

    Args:
        sizes: [N, 2] or [N, 3] whole numbers: (height, width[, boxes]) per sample, pixels after the host resize.
        k: how many buckets.
        multiple_of: heights and widths of buckets are multiples of this, in pixels.
        max_boxes: box slots of every bucket; samples with more are then the padder's affair. ``None`` gives each bucket as many
            as its samples have at most, and at least 1.
        max_pixels: no bucket has more pixels (height x width).
        pixels_per_batch: sets ``batch_sizes``: a batch of each bucket has as many images as fit into so many pixels. No bucket
            is larger.
        fallback: whether to add a bucket as high as the highest sample, as wide as the widest and with the most box slots, for
            later images and for samples over ``max_pixels``. It is not one of the ``k``, and its batch size is at least 1.
            It is left out where a bucket covers as much already.

    Returns:
        A :class:`~fixshape.plan.ShapePlan` with a certificate. It has fewer buckets where there are fewer distinct sizes.

    Warns:
        FixshapeWarning: there are fewer distinct sizes than ``k`` after rounding up.

    Raises:
        PlanError: there are no sizes; a sample needs a bucket over the cap and there is no fallback; so few buckets under the cap
            cannot cover all samples; or there are so many and such large samples that 64 bits do not hold the sum.
        ShapeError: a row is not two or three whole numbers in range (the message names the first), or an argument is below 1.

    Example:
        >>> sizes = [(480, 640, 3), (480, 640, 9), (640, 480, 2), (427, 640, 5), (320, 320, 1)]
        >>> plan = plan_buckets(sizes, 3)
        >>> [str(bucket) for bucket in plan.buckets]
        ['320x320, 1 boxes', '640x480, 2 boxes', '480x640, 9 boxes']
        >>> print(plan.certificate)
        2.61 % padding; no plan with 3 buckets has less than 2.61 %
    """
    check_at_least("plan_buckets", "k", k, 1)
    demand = gather_demand(
        "plan_buckets",
        sizes,
        multiple_of=multiple_of,
        max_pixels=max_pixels,
        pixels_per_batch=pixels_per_batch,
        fallback=fallback,
    )
    if len(demand.cells) < k:
        text = f"plan_buckets: {k} buckets were asked for, but the sizes have {len(demand.cells)} distinct shapes at multiples of"
        warnings.warn(FixshapeWarning(f"{text} {multiple_of}: the plan has {len(demand.cells)}."), stacklevel=2)
    shapes, certificate = LeastWaste("plan_buckets", demand).plan(k)
    return build_plan("plan_buckets", demand, shapes, certificate, max_boxes, pixels_per_batch)


def build_plan(
    where: str,
    demand: Demand,
    shapes: Ints,
    certificate: Certificate,
    max_boxes: int | None,
    pixels_per_batch: int | None,
) -> ShapePlan:
    """The plan of these shapes [K, 2]: box slots from the samples that go to each, and batch sizes."""
    if max_boxes is not None:
        check_at_least(where, "max_boxes", max_boxes, 1)
    # By area, height, width: of shapes of equal area ShapePlan puts the one with fewer slots first, so that a sample may go to
    # another of that area than here; no waste changes, and the sample that gave a bucket its slots stays there.
    ordered = shapes[np.lexsort((shapes[:, 1], shapes[:, 0], shapes.prod(axis=1)))]
    fullest = [1] * len(ordered)
    left = demand.rows
    for index, shape in enumerate(ordered):
        inside = (left[:, :2] <= shape).all(axis=1)
        fullest[index] = max(1, int(left[inside, 2].max(initial=0)))
        left = left[~inside]
    buckets = [
        Bucket(height, width, slots if max_boxes is None else max_boxes)
        for (height, width), slots in zip(ordered.tolist(), fullest, strict=True)
    ]
    spare = None
    if demand.fallback is not None:
        slots = max(1, int(demand.rows[:, 2].max())) if max_boxes is None else max_boxes
        spare = Bucket(*demand.fallback, slots)
        if any(bucket.covers(spare.height, spare.width, spare.max_boxes) for bucket in buckets):
            spare = None
    batch_sizes = None
    if pixels_per_batch is not None:
        batch_sizes = [max(1, pixels_per_batch // bucket.area) for bucket in [*buckets, *([spare] if spare else [])]]
    return ShapePlan(buckets, fallback=spare, batch_sizes=batch_sizes, certificate=certificate)
