"""Audits on a terminal, pinned as golden files, and what must hold for every audit."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings

from fixshape.audit._finding import Audit, Finding
from fixshape.audit._headline import headline
from fixshape.audit._json import from_json
from fixshape.audit._report import AuditReport, Location, PhaseCounts, StepCounts
from fixshape.audit._text import as_text, clean, tail
from fixshape.errors import ShapeError

from .strategies import AUDITS

GOLDEN = Path(__file__).parent.parent / "golden"


def _audit(*compiles, **fields):
    steps = tuple(StepCounts(PhaseCounts(compiles=count)) for count in compiles)
    return Audit(report=AuditReport(steps, (), {}, {}), **fields)


@pytest.mark.parametrize(
    ("name", "golden", "how"),
    [
        ("audit", "audit.txt", {}),
        ("audit_after", "audit_after.txt", {}),
        ("audit", "audit_colour.txt", {"colour": True, "width": 70}),
    ],
)
def test_text_is_as_golden(name, golden, how):
    audit = from_json((GOLDEN / f"{name}.json").read_bytes())
    assert as_text(audit, **how) == (GOLDEN / golden).read_text()


@pytest.mark.parametrize(
    ("compiles", "sentence"),
    [
        ((), "No step was recorded."),
        ((9,), "9 op compiles in 1 step, all of the warm-up: record 3 steps or more to see what compiles anew."),
        ((9, 2), "11 op compiles in 2 steps, all of the warm-up: record 3 steps or more to see what compiles anew."),
        ((9, 2, 0), "No op compiles after the warm-up (9, 2, 0 in 3 steps)."),
        ((9, 2, 1), "1 op compile a step after the warm-up (9, 2, 1), none of which follows from a finding."),
        ((9, 2, *[1, 2] * 5), "1.5 op compiles a step after the warm-up (9, 2, 1, 2, 1, 2, 1, 2, ...), none of which follows"),
    ],
)
def test_the_first_sentence(compiles, sentence):
    assert str(headline(_audit(*compiles))).startswith(sentence)


def test_lines_are_put_together_and_the_three_that_cost_most_are_named():
    lines = [Location("a.py", 1), Location("a.py", 1), Location("a.py", 2), None, Location("a.py", 4), Location("a.py", 5)]
    findings = [
        Finding(code="FS101", op="x", phase="forward", site=line, caller=Location("b.py", 9), compiles=compiles)
        for line, compiles in zip(lines, (3, 3, 1, 4, 5, 0), strict=True)
    ]
    first = headline(_audit(9, 9, 10, 6, findings=tuple(findings)))
    assert [(str(line), int(share * 2)) for line, share in first.lines] == [("a.py:1", 6), ("a.py:4", 5), ("b.py:9", 4)]
    assert str(first) == "8 op compiles a step after the warm-up (9, 9, 10, 6), 7.5 of them from three lines:"


@pytest.mark.parametrize("status", ["running", "stopped", "exited", "raised", "interrupted", "terminated"])
def test_an_end_before_the_end_is_told(status):
    *_, last = as_text(_audit(1, status=status, exit_code=3), width=200).splitlines()
    assert last.startswith("Status: ") and last.endswith("exit code 3; what is above is from 1 step.")
    assert "Status" not in as_text(_audit(1))


@settings(max_examples=60, deadline=None)
@given(AUDITS)
def test_nothing_that_a_terminal_obeys_reaches_it(audit):
    text = as_text(audit, width=60)
    assert all(line.isprintable() for line in text.split("\n"))
    coloured = as_text(audit, colour=True, width=60)
    assert re.sub(r"\x1b\[\d+m", "", coloured) == text


def test_a_name_that_was_let_through_would_be_seen(monkeypatch):
    monkeypatch.setattr("fixshape.audit._text.clean", lambda text: text)
    finding = Finding(code="FS101", op="\x1b[2J", phase="forward")
    assert not as_text(_audit(findings=(finding,))).replace("\n", "").isprintable()


def test_width():
    with pytest.raises(ShapeError, match="as_text: width is 39, expected a whole number of at least 40"):
        as_text(_audit(), width=39)
    audit = from_json((GOLDEN / "audit.json").read_bytes())
    places = [line for line in as_text(audit, width=60).splitlines() if line.startswith(("  site", "  caller", "  module"))]
    assert places and max(map(len, places)) <= 60


def test_long_lists_end():
    unknown = {f"lib.op{n}.default": n for n in range(30)}
    text = as_text(_audit(unknown=unknown, inputs={"x": {f"f32[{n}]": 1 for n in range(9)}, "fixed": {"f32[1]": 9}}))
    assert "  lib.op29.default  29\n" in text and "  and 10 more\n" in text
    assert "  x  9 shapes: f32[0] x 1, f32[1] x 1, f32[2] x 1, f32[3] x 1, ...\n" in text
    assert "fixed" not in text


def test_shortened_from_the_front():
    assert tail("/a/b/train.py", 13) == "/a/b/train.py"
    assert tail("/folder/train.py", 14) == ".../train.py"
    assert tail("0123456789", 8) == "...56789"
    assert clean("\u202eabc\udc80\n") == "\\u202eabc\\udc80\\n"
