"""Losses that people wrote, unmodified, inside the block: the same numbers and gradients, and nothing dynamic."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode, resolve_name

import fixshape
from fixshape.errors import StaticIndexingError
from fixshape.ops import static_indexing
from tests.ops import own_losses_dense, own_losses_detection, own_losses_language, own_losses_metric  # noqa: F401
from tests.ops.own_losses import OWN_LOSSES, REFUSED, Case
from tests.ops.own_losses_dense import masked_autoencoder

pytestmark = pytest.mark.filterwarnings("ignore:.*degrees of freedom is <= 0")  # the variance of no rows
each_loss = pytest.mark.parametrize("loss", OWN_LOSSES, ids=lambda loss: loss.name)
each_refused = pytest.mark.parametrize("loss", REFUSED, ids=lambda loss: loss.name)


def _run(loss, inputs, block=nullcontext):
    """The values of a loss, its leaves and their gradients. Each value has a weight of its own, or a mix-up would not show."""
    predicted, given = inputs
    leaves = [tensor.detach().clone().requires_grad_() for tensor in predicted]
    with block():
        result = loss.function(*leaves, *(tensor.clone() for tensor in given))
    values = [result] if isinstance(result, Tensor) else list(result.values() if isinstance(result, dict) else result)
    sum((k + 1) * value for k, value in enumerate(values)).backward()
    gradients = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
    return [value.detach() for value in values], leaves, gradients


def _check(loss, kind, seed=0, inside=None):
    want, leaves, want_gradients = _run(loss, loss.make(Case(kind, seed)))
    assert all(value.dim() == 0 and (kind == "empty" or value.isfinite()) for value in want), want
    assert all(gradient.isfinite().all() for gradient in want_gradients)

    got, _, got_gradients = _run(inside or loss, loss.make(Case(kind, seed)), static_indexing)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12, equal_nan=True)
    torch.testing.assert_close(got_gradients, want_gradients, rtol=1e-12, atol=1e-12)
    for leaf, gradient in zip(leaves, got_gradients, strict=True):
        assert (gradient[~leaf.isfinite()] == 0).all()


@each_loss
def test_values_and_gradients_are_those_of_plain_code(loss):
    for kind in loss.kinds:
        _check(loss, kind)


@pytest.mark.slow
@each_loss
def test_values_and_gradients_are_those_of_plain_code_for_other_numbers(loss):
    for seed in range(1, 6):
        for kind in loss.kinds:
            _check(loss, kind, seed)


@each_loss
def test_the_recorder_finds_dynamic_ops_in_plain_code_and_none_in_the_block(loss):
    plain, block = fixshape.OpRecorder(lines=False), fixshape.OpRecorder(lines=False)
    inputs = [loss.make(Case(kind)) for kind in loss.kinds]
    with plain:
        _run(loss, inputs[0])
    assert plain.current.dynamic > 0

    decorated = dataclasses.replace(loss, function=static_indexing(loss.function))
    for each in inputs:
        with block:
            _run(decorated, each)
        block.step()
    steps = block.report().steps
    assert [step.dynamic for step in steps] == [0] * len(loss.kinds)
    assert [step.compiles for step in steps[1:]] == [0] * (len(loss.kinds) - 1), "the same program, whatever the mask"


@pytest.mark.slow
@each_loss
def test_it_runs_on_tensors_without_values(loss):
    predicted, given = loss.make(Case("random"))
    with FakeTensorMode() as fake:
        leaves = [fake.from_tensor(tensor).requires_grad_() for tensor in predicted]
        values, _, gradients = _run(loss, (leaves, [fake.from_tensor(tensor) for tensor in given]), static_indexing)
    assert all(isinstance(value, FakeTensor) and value.shape == () for value in values)
    assert [gradient.shape for gradient in gradients] == [leaf.shape for leaf in leaves]


@each_refused
def test_what_cannot_be_followed_names_its_line_and_the_form_beside_it_can(loss):
    lines, first = inspect.getsourcelines(loss.function)
    line = max(first + k for k, text in enumerate(lines) if loss.line in text)  # the decorator's own line has it too
    file = Path(inspect.getsourcefile(loss.function)).name
    _run(loss, loss.make(Case("random")))
    with pytest.raises(StaticIndexingError, match=rf"\b{re.escape(file)}:{line}\b"):
        _run(loss, loss.make(Case("random")), static_indexing)
    assert loss.rewritten in {own.name for own in OWN_LOSSES}


@each_refused
def test_what_cannot_be_followed_runs_as_it_is_if_asked_to_and_the_recorder_sees_it(loss):
    inputs, recorder = loss.make(Case("random")), fixshape.OpRecorder(lines=False)
    with recorder:
        got, _, got_gradients = _run(loss, inputs, functools.partial(static_indexing, strict=False))
    want, _, want_gradients = _run(loss, inputs)
    torch.testing.assert_close((got, got_gradients), (want, want_gradients), rtol=1e-12, atol=1e-12)
    assert recorder.current.dynamic + recorder.current.syncs > 0


def _all_patches(pred, target, removed):
    return masked_autoencoder(pred.nan_to_num(), target, torch.ones_like(removed))


def _multiplied_afterwards(pred, target, removed):
    target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6) ** 0.5
    return (((pred - target) ** 2).mean(-1) * removed).nansum() / removed.sum()


@pytest.mark.parametrize("wrong", [_all_patches, _multiplied_afterwards])
def test_a_loss_that_padding_reaches_does_not_pass(wrong):
    (loss,) = [own for own in OWN_LOSSES if own.function is masked_autoencoder]
    with pytest.raises(AssertionError, match="not close"):
        _check(loss, "random", inside=dataclasses.replace(loss, function=wrong))


def _places(index):
    """An index as a form: "mask" and "rows" for tensors of bools and of whole numbers, ":" for all else."""
    parts = index if isinstance(index, tuple) else (index,)
    return ", ".join(("mask" if part.dtype == torch.bool else "rows") if isinstance(part, Tensor) else ":" for part in parts)


class Forms(TorchFunctionMode):
    """Which functions are called, and tensors indexed how."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = (resolve_name(func) or "").removeprefix("torch.").removeprefix("Tensor.")
        if name == "where" and len(args) == 1:
            name = "where(mask)"
        if name in ("__getitem__", "__setitem__"):
            name = f"x[{_places(args[1])}]" + (" = " if name == "__setitem__" else "")
        self.seen.add(name)
        return func(*args, **(kwargs or {}))


