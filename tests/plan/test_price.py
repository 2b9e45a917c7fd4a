"""How many buckets: the frontier, and the plan that makes a training shortest."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixshape.errors import PlanError, ShapeError
from fixshape.plan import frontier, plan_buckets, plan_by_cost, resize_sizes

_rows = st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), min_size=1, max_size=25)
_TIMES = {"compile_seconds": 60, "step_seconds": 0.4, "epochs": 12, "batch_size": 8}


@settings(max_examples=25, deadline=None)
@given(_rows)
def test_the_frontier_is_each_plans_certificate(sizes):
    found = frontier(sizes, 5)
    distinct = len({(-(-height // 32), -(-width // 32)) for height, width in sizes})
    assert [certificate.buckets for certificate in found] == list(range(1, min(distinct, 5) + 1))
    assert list(found) == [plan_buckets(sizes, certificate.buckets).certificate for certificate in found]


@settings(max_examples=25, deadline=None)
@given(_rows, st.floats(0, 1000), st.floats(0.001, 10), st.integers(1, 100), st.integers(1, 16))
def test_no_other_number_of_buckets_is_quicker(sizes, compile_seconds, step_seconds, epochs, batch_size):
    plan = plan_by_cost(
        sizes, compile_seconds=compile_seconds, step_seconds=step_seconds, epochs=epochs, batch_size=batch_size, most=6
    )
    work = step_seconds * -(-len(sizes) // batch_size) * epochs
    seconds = {each.buckets: compile_seconds * each.buckets + work * (1 + each.waste) for each in frontier(sizes, 6)}
    assert len(plan.buckets) == min(seconds, key=lambda k: (seconds[k], k))


def test_dearer_compiles_make_fewer_buckets(data_folder):
    coco = np.array(json.loads((data_folder / "coco_shapes.json").read_text()))
    sizes = resize_sizes(coco, 800, 1333)
    counts = [len(plan_by_cost(sizes, **{**_TIMES, "compile_seconds": each}).buckets) for each in (0, 5, 60, 10_000)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == 16 and 1 < counts[2] < 16 and counts[3] == 1


def test_the_shared_arguments_reach_the_plan():
    sizes = [(32, 320, 2), (320, 32, 9)]
    plan = plan_by_cost(
        sizes, **_TIMES, multiple_of=64, max_boxes=5, max_pixels=64 * 320, pixels_per_batch=64 * 320 * 4, fallback=True
    )
    assert [str(shape) for shape in plan.shapes] == ["64x320, 5 boxes", "320x64, 5 boxes", "320x320, 5 boxes"]
    assert plan.batch_sizes == (4, 4, 1)
    with pytest.raises(PlanError, match="plan_by_cost: 1 bucket of at most 20,480 pixels cannot cover all samples, 2 can"):
        plan_by_cost(sizes, **_TIMES, multiple_of=64, max_pixels=64 * 320, most=1)
    with pytest.raises(PlanError, match="frontier: 1 bucket of at most 20,480"):
        frontier(sizes, 1, multiple_of=64, max_pixels=64 * 320)
    assert [each.buckets for each in frontier(sizes, multiple_of=64, max_pixels=64 * 320)] == [2]


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("compile_seconds", -1, "compile_seconds is -1, expected a number of seconds of at least 0"),
        ("compile_seconds", float("nan"), "compile_seconds is nan"),
        ("step_seconds", 0, "step_seconds is 0, expected a number of seconds above 0"),
        ("step_seconds", "1", "step_seconds is '1'"),
        ("epochs", 0, "epochs is 0, expected a whole number"),
        ("batch_size", 2.5, "batch_size is 2.5"),
        ("most", 0, "most is 0"),
    ],
)
def test_refuses_numbers_out_of_range(name, value, text):
    with pytest.raises(ShapeError, match=f"plan_by_cost: {text}"):
        plan_by_cost([(32, 32)], **{**_TIMES, name: value})
    with pytest.raises(ShapeError, match="frontier: most is 0"):
        frontier([(32, 32)], 0)
