"""Ops of the backward pass have the lines and the module of their forward op; what has none is named by its autograd node."""

from __future__ import annotations

import inspect

import pytest
import torch
import torchvision
from torch.utils.checkpoint import checkpoint

from fixshape.audit import OpEvent, OpRecorder, _backward
from fixshape.audit._trace import Trace


def _line(offset: int = 0) -> int:
    frame = inspect.currentframe()
    assert frame is not None and frame.f_back is not None
    return frame.f_back.f_lineno + offset


def _backward_events(recorder: OpRecorder) -> list[OpEvent]:
    return [event for event in recorder.report().events if event.phase == "backward"]


def _lines(recorder: OpRecorder) -> dict[str, set[int]]:
    lines: dict[str, set[int]] = {}
    for event in _backward_events(recorder):
        assert event.site is not None and event.site.file == __file__
        lines.setdefault(event.op, set()).add(event.site.line)
    return lines


def test_each_op_has_the_line_of_its_forward_op():
    weight = torch.ones(3, 3, requires_grad=True)
    with OpRecorder() as recorder:
        first = weight.sigmoid()
        second = first.tanh()
        third = second @ second
        line = _line()
        third.sum().backward()
    assert _lines(recorder) == {  # the gradient's mm has the key of the forward pass's
        "aten.sigmoid_backward.default": {line - 3},
        "aten.tanh_backward.default": {line - 2},
        "aten.add.Tensor": {line - 1},  # two gradients of `second` meet as matmul's node ends
    }
    assert all(event.node == "" for event in _backward_events(recorder))


def test_a_write_through_a_view_has_two_nodes_of_one_line():
    weight = torch.ones(4, requires_grad=True)
    with OpRecorder() as recorder:
        rows = weight + 1.0
        rows[:2].mul_(weight[:2])
        line = _line(-1)
        rows.sin().sum().backward()
    lines = _lines(recorder)
    assert line in lines["aten.mul.Tensor"]
    assert lines["aten.cos.default"] == {line + 2}
    # What writes the gradient through the view is the second node's.
    assert any(event.site.line == line and event.op != "aten.mul.Tensor" for event in _backward_events(recorder) if event.site)


def test_views_have_lines_too():
    weight = torch.ones(4, 3, requires_grad=True)
    with OpRecorder() as recorder:
        part = weight[1:]
        line = _line(-1)
        part.exp().sum().backward()
    assert _lines(recorder)["aten.slice_backward.default"] == {line}


def test_a_forward_pass_before_the_recording_is_named_by_its_nodes():
    weight = torch.ones(3, requires_grad=True)
    loss = weight.exp().sum()
    with OpRecorder() as recorder:
        loss.backward()
        line = _line(-1)
    (event,) = _backward_events(recorder)
    assert (event.op, event.node) == ("aten.mul.Tensor", "ExpBackward0")
    assert event.site is not None and event.site.line == line


def test_gradients_that_are_accumulated_are_named_by_their_node():
    weight = torch.ones(3, requires_grad=True)
    weight.grad = torch.ones(3)
    with OpRecorder() as recorder:
        (weight * 2.0).sum().backward()
    accumulated = [event for event in _backward_events(recorder) if event.op == "aten.add_.Tensor"]
    assert [event.node for event in accumulated] == ["torch::autograd::AccumulateGrad"]


def test_only_the_open_step_is_remembered():
    weight = torch.ones(3, requires_grad=True)
    recorder = OpRecorder()
    with recorder:
        loss = weight.exp().sum()
        recorder.step()
        loss.backward()
    assert [event.node for event in _backward_events(recorder)] == ["ExpBackward0"]


class _Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value):
        ctx.mark_non_differentiable()
        return value.exp()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.sin()


def test_a_custom_function_has_the_line_in_its_backward():
    with OpRecorder() as recorder:
        _Double.apply(torch.ones(3, requires_grad=True)).sum().backward()
    (event,) = [event for event in _backward_events(recorder) if event.op == "aten.sin.default"]
    source, first = inspect.getsourcelines(_Double.backward)
    assert event.site is not None and event.site.line == first + len(source) - 1
    assert event.site.function == "_Double.backward"


class _Plain(torch.autograd.Function):
    """Its backward is torch's own code: the line has to come from the forward pass."""

    @staticmethod
    def forward(ctx, value):
        return value.exp()

    backward = staticmethod(lambda ctx, gradient: torch.nn.functional.silu(gradient))


