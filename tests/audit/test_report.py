"""The report's arithmetic and texts."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections import Counter

import pytest

from fixshape.audit import AuditReport, Location, OpEvent, Origin, PhaseCounts, StepCounts
from fixshape.errors import ShapeError

HERE, THERE = Location("train.py", 3, "main"), Location("loss.py", 9, "Loss.forward")
ORIGINS = {
    Origin(kind="compile", op="aten.mm.default", phase="forward", site=THERE, caller=HERE): 2,
    Origin(kind="compile", op="aten.mm.default", phase="backward", site=HERE, caller=HERE): 3,
    Origin(kind="compile", op="aten.add.Tensor", phase="forward", site=THERE, caller=HERE): 1,
    Origin(kind="sync", op="aten.equal.default", phase="forward"): 7,
}


def _report(steps: tuple[StepCounts, ...] = ()) -> AuditReport:
    return AuditReport(steps, (), {}, ORIGINS)


def test_phases_and_steps_add_up():
    first = StepCounts(PhaseCounts(1, 2, 3, 4), PhaseCounts(10, 20, 30, 40), PhaseCounts(100, 200, 300, 400))
    assert first.total == PhaseCounts(111, 222, 333, 444)
    assert (first.launches, first.compiles, first.dynamic, first.syncs) == (111, 222, 333, 444)
    total = _report((first, StepCounts(backward=PhaseCounts(launches=5)), StepCounts())).total()
    assert total.launches == 116
    assert total.backward == PhaseCounts(15, 20, 30, 40)


def test_an_empty_report_totals_to_zero():
    assert _report().total() == StepCounts()


def test_verbs_sum_over_all_but_what_they_ask():
    report = _report()
    assert report.by_operator() == Counter({"aten.mm.default": 5, "aten.add.Tensor": 1})
    assert report.by_site("compile") == Counter({THERE: 3, HERE: 3})
    assert report.by_caller("compile") == Counter({HERE: 6})
    assert report.by_caller("sync") == Counter({None: 7})
    assert report.by_operator("dynamic") == Counter()


@pytest.mark.parametrize("verb", ["by_operator", "by_site", "by_caller"])
def test_an_unknown_kind_is_named_with_the_known_ones(verb):
    with pytest.raises(
        ShapeError, match=rf"AuditReport\.{verb}: kind is 'compiles', expected one of 'compile', 'dynamic', 'sync'"
    ):
        getattr(_report(), verb)("compiles")


def test_texts_of_an_event():
    event = OpEvent(
        kind="compile", op="aten.cat.default", phase="forward", shapes=("[f32[2], f32[3]]",), arguments=("1",), step=4
    )
    assert str(event) == "aten.cat.default([f32[2], f32[3]], 1)"
    assert str(dataclasses.replace(event, caller=HERE)) == "aten.cat.default([f32[2], f32[3]], 1) at train.py:3"


def test_the_records_cannot_be_changed():
    for record, field in [(HERE, "line"), (PhaseCounts(), "launches"), (StepCounts(), "forward"), (_report(), "steps")]:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record, field, 1)


def test_the_report_is_torch_free():
    # The package imports the recorder too, so that only the module's own imports are asked for, in a fresh process.
    code = (
        "import sys, types, importlib.util as u\n"
        "spec = u.find_spec('fixshape'); root = spec.submodule_search_locations[0]\n"
        "package = types.ModuleType('fixshape.audit'); package.__path__ = [root + '/audit']\n"
        "sys.modules['fixshape.audit'] = package\n"
        "import fixshape.audit._report\n"
        "print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "False\n"
