"""Decisions: what rounding explains is proved, and another weight, threshold or overlap is not."""

import pytest
import torch
from torch import nn

from fixshape.export import Gears, export_onnx, parse_inputs, verify_onnx
from fixshape.export._verify import Verification, VerifiedGear, is_blind

GEARS = Gears(parse_inputs("rows:N,40,8"), ({"N": 1}, {"N": 3}))


class Best(nn.Module):
    """The best rows by their sum, of those above a threshold. Two orders of adding up are one function but for rounding."""

    def __init__(self, *, flip=False, threshold=0.1, weight=1.0, worst=False):
        super().__init__()
        self.flip, self.threshold, self.worst = flip, threshold, worst
        self.weight = nn.Parameter(torch.full((8,), weight))

    def forward(self, rows):
        terms = (rows * self.weight).unbind(-1)
        score = torch.zeros_like(terms[0])
        for term in reversed(terms) if self.flip else terms:
            score = score + term
        score = torch.where(score > self.threshold, score, -1)
        best, index = score.topk(7, largest=not self.worst)
        return best, rows.gather(1, index.unsqueeze(-1).expand(-1, -1, 8))


def twins(shapes):
    """Each row twice, its numbers in two orders: the sums are equal, but for rounding, which picks."""
    batch, count, width = shapes["rows"]
    generator = torch.Generator().manual_seed(batch)
    rows = torch.randn(batch, count // 2, width, generator=generator)
    return (torch.cat([rows, rows[..., torch.randperm(width, generator=generator)]], 1),)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "best.onnx"
    export_onnx(Best(), GEARS, path, make_inputs=twins)
    return path


def test_what_rounding_picks_is_proved_and_said(file):
    verification = verify_onnx(Best(flip=True), file, GEARS, make_inputs=twins)
    assert verification.ok, str(verification)
    assert any(row.followed is not None for row in verification.rows), "nothing was picked by rounding"
    assert all(row.followed is None or row.followed < 1e-6 for row in verification.rows)
    assert "where torch decides on the file's numbers" in str(verification)


def test_another_weight_is_told_with_its_line(file):
    verification = verify_onnx(Best(weight=1.01), file, GEARS, make_inputs=twins)
    assert not verification.ok
    assert "test_verify_decisions.py:" in str(verification)
    assert "decides on numbers that are up to" in str(verification)
    assert "more than rounding" in str(verification)


@pytest.mark.parametrize("change", [{"threshold": 4.0}, {"worst": True}])
def test_another_decision_on_the_same_numbers_is_told(change, file):
    verification = verify_onnx(Best(**change), file, GEARS, make_inputs=twins)
    assert not verification.ok
    assert all(row.followed is None for row in verification.rows if not row.ok)


@pytest.mark.parametrize(("model", "blind"), [(nn.Linear(8, 2), False), (nn.Threshold(1e9, 0.0), True)])
def test_a_model_that_gives_the_same_for_anything_is_named(model, blind):
    assert is_blind(model, twins({"rows": (2, 8, 8)}), "rows") is blind
    told = str(Verification((VerifiedGear({"rows": (2, 8, 8)}, (), 0.0),), blind))
    assert told.endswith("says little of its layers: give trained weights") is blind