FORMS = """
x[mask] | x[mask, rows] | x[:, mask] | x[mask, :] | x[mask, :, :] | x[rows] | x[rows, rows] | x[rows, rows, rows]
x[mask] = | x[mask, :] = | x[rows] = | x[rows, rows] = | x[rows, rows, rows] = | x[mask, rows] = | nonzero | argwhere
where(mask) | masked_select | masked_scatter | index_put_ | index_add_ | scatter_add | gather | index_select | cat
stack | unbind | squeeze | nn.functional.one_hot | sort | argsort | topk | cumsum | argmax | argmin | max | min | amin
var | std | sum | mean | linalg.vector_norm | matmul | nn.functional.linear | log_softmax | logsumexp | numel | size
__len__ | shape.__get__ | nn.functional.cross_entropy | nn.functional.nll_loss | nn.functional.kl_div
nn.functional.binary_cross_entropy | nn.functional.binary_cross_entropy_with_logits | nn.functional.smooth_l1_loss
nn.functional.huber_loss | nn.functional.l1_loss | nn.functional.mse_loss | nn.functional.gaussian_nll_loss
nn.functional.poisson_nll_loss | nn.functional.margin_ranking_loss | nn.functional.triplet_margin_loss
nn.functional.cosine_embedding_loss
"""


def test_together_they_use_every_form_of_selecting_going_through_and_ending():
    forms = Forms()
    for loss in OWN_LOSSES:
        predicted, given = loss.make(Case("random"))
        with forms:
            loss.function(*predicted, *given)
    wanted = {form.strip() for form in FORMS.replace("\n", " | ").split("|")} - {""}
    assert wanted <= {form.strip() for form in forms.seen}, wanted - forms.seen
    assert len(OWN_LOSSES) >= 60 and all(loss.function.__doc__ for loss in OWN_LOSSES)
