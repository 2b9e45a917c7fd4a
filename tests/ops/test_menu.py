"""What every op of the package promises, over the table in conftest.py."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.gradcheck import GradcheckError, gradcheck

from fixshape import ops
from fixshape.audit import OpRecorder
from fixshape.errors import DtypeError, ShapeError


def tensors(result):
    return result if isinstance(result, tuple) else (result,)


# -- masked ops: the dynamic form's number ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_dynamic_form(masked, seed):
    masked.check_against_dynamic(seed, masked.valid(seed))


def test_equals_the_dynamic_form_without_padding(masked):
    masked.check_against_dynamic(0, torch.ones(masked.shape, dtype=torch.bool))


def test_nothing_valid_gives_zero_and_zero_gradients(masked):
    valid = torch.zeros(masked.shape, dtype=torch.bool)
    value, gradients = masked.value_and_gradients(masked, masked.arguments(0), valid)
    assert (value == 0).all()
    assert all((gradient == 0).all() for gradient in gradients)


def test_gradcheck(masked):
    arguments = [a.requires_grad_(a.is_floating_point()) for a in masked.arguments(1)]
    # One factor of the complete loss counts as a constant in its backward pass, as it does in torchvision.
    fails = masked.op is ops.masked_complete_box_iou_loss
    with pytest.raises(GradcheckError) if fails else contextlib.nullcontext():
        assert gradcheck(lambda *a: masked(*a, valid_mask=masked.valid(1)), arguments)


def test_padding_reaches_neither_result_nor_gradients(masked):
    arguments, valid = masked.arguments(2), masked.valid(2)
    value, gradients = masked.value_and_gradients(masked, arguments, valid)
    with torch.autograd.set_detect_anomaly(True):  # fails where a NaN is on the way, even if it is hidden later
        poisoned_value, poisoned_gradients = masked.value_and_gradients(masked, masked.poison(arguments, valid), valid)
    torch.testing.assert_close(poisoned_value, value, rtol=0, atol=0)
    for k, (poisoned, gradient) in enumerate(zip(poisoned_gradients, gradients, strict=True)):
        torch.testing.assert_close(poisoned, gradient, rtol=0, atol=0)
        assert (masked.rows(k, poisoned)[~valid] == 0).all()


def test_the_comparison_fails_for_a_mean_over_all_slots(masked):
    """The oracle at work: a broken op, one that counts padding too, does not pass it."""
    broken = dataclasses.replace(masked, op=lambda *a, valid_mask, **k: masked.op(*a, **k, valid_mask=valid_mask | True))
    with pytest.raises(AssertionError):
        broken.check_against_dynamic(0, masked.valid(0))


def test_a_mask_of_another_shape_is_named(masked):
    with pytest.raises(ShapeError, match=r"^masked_\w+: valid_mask has shape \(4, 4\), expected \(5, 4\)\. "):
        masked(*masked.arguments(0), valid_mask=torch.ones(4, 4, dtype=torch.bool))


def test_a_mask_of_ones_and_zeros_is_refused(masked):
    with pytest.raises(
        DtypeError, match=r"^masked_\w+: valid_mask has dtype torch\.int64, expected torch\.bool\. Use valid_mask "
    ):
        masked(*masked.arguments(0), valid_mask=torch.ones(5, 4, dtype=torch.int64))


def test_an_unknown_reduction_is_named(loss):
    with pytest.raises(ShapeError, match=r"^masked_\w+: reduction is 'avg', expected one of 'none', 'mean', 'sum'\.$"):
        loss.op(*loss.arguments(0), reduction="avg", valid_mask=loss.valid(0))


def test_a_target_of_another_shape_is_named(loss):
    first, second = loss.arguments(0)
    expected = r"^masked_\w+: (targets?|boxes2) has shape \(1, 4(, [34])?\), expected \(5, 4(, [34])?\)\. It "
    with pytest.raises(ShapeError, match=expected):
        loss(first, second[:1], valid_mask=loss.valid(0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_the_dtype_and_the_number_of_the_dynamic_form(masked, dtype):
    arguments = tuple(a.to(dtype) if a.is_floating_point() else a for a in masked.arguments(0))
    options = {k: v.to(dtype) if isinstance(v, torch.Tensor) else v for k, v in masked.options.items()}
    half = dataclasses.replace(masked, options=options)
    got = half(*arguments, valid_mask=masked.valid(0))
    want = half.reference(*arguments, valid_mask=masked.valid(0))
    torch.testing.assert_close(got, want, rtol=0.02, atol=0.02)


# -- all ops: one program whatever the tensors hold ---------------------------------------------------------------------------


def test_shapes_follow_from_shapes(static):
    first, second = static.op(*static.make(0)), static.op(*static.make(1))
    assert [t.shape for t in tensors(first)] == [t.shape for t in tensors(second)]
    assert [t.dtype for t in tensors(first)] == [t.dtype for t in tensors(second)]


def test_runs_on_tensors_without_values(static):
    real = static.op(*static.make(0))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = static.op(*(mode.from_tensor(argument) for argument in static.make(0)))
    assert [t.shape for t in tensors(fake)] == [t.shape for t in tensors(real)]


def test_is_one_graph_that_other_content_does_not_recompile(static):
    torch._dynamo.reset()
    compiled = torch.compile(static.op, fullgraph=True, dynamic=False, backend="aot_eager")
    _check_compiled(compiled, static, 0)
    with torch.compiler.set_stance("fail_on_recompile"):
        _check_compiled(compiled, static, 1)
    torch._dynamo.reset()


def _check_compiled(compiled, static, seed):
    torch.testing.assert_close(compiled(*static.make(seed)), static.op(*static.make(seed)))


def test_our_own_recorder_finds_nothing_dynamic(static):
    arguments = [a.requires_grad_(a.is_floating_point()) for a in static.make(0)]
    with OpRecorder() as recorder:
        for result in tensors(static.op(*arguments)):
            if result.requires_grad:
                result.sum().backward()
    total = recorder.report().total()
    assert total.launches > 0
    assert (total.dynamic, total.syncs) == (0, 0)


def test_our_own_recorder_finds_the_dynamic_form():
    """The oracle at work."""
    with OpRecorder() as recorder:
        torch.ones(3)[torch.ones(3, dtype=torch.bool)]
    assert recorder.report().total().dynamic > 0


@pytest.mark.xla
def test_lowers_to_xla_without_falling_back(static):
    import torch_xla
    import torch_xla.debug.metrics as metrics

    want = static.op(*static.make(0))
    arguments = [a.to(torch_xla.device()).requires_grad_(a.is_floating_point()) for a in static.make(0)]
    metrics.clear_all()
    results = tensors(static.op(*arguments))
    for result in results:
        if result.requires_grad:
            result.sum().backward()
    torch_xla.sync()
    assert {name for name in metrics.counter_names() if name.startswith("aten::")} == static.on_host_of_xla
    for got, expected in zip(results, tensors(want), strict=True):
        torch.testing.assert_close(got.detach().cpu(), expected)


def test_every_public_op_is_in_the_table(request):
    conftest = request.config.pluginmanager.getplugin(str(request.path.parent / "conftest.py"))
    functions = {name for name in ops.__all__ if not name[0].isupper()}
    assert {case.name.split("-")[0] for case in conftest.STATIC} == functions
