"""The page, read as a parser reads it: what stands in it, and that nothing from a recording becomes markup.

``test_browser.py`` opens it in a browser.
"""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings

from fixshape.audit import _html
from fixshape.audit._chart import bars
from fixshape.audit._finding import Audit, Finding
from fixshape.audit._html import as_html
from fixshape.audit._json import from_json
from fixshape.audit._report import AuditReport, Location, PhaseCounts, StepCounts

from .strategies import AUDITS

GOLDEN = Path(__file__).parent.parent / "golden"
EMPTY = AuditReport((), (), {}, {})


class Page(HTMLParser):
    """Tags with their attributes, and the text of each script and style."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.words = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.texts.append([tag, dict(attrs), ""])

    handle_startendtag = handle_starttag

    def handle_data(self, data):
        if self.cdata_elem:
            self.texts[-1][2] += data
        else:
            self.words.append(data)

    def data(self):
        (text,) = (text for _, attrs, text in self.texts if attrs.get("id") == "data")
        return json.loads(text)


def hostile(name):
    """An audit with one text in every field that holds a text."""
    place = Location(name, 1, name)
    finding = Finding(
        code=name, op=name, phase="forward", site=place, caller=place, module=name, shapes=(name,), suggestion=name, compiles=1
    )
    steps = (StepCounts(PhaseCounts(compiles=1)),) * 3
    return Audit(
        report=AuditReport(steps, (), {}, {}),
        findings=(finding,),
        unknown={name: 1},
        predicted={name: (1, 2)},
        inputs={name: {name: 1, name + "2": 2}},
        command=name,
        versions={name: name},
    )


NAMES = [
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'--><svg onload=alert(1)>",
    "<!--<script>",
    "{{data}}{{body}}",
    "]]>\u2028\0\x1b",
    "&lt;b&gt;",
    "__proto__",
    "constructor",
]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_becomes_markup(name):
    plain, page = Page(as_html(hostile("name"))), Page(as_html(hostile(name)))
    assert [(tag, sorted(attrs)) for tag, attrs in page.tags] == [(tag, sorted(attrs)) for tag, attrs in plain.tags]
    (finding,) = page.data()["findings"]
    assert finding["code"] == finding["op"] == finding["suggestion"] == name
    assert page.data()["places"] == [[name, 1, name]]


def test_what_became_markup_would_be_seen(monkeypatch):
    monkeypatch.setattr(_html, "escape", lambda text, quote=True: text)
    plain, page = Page(as_html(hostile("name"))), Page(as_html(hostile(NAMES[1])))
    assert len(page.tags) > len(plain.tags)


@settings(max_examples=40, deadline=None)
@given(AUDITS)
def test_every_audit_is_a_page(audit):
    page = Page(as_html(audit))
    assert len(page.data()["findings"]) == len(audit.findings)
    assert {tag for tag, _ in page.tags} <= _TAGS
    as_html(audit).encode()


_TAGS = set(
    "html head meta title style body main h1 h2 p b ol li code svg line text rect noscript section div input label".split()
)
_TAGS |= set("select output span script table tr th td".split())


def test_the_policy_allows_its_own_script_and_style_alone():
    page = Page(as_html(from_json((GOLDEN / "audit.json").read_bytes())))
    (policy,) = (attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy and "*" not in policy
    kept = [text for _, attrs, text in page.texts if "id" not in attrs]
    assert len(kept) == 2
    for text in kept:
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in policy


def test_nothing_is_loaded():
    text = as_html(from_json((GOLDEN / "audit.json").read_bytes()))
    attributes = {name for _, attrs in Page(text).tags for name in attrs}
    assert not [name for name in attributes if name in ("src", "href", "action", "style", "data") or name.startswith("on")]
    assert not re.search(r"url\(|@import|https?:", text)
    script = text[text.rindex("<script>") :]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval|fetch|Function\(|import", script)


def test_the_page_says_what_the_text_says():
    words = " ".join(Page(as_html(from_json((GOLDEN / "audit.json").read_bytes()))).words)
    for said in ("130 op compiles a step after the warm-up", "torchvision/models/detection/_utils.py:412", "mylib.crop.default",
                 "f32[3, 427, 640]", "npu", "stopped after the steps", "2.15.0", "step 0: 380 forward"):  # fmt: skip
        assert said in words
    assert "i64[2]" not in words, "an input of one shape does not vary"


def _sources(*places):
    findings = tuple(Finding(code="FS101", op="x", phase="forward", site=place) for place in places)
    return Page(as_html(Audit(report=EMPTY, findings=findings))).data()["sources"]


def test_a_few_lines_of_source_around_each_finding(tmp_path):
    file = tmp_path / "a.py"
    file.write_text("".join(f"line {n}\n" for n in range(1, 101)) + "x" * 1000)
    found = _sources(Location(str(file), 2), Location(str(file), 5), Location(str(file), 50), Location(str(file), 101))[str(file)]
    assert [number for number, _ in found] == [*range(1, 9), *range(47, 54), *range(98, 102)]
    assert found[0] == [1, "line 1"] and len(found[-1][1]) == 300


def test_only_source_is_read(tmp_path):
    secret, large, pipe, folder = (tmp_path / name for name in ("secret.txt", "large.py", "pipe.py", "folder.py"))
    secret.write_text("secret\n")
    large.write_bytes(b"#" * ((4 << 20) + 1))
    os.mkfifo(pipe)
    folder.mkdir()
    files = [secret, large, pipe, folder, tmp_path / "missing.py"]
    assert _sources(*[Location(str(file), 1) for file in files], Location("a\0.py", 1), Location("/dev/zero", 1)) == {}


def test_lines_of_source_are_bounded(monkeypatch, tmp_path):
    monkeypatch.setattr(_html, "_MOST_LINES", 20)
    file = tmp_path / "a.py"
    file.write_text("x\n" * 1000)
    assert len(_sources(*[Location(str(file), 10 * n) for n in range(1, 90)])[str(file)]) == 21


def many(number):
    """An audit of many findings at as many lines."""
    findings = tuple(
        Finding(
            code=f"FS1{n % 9:02}", op=f"aten.op{n}.default", phase=("forward", "backward")[n % 2], site=Location("a.py", n + 1)
        )
        for n in range(number)
    )
    return Audit(report=EMPTY, findings=findings)


def test_ten_thousand_findings_are_no_markup():
    text = as_html(many(10_000))
    assert len(Page(text).tags) == len(Page(as_html(many(1))).tags) and len(text) < 4 << 20


def test_a_chart_of_many_steps_has_few_bars_and_keeps_the_highest():
    values = [1] * 10_000
    values[7777] = 500
    chart = bars("many", [("compiles", "one", values)], stacked=True)
    assert 200 <= chart.count("<rect") <= 240 and ": 500 compiles</title>" in chart
    both = bars("two", [("before", "one", values), ("after", "two", [900])], stacked=False)
    assert both.count("<rect") <= 480 and ": 900 after</title>" in both and ": 500 before</title>" in both


def test_torch_is_not_needed():
    """The package imports it, the renderers do not: they are loaded here without the package's own ``__init__``."""
    code = """
import sys, types, fixshape
package = types.ModuleType("fixshape.audit")
package.__path__ = [f"{fixshape.__path__[0]}/audit"]
sys.modules["fixshape.audit"] = package
import fixshape.audit._compare, fixshape.audit._html, fixshape.audit._json, fixshape.audit._sarif, fixshape.audit._text
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("False\n", "")
