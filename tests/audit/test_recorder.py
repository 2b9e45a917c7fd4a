"""Counts against hand-computed programs, and what training steps compile."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from fixshape.audit import OpRecorder, StepCounts, _mode


def test_two_matmuls_of_one_shape_are_two_launches_and_one_compile():
    left, right = torch.ones(4, 3), torch.ones(3, 2)
    with OpRecorder() as recorder:
        left @ right
        left @ right
    assert (recorder.launches, recorder.compiles) == (2, 1)


def test_a_linear_step_by_hand():
    # forward: addmm, sum, ones_like of the seed; backward: mm for the weight, sum for the bias. The rest (t, expand) are views.
    linear, rows = torch.nn.Linear(3, 2), torch.ones(4, 3)
    with OpRecorder() as recorder:
        linear(rows).sum().backward()
    assert sorted(recorder.report().by_operator().elements()) == [
        "aten.addmm.default",
        "aten.mm.default",
        "aten.ones_like.default",
        "aten.sum.default",
        "aten.sum.dim_IntList",
    ]
    assert (recorder.current.forward.launches, recorder.current.backward.launches) == (3, 2)


def test_steps_are_what_lies_between_the_marks():
    recorder = OpRecorder()
    rows = torch.ones(5)
    with recorder:
        rows.sin()
        recorder.step()
        recorder.step()
        rows.sin()
        rows.cos()
        recorder.step()
        rows[:2].sin()
    report = recorder.report()
    assert [(step.launches, step.compiles) for step in report.steps] == [(1, 1), (0, 0), (2, 1), (1, 1)]
    assert [event.step for event in report.events] == [0, 2, 3]
    assert recorder.current == report.steps[-1]


def test_nothing_after_the_last_mark_is_no_step():
    recorder = OpRecorder()
    with recorder:
        torch.ones(1)
        recorder.step()
    assert len(recorder.report().steps) == 1
    assert recorder.current == StepCounts()
    assert recorder.current_compiles == ()


def test_a_report_does_not_change_afterwards():
    recorder = OpRecorder()
    with recorder:
        torch.ones(1)
        report = recorder.report()
        torch.ones(2)
    assert report.total().launches == len(report.events) == sum(report.origins.values()) == 1
    assert recorder.report().total().launches == 2


def test_left_and_entered_again_it_goes_on():
    recorder = OpRecorder()
    for _ in range(2):
        with recorder:
            torch.ones(1)
        torch.ones(2)
    assert (recorder.launches, recorder.compiles) == (2, 1)


def test_entered_twice_it_counts_once():
    recorder = OpRecorder()
    with recorder:
        with recorder:
            torch.ones(1)
        torch.ones(1)
    torch.ones(1)
    assert recorder.launches == 2


def test_two_recorders_both_count():
    with OpRecorder() as outer:
        torch.ones(1)
        with OpRecorder() as inner:
            torch.ones(1)
    assert (outer.launches, outer.compiles) == (2, 1)
    assert (inner.launches, inner.compiles) == (1, 1)


OPS: list[Callable[[torch.Tensor], object]] = [
    torch.sin,
    torch.nonzero,
    lambda rows: rows + 1,
    lambda rows: rows * 0.3,
    lambda rows: torch.cat([rows, rows]),
    lambda rows: rows[rows > 0],
    lambda rows: rows.t().reshape(-1),
    lambda rows: torch._foreach_mul([rows, rows], 2.0),
    lambda rows: rows.clone().requires_grad_().exp().sum().backward(),
    lambda rows: torch.zeros(len(rows)),
]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.sampled_from(range(len(OPS))), st.integers(1, 4)), max_size=8))
def test_a_program_that_is_run_again_compiles_nothing(program):
    recorder = OpRecorder()
    tensors = {size: torch.ones(size, 2) for _, size in program}
    for _ in range(2):
        with recorder:
            for op, size in program:
                OPS[op](tensors[size])
        recorder.step()
    first, second = recorder.report().steps
    assert second.compiles == 0
    assert second.launches == first.launches
    assert second.dynamic == first.dynamic
    assert first.compiles == sum(recorder.report().by_operator().values()) <= first.launches


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=10))
def test_as_many_compiles_as_shapes(lengths):
    rows = torch.ones(50)
    with OpRecorder() as recorder:
        for length in lengths:
            rows[:length].sin()
    assert recorder.compiles == len(set(lengths))


OPTIMIZERS: dict[str, Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]] = {
    "SGD with momentum": lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9, weight_decay=1e-4),
    "SGD, foreach": lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9, nesterov=True, foreach=True),
    "Adam": lambda weights: torch.optim.Adam(weights, foreach=False),
    "AdamW": lambda weights: torch.optim.AdamW(weights, foreach=False),
    "AdamW, foreach": lambda weights: torch.optim.AdamW(weights, foreach=True),
    "AdamW, fused": lambda weights: torch.optim.AdamW(weights, fused=True),
    "RMSprop": lambda weights: torch.optim.RMSprop(weights, momentum=0.9),
}


def _training(make_optimizer: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer], steps: int = 8) -> list[StepCounts]:
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    optimizer = make_optimizer(list(model.parameters()))
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=3),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 9),
        ],
        milestones=[3],
    )
    recorder = OpRecorder()
    for _ in range(steps):
        rows, labels = torch.rand(5, 6), torch.randint(3, (5,))
        with recorder:
            loss = torch.nn.functional.cross_entropy(model(rows), labels)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        recorder.step()
    return list(recorder.report().steps)


@pytest.mark.parametrize("make_optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_static_training_compiles_nothing_after_two_steps(make_optimizer):
    steps = _training(make_optimizer)
    assert steps[0].compiles > 20
    assert [step.compiles for step in steps[2:]] == [0] * 6
    assert len({step.launches for step in steps[2:]}) == 1


@pytest.mark.parametrize("name", ["SGD with momentum", "Adam", "AdamW, foreach"])
def test_a_key_with_floats_in_it_would_be_caught(monkeypatch, name):
    def with_floats(args, kwargs):
        return (
            sound(args, kwargs),
            repr([value for value in args if not isinstance(value, torch.Tensor)]),
            repr(kwargs.get("alpha")),
        )

    sound = _mode.op_key
    monkeypatch.setattr(_mode, "op_key", with_floats)
    assert sum(step.optimizer.compiles for step in _training(OPTIMIZERS[name])[2:]) > 0


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads that wait for one another make a busy machine's steps several times as long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_torchvisions_own_detector_compiles_at_every_step(one_thread):
    torch.manual_seed(0)
    rng = random.Random(0)
    model = torchvision.models.detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    recorder = OpRecorder()
    for _ in range(3):
        images = [torch.rand(3, rng.randint(240, 480), rng.randint(240, 480)) for _ in range(2)]
        targets = []
        for _ in images:
            boxes = rng.randint(1, 19)
            corners = torch.rand(boxes, 2) * 150
            boxes_xyxy = torch.cat([corners, corners + 10 + torch.rand(boxes, 2) * 80], dim=1)
            targets.append({"boxes": boxes_xyxy, "labels": torch.randint(1, 91, (boxes,))})
        with recorder:
            loss = sum(model(images, targets).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        recorder.step()
    report = recorder.report()
    first, *later = report.steps
    assert 600 < first.compiles < 1200
    assert all(50 <= step.compiles <= 250 for step in later)
    assert all(step.launches > 1400 and step.dynamic == 6 for step in report.steps)
    # Per image: where(matched) in the loss. Per batch: cls_loss by foreground and by background, and the gradients of both.
    assert report.by_operator("dynamic") == {
        "aten.nonzero.default": 2 * 3,
        "aten.index.Tensor": 2 * 3,
        "aten.index_put.default": 2 * 3,
    }
    assert {site.file.rpartition("/")[2] for site in report.by_site("dynamic") if site} == {"ssd.py"}
    assert {caller.file for caller in report.by_caller("compile") if caller} == {__file__}
