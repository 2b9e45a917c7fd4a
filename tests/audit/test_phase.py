"""Forward, backward, optimiser."""

from __future__ import annotations

import pytest
import torch
from torch.optim import optimizer as torch_optimizer
from torch.utils.checkpoint import checkpoint

from fixshape.audit import OpRecorder


def _phases(recorder: OpRecorder, op: str) -> set[str]:
    return {origin.phase for origin in recorder.report().origins if origin.op == op}


def test_each_op_is_counted_in_its_phase():
    weight = torch.ones(3, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1, foreach=False)
    with OpRecorder() as recorder:
        loss = (weight * weight).sum()  # mul, sum
        loss.backward()  # ones_like of the seed, before autograd runs; then mul, mul and their add
        optimizer.step()  # add_
        optimizer.zero_grad(set_to_none=False)  # zero_
    counts = recorder.current
    assert (counts.forward.launches, counts.backward.launches, counts.optimizer.launches) == (4, 3, 1)
    assert _phases(recorder, "aten.sum.default") == {"forward"}
    assert _phases(recorder, "aten.mul.Tensor") == {"forward"}  # the backward pass has the same key
    assert _phases(recorder, "aten.add.Tensor") == {"backward"}
    assert _phases(recorder, "aten.add_.Tensor") == {"optimizer"}


def test_a_forward_pass_without_gradients_is_forward():
    with OpRecorder() as recorder:
        with torch.no_grad():
            torch.ones(3).sin()
        with torch.inference_mode():
            torch.ones(3).cos()
    assert recorder.current.forward.launches == recorder.launches == 4


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_a_checkpoint_runs_again_is_backward(reentrant):
    weight = torch.ones(3, requires_grad=True)
    loss = checkpoint(lambda value: value.exp().sin(), weight, use_reentrant=reentrant).sum()
    with OpRecorder() as recorder:
        loss.backward()
    assert _phases(recorder, "aten.exp.default") == {"backward"}


def test_autograd_grad_is_backward():
    weight = torch.ones(3, requires_grad=True)
    loss = weight.exp().sum()
    with OpRecorder() as recorder:
        torch.autograd.grad(loss, weight)
    assert (recorder.current.forward.launches, recorder.current.backward.launches) == (1, 1)  # the seed; the gradient of exp


def test_a_closure_is_forward_and_backward():
    weight = torch.ones(3, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1)

    def closure() -> torch.Tensor:
        loss = weight.exp().sum()
        loss.backward()
        return loss

    with OpRecorder() as recorder:
        optimizer.step(closure)
    assert _phases(recorder, "aten.exp.default") == {"forward"}
    assert _phases(recorder, "aten.mul.Tensor") == {"backward"}
    assert recorder.current.optimizer.launches == 1


def test_an_optimizer_inside_the_backward_pass_is_the_optimizer():
    weight = torch.ones(3, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1, foreach=False)
    weight.register_post_accumulate_grad_hook(lambda _: optimizer.step())
    with OpRecorder() as recorder:
        weight.exp().sum().backward()
    assert recorder.current.optimizer.launches == 1
    assert recorder.current.backward.launches == 1  # the gradient of exp


def test_a_step_that_raised_is_over_at_the_next_boundary():
    class Broken(torch.optim.SGD):
        def step(self, closure=None):
            raise ArithmeticError

    optimizer = Broken([torch.ones(3, requires_grad=True)], lr=0.1)
    recorder = OpRecorder()
    with recorder:
        with pytest.raises(ArithmeticError):
            optimizer.step()
        recorder.step()
        with torch.no_grad():
            torch.ones(3)
    assert recorder.current.forward.launches == 1


def test_the_hooks_are_there_only_while_recording():
    def hooks() -> int:
        return len(torch_optimizer._global_optimizer_pre_hooks) + len(torch_optimizer._global_optimizer_post_hooks)

    before = hooks()
    with OpRecorder():
        assert hooks() == before + 2
    assert hooks() == before
    with pytest.raises(KeyError), OpRecorder():
        raise KeyError
    assert hooks() == before
