"""Cause before consequence: each compile after the warm-up hangs under the op or the input that its shapes descend from."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch._subclasses.fake_tensor import FakeTensorMode

from fixshape.audit import AuditReport, OpRecorder, Origin, _cause

ROWS = torch.arange(24.0).reshape(12, 2)


def _record(program: Callable[[int], Any], numbers: Iterable[int], *, recorder: OpRecorder | None = None) -> AuditReport:
    recorder = recorder or OpRecorder()
    for number in numbers:
        with recorder:
            program(number)
        recorder.step()
    return recorder.report()


def _late(report: AuditReport) -> dict[str, str | None]:
    """Of each op that compiled in the fourth step: its cause's op (``"input"`` for an input)."""
    return {
        f"{event.op} {event.phase}": None if event.cause is None else event.cause.op or event.cause.kind
        for event in report.events
        if event.kind == "compile" and event.step == 3
    }


BOUNDS = torch.tensor([20.0, 18.0, 16.0, 14.0, 12.0, 10.0])


def test_what_follows_from_a_mask_hangs_under_it():
    def program(number: int) -> None:
        kept = ROWS[ROWS[:, 0] >= BOUNDS[number]]
        kept.sin().sum()
        ROWS.cos()

    report = _record(program, range(4))
    assert _late(report) == {"aten.sin.default forward": "aten.index.Tensor", "aten.sum.default forward": "aten.index.Tensor"}
    ((cause, number),) = report.causes.items()
    assert cause in report.origins
    assert cause.kind == "dynamic"
    assert number == 2 * 2  # steps 2 and 3; the warm-up is not counted


def test_an_input_in_the_place_of_one_that_is_gone_is_another():
    reused = []

    def program(number: int) -> None:
        places = set()
        for size in range(5, 25):
            value = torch.from_numpy(np.ones(size + number))
            reused.append(id(value) in places)
            places.add(id(value))
            value.sin()
            del value

    report = _record(program, range(4))
    assert any(reused), "Python gives places in memory to others"
    assert report.by_operator("input")[""] == 3 * 20


def test_the_warm_up_is_not_counted_and_still_told():
    def program(number: int) -> None:
        ROWS[ROWS[:, 0] >= BOUNDS[number]].sin()

    report = _record(program, range(2))
    assert report.causes == {}
    causes = [event.cause for event in report.events if event.op == "aten.sin.default"]
    assert [cause is not None and cause.op for cause in causes] == ["aten.index.Tensor"] * 2


def test_backward_follows_too():
    weight = torch.ones(2, 3, requires_grad=True)

    def program(number: int) -> None:
        kept = ROWS[ROWS[:, 0] >= BOUNDS[number]]
        (kept @ weight).sigmoid().sum().backward()

    late = _late(_record(program, range(4)))
    assert late["aten.sigmoid_backward.default backward"] == "aten.index.Tensor"
    assert set(late.values()) == {"aten.index.Tensor"}


def test_sizes_that_are_made_of_it_follow():
    def program(number: int) -> None:
        index = torch.nonzero(ROWS[:, 0] >= BOUNDS[number])
        longer = torch.cat([ROWS[index[:, 0]], ROWS]).exp()  # 12 and n rows: the sum of two sizes
        flat = longer.reshape(-1).sin()  # twice as many
        flat.unsqueeze(0).expand(3, -1).cos()

    late = _late(_record(program, range(4)))
    assert late and set(late.values()) == {"aten.nonzero.default"}
    assert {"aten.exp.default forward", "aten.sin.default forward", "aten.cos.default forward"} <= set(late)


def test_a_reduction_ends_it():
    sizes = torch.tensor([3.0, 4.0, 5.0, 6.0])

    def program(number: int) -> None:
        columns = ROWS[ROWS[:, 0] >= BOUNDS[number]].sum(0)  # always two
        padded = torch.cat([columns, ROWS[: int(sizes[number]), 0]])  # varies by a size that Python read
        padded.sin()

    late = _late(_record(program, range(4)))
    assert late["aten.sum.dim_IntList forward"] == "aten.index.Tensor"
    assert late["aten.sin.default forward"] is None


