"""Batch normalisation over real rows against ``torch.nn.functional.batch_norm`` on those rows alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd.gradcheck import gradcheck

from fixshape.errors import DtypeError, ShapeError
from fixshape.ops import masked_batch_norm
from fixshape.ops._batch_norm import _Normalize
from tests.ops.conftest import GARBAGE

TRAILING = [(), (6,), (3, 4), (2, 3, 2)]


def make(seed, trailing=(3, 4), rows=9, share=0.6, offset=0.0):
    """Input, running mean and variance, weight, bias, and at least two real rows."""
    generator = torch.Generator().manual_seed(seed)
    x = offset + 2 * torch.randn(rows, 5, *trailing, generator=generator, dtype=torch.float64)
    statistics = torch.randn(5, generator=generator, dtype=torch.float64), torch.rand(5, generator=generator, dtype=torch.float64)
    parameters = torch.randn(2, 5, generator=generator, dtype=torch.float64).unbind()
    valid = torch.rand(rows, generator=generator) < share
    valid[:2] = True
    return x, *statistics, *parameters, valid[torch.randperm(rows, generator=generator)]


def reference(x, mean, variance, weight, bias, training, momentum=0.1, eps=1e-5, *, valid_mask):
    real = F.batch_norm(x[valid_mask], mean, variance, weight, bias, training, momentum, eps)
    return torch.zeros_like(x).index_put((valid_mask,), real)


def everything(norm, x, mean, variance, weight, bias, valid, training, **options):
    """Output, gradients of input, weight and bias, and the running statistics after it."""
    leaves = [None if t is None else t.clone().requires_grad_() for t in (x, weight, bias)]
    statistics = [None if t is None else t.clone() for t in (mean, variance)]
    out = norm(leaves[0], *statistics, *leaves[1:], training, **options, valid_mask=valid)
    # A different factor for each entry: a constant would leave no gradient at all in front of a batch norm.
    factors = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).reshape(out.shape).sin()
    (out * factors).sum().backward()
    return [out.detach(), *(leaf.grad for leaf in leaves if leaf is not None), *(t for t in statistics if t is not None)]


def check(arguments, training, norm=masked_batch_norm, **options):
    """Asserts that everything is torch's to 1e-9."""
    got, want = everything(norm, *arguments, training, **options), everything(reference, *arguments, training, **options)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)


# -- torch's numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("trailing", TRAILING)
@given(st.integers(0, 2**31), st.integers(2, 12), st.floats(0, 1), st.sampled_from([0.0, 100.0]))
def test_equals_torch_on_the_real_rows(training, trailing, seed, rows, share, offset):
    check(make(seed, trailing, rows, share, offset), training, momentum=0.3, eps=1e-3)


@pytest.mark.parametrize("training", [True, False])
def test_without_weight_bias_or_running_statistics(training):
    x, mean, variance, weight, bias, valid = make(0)
    check((x, mean, variance, None, bias, valid), training)
    check((x, mean, variance, weight, None, valid), training)
    if training:
        check((x, None, None, None, None, valid), training)


def test_channels_last_stays_channels_last():
    x, *others = make(1)
    x = x.contiguous(memory_format=torch.channels_last)
    check((x, *others), True)
    assert masked_batch_norm(x, *others[:-1], True, valid_mask=others[-1]).stride() == x.stride()


def test_the_comparison_fails_for_statistics_over_all_rows():
    """The oracle at work."""

    def broken(x, *others, valid_mask):
        return torch.where(valid_mask[:, None, None, None], F.batch_norm(x, *others), 0)

    with pytest.raises(AssertionError):
        check(make(2), True, norm=broken)


def test_gradcheck():
    x, mean, variance, weight, bias, valid = make(3, (2,), rows=4)
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    for training in (True, False):
        assert gradcheck(
            lambda x, w, b, training=training: masked_batch_norm(
                x, mean.clone(), variance.clone(), w, b, training, valid_mask=valid
            ),
            leaves,
        )


def test_a_gradient_of_the_gradient_is_refused():
    x, mean, variance, weight, bias, valid = make(3)
    out = masked_batch_norm(x.requires_grad_(), mean, variance, weight, bias, True, valid_mask=valid)
    (gradient,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_a_momentum_in_a_tensor_is_a_momentum():
    *arguments, valid = make(4)
    number = everything(masked_batch_norm, *arguments, valid, True, momentum=0.25)
    tensor = everything(masked_batch_norm, *arguments, valid, True, momentum=torch.tensor(0.25, dtype=torch.float64))
    torch.testing.assert_close(tensor, number, rtol=0, atol=0)


def test_a_large_mean_in_float32_costs_no_digits_of_the_variance():
    x, mean, variance, weight, bias, valid = make(5, (7, 7), rows=64, offset=4096.0)
    x = x.float().double()  # so that float32 holds it
    want = reference(x, mean, variance, weight, bias, True, valid_mask=valid)
    single = [t.float() for t in (x, mean, variance, weight, bias)]
    got = masked_batch_norm(*single, True, valid_mask=valid)
    torch.testing.assert_close(got.double(), want, rtol=0, atol=2e-3)
    squares = (x.float()[valid] ** 2).mean((0, 2, 3)) - x.float()[valid].mean((0, 2, 3)) ** 2
    assert (squares - x[valid].var((0, 2, 3), correction=0)).abs().max() > 0.1  # what a single pass would have given


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype, training):
    x, mean, variance, weight, bias, valid = make(6)
    single = [t.float() for t in (mean, variance, weight, bias)]
    got = masked_batch_norm(x.to(dtype), *(t.clone() for t in single), training, valid_mask=valid)
    want = masked_batch_norm(x.to(dtype).float(), *single, training, valid_mask=valid)
    assert got.dtype == dtype
    torch.testing.assert_close(got, want.to(dtype), rtol=0, atol=0)


