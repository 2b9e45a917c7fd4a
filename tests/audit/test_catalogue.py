"""The catalogue: every code explained, and every rewrite run against what it replaces."""

import re

import pytest
import torch
import torchvision

from fixshape import OpRecorder
from fixshape.audit._catalogue import CATALOGUE, explain, unchanged
from fixshape.audit._judge import judge
from fixshape.audit._rules import RULES
from fixshape.errors import UsageError

SEEN_IN_ONE_STEP = [code for code in CATALOGUE if code not in ("FS109", "FS203", "FS301", "FS302", "FS303")]


def _given():
    """What the snippets start from. Half of the mask is True, each class occurs, all copies fit into ``size``."""
    draw = torch.Generator().manual_seed(0)
    corners = torch.rand(8, 2, generator=draw) * 4
    return {
        "__name__": "snippet",  # generated code belongs to no module, and has no line
        "torch": torch,
        "torchvision": torchvision,
        "x": torch.randn(8, 4, generator=draw),
        "fresh": torch.randn(8, 4, generator=draw),
        "loss": torch.rand(8, generator=draw),
        "mask": torch.tensor([True, False, True, True, False, False, True, False]),
        "labels": torch.tensor([0, 1, 4, 2, 3, 4, 4, 0]),
        "num_classes": 5,
        "counts": torch.tensor([2, 0, 1, 3, 0, 1, 1, 0]),
        "size": 12,
        "lengths": torch.tensor([4, 1, 2, 3, 4, 1, 1, 2]),
        "boxes": torch.cat((corners, corners + 3), 1),
        "scores": torch.rand(8, generator=draw),
        "log_probs": torch.randn(8, 2, 4, generator=draw).log_softmax(2),
        "words": torch.tensor([[1, 2, 3], [2, 2, 0]]),
        "input_lengths": torch.tensor([8, 8]),
        "word_lengths": torch.tensor([3, 2]),
        "ragged": torch.rand(7, generator=draw),
        "step": 3,
    }


def _run(snippet, tmp_path):
    """The number that a snippet leaves, and the codes that an audit of it finds; rules may read the source, hence a file."""
    file = tmp_path / "snippet.py"
    file.write_text(snippet)
    given, recorder = _given(), OpRecorder()
    with recorder:
        exec(compile(snippet, str(file), "exec"), given)
    findings, unknown = judge(recorder.report())
    assert unknown == {}
    return torch.as_tensor(given["result"]).to(torch.float64), {finding.code for finding in findings}


@pytest.mark.parametrize("code", CATALOGUE)
def test_the_rewrite_gives_the_number_of_what_it_replaces(code, tmp_path):
    (tmp_path / "before").mkdir()
    before, _ = _run(CATALOGUE[code].before, tmp_path / "before")
    after, found = _run(CATALOGUE[code].after, tmp_path)
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-6)
    assert before.isfinite() and (before != 0) == (code != "FS204")
    if code != "FS114":  # it goes to the host, where this test is already
        assert not [other for other in found if other == code or other[:3] in ("FS1", "FS2")]


@pytest.mark.parametrize("code", [code for code, entry in CATALOGUE.items() if entry.may_stay])
def test_what_may_stay_is_static_as_it_is(code, tmp_path):
    (tmp_path / "before").mkdir()
    before, _ = _run(CATALOGUE[code].before, tmp_path / "before")
    stays, found = _run(unchanged(CATALOGUE[code]), tmp_path)
    torch.testing.assert_close(stays, before, rtol=1e-5, atol=1e-6)
    assert not [other for other in found if other[:3] in ("FS1", "FS2")]
    assert unchanged(CATALOGUE[code]).splitlines()[-1].strip() in explain(code)


@pytest.mark.parametrize("code", SEEN_IN_ONE_STEP)
def test_what_is_replaced_is_found_under_its_code(code, tmp_path):
    assert code in _run(CATALOGUE[code].before, tmp_path)[1]


def test_every_code_of_a_rule_is_explained():
    assert {rule.code for rule in RULES if rule.code} <= set(CATALOGUE)
    assert list(CATALOGUE) == sorted(CATALOGUE)
    assert all(re.fullmatch(r"FS[1-4]\d\d", code) for code in CATALOGUE)


@pytest.mark.parametrize("code", CATALOGUE)
def test_the_text_has_all_parts_and_fits_a_terminal(code):
    text = explain(code.lower())
    assert text.startswith(f"{code}: {CATALOGUE[code].title}\n\n")
    for heading in ("Why it costs\n", "Instead\n", "Before\n", "After\n"):
        assert heading in text
    assert max(map(len, text.splitlines())) <= 125


def test_an_unknown_code_names_those_near_it():
    with pytest.raises(UsageError, match=r"explain: there is no code 'FS1O1'\. Near it: FS"):
        explain("FS1O1")
    with pytest.raises(UsageError, match="there is no code 'nonsense'. Near it: FS101, FS102"):
        explain("nonsense")
