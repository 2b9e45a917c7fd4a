"""The sentence of a certificate promises no more than its numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixshape.errors import PlanError, ShapeError
from fixshape.plan import Certificate


@given(st.floats(0, 3), st.floats(0, 3))
def test_the_bound_is_rounded_down(one, other):
    low, high = sorted((one, other))
    said = str(Certificate(high, low, 2)).rpartition("less than ")[2]
    assert float(said.removesuffix(" %")) / 100 <= low * (1 + 1e-12)


def test_one_bucket_is_singular():
    assert str(Certificate(0.5, 0.25, 1)) == "50.00 % padding; no plan with 1 bucket has less than 25.00 %"


@pytest.mark.parametrize(
    ("waste", "bound"), [(0.1, 0.2), (float("nan"), 0.0), (float("inf"), 0.0), (0.1, -0.1), (0.1, float("nan"))]
)
def test_refuses_numbers_that_prove_nothing(waste, bound):
    with pytest.raises(PlanError, match="expected finite numbers with 0 <= lower_bound <= waste"):
        Certificate(waste, bound, 2)
    with pytest.raises(ShapeError, match="buckets is 0"):
        Certificate(0.1, 0.1, 0)
