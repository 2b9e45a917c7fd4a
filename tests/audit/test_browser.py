"""The page in a real browser: filter, search, scroll, a line of source, and names that would like to be markup.

It needs the extra ``browser`` (``pip install -e '.[browser]'``), without which it fails: nothing of it is skipped.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fixshape.audit._compare import compare, comparison_html
from fixshape.audit._finding import Audit, Finding
from fixshape.audit._html import as_html
from fixshape.audit._json import from_json
from fixshape.audit._report import AuditReport, Location

from .test_html import NAMES, hostile, many

pytestmark = pytest.mark.slow
GOLDEN = Path(__file__).parent.parent / "golden"

SHOWN = "return document.getElementById('shown').textContent"
ROWS = "return [...document.querySelectorAll('#space .row')].map(row => row.textContent)"
DETAIL = "return document.getElementById('detail').innerText"


def put(control, value):
    return f"const c = document.getElementById('{control}'); c.value = {json.dumps(value)}; c.dispatchEvent(new Event('input'))"


def opened(folder, page, *lines):
    """What a browser says of the page after each line; the page has asked for nothing but itself and has broken no rule."""
    file = folder / "page.html"
    file.write_text(page, encoding="utf-8")
    command = [sys.executable, str(Path(__file__).with_name("browser.py")), str(file), json.dumps(lines)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, f"pip install -e '.[browser]' installs the browser.\n{done.stdout}\n{done.stderr}"
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["requests"] == [file.as_uri()] and told["console"] == [] and told["dialogues"] == []
    assert len(told["values"]) == len(lines)
    return told["values"]


def test_filter_and_search(tmp_path):
    page = as_html(from_json((GOLDEN / "audit.json").read_bytes()))
    values = opened(
        tmp_path, page, SHOWN, put("code", "FS201"), SHOWN, put("phase", "backward"), SHOWN, ROWS,
        put("code", ""), put("phase", ""), put("search", "NMS rpn"), SHOWN, ROWS,
        put("search", "no such thing"), SHOWN, ROWS, put("search", "losses.py:88"), SHOWN,
    )  # fmt: skip
    assert [values[index] for index in (0, 2, 4, 9, 12, 15)] == ["5 of 5", "2 of 5", "1 of 5", "1 of 5", "0 of 5", "1 of 5"]
    assert values[5] == ["FS201aten.item.defaultbackward1 time, in 1 of 5 steps"]
    assert values[10] == ["FS110torchvision.nms.defaultpython/lib/site-packages/torchvision/ops/boxes.py:77forward2 a step4"]
    assert values[13] == []


def test_a_line_of_source_is_shown_with_its_findings(tmp_path):
    file = tmp_path / "train.py"
    file.write_text("import torch\n\n\ndef step(mask):\n    rows = mask.nonzero()  # <b>here</b>\n    return rows.sum().item()\n")
    rows, item = Location(str(file), 5, "step"), Location(str(file), 6, "step")
    findings = (
        Finding(
            code="FS101", op="aten.nonzero.default", phase="forward", site=rows, caller=rows, suggestion="fixed_nonzero(mask)"
        ),
        Finding(code="FS201", op="aten._local_scalar_dense.default", phase="forward", site=item, caller=item),
    )
    here = "return document.querySelector('#detail .here').innerText"
    values = opened(
        tmp_path, as_html(Audit(report=AuditReport((), (), {}, {}), findings=findings)),
        "return document.getElementById('detail').hidden", "document.querySelector('#space .row').click()", here, DETAIL,
        "return [...document.querySelectorAll('#detail .badge')].map(badge => badge.textContent)",
        "document.querySelectorAll('#detail .badge')[1].click()", here,
        "document.getElementById('rows').dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowUp'}))", here,
        "return document.querySelectorAll('[aria-selected=true]').length",
    )  # fmt: skip
    assert values[0] is True
    assert values[2].split("\n") == ["5", "    rows = mask.nonzero()  # <b>here</b>", "FS101"]
    assert (
        "fixed_nonzero(mask)" in values[3]
        and "def step(mask):" in values[3]
        and "import torch" not in values[3]
        and f"{file}:5 in step" in values[3]
    )
    assert values[4] == ["FS101", "FS201"]
    assert "return rows.sum().item()" in values[6] and "FS201" in values[6]
    assert values[8] == values[2] and values[9] == 1


def test_ten_thousand_findings(tmp_path):
    timed = "const start = performance.now(); {}; document.body.offsetHeight; return performance.now() - start"
    load = "return performance.timing.domContentLoadedEventEnd - performance.timing.navigationStart"
    values = opened(
        tmp_path, as_html(many(10_000)), load, SHOWN, "return document.querySelectorAll('#space .row').length",
        "document.getElementById('rows').scrollTop = 150000", ROWS, timed.format(put("search", "op9999")), SHOWN, ROWS,
        timed.format(put("search", "")), SHOWN,
    )  # fmt: skip
    loaded, shown, drawn, _, scrolled, searching, one, row, emptying, all_again = values
    assert shown == all_again == "10000 of 10000" and 10 < drawn < 60
    assert any("aten.op5000.default" in text for text in scrolled) and len(scrolled) < 60
    assert one == "1 of 10000" and row == ["FS100aten.op9999.defaulta.py:10000backward1 time"]
    print(f"10,000 findings: loaded in {loaded:.0f} ms, searched in {searching:.0f} ms, search emptied in {emptying:.0f} ms")
    assert loaded < 3000 and searching < 500 and emptying < 500


@pytest.mark.parametrize("name", NAMES)
def test_nothing_runs_or_becomes_markup(tmp_path, name):
    tags = "return [...new Set([...document.querySelectorAll('body *')].map(node => node.localName))].sort()"
    lines = ["document.querySelector('#space .row').click()", tags, DETAIL, "return document.scripts.length"]
    values, plain = opened(tmp_path, as_html(hostile(name)), *lines), opened(tmp_path, as_html(hostile("name")), *lines)
    assert values[1] == plain[1] and values[3] == 2
    assert name.replace("\0", "").split("\x1b")[0].split("\u2028")[0] in values[2].replace("\0", "")


def test_a_script_that_slipped_in_would_not_run(tmp_path):
    """The policy holds by itself, were the escaping broken."""
    page = as_html(hostile("name")).replace("<main>", "<main><script>alert(1)</script><img src=x onerror=alert(2)>")
    with pytest.raises(AssertionError, match="Content Security Policy"):
        opened(tmp_path, page, SHOWN)


def test_an_error_in_the_page_would_be_seen(tmp_path):
    with pytest.raises(AssertionError, match="ReferenceError"):
        opened(tmp_path, as_html(many(1)), "setTimeout(() => nothing())")


def test_the_comparison_is_drawn(tmp_path):
    page = comparison_html(compare(*(from_json((GOLDEN / f"{name}.json").read_bytes()) for name in ("audit", "audit_after"))))
    heights = "return [...document.querySelectorAll('svg rect')].map(bar => [bar.getAttribute('class'), bar.getBBox().height])"
    colours = "return [...document.querySelectorAll('svg rect')].slice(0, 2).map(bar => getComputedStyle(bar).fill)"
    values = opened(tmp_path, page, heights, colours, "return document.body.innerText")
    assert [look for look, _ in values[0]] == ["two", "one", "two", "two", "one", "two", "two"]
    assert values[0][0][1] == values[0][1][1] > values[0][2][1] > values[0][3][1] > values[0][4][1]
    assert len({*values[1], "rgb(0, 0, 0)"}) == 3
    assert "130 before, 1 after" in values[2] and "13.7 -> 0" in values[2]