# -- padding ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("garbage", GARBAGE)
def test_padding_changes_nothing_and_gets_nothing(training, garbage):
    x, *others, valid = make(7)
    clean = everything(masked_batch_norm, x, *others, valid, training)
    with torch.autograd.set_detect_anomaly(True):
        poisoned = everything(masked_batch_norm, x.masked_fill(~valid[:, None, None, None], garbage), *others, valid, training)
    torch.testing.assert_close(poisoned, clean, rtol=0, atol=0)
    for per_row in poisoned[:2]:
        assert (per_row[~valid] == 0).all()


@pytest.mark.parametrize("training", [True, False])
def test_a_gradient_that_is_nan_in_the_padding_is_dropped(training):
    x, mean, variance, *parameters, valid = make(8)
    leaves = [t.requires_grad_() for t in (x, *parameters)]
    out = masked_batch_norm(leaves[0], mean, variance, *leaves[1:], training, valid_mask=valid)
    gradient = torch.ones_like(out).cumsum(0)
    clean = torch.autograd.grad(out, leaves, gradient, retain_graph=True)
    dirty = torch.autograd.grad(out, leaves, gradient.masked_fill(~valid[:, None, None, None], torch.nan))
    torch.testing.assert_close(dirty, clean, rtol=0, atol=0)


# -- too few values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_no_row_gives_zeros_and_moves_nothing(training):
    x, mean, variance, *parameters, valid = make(9)
    out, *gradients, mean_after, variance_after = everything(
        masked_batch_norm, x, mean, variance, *parameters, valid & False, training
    )
    assert all((t == 0).all() for t in (out, *gradients))
    assert torch.equal(mean_after, mean)
    assert torch.equal(variance_after, variance)


def test_one_value_gives_the_bias_and_moves_nothing_where_torch_raises():
    x, mean, variance, weight, bias, valid = make(10, trailing=())
    valid = torch.arange(len(valid)) == 3
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        F.batch_norm(x[valid], mean, variance, weight, bias, True)
    out, gradient, weight_gradient, bias_gradient, mean_after, variance_after = everything(
        masked_batch_norm, x, mean, variance, weight, bias, valid, True
    )
    torch.testing.assert_close(out[3], bias)
    assert (gradient == 0).all()
    assert (weight_gradient == 0).all()
    assert (bias_gradient != 0).all()
    assert torch.equal(mean_after, mean)
    assert torch.equal(variance_after, variance)


def test_one_row_of_several_values_is_enough():
    x, *others, valid = make(11)
    check((x, *others, torch.arange(len(valid)) == 3), True)


# -- memory -------------------------------------------------------------------------------------------------------------------


def test_each_direction_makes_one_tensor_of_full_size():
    """What it is fast by: a second one costs about as much as all the arithmetic together."""
    x = torch.randn(64, 8, 7, 7)
    rows, valid = x.flatten(2).requires_grad_(), torch.ones(64, dtype=torch.bool)

    def full_size_tensors(function):
        with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            function()
        events = profile.profiler.kineto_results.events()
        return sum(e.name() == "[memory]" and e.nbytes() >= 4 * x.numel() for e in events)

    kept = []
    assert full_size_tensors(lambda: kept.append(torch.ones_like(x))) == 1  # the counter at work
    assert full_size_tensors(lambda: kept.append(_Normalize.apply(rows, None, None, valid, torch.tensor(64 * 49), 1e-5)[0])) == 1
    gradient = torch.ones_like(rows)
    assert full_size_tensors(lambda: kept.append(torch.autograd.grad(kept[-1], rows, gradient))) == 1


# -- errors -------------------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_named():
    x, mean, variance, weight, bias, valid = make(12)
    with pytest.raises(ShapeError, match=r"^masked_batch_norm: input has shape \(9,\), expected \(R, C, \.\.\.\)\.$"):
        masked_batch_norm(x[:, 0, 0, 0], mean, variance, valid_mask=valid)
    with pytest.raises(
        ShapeError, match=r"^masked_batch_norm: valid_mask has shape \(8,\), expected \(9,\)\. One entry per row of "
    ):
        masked_batch_norm(x, mean, variance, valid_mask=valid[1:])
    with pytest.raises(
        ShapeError, match=r"^masked_batch_norm: weight has shape \(4,\), expected \(5,\)\. One entry per channel of "
    ):
        masked_batch_norm(x, mean, variance, weight[1:], bias, valid_mask=valid)
    expected = r"must both be given, or both be None with training=True; got None and a tensor with training=True\.$"
    with pytest.raises(ShapeError, match=r"^masked_batch_norm: running_mean and running_var " + expected):
        masked_batch_norm(x, None, variance, training=True, valid_mask=valid)
    with pytest.raises(ShapeError, match=r"; got None and None with training=False\.$"):
        masked_batch_norm(x, None, None, valid_mask=valid)


def test_wrong_dtypes_are_named():
    x, mean, variance, *_, valid = make(13)
    with pytest.raises(DtypeError, match=r"^masked_batch_norm: valid_mask has dtype torch\.int64, expected torch\.bool\. Use "):
        masked_batch_norm(x, mean, variance, valid_mask=valid.long())
    expected = r"^masked_batch_norm: input has dtype torch\.int64, expected floating point\. Use input\.float\(\)\.$"
    with pytest.raises(DtypeError, match=expected):
        masked_batch_norm(x.long(), mean, variance, valid_mask=valid)
