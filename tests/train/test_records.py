"""What a summary makes of its records."""

import pytest

from fixshape.train import StepRecord, TrainSummary


def steps(ops, *, graphs=None, shapes=None, seconds=None):
    """Records of these op compiles per step; the first two in each shape are its warm-up, as a loop would have it."""
    shapes = shapes or ["a"] * len(ops)
    return tuple(
        StepRecord(
            index=number + 1,
            phase="train",
            shapes=shapes[number],
            in_warmup=shapes[: number + 1].count(shapes[number]) <= 2,
            seconds=seconds[number] if seconds else 1.0,
            op_compiles=ops[number],
            graph_compiles=graphs[number] if graphs else None,
        )
        for number in range(len(ops))
    )


def summary(records):
    return TrainSummary(records, (), 0, 0, 0, 0, 0, 0)


def test_shapes_counts_steps_the_most_used_first():
    assert list(summary(steps([None] * 4, shapes=["a", "b", "b", "c"])).shapes.items()) == [("b", 2), ("a", 1), ("c", 1)]


@pytest.mark.parametrize(
    ("ops", "graphs", "compiles", "is_counted"),
    [(5, None, 5, True), (5, 2, 2, True), (5, 0, 0, True), (None, 3, 3, True), (None, None, 0, False), (0, None, 0, True)],
)
def test_the_device_s_own_count_goes_before_the_predicted_one(ops, graphs, compiles, is_counted):
    (record,) = steps([ops], graphs=[graphs])
    assert (record.compiles, record.is_counted) == (compiles, is_counted)


@pytest.mark.parametrize(("ops", "native", "compiles"), [(5, 7, 7), (5, 0, 0), (None, 3, 3)])
def test_so_does_its_count_of_operators(ops, native, compiles):
    record = StepRecord(1, "train", "a", True, 1.0, ops, None, native)
    assert (record.compiles, record.is_counted) == (compiles, True)


N = None


@pytest.mark.parametrize(
    ("ops", "graphs", "shapes", "expected"),
    [
        ([9, 0, 0, 0, N, N], N, N, 1),  # the recorder came off when it was quiet
        ([9, 2, 0, 0, 0], N, N, 2),
        ([0, 0, 0], N, N, 0),  # nothing ever compiled
        ([9, 0, 0, 4, 0], N, N, 4),  # drift
        ([N, N], N, N, N),  # not counted
        ([], N, N, N),
        ([9, 8, 7], N, N, N),  # did not come to rest
        ([9, 8, 7, N, N], N, N, N),  # counting ended before it did
        ([9, 8, 0, N, N], N, list("abbbc"), N),  # a bucket that nobody counted in
        ([9, 0, 8, 0, N, N], N, list("aabbab"), 3),
        ([N, N, N], [1, 1, 0], N, 2),
        ([9, 9, 9], [1, 0, 0], N, 1),
    ],
)
def test_quiet_after(ops, graphs, shapes, expected):
    assert summary(steps(ops, graphs=graphs, shapes=shapes)).quiet_after == expected


@pytest.mark.parametrize(
    ("ops", "seconds", "shapes", "expected"),
    [
        # Warm-up steps as they were; after it, the median of those without the recorder.
        ([9, 0, 0, 0, N, N, N], [10, 4, 2, 2, 1, 1, 7], N, (7, 1)),
        # A guard counts in all: they are what there is.
        ([9, 0, 0, 0, 0], [10, 4, 2, 3, 2], N, (7, 2)),
        # Drift in the fourth step: steady after it.
        ([9, 0, 0, 5, 0, 0], [10, 4, 2, 8, 2, 2], N, (6, 2)),
        # Not counted: the warm-up parts the two.
        ([N, N, N, N], [10, 4, 1, 1], N, (7, 1)),
        # It did not come to rest: there is nothing steady.
        ([9, 8, 7, 7, N], [10, 4, 4, 4, 3], N, (5, N)),
        ([9, 0], [10, 4], N, (7, N)),
        # The second bucket's warm-up is no steady step.
        ([9, 0, 0, 9, 0, N], [10, 4, 1, 8, 2, 1], list("aaabbb"), (5, 1)),
        ([], [], N, (N, N)),
    ],
)
def test_seconds_per_step(ops, seconds, shapes, expected):
    assert summary(steps(ops, seconds=seconds, shapes=shapes)).seconds_per_step() == expected
