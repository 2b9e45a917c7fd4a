"""What is said of a run in one line."""

import pytest

from fixshape.train._verdict import _seconds, verdict
from tests.train.test_records import steps

N = None


@pytest.mark.parametrize(
    ("ops", "graphs", "seconds", "shapes", "expected"),
    [
        ([N] * 4, [9, 2, 0, 0], [30, 11, 0.21, 0.21], N, "steady since step 3; warm-up 41 s; 0.21 s a step"),
        ([9, 2, 0, 0, 0, N], N, [30, 11, 1, 1, 1, 0.2], N, "steady since step 3; warm-up 41 s; 0.2 s a step"),
        ([9, 2, 0, 0], N, [30, 11, 1, 1], N, "steady since step 3; warm-up 41 s; 1 s a step, counting included"),
        # Nothing compiled in the second step: it is no slower than others, and none of the warm-up.
        ([N] * 4, [9, 0, 0, 0], [30, 1, 2, 2], N, "steady since step 2; warm-up 30 s; 2 s a step"),
        ([N] * 3, [0, 0, 0], [1, 1, 2], N, "steady since step 1; 2 s a step"),
        ([N] * 2, [9, 0], [10, 2], N, "steady since step 2; warm-up 10 s; 6 s a step on average"),
        # A second bucket has a warm-up of its own.
        ([N] * 6, [9, 0, 0, 9, 0, 0], [10, 1, 1, 8, 1, 1], list("aaabbb"), "steady since step 5; warm-up 18 s; 1 s a step"),
        # Drift is not the warm-up's.
        (
            [N] * 5,
            [9, 0, 0, 1, 0],
            [10, 1, 1, 9, 1],
            N,
            "steady since step 5; compiled after the warm-up in step 4; warm-up 10 s; 1 s a step",
        ),
        (
            [N] * 9,
            [9, 0, 1, 1, 1, 1, 1, 1, 0],
            N,
            N,
            "steady since step 9; compiled after the warm-up in steps 3, 4, 5 and 3 more; warm-up 1 s; 1 s a step",
        ),
        (
            [N] * 3,
            [9, 1, 1],
            [10, 4, 4],
            N,
            "not steady: 3 of 3 steps compiled, the last one too; compiled after the warm-up in step 3; warm-up 14 s;"
            " 6 s a step on average",
        ),
        ([9], N, [10], N, "not steady: 1 of 1 step compiled, the last one too; warm-up 10 s; 10 s a step on average"),
        (
            [9, 8, 7, N, N],
            N,
            [4, 4, 4, 4, 4],
            list("abcde"),
            "not known to be steady: 3 of 3 counted steps compiled, 2 not counted; warm-up 20 s; 4 s a step on average",
        ),
        (
            [N] * 4,
            N,
            [30, 11, 0.2, 0.2],
            N,
            "not known to be steady, as compiles were not counted (predict=True counts them); warm-up 41 s; 0.2 s a step",
        ),
        ([], N, N, N, "no step yet"),
    ],
)
def test_verdict(ops, graphs, seconds, shapes, expected):
    assert verdict(steps(ops, graphs=graphs, seconds=seconds, shapes=shapes)) == expected


def test_a_warm_up_before_the_first_step_counts_as_such():
    records = steps([N] * 3, graphs=[1, 0, 0], seconds=[2, 1, 1])
    assert verdict(records, warmed_up=40.0) == "steady since step 2; warm-up 42 s; 1 s a step"


def test_a_dry_run_has_no_times():
    records = steps([N] * 3, graphs=[1, 0, 0])
    assert verdict(records, is_timed=False) == "steady since step 2; a dry run: its seconds are no device's"


def test_training_steps_are_judged_alone():
    training = steps([N] * 3, graphs=[1, 0, 0], seconds=[9, 1, 1])
    evaluation = [type(record)(record.index + 3, "eval", "a", record.in_warmup, 50.0, N, 1) for record in training]
    assert verdict([*training, *evaluation]) == "steady since step 2; warm-up 9 s; 1 s a step"
    assert verdict(evaluation).startswith("not steady: 3 of 3 steps")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0000123, "0.012 ms"), (0.09949, "99 ms"), (0.0995, "0.1 s"), (99.49, "99 s"), (99.5, "1.7 min"), (5970, "1.7 h")],
)
def test_two_digits_in_the_unit_that_fits(seconds, text):
    assert _seconds(seconds) == text
