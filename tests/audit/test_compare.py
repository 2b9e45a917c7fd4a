"""Two audits: what is gone, new and changed, however lines and folders have moved."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixshape.audit._compare import Comparison, compare, comparison_html, comparison_text
from fixshape.audit._finding import Audit, Finding
from fixshape.audit._identity import identities
from fixshape.audit._json import from_json
from fixshape.audit._report import AuditReport, Location, PhaseCounts, StepCounts
from fixshape.errors import ShapeError

from .strategies import AUDITS

GOLDEN = Path(__file__).parent.parent / "golden"
FINDING = Finding(code="FS101", op="aten.nonzero.default", phase="forward", site=Location("/a/train.py", 3, "main"), count=3)


def _audit(*findings, steps=3):
    return Audit(report=AuditReport((StepCounts(PhaseCounts(compiles=1)),) * steps, (), {}, {}), findings=findings)


def _moved(finding, by=7, folder="/b"):
    return replace(finding, site=replace(finding.site, file=f"{folder}/train.py", line=finding.site.line + by))


def _golden():
    return compare(*(from_json((GOLDEN / f"{name}.json").read_bytes()) for name in ("audit", "audit_after")))


def test_text_is_as_golden():
    assert comparison_text(_golden()) == (GOLDEN / "comparison.txt").read_text()


def test_width():
    with pytest.raises(ShapeError, match="comparison_text: width is 39, expected a whole number of at least 40"):
        comparison_text(_golden(), width=39)


def test_a_line_that_moved_is_the_same():
    found = compare(_audit(FINDING), _audit(_moved(FINDING)))
    assert (found.gone, found.new, found.changed, found.kept) == ((), (), (), 1)


@pytest.mark.parametrize("change", [{"code": "FS102"}, {"op": "aten.item.default"}, {"phase": "backward"}, {"module": "rpn"}])
def test_what_makes_it_another(change):
    other = replace(FINDING, **change)
    found = compare(_audit(FINDING), _audit(other))
    assert (found.gone, found.new) == ((FINDING,), (other,))


def test_another_function_makes_it_another():
    other = replace(FINDING, site=replace(FINDING.site, function="helper"))
    assert compare(_audit(FINDING), _audit(other)).new == (other,)


def test_two_alike_are_told_apart_by_their_order():
    second = _moved(FINDING, 2, "/a")
    found = compare(_audit(FINDING, second), _audit(_moved(second)))
    assert (len(found.gone), found.kept) == (1, 1)


def test_a_library_is_known_by_its_path_and_not_by_the_folder_it_is_in():
    def at(file):
        return replace(FINDING, site=Location(file, 3, "f"))

    one, other = at("/x/site-packages/lib/a.py"), at("/y/lib/site-packages/lib/a.py")
    assert identities([one]) == identities([other])
    assert identities([one]) != identities([at("/x/site-packages/lib/b/a.py")])


def test_numbers_are_compared_a_step():
    more_steps = replace(FINDING, count=6, steps=6)
    assert compare(_audit(FINDING, steps=3), _audit(more_steps, steps=6)).kept == 1
    (change,) = compare(_audit(FINDING), _audit(replace(FINDING, compiles=1))).changed
    assert (change.before.compiles, change.after.compiles) == (0, 1)


@settings(max_examples=40, deadline=None)
@given(AUDITS, AUDITS)
def test_every_finding_is_told_once(before, after):
    assert len(set(identities(before.findings))) == len(before.findings)
    found = compare(before, after)
    both = len(found.changed) + found.kept
    assert len(found.gone) + both == len(before.findings) and len(found.new) + both == len(after.findings)
    assert all(line.isprintable() for line in comparison_text(found).split("\n"))
    comparison_html(found).encode()


@settings(max_examples=30, deadline=None)
@given(AUDITS, st.randoms())
def test_nothing_differs_from_itself_in_whatever_order(audit, random):
    findings = list(audit.findings)
    random.shuffle(findings)
    found = compare(audit, replace(audit, findings=tuple(findings)))
    assert (found.gone, found.new) == ((), ())
    assert compare(audit, audit).kept == len(audit.findings)


def test_each_backend_that_either_has_is_told():
    report = AuditReport((), (), {}, {})
    before = Audit(report=report, predicted={"npu": (9, 1, 4)})
    after = Audit(report=report, predicted={"npu": (9, 0, 0), "torch.compile": (3, 1, 1, 2)})
    told = comparison_text(compare(before, after))
    assert "  npu            4 before, 0 after\n" in told
    assert "  torch.compile  none recorded before, 1.5 after\n" in told
    assert "<td><code>torch.compile</code></td><td><code>none recorded</code></td>" in comparison_html(compare(before, after))


def test_the_page_has_a_chart_of_both():
    page = comparison_html(_golden())
    assert page.count('<rect class="two"') == 5 and page.count('<rect class="one"') == 2
    assert "step 2: 139 before" in page and "step 2: 2 after" in page
    assert "13.7 -&gt; 0" in page


def test_nothing_in_the_page_becomes_markup():
    name = '"><img src=x onerror=alert(1)></script>'
    finding = Finding(code=name, op=name, phase="forward", site=Location(name, 1, name), module=name, suggestion=name)
    row = Comparison(
        commands=(name, name),
        before=(1,),
        after=(),
        gone=(finding,),
        new=(finding,),
        changed=(),
        kept=0,
        predicted={name: ((1,), ())},
    )
    page = comparison_html(row)
    assert "<img" not in page and page.count("</script>") == 1
