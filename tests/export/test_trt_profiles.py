"""Profiles hold every gear, have opt where most of the data is, and refuse what TensorRT would."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixshape.errors import ShapeError, UsageError
from fixshape.export import Gears, OnnxHeader, Port, Profile, ShapeRange, parse_inputs, plan_profiles
from fixshape.export._trt_profiles import MOST_GEARS, MOST_PROFILES, in_order, settled

INPUTS = parse_inputs("images:N,3,H,W;image_sizes:N,2;temperature:")
GEAR = st.fixed_dictionaries({"N": st.integers(1, 16), "H": st.integers(1, 40), "W": st.integers(1, 40)})


def one_input(*sizes, counts=None):
    return Gears(parse_inputs("x:L"), tuple({"L": size} for size in sizes), counts)


@st.composite
def gears(draw):
    values = tuple(draw(st.lists(GEAR, min_size=1, max_size=12)))
    counts = draw(st.none() | st.lists(st.integers(0, 1000), min_size=len(values), max_size=len(values)).map(tuple))
    return Gears(INPUTS, values, counts)


@given(gears(), st.none() | st.integers(1, 12))
def test_every_gear_lies_in_a_profile_and_every_opt_is_a_gear(given, ranges):
    profiles = plan_profiles(given, ranges=ranges)
    every = [given.shapes(index) for index in range(len(given))]
    assert all(any(profile.holds(shapes) for profile in profiles) for shapes in every)
    assert len(profiles) == (len(given) if ranges is None else min(ranges, len(given)))
    for profile in profiles:
        assert set(profile.ranges) == {"images", "image_sizes"}, "a scalar needs no range"
        assert {name: span.opt for name, span in profile.ranges.items()} in [
            {name: shapes[name] for name in profile.ranges} for shapes in every
        ]
    if ranges is None:
        assert all(span.fixed for profile in profiles for span in profile.ranges.values())
        assert [profile.ranges["images"].opt for profile in profiles] == [shapes["images"] for shapes in every]


def test_the_property_finds_a_profile_that_lost_a_gear():
    given = one_input(10, 20)
    (profile,) = plan_profiles(given, ranges=1)
    cut = Profile({"x": ShapeRange((11,), (20,), (20,))})
    assert profile.holds({"x": (10,)}) and not cut.holds({"x": (10,)})


def test_opt_is_the_most_frequent_gear_and_the_largest_without_counts():
    assert plan_profiles(one_input(10, 20, 30), ranges=1)[0].ranges["x"] == ShapeRange((10,), (30,), (30,))
    assert plan_profiles(one_input(10, 20, 30, counts=(1, 7, 2)), ranges=1)[0].ranges["x"] == ShapeRange((10,), (20,), (30,))


def test_gears_are_joined_with_those_that_are_nearest():
    """Landscape with landscape: a range over both would be twice as wide."""
    sizes = [(800, 1088), (1088, 800), (800, 1344), (1344, 800)]
    given = Gears(parse_inputs("x:1,3,H,W"), tuple({"H": h, "W": w} for h, w in sizes))
    spans = [profile.ranges["x"] for profile in plan_profiles(given, ranges=2)]
    assert [(span.smallest[2:], span.largest[2:]) for span in spans] == [((800, 1088), (800, 1344)), ((1088, 800), (1344, 800))]


def test_a_gear_that_never_comes_is_held_all_the_same():
    (profile,) = plan_profiles(one_input(1, 2, 1000, counts=(5, 4, 0)), ranges=1)
    assert profile.ranges["x"] == ShapeRange((1,), (1,), (1000,))


def test_nothing_dynamic_needs_no_profile_and_the_file_decides():
    fixed = Gears(parse_inputs("x:4,3"), ({},))
    assert plan_profiles(fixed) == ()
    header = OnnxHeader((Port("x", "float32", ("batch", 3)),), (), {"": 18}, 10, ())
    assert plan_profiles(fixed, header=header) == (Profile({"x": ShapeRange((4, 3), (4, 3), (4, 3))}),)


def test_sizes_that_are_none_are_unknown():
    header = OnnxHeader((Port("x", "float32", (0, 3, -1, "W")), Port("y", None, None)), (), {"": 18}, 10, ())
    assert [port.dims for port in settled(header).inputs] == [(None, 3, None, "W"), None]


def test_too_many():
    with pytest.raises(
        UsageError, match=rf"got 33 gears, and an engine should have at most {MOST_PROFILES} profiles\..*--ranges 4"
    ):
        plan_profiles(one_input(*range(1, 34)))
    assert len(plan_profiles(one_input(*range(1, 34)), ranges=5)) == 5
    with pytest.raises(UsageError, match=f"got {MOST_GEARS + 1} gears, expected at most {MOST_GEARS}"):
        plan_profiles(one_input(*range(1, MOST_GEARS + 2)), ranges=2)
    with pytest.raises(UsageError, match="ranges is 33, expected at most 32"):
        plan_profiles(one_input(1), ranges=33)
    with pytest.raises(ShapeError, match="ranges is 0"):
        plan_profiles(one_input(1), ranges=0)


def test_the_profile_of_the_tutorial_is_refused_with_the_two_swapped():
    with pytest.raises(ShapeError, match="Swap them: smallest 1x3x512x512, opt 1x3x1024x1024, largest 1x3x1600x1600"):
        ShapeRange((1, 3, 512, 512), (1, 3, 1600, 1600), (1, 3, 1024, 1024))
    assert ShapeRange((1, 3, 512, 512), (1, 3, 1024, 1024), (1, 3, 1600, 1600)).holds((1, 3, 1600, 512))


def test_ranges_of_unequal_rank_or_without_size():
    with pytest.raises(ShapeError, match="got 1x3, 1x3x4, 1x3, expected three shapes with the same number of axes"):
        ShapeRange((1, 3), (1, 3, 4), (1, 3))
    with pytest.raises(ShapeError, match="a size of 1x0 is 0"):
        ShapeRange((1, 0), (1, 1), (1, 1))


@given(st.integers(0, 4).flatmap(lambda rank: st.tuples(*[st.tuples(*[st.integers(1, 9)] * rank)] * 3)))
def test_in_order_holds_all_three(three):
    span = ShapeRange(*in_order(three))
    assert all(span.holds(shape) for shape in three)
