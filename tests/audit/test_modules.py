"""The path of the running module."""

from __future__ import annotations

import pytest
import torch

from fixshape.audit import OpRecorder


class _Head(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(3))
        self.loss = [_Loss()]  # not registered

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.loss[0]((rows * self.scale).cos())


class _Loss(torch.nn.Module):
    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.tan()


class _Detector(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Sigmoid())
        self.heads = torch.nn.ModuleDict({"box": _Head()})

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.heads["box"](self.body(rows).exp())


def _modules(recorder: OpRecorder, phase: str = "forward") -> dict[str, str]:
    return {origin.op: origin.module for origin in recorder.report().origins if origin.phase == phase}


def test_paths_are_those_of_the_outermost_module():
    model = _Detector()
    with OpRecorder() as recorder:
        loss = model(torch.ones(2, 3)).square().sum()
        loss.backward()
    forward = _modules(recorder)
    assert forward["aten.addmm.default"] == "body.0"
    assert forward["aten.sigmoid.default"] == "body.1"
    assert forward["aten.exp.default"] == "_Detector"
    assert forward["aten.cos.default"] == "heads.box"
    assert forward["aten.tan.default"] == "_Loss"
    assert forward["aten.pow.Tensor_Scalar"] == ""
    backward = _modules(recorder, "backward")
    assert backward["aten.sigmoid_backward.default"] == "body.1"
    assert backward["aten.sin.default"] == "heads.box"
    assert backward["aten.mm.default"] == "body.0"


def test_a_part_that_runs_alone_names_itself_and_its_children():
    model = _Detector()
    with OpRecorder() as recorder:
        model.heads["box"](torch.ones(2, 3))
    assert _modules(recorder)["aten.cos.default"] == "_Head"


def test_a_forward_that_raises_is_over():
    class Broken(torch.nn.Module):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            raise ArithmeticError(rows.exp())

    with OpRecorder() as recorder:
        with pytest.raises(ArithmeticError):
            Broken()(torch.ones(3))
        torch.ones(3).sin()
    assert _modules(recorder)["aten.exp.default"] == "Broken"
    assert _modules(recorder)["aten.sin.default"] == ""


def test_modules_of_another_step_do_not_lend_their_names():
    recorder = OpRecorder()
    with recorder:
        for size in (2, 3):
            torch.nn.Sequential(torch.nn.Linear(size, size))(torch.ones(1, size))
            recorder.step()
            assert recorder._record.frames.modules._paths == {}
    assert {origin.module for origin in recorder.report().origins if origin.op == "aten.addmm.default"} == {"0"}


def test_no_hook_is_left_or_needed():
    hooks = torch.nn.modules.module
    with OpRecorder():
        assert not hooks._global_forward_hooks and not hooks._global_forward_pre_hooks
