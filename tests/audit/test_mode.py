"""The recorder is not felt: same results, and at home with what else torch does."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils.data import DataLoader, Dataset

from fixshape.audit import OpRecorder, _mode


def _train(recorder: OpRecorder | None) -> list[torch.Tensor]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Dropout(0.2), torch.nn.Hardswish(), torch.nn.Flatten()
    )
    model.append(torch.nn.Linear(8 * 36, 5))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    kept = []
    for step in range(4):
        images, labels = torch.rand(3 + step, 3, 8, 8), torch.randint(5, (3 + step,))
        if recorder is not None:
            recorder.__enter__()
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if recorder is not None:
            recorder.__exit__(None, None, None)
        kept.append(loss.detach())
    return kept + [value.detach() for value in model.state_dict().values()] + [torch.rand(3)]


def test_results_are_bitwise_the_same():
    recorder = OpRecorder()
    for with_recorder, without in zip(_train(recorder), _train(None), strict=True):
        assert torch.equal(with_recorder, without)
    assert recorder.launches > 0


def test_the_mode_is_gone_afterwards_whatever_happens():
    before = _get_current_dispatch_mode()
    with OpRecorder():
        assert _get_current_dispatch_mode() is not before
    with pytest.raises(RuntimeError, match="size"), OpRecorder() as recorder:
        torch.ones(2) + torch.ones(3)
    assert _get_current_dispatch_mode() is before
    torch.ones(2)
    assert recorder.launches == 3  # an op that raises has been counted


def test_fake_tensors_are_counted_on_either_side():
    with FakeTensorMode(), OpRecorder() as inside:
        torch.ones(3, 3) @ torch.ones(3, 3)
    with OpRecorder() as outside, FakeTensorMode():
        torch.ones(3, 3) @ torch.ones(3, 3)
    assert (inside.launches, inside.compiles) == (outside.launches, outside.compiles) == (3, 2)


def test_a_dynamic_op_that_a_fake_mode_refuses_is_told():
    with OpRecorder() as recorder, FakeTensorMode(), pytest.raises(Exception, match="nonzero"):
        torch.ones(3).nonzero()
    assert recorder.current.dynamic == 1


def test_autocast_is_seen():
    with OpRecorder() as recorder, torch.autocast("cpu", dtype=torch.bfloat16):
        torch.ones(3, 3) @ torch.ones(3, 3)
    assert recorder.report().events[-1].shapes == ("bf16[3, 3]", "bf16[3, 3]")


def test_custom_autograd_functions_are_seen_in_both_passes():
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value):
            return value.exp()

        @staticmethod
        def backward(ctx, gradient):
            return gradient.sin()

    with OpRecorder() as recorder:
        Double.apply(torch.ones(3, requires_grad=True)).sum().backward()
    phases = {origin.op: origin.phase for origin in recorder.report().origins}
    assert phases["aten.exp.default"] == "forward"
    assert phases["aten.sin.default"] == "backward"


def test_a_higher_order_operator_is_one_launch():
    rows = torch.ones(3)
    with OpRecorder() as recorder:
        torch.ops.higher_order.cond(rows.sum() > 0, torch.sin, torch.cos, (rows,))
    assert recorder.report().by_operator()["cond"] == 1
    assert recorder.current.launches == 3  # sum, gt, cond


def test_compiled_functions_give_the_same_and_are_not_compiled_anew():
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    function = torch.compile(lambda rows: (rows.sin() * 2).sum(), backend=backend)
    rows = torch.rand(4)
    expected = function(rows)
    recorder = OpRecorder()
    for _ in range(3):
        with recorder:
            result = function(rows)
        assert torch.equal(result, expected)
    assert len(graphs) == 1
    assert recorder.report().by_operator() == {"aten.sin.default": 1, "aten.mul.Tensor": 1, "aten.sum.default": 1}
    assert {site.file for site in recorder.report().by_site() if site} == {__file__}


class _CountsInWorker(Dataset):
    def __init__(self, recorder: OpRecorder) -> None:
        self.recorder = recorder

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        torch.ones(index + 3).sin()
        return self.recorder.launches


def _launches_in_a_forked_worker() -> list[int]:
    recorder = OpRecorder()
    loader = DataLoader(_CountsInWorker(recorder), batch_size=None, num_workers=1, multiprocessing_context="fork")
    with recorder:
        torch.ones(3)
        iterator = iter(loader)  # forks
        before = recorder.launches
        return [int(value) - before for value in iterator]


def test_forked_workers_neither_count_nor_fail():
    assert _launches_in_a_forked_worker() == [0, 0]


def test_the_worker_test_can_fail(monkeypatch):
    monkeypatch.setattr(_mode, "_getpid", lambda: 1)
    assert _launches_in_a_forked_worker()[-1] > 0
