"""Lengths for sequences, exactly: against trying every choice."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixshape.errors import FixshapeWarning, PlanError, ShapeError
from fixshape.plan import plan_lengths

_lengths = st.lists(st.integers(0, 60), min_size=1, max_size=30)


def _padded(lengths, ends):
    return sum(min(end for end in ends if end >= length) for length in lengths)


@pytest.mark.filterwarnings("ignore::fixshape.errors.FixshapeWarning")
@settings(deadline=None)
@given(_lengths, st.integers(1, 4), st.sampled_from([1, 3, 8]))
def test_no_other_ends_pad_less(lengths, k, multiple_of):
    ends = plan_lengths(lengths, k, multiple_of=multiple_of)
    places = sorted({-(-max(length, 1) // multiple_of) * multiple_of for length in lengths})
    assert len(ends) == min(k, len(places))
    assert list(ends) == sorted(set(ends)) and ends[-1] == places[-1]
    every = [(*some, places[-1]) for some in combinations(places[:-1], len(ends) - 1)]
    assert _padded(lengths, ends) == min(_padded(lengths, choice) for choice in every)


def test_order_does_not_matter_and_an_array_is_as_good():
    lengths = [9, 1, 5, 5, 30, 31, 2]
    assert plan_lengths(lengths, 3) == plan_lengths(sorted(lengths), 3) == plan_lengths(np.array(lengths, np.uint8), 3)


def test_a_hundred_thousand_distinct_lengths_are_divided_evenly():
    ends = plan_lengths(np.arange(1, 100_001), 4)
    assert ends == (25_000, 50_000, 75_000, 100_000)


def test_fewer_distinct_lengths_is_said():
    with pytest.warns(FixshapeWarning, match="5 ends were asked for, but there are 2 distinct lengths at multiples of 8: 2 ends"):
        assert plan_lengths([1, 2, 9], 5, multiple_of=8) == (8, 16)


@pytest.mark.parametrize(
    ("lengths", "error", "text"),
    [
        ([], PlanError, "got no lengths"),
        ([1, -1], ShapeError, "length 1 is -1, expected a whole number from 0"),
        ([1, 2.5], ShapeError, "length 1 is 2.5"),
        ([1, float("nan")], ShapeError, "length 1 is nan"),
        ([1, 2**40], ShapeError, "length 1 is 1099511627776"),
        ([1, "2"], ShapeError, "length 1 is '2'"),
        ([(1, 2)], ShapeError, r"length 0 is \(1, 2\)"),
        (np.array([1.0, 2.0]), ShapeError, "length 0 is"),
        (np.ones((2, 2), np.int64), ShapeError, "length 0 is"),
        ([True], ShapeError, "length 0 is True"),
    ],
)
def test_refuses_what_is_no_length(lengths, error, text):
    with pytest.raises(error, match=text):
        plan_lengths(lengths, 1)
    with pytest.raises(ShapeError, match="k is 0"):
        plan_lengths([1], 0)
    with pytest.raises(ShapeError, match="multiple_of is 0"):
        plan_lengths([1], 1, multiple_of=0)
