"""The recording loop."""

from __future__ import annotations

import itertools

import pytest
import torch

from fixshape.audit import OpRecorder, run
from fixshape.errors import ShapeError


def test_each_call_is_a_step_and_the_loader_is_not_recorded():
    def batches():
        while True:
            yield torch.ones(3, 4).nonzero()

    report = run(lambda rows: rows.float().sin(), batches(), steps=4)
    assert [(step.launches, step.dynamic) for step in report.steps] == [(2, 0)] * 4


def test_the_default_is_five_and_no_more_is_read_than_needed():
    numbers = itertools.count()
    assert len(run(lambda number: torch.ones(2).sin(), numbers).steps) == 5
    assert next(numbers) == 5


def test_batches_may_end_before():
    assert len(run(torch.sin, [torch.ones(2)] * 3, steps=9).steps) == 3


def test_it_is_what_a_recorder_records():
    batches = [torch.ones(rows, 4) for rows in (2, 2, 3)]
    model = torch.nn.Linear(4, 2)
    recorder = OpRecorder()
    for batch in batches:
        with recorder:
            model(batch).sum().backward()
        recorder.step()
    model.zero_grad()
    assert run(lambda batch: model(batch).sum().backward(), batches).steps == recorder.report().steps


def test_errors_pass_through_and_the_recorder_is_left():
    from torch.utils._python_dispatch import _get_current_dispatch_mode

    with pytest.raises(ZeroDivisionError):
        run(lambda batch: 1 / 0, [1])
    assert _get_current_dispatch_mode() is None


@pytest.mark.parametrize("steps", [0, -1, 2.5, True, "3"])
def test_steps_are_at_least_one(steps):
    with pytest.raises(ShapeError, match=r"run: steps is .*, expected a whole number of at least 1"):
        run(torch.sin, [torch.ones(2)], steps=steps)


def test_no_batches():
    with pytest.raises(ShapeError, match=r"run: batches, \[\], gave no batch, expected at least one"):
        run(torch.sin, [])
