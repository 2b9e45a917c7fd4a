"""What does a plan do to these sizes? Bucket by bucket, as data, as text and as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fixshape.plan._bucket import Bucket
from fixshape.plan._certificate import Certificate
from fixshape.plan._rows import Sizes, as_rows
from fixshape.plan._shape_plan import ShapePlan

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class BucketReport:
    """The samples that go to one shape of a plan.

    Attributes:
        bucket: the shape.
        fallback: whether it is the plan's fallback.
        batch_size: the plan's own for it, or None.
        images: how many samples go there.
        share: of all samples.
        waste: padded pixels / pixels of its samples - 1; 0.0 where there are none.
        most_boxes: that one of its samples has.
        over: samples with more boxes than it has slots.
    """

    bucket: Bucket
    fallback: bool
    batch_size: int | None
    images: int
    share: float
    waste: float
    most_boxes: int
    over: int


@dataclass(frozen=True, slots=True)
class PlanReport:
    """What a plan does to the samples of a data set.

    Attributes:
        rows: one of each of the plan's shapes, in their order.
        images: samples in all.
        waste: padded pixels / pixels of the samples - 1.
        most_boxes: that one sample has.
        over: samples with more boxes than their bucket has slots.
        certificate: the plan's; of the sizes that it was made for, which may be others.
    """

    rows: tuple[BucketReport, ...]
    images: int
    waste: float
    most_boxes: int
    over: int
    certificate: Certificate | None


def describe(plan: ShapePlan, sizes: Sizes) -> PlanReport:
    """Sends every sample to its bucket and counts.

    A sample with more boxes than any bucket that holds its pixels has slots is counted as ``over``, in the smallest of those with
    the most slots: where a padder with an overflow policy takes it to.

    Args:
        plan: the buckets.
        sizes: [N, 2] or [N, 3] whole numbers: (height, width[, boxes]) per sample, pixels after the host resize.

    Returns:
        A :class:`PlanReport`.

    Raises:
        BucketError: no bucket holds the pixels of some sample.
        PlanError: there are no sizes.
        ShapeError: a row is not two or three whole numbers in range.

    Example:
        >>> plan = ShapePlan([Bucket(320, 320, 4), Bucket(320, 640, 4)])
        >>> report = describe(plan, [(320, 320, 2), (300, 320, 9), (320, 400, 1)])
        >>> print(as_text(report), end="")
        bucket   slots  images   share   waste  most boxes  over
        320x320      4       2   66.7%   3.23%           9     1
        320x640      4       1   33.3%  60.00%           1     0
        all                  3  100.0%  25.49%           9     1
    """
    rows = as_rows("describe", sizes)
    slots = np.zeros(len(rows), np.int64)
    for bucket in plan.shapes:
        holds = (rows[:, :2] <= [bucket.height, bucket.width]).all(axis=1)
        slots[holds] = np.maximum(slots[holds], bucket.max_boxes)
    held = np.concatenate([rows[:, :2], np.minimum(rows[:, 2:], slots[:, None])], axis=1)
    chosen = plan.assign(held)
    found = []
    for index, bucket in enumerate(plan.shapes):
        own = rows[chosen == index]
        pixels = int((own[:, 0] * own[:, 1]).sum())
        found.append(
            BucketReport(
                bucket=bucket,
                fallback=index == len(plan.buckets),
                batch_size=plan.batch_size(index, 0) or None,
                images=len(own),
                share=len(own) / len(rows),
                waste=(bucket.area * len(own) - pixels) / pixels if pixels else 0.0,
                most_boxes=int(own[:, 2].max(initial=0)),
                over=int((own[:, 2] > bucket.max_boxes).sum()),
            )
        )
    pixels = int((rows[:, 0] * rows[:, 1]).sum())
    padded = sum(row.bucket.area * row.images for row in found)
    return PlanReport(
        rows=tuple(found),
        images=len(rows),
        waste=(padded - pixels) / pixels,
        most_boxes=int(rows[:, 2].max()),
        over=sum(row.over for row in found),
        certificate=plan.certificate,
    )


def as_text(report: PlanReport) -> str:
    """The report as a table, and the certificate's sentence under it.

    Args:
        report: of :func:`describe`.

    Returns:
        Lines, the last one with its newline. A column of batch sizes is there where the plan has them.
    """
    batches = any(row.batch_size for row in report.rows)
    table = [["bucket", "slots", *["batch"] * batches, "images", "share", "waste", "most boxes", "over"]]
    for row in report.rows:
        name = f"{row.bucket.height}x{row.bucket.width}" + " (fallback)" * row.fallback
        size = ["" if row.batch_size is None else str(row.batch_size)] * batches
        table.append(
            [name, str(row.bucket.max_boxes), *size, *_cells(row.images, row.share, row.waste, row.most_boxes, row.over)]
        )
    table.append(["all", "", *[""] * batches, *_cells(report.images, 1.0, report.waste, report.most_boxes, report.over)])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        for cells in table
    ]
    return "\n".join(line.rstrip() for line in [*lines, *([str(report.certificate)] if report.certificate else [])]) + "\n"


def as_json(report: PlanReport) -> dict[str, Any]:
    """The report as plain data, for :func:`json.dumps`.

    Args:
        report: of :func:`describe`.

    Returns:
        ``schema_version`` (1), the fields of :class:`PlanReport`, and ``rows`` with those of :class:`BucketReport`, the bucket as
        ``height``, ``width`` and ``max_boxes``.

    Example:
        >>> as_json(describe(ShapePlan([Bucket(320, 320, 4)]), [(320, 160, 2)]))["rows"][0]["waste"]
        1.0
    """
    certificate = report.certificate
    return {
        "schema_version": SCHEMA_VERSION,
        "images": report.images,
        "waste": report.waste,
        "most_boxes": report.most_boxes,
        "over": report.over,
        "certificate": certificate
        and {"waste": certificate.waste, "lower_bound": certificate.lower_bound, "buckets": certificate.buckets},
        "rows": [
            {
                "height": row.bucket.height,
                "width": row.bucket.width,
                "max_boxes": row.bucket.max_boxes,
                "fallback": row.fallback,
                "batch_size": row.batch_size,
                "images": row.images,
                "share": row.share,
                "waste": row.waste,
                "most_boxes": row.most_boxes,
                "over": row.over,
            }
            for row in report.rows
        ],
    }


def _cells(images: int, share: float, waste: float, most_boxes: int, over: int) -> list[str]:
    return [f"{images:,}", f"{share:.1%}", f"{waste:.2%}", str(most_boxes), f"{over:,}"]