def test_two_causes_are_kept_apart():
    other = torch.arange(30.0)

    def program(number: int) -> None:
        first = ROWS[ROWS[:, 0] >= BOUNDS[number]].sin()
        second = other.masked_select(other >= BOUNDS[number] / 2).cos()
        torch.outer(first[:, 0], second).exp()

    late = _late(_record(program, range(4)))
    assert late["aten.sin.default forward"] == "aten.index.Tensor"
    assert late["aten.cos.default forward"] == "aten.masked_select.default"
    assert late["aten.exp.default forward"] == "aten.index.Tensor"  # of both: under the first


def test_an_input_that_varies_is_a_cause_and_an_event():
    inputs = [torch.ones(3, length) for length in (4, 4, 5, 6)]

    def step(number: int) -> None:
        inputs[number].sin().sum(1).cos()

    line = step.__code__.co_firstlineno + 1
    report = _record(step, range(4))
    assert _late(report) == {"aten.sin.default forward": "input", "aten.sum.dim_IntList forward": "input"}
    ((cause, number),) = report.causes.items()
    assert (cause.kind, cause.op, cause.phase) == ("input", "", "forward")
    assert cause.site == cause.caller
    assert cause.site is not None and (cause.site.file, cause.site.line) == (__file__, line)
    assert number == 4
    assert report.origins[cause] == 2
    assert [event.shapes for event in report.events if event.kind == "input"] == [("f32[3, 5]",), ("f32[3, 6]",)]


def test_parameters_and_steady_inputs_are_none():
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def program(number: int) -> None:
        optimizer.zero_grad()
        model(ROWS).sum().backward()
        optimizer.step()

    report = _record(program, range(4))
    assert report.by_operator("input") == {} and report.causes == {}


def test_images_of_a_list_are_each_compared_with_their_own():
    lengths = [(4, 6), (4, 6), (4, 6)]

    def program(number: int) -> None:
        for image in [torch.ones(length) for length in lengths[number]]:
            outside.append(image)

    outside: list[torch.Tensor] = []
    recorder = OpRecorder()
    for number in range(3):
        outside.clear()
        program(number)
        with recorder:
            for image in outside:
                image.sin()
        recorder.step()
    assert recorder.report().by_operator("input") == {}