def test_a_node_that_is_made_before_its_function_runs_belongs_to_it():
    weight = torch.ones(3, requires_grad=True)
    recorder = OpRecorder()
    with recorder:
        start = weight.sin()
        _Plain.apply(start)
        node_ops = recorder._trace._links._ops  # type: ignore[union-attr]
        functions = [op.place.site.function for op in node_ops.values() if op.place.site is not None]
    assert functions[-1].endswith("forward") and "Plain" in functions[-1]


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpoint_that_runs_again_has_its_own_lines(reentrant):
    def part(value: torch.Tensor) -> torch.Tensor:
        return value.exp().sigmoid()

    line = part.__code__.co_firstlineno + 1
    weight = torch.ones(3, requires_grad=True)
    with OpRecorder() as recorder:
        checkpoint(part, weight, use_reentrant=reentrant).sum().backward()
    lines = _lines(recorder)
    assert lines["aten.sigmoid_backward.default"] == {line}
    assert lines["aten.mul.Tensor"] == {line}  # of exp


def test_second_derivatives_have_the_line_of_the_first_op():
    weight = torch.ones(3, requires_grad=True)
    with OpRecorder() as recorder:
        loss = weight.sigmoid().sum()
        line = _line(-1)
        (gradient,) = torch.autograd.grad(loss, weight, create_graph=True)
        gradient.sum().backward()
    assert {event.site.line for event in _backward_events(recorder) if event.site} == {line}


def test_without_lines_the_backward_pass_belongs_to_the_line_that_starts_it():
    weight = torch.ones(3, requires_grad=True)
    with OpRecorder(lines=False) as recorder:
        weight.exp().sum().backward()
        line = _line(-1)
    assert _lines(recorder) == {"aten.mul.Tensor": {line}}


def _target(boxes: int) -> dict[str, torch.Tensor]:
    corners = torch.rand(boxes, 2) * 100
    extents = 10 + torch.rand(boxes, 2) * 80
    return {"boxes": torch.cat([corners, corners + extents], dim=1), "labels": torch.randint(1, 91, (boxes,))}


@pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn"])
def test_a_detectors_backward_pass_is_linked(monkeypatch, name):
    """Counted is every op of the backward pass, not only the few that are events."""
    torch.manual_seed(0)
    model = getattr(torchvision.models.detection, name)(weights=None, weights_backbone=None)
    linked: list[bool] = []
    run = Trace.run

    def counting(self, func, operator, phase, *rest):
        if phase == _backward.BACKWARD and operator.launches:
            linked.append(self._links.running(phase) is not None)
        return run(self, func, operator, phase, *rest)

    monkeypatch.setattr(Trace, "run", counting)
    with OpRecorder() as recorder:
        sum(model([torch.rand(3, 300, 320), torch.rand(3, 320, 280)], [_target(3), _target(5)]).values()).backward()
    assert len(linked) > 250
    assert sum(linked) >= 0.95 * len(linked)
    events = _backward_events(recorder)
    assert sum(event.node == "" for event in events) >= 0.95 * len(events)
    assert sum(event.module != "" for event in events) >= 0.95 * len(events)
    files = {event.site.file.rpartition("/")[2] for event in events if event.site}
    assert not {"graph.py", "_tensor.py"} & files
    convolutions = [event for event in events if event.op == "aten.convolution_backward.default"]
    assert {event.module.partition(".")[0] for event in convolutions} <= {"backbone", "head", "rpn", "roi_heads"}
    assert any(event.module.startswith("backbone.") and event.module.count(".") > 2 for event in convolutions)


def test_a_naive_map_would_miss_views_and_more(monkeypatch):
    """The oracle fails where only the ops that launch work are followed."""
    follow = _backward.Links.follow

    def launches_only(self, frame, phase):
        return follow(self, frame, phase) if not frame.f_locals["operator"].idle else None

    monkeypatch.setattr(_backward.Links, "follow", launches_only)
    weight = torch.ones(4, 3, requires_grad=True)
    with OpRecorder() as recorder:
        start = weight.exp()
        part = start[1:]
        line = _line(-1)
        part.exp().sum().backward()
    assert line not in set().union(*_lines(recorder).values())
