"""Losses of transformers, timm, torchmetrics and torchvision, as they are installed, inside ``static_indexing``.

    run, equal      Beit, Flava, Hiera's loss, GLPN; BERT on rows, Bros (3), ELECTRA, ModernBERT, ProphetNet, XMOD, the losses
                    of language models; SpeechT5, FastSpeech2 (2), VITS, wav2vec2, Higgs Audio; the criteria of DETR (2),
                    Deformable DETR, LW-DETR, RT-DETR, D-FINE, DEIMv2 and Grounding DINO, given a match; timm's (11);
                    torchmetrics' errors; torchvision.ops
    a branch        DeBERTa, RF-DETR, Pearson's correlation, Mask R-CNN: ``if count == 0`` and its like
    a loop          Mixtral: over the experts that have tokens
    the host        DETR's matcher, by scipy
    a reshape       VideoMAE and Hiera: as many rows of each picture, which no shape says
    no static form  CTC of labels in one row

The table of programs is in ``third_party_programs.py``; those that stop name their line, and run with ``strict=False``.
"""

from __future__ import annotations

import functools
import re
import sys
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from fixshape.audit import OpRecorder
from fixshape.errors import StaticIndexingError
from fixshape.ops import static_indexing
from tests.ops.own_losses import KINDS, Case
from tests.ops.third_party_programs import PROGRAMS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*degrees of freedom is <= 0"),  # the variance of no rows
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"),
]
NAMED = {program.name: program for program in PROGRAMS}


@pytest.fixture(autouse=True)
def without_torch_npu(monkeypatch):
    """transformers imports torch-npu where that is installed, which fails where its driver is not."""
    monkeypatch.setitem(sys.modules, "torch_npu", None)


def each(stops):
    """The programs that stop, or those that run."""
    chosen = [program for program in PROGRAMS if bool(program.stops_at) == stops]
    return pytest.mark.parametrize("program", chosen, ids=[program.name for program in chosen])


def _run(run, block=nullcontext):
    """The values, and the gradients of their sum, each value with a weight of its own."""
    leaves, call = run
    torch.manual_seed(0)
    with block():
        result = call()
    values = [result] if isinstance(result, Tensor) else list(result)
    assert all(isinstance(value, Tensor) and value.dim() == 0 for value in values)
    total = sum((k + 1) * value for k, value in enumerate(values))
    gradients = torch.autograd.grad(total, leaves, allow_unused=True)
    gradients = [torch.zeros_like(x) if gradient is None else gradient for x, gradient in zip(leaves, gradients, strict=True)]
    return [value.detach() for value in values], gradients


def _check(program, kind, block=static_indexing, seed=0):
    want = _run(program.make(Case(kind, seed)))
    assert kind == "empty" or all(value.isfinite() for value in want[0]), want[0]
    got = _run(program.make(Case(kind, seed)), block)
    torch.testing.assert_close(got, want, rtol=program.tolerance, atol=program.tolerance, equal_nan=True)


@each(stops=False)
def test_values_and_gradients_are_those_of_plain_code(program):
    for kind in program.kinds:
        _check(program, kind)


@each(stops=False)
def test_values_and_gradients_are_those_of_plain_code_for_other_numbers(program):
    for kind in program.kinds:
        _check(program, kind, seed=1)


@each(stops=False)
def test_plain_code_has_dynamic_ops_and_the_block_none(program):
    plain, block = OpRecorder(lines=False), OpRecorder(lines=False)
    runs = [program.make(Case(kind)) for kind in program.kinds]
    with plain:
        _run(program.make(Case("random")))
    for run in runs:
        with block:
            _run(run, static_indexing)
        block.step()
    assert plain.current.dynamic > 0
    steps = block.report().steps
    assert [(step.dynamic, step.syncs) for step in steps] == [(0, program.syncs)] * len(runs)
    assert program.syncs or [step.compiles for step in steps[1:]] == [0] * (len(steps) - 1), "the same program, whatever the mask"


@each(stops=True)
def test_the_line_that_cannot_be_followed_is_named(program):
    _run(program.make(Case("random")))
    with pytest.raises(StaticIndexingError, match=rf"site-packages/\S+\.py:\d+: .*{re.escape(program.stops_at)}"):
        _run(program.make(Case("random")), static_indexing)


@each(stops=True)
def test_what_cannot_be_followed_runs_as_it_is_if_asked_to(program):
    for kind in program.kinds:
        _check(program, kind, functools.partial(static_indexing, strict=False))


class OneMore(Case):
    """As a case, but for the first row, which is in every mask."""

    def mask(self, *shape, **options):
        first = torch.arange(shape[0]) == 0
        return super().mask(*shape, **options) | first.view(-1, *[1] * (len(shape) - 1))


@pytest.mark.parametrize("name", ["glpn", "speech_t5", "detr_masks", "timm_two_way"])
def test_another_selection_is_told_from_it(name):
    """The oracle at work."""
    program = NAMED[name]
    got = _run(program.make(OneMore("random")), static_indexing)
    want = _run(program.make(Case("random")))
    with pytest.raises(AssertionError):
        torch.testing.assert_close(got, want, rtol=program.tolerance, atol=program.tolerance)


def test_the_table_says_what_it_says():
    assert len(PROGRAMS) == len(NAMED) >= 49
    assert all(set(program.kinds) <= set(KINDS) for program in PROGRAMS)