def test_a_canvas_made_of_an_image_follows_it():
    sizes = [(30, 20), (30, 20), (40, 24), (44, 28)]
    images = [torch.rand(3, *size) for size in sizes]
    convolution = torch.nn.Conv2d(3, 8, 3, stride=2)

    def program(number: int) -> None:
        height, width = (32 * -(-size // 32) + 32 * number for size in sizes[number])
        canvas = images[number].new_full((1, 3, height, width), 0.0)
        canvas[0, :, : sizes[number][0], : sizes[number][1]].copy_(images[number])
        convolution(canvas).relu().sum().backward()

    late = _late(_record(program, range(4)))
    assert late["aten.convolution.default forward"] == "input"
    assert late["aten.convolution_backward.default backward"] == "input"


def test_a_size_that_an_argument_gives_at_every_step_is_none_of_it():
    boxes, features = torch.tensor([[0.0, 0.0, 8.0, 8.0]] * 9), [torch.rand(1, 2, n, n) for n in (16, 16, 24, 28)]
    keep = torch.tensor([[n < 3 + number for n in range(9)] for number in range(4)])

    def program(number: int) -> None:
        pooled = torchvision.ops.roi_align(features[number], [boxes[keep[number]]], 7)
        pooled.flatten(1).exp()

    late = _late(_record(program, range(4)))
    assert late["aten.exp.default forward"] == "aten.index.Tensor"  # not the features, whose 28 rows gave 7


def test_the_oracle_fails_where_nothing_is_handed_on(monkeypatch):
    monkeypatch.setattr(_cause.Causes, "_descend", lambda self, func, args, tensors, shape, sizes: (0,) * len(shape))

    def program(number: int) -> None:
        ROWS[ROWS[:, 0] >= BOUNDS[number]].sin().cos()

    assert _late(_record(program, range(4)))["aten.cos.default forward"] is None


def test_fake_and_nested_tensors_are_left_alone():
    def program(number: int) -> None:
        nested = torch.nested.nested_tensor([ROWS[:2], ROWS[: 3 + number]], layout=torch.jagged)
        nested * 2.0

    _record(program, range(4))
    with FakeTensorMode() as fake:
        inputs = [fake.from_tensor(torch.ones(3, length)) for length in (4, 4, 5, 6)]
        report = _record(lambda number: inputs[number].sin().cos(), range(4))
    assert set(_late(report).values()) == {"input"}


def test_no_tensor_is_kept():
    recorder = OpRecorder()
    gone = []
    gc.disable()  # a frame that knows itself would keep its tensors until garbage is collected
    try:
        with recorder:
            for number in range(4):
                kept = ROWS[ROWS[:, 0] >= BOUNDS[number]].clone().requires_grad_()
                loss = kept.sin().sum()
                loss.backward()
                gone += [weakref.ref(tensor) for tensor in (kept, kept.grad, loss) if tensor is not None]
                del kept, loss
            assert [tensor() for tensor in gone] == [None] * 12
    finally:
        gc.enable()


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _target(rng: random.Random) -> dict[str, torch.Tensor]:
    boxes = rng.randint(1, 12)
    corners = torch.rand(boxes, 2) * 100
    extents = 10 + torch.rand(boxes, 2) * 80
    return {"boxes": torch.cat([corners, corners + extents], dim=1), "labels": torch.randint(1, 91, (boxes,))}


def _detector_report(name: str, varied: bool) -> AuditReport:
    torch.manual_seed(0)
    rng = random.Random(0)
    model = getattr(torchvision.models.detection, name)(weights=None, weights_backbone=None)
    fixed = [_target(rng) for _ in range(2)]
    recorder = OpRecorder()
    for _ in range(4):
        sizes = [(rng.randint(240, 480), rng.randint(240, 480)) if varied else (320, 320) for _ in range(2)]
        images, targets = [torch.rand(3, *size) for size in sizes], [_target(rng) for _ in range(2)] if varied else fixed
        with recorder:
            sum(model(images, targets).values()).backward()
            model.zero_grad()
        recorder.step()
    return recorder.report()


def _told(report: AuditReport) -> dict[str, int]:
    """Compiles that have a cause, by the cause's file, ``"input"`` for an input."""
    told: dict[str, int] = {}
    for cause, number in report.causes.items():
        assert isinstance(cause, Origin) and cause in report.origins
        name = "input" if cause.kind == "input" else f"{cause.site}".rpartition("/")[2].partition(":")[0]
        told[name] = told.get(name, 0) + number
    return told


def test_ssdlite_tells_a_cause_of_nearly_all_drift(one_thread):
    report = _detector_report("ssdlite320_mobilenet_v3_large", varied=True)
    told, drift = _told(report), sum(step.compiles for step in report.steps[2:])
    assert drift > 100
    assert sum(told.values()) >= 0.9 * drift
    assert set(told) == {"input", "ssd.py"}


@pytest.mark.slow
@pytest.mark.parametrize("varied", [False, True])
def test_faster_rcnn_tells_a_cause_of_nearly_all_drift(one_thread, varied):
    report = _detector_report("fasterrcnn_mobilenet_v3_large_320_fpn", varied)
    told, drift = _told(report), sum(step.compiles for step in report.steps[2:])
    assert drift > 100
    assert sum(told.values()) >= 0.85 * drift
    if varied:
        assert told["input"] > 0.5 * drift
    else:
        assert "input" not in told
        assert {"boxes.py", "_utils.py", "roi_heads.py"} <= set(told)
