"""Audits in files: the way there and back, and what a hostile file is told."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixshape.audit import _json
from fixshape.audit._finding import Audit, Finding
from fixshape.audit._json import as_json, from_json
from fixshape.audit._report import AuditReport, Location, Origin
from fixshape.errors import AuditError

from .strategies import AUDITS

GOLDEN = Path(__file__).parent.parent / "golden"
EMPTY = {"schema_version": 1, "report": {"steps": [], "events": [], "left_out": {}, "origins": []}}
ANEW = " Write it anew with: fixshape audit SCRIPT --format json --output FILE."


@settings(max_examples=60, deadline=None)
@given(AUDITS)
def test_there_and_back(audit):
    text = json.dumps(as_json(audit))
    assert from_json(text) == audit
    assert from_json(text.encode()) == audit


def test_a_field_that_is_lost_would_be_seen(monkeypatch):
    audit = Audit(report=AuditReport((), (), {}, {}), command="train.py")
    monkeypatch.setattr(_json, "_plain", lambda value: {"report": EMPTY["report"]})
    assert from_json(json.dumps(as_json(audit))) != audit


@pytest.mark.parametrize("name", ["audit", "audit_after"])
def test_the_format_is_as_golden(name):
    text = (GOLDEN / f"{name}.json").read_text()
    body = as_json(from_json(text))
    for key, value in json.loads(text).items():
        if key != "report":  # to which fields with defaults may be added
            assert body[key] == value
    assert from_json(json.dumps(body)) == from_json(text)


def test_a_mark_at_the_beginning_is_no_error():
    assert from_json(b"\xef\xbb\xbf" + json.dumps(EMPTY).encode()).findings == ()


def _with(path, value):
    body = json.loads(json.dumps(as_json(_full())))
    *parts, last = path
    place = body
    for part in parts:
        place = place[part]
    place[last] = value
    return json.dumps(body)


def _full():
    place = Location("a.py", 3, "f")
    origin = Origin(kind="dynamic", op="aten.nonzero.default", phase="forward", site=place)
    finding = Finding(code="FS101", op="aten.nonzero.default", phase="forward", site=place)
    report = AuditReport((), (), {}, {origin: 1})
    return Audit(report=report, findings=(finding,), predicted={"npu": (1,)}, inputs={"x": {"f32[1]": 1}})


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("findings", 0, "count"), -1, "$.findings[0].count is -1, expected a whole number from 0 to 9007199254740991."),
        (("findings", 0, "count"), True, "$.findings[0].count is True, expected a whole number from 0 to 9007199254740991."),
        (("findings", 0, "count"), 1.0, "$.findings[0].count is 1.0, expected a whole number from 0 to 9007199254740991."),
        (("findings", 0, "count"), 10**30, "$.findings[0].count is 1000000000000000000000000000000, expected a whole number"),
        (("findings", 0, "site"), [], "$.findings[0].site is [], expected an object (Location)."),
        (("findings", 0, "site", "line"), "3", "$.findings[0].site.line is '3', expected a whole number"),
        (("findings", 0, "phase"), "later", "$.findings[0].phase is 'later', expected one of 'forward', 'backward', "),
        (("findings", 0, "phase"), ["forward"], "$.findings[0].phase is ['forward'], expected one of"),
        (("findings", 0, "code"), None, "$.findings[0].code is None, expected a text."),
        (("findings", 0, "shapes"), "f32[1]", "$.findings[0].shapes is 'f32[1]', expected a list."),
        (("findings", 0, "__class__"), "os.system", "$.findings[0] has '__class__', expected only 'code', 'op', "),
        (("predicted", "npu"), [1, "2"], "$.predicted['npu'][1] is '2', expected a whole number"),
        (("inputs", "x"), [], "$.inputs['x'] is [], expected an object."),
        (("exit_code",), -(2**60), "$.exit_code is -1152921504606846976, expected a whole number from -9007199254740991 to"),
        (("status",), "fine", "$.status is 'fine', expected one of "),
        (("report", "origins"), {}, "$.report.origins is {}, expected a list of [key, value]."),
        (("report", "origins", 0), [1], "$.report.origins[0] is [1], expected [key, value]."),
        (("report", "origins"), as_json(_full())["report"]["origins"] * 2, "expected a key that is not in the list yet."),
        (("report",), None, "$.report is None, expected an object (AuditReport)."),
    ],
)
def test_what_is_wrong_is_told_with_its_path(path, value, message):
    with pytest.raises(AuditError) as told:
        from_json(_with(path, value))
    assert str(told.value).startswith("from_json: $.") and message in str(told.value)
    assert str(told.value).endswith(ANEW)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "from_json: $ is not JSON: Expecting value: line 1 column 1 (char 0)."),
        (b"\xff\xfe", "from_json: $ is not JSON: 'utf-8' codec can't decode byte 0xff"),
        (b"\x80\x04\x95pickle", "from_json: $ is not JSON: "),
        ("[]", "from_json: $ is [], expected an object with a schema_version."),
        ("{}", "from_json: $ is {}, expected an object with a schema_version."),
        ('{"schema_version": 1}', "from_json: $ has no report, expected 'report', 'findings', "),
        ('{"a": NaN}', "from_json: $ is not JSON: NaN is no number of JSON."),
        ('{"a": 1, "b": 2, "a": 3}', "from_json: $ is not JSON: an object has the name 'a' more than once."),
        ('{"a": ' + "9" * 5000 + "}", "from_json: $ is not JSON: Exceeds the limit"),
        ("[" * 200_000, "from_json: $ is nested too deeply for an audit."),
        ('{"schema_version": 1, "report": ' + '{"a":' * 100_000, "from_json: $ is nested too deeply for an audit."),
    ],
)
def test_what_is_no_audit_is_refused(text, message):
    with pytest.raises(AuditError) as told:
        from_json(text)
    assert str(told.value).startswith(message) and str(told.value).endswith(ANEW)


@pytest.mark.parametrize("version", [0, 2, "1", True, None, 1.0])
def test_another_schema_is_refused(version):
    with pytest.raises(AuditError, match=r"\$\.schema_version is .*, this fixshape reads 1. Update fixshape, or audit anew."):
        from_json(json.dumps(EMPTY | {"schema_version": version}))


def test_the_size_is_checked_before_anything_is_parsed(monkeypatch):
    monkeypatch.setattr(_json, "_parse", lambda text: pytest.fail("parsed"))
    for text, unit in ((b" " * ((32 << 20) + 1), "bytes"), (" " * ((32 << 20) + 1), "characters")):
        with pytest.raises(AuditError, match=rf"\$ has 33,554,433 {unit}, expected at most 33,554,432: no audit is that large."):
            from_json(text)


def test_many_names_take_no_longer_than_few():
    text = "{" + ", ".join(f'"{n}": 1' for n in range(200_000)) + ', "0": 1}'
    with pytest.raises(AuditError, match="the name '0' more than once"):
        from_json(text)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(st.data(), JUNK)
def test_whatever_is_put_anywhere_is_read_or_refused(data, junk):
    """No other error than the one that is promised."""
    body = json.loads(json.dumps(as_json(_full())))
    place = body
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = data.draw(st.sampled_from(list(keys)))
        if not isinstance(place[key], (dict, list)) or not place[key] or data.draw(st.booleans()):
            place[key] = junk
            break
        place = place[key]
    try:
        assert isinstance(from_json(json.dumps(body)), Audit)
    except AuditError:
        pass
