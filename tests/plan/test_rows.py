"""What is taken for sizes, and that every other thing is refused with the first bad row named."""

import numpy as np
import pytest

from fixshape.errors import PlanError, ShapeError
from fixshape.plan import cover_all, describe, plan_buckets


@pytest.mark.parametrize(
    "sizes",
    [
        [(3, 4), (5, 6)],
        [[3, 4], [5, 6]],
        np.array([[3, 4], [5, 6]], np.uint8),
        np.array([[3, 4], [5, 6]], np.uint64),
        iter([(np.int64(3), 4), (5, 6)]),
    ],
)
def test_any_rows_of_whole_numbers(sizes):
    assert [(bucket.height, bucket.width) for bucket in plan_buckets(sizes, 2, multiple_of=1).buckets] == [(3, 4), (5, 6)]


@pytest.mark.parametrize(
    ("sizes", "row"),
    [
        ([(3, 4), (0, 4)], r"row 1 is \(0, 4\)"),
        ([(3, 4), (3, -4)], r"row 1 is \(3, -4\)"),
        ([(3, 4, 0), (3, 4, -1)], r"row 1 is \(3, 4, -1\)"),
        ([(3, 4), (3, 4.5)], r"row 1 is \(3, 4.5\)"),
        ([(3, 4), (3, float("nan"))], r"row 1 is \(3, nan\)"),
        ([(3, 4), (3, 4, 5)], r"row 1 is \(3, 4, 5\)"),
        ([(3, 4), 7], "row 1 is 7"),
        ([(3, 4), None], "row 1 is None"),
        ([(3, 4), (3, "4")], r"row 1 is \(3, '4'\)"),
        ([(3, 4), (3, 2**70)], r"row 1 is \(3, 1180591620717411303424\)"),
        ([(3, 4), (2**24, 2**24)], r"row 1 is \(16777216, 16777216\)"),
        ([(3, 4), (1, 2**24 + 1)], "row 1 is"),
        ([(3, 4), (2**63, 2**63)], "row 1 is"),
        (np.array([[3.0, 4.0]]), r"row 0 is \[3.0, 4.0\]"),
        (np.array([[3, 4], [2**64 - 1, 1]], np.uint64), r"row 1 is \[18446744073709551615, 1\]"),
        (np.array([[True, True]]), "row 0 is"),
        (np.zeros((2, 4), np.int64), r"row 0 is \[0, 0, 0, 0\]"),
        (np.ones(3, np.int64), "row 0 is 1"),
    ],
)
def test_the_first_bad_row_is_named(sizes, row):
    for function in (lambda given: plan_buckets(given, 1), cover_all, lambda given: describe(cover_all([(9, 9)]), given)):
        with pytest.raises(ShapeError, match=rf"(plan_buckets|cover_all|describe): {row}.*expected \(height, width\) or"):
            function(sizes)


@pytest.mark.parametrize("sizes", [[], np.zeros((0, 2), np.int64), iter(())])
def test_no_rows_are_no_plan(sizes):
    with pytest.raises(PlanError, match=r"plan_buckets: got no sizes, expected at least one \(height, width\[, boxes\]\)"):
        plan_buckets(sizes, 1)
