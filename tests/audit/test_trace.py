"""Following every op is not felt: same results, flat memory, and at home with what else torch does."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from fixshape.audit import OpRecorder, _record


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows, keep):
        ctx.save_for_backward(keep)
        ctx.length = len(rows)
        return rows[keep]

    @staticmethod
    def backward(ctx, gradient):
        (keep,) = ctx.saved_tensors
        whole = gradient.new_zeros(ctx.length, gradient.shape[1])
        whole[keep] = gradient
        return whole, None


class _Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.2))
        self.head = torch.nn.Linear(8, 3)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        features = checkpoint(self.body, rows, use_reentrant=False)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = self.head(features)
        return _Rows.apply(out.float(), rows[:, 0] > 0.3)


def _train(recorder: OpRecorder | None, *, workers: int = 0) -> list[torch.Tensor]:
    torch.manual_seed(0)
    model = _Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    loader = DataLoader(TensorDataset(torch.rand(20, 6)), batch_size=6, num_workers=workers)
    losses = []
    if recorder is not None:
        recorder.__enter__()
    for (rows,) in loader:
        loss = model(rows).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        if recorder is not None:
            recorder.step()
    if recorder is not None:
        recorder.__exit__(None, None, None)
    return losses + [value.detach() for value in model.state_dict().values()] + [torch.rand(3)]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("lines", [True, False])
def test_results_are_bitwise_the_same(lines, workers):
    recorder = OpRecorder(lines=lines)
    for with_recorder, without in zip(_train(recorder, workers=workers), _train(None, workers=workers), strict=True):
        assert torch.equal(with_recorder, without)
    assert recorder.launches > 0


def test_lines_change_no_count():
    with_lines, without = OpRecorder(), OpRecorder(lines=False)
    _train(with_lines)
    _train(without)
    assert with_lines.report().steps == without.report().steps
    assert without.report().causes == {} and without.report().graphs == ()


def test_a_program_with_all_of_it_has_lines_and_modules():
    recorder = OpRecorder()
    _train(recorder)
    events = [event for event in recorder.report().events if event.phase == "backward"]
    assert {event.site.file for event in events if event.site} == {__file__}
    assert {event.node for event in events} == {""}
    assert {"body.0", "body.1", "head", "_Model"} <= {event.module for event in events}
    again = [event for event in events if event.op == "aten.native_batch_norm.default"]
    assert all(event.module == "body.1" for event in again)  # run again by the checkpoint


class _Through(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def test_nested_modes_and_recorders_see_the_same():
    weight = torch.ones(3, requires_grad=True)
    with OpRecorder() as outer, _Through(), OpRecorder() as inner:
        weight.exp().sum().backward()
    assert outer.report().origins == inner.report().origins
    assert {origin.site.line for origin in outer.report().origins if origin.site} == {
        test_nested_modes_and_recorders_see_the_same.__code__.co_firstlineno + 3
    }


def test_a_compiled_part_is_the_same_and_what_it_dispatches_has_a_line():
    def part(rows: torch.Tensor) -> torch.Tensor:
        return (rows.sin() * 2).sum()

    function = torch.compile(part, backend="aot_eager")
    expected_weight, weight = (torch.ones(3, requires_grad=True) for _ in range(2))
    function(expected_weight).backward()
    recorder = OpRecorder()
    with recorder:
        function(weight).backward()
    assert torch.equal(weight.grad, expected_weight.grad)
    assert {event.site.file for event in recorder.report().events if event.site} == {__file__}


def _small_step() -> Callable[[int], None]:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    batches = [torch.rand(rows, 3) for rows in (4, 5, 6)]

    def step(number: int) -> None:
        batch = batches[number % 3]
        loss = model(batch[batch[:, 0] > 2.0]).sum() + model(batch).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


@pytest.mark.parametrize("steps", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_steps(monkeypatch, steps):
    monkeypatch.setattr(_record, "MOST_EVENTS", 20)  # the list of events grows to its bound
    step, recorder = _small_step(), OpRecorder()

    def run(number: int) -> None:
        for index in range(number):
            with recorder:
                step(index)
            recorder.step()

    run(99)
    gc.collect()
    before = len(gc.get_objects())
    run(steps)
    gc.collect()
    assert len(gc.get_objects()) - before <= 20
    assert len(recorder.report().steps) == 99 + steps


def test_the_memory_oracle_fails_where_links_are_kept(monkeypatch):
    monkeypatch.setattr("fixshape.audit._backward.Links.forget", lambda self: None)
    with pytest.raises(AssertionError):
        test_memory_does_not_grow_with_steps(monkeypatch, 300)
