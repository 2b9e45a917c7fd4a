"""The list of events is bounded, and says so; the counts are not."""

from __future__ import annotations

import torch

from fixshape.audit import OpRecorder, _record


def test_events_beyond_the_bound_are_counted_and_not_listed(monkeypatch):
    monkeypatch.setattr(_record, "MOST_EVENTS", 3)
    recorder = OpRecorder()
    rows = torch.ones(9)
    with recorder:
        for length in (1, 2, 3, 4, 5):
            rows[:length].sin()
        rows.nonzero()
    report = recorder.report()
    assert [event.kind for event in report.events] == ["compile"] * 3 + ["dynamic"]
    assert report.left_out == {"compile": 3, "dynamic": 0, "sync": 0, "input": 0}
    assert report.by_operator() == {"aten.sin.default": 5, "aten.nonzero.default": 1}
    assert report.total().compiles == recorder.compiles == 6
    assert sum(report.by_caller().values()) == 6


def test_a_later_step_still_tells_what_it_compiled(monkeypatch):
    monkeypatch.setattr(_record, "MOST_EVENTS", 2)
    recorder = OpRecorder()
    rows = torch.ones(9)
    with recorder:
        for length in (1, 2, 3):
            rows[:length].sin()
        recorder.step()
        rows[:4].sin()
    assert [event.shapes for event in recorder.current_compiles] == [("f32[4]",)]
    assert recorder.current_compiles[0].step == 1


def test_one_op_may_be_of_several_kinds():
    with OpRecorder() as recorder:
        torch.ones(3).nonzero()
    kinds = [event.kind for event in recorder.report().events if event.op == "aten.nonzero.default"]
    assert kinds == ["compile", "dynamic"]


def test_the_record_of_a_program_that_repeats_does_not_grow():
    recorder = OpRecorder()
    rows = torch.ones(9)
    sizes = []
    with recorder:
        for _ in range(3):
            for _ in range(50):
                (rows * 2.0).sum()
            sizes.append((len(recorder.report().events), sum(len(keys) for _, keys in recorder._record.operators.values())))
            recorder.step()
    assert sizes == [(2, 2)] * 3
