"""Predicted compiles: by hand on the host, and against a real compiler."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from fixshape.audit import OpRecorder
from fixshape.audit._predict import predict

ROWS = torch.arange(6.0)
BOUNDS = [torch.tensor(bound) for bound in (2.0, 3.0, 3.0, 4.0)]


def _graphs(program: Callable[[int], Any], steps: int = 3) -> tuple[int, ...]:
    recorder = OpRecorder()
    for number in range(steps):
        with recorder:
            kept = program(number)
        recorder.step()
        del kept
    return predict(recorder)["xla"]


def test_a_step_is_one_graph():
    assert _graphs(lambda number: ROWS.sin().cos()) == (1, 0, 0)


def test_nothing_that_lives_is_no_graph():
    def dropped(number: int) -> None:
        ROWS.sin()

    assert _graphs(dropped) == (0, 0, 0)


def test_each_value_that_is_read_cuts():
    def program(number: int) -> torch.Tensor:
        total = ROWS.sum()
        total.item()
        return total + ROWS

    assert _graphs(program) == (2, 0, 0)


def test_what_has_been_read_is_there():
    def program(number: int) -> float:
        total = ROWS.sum()
        return total.item() + total.item()

    assert _graphs(program) == (1, 0, 0)


def test_a_mask_cuts_and_its_count_is_part_of_what_follows():
    assert _graphs(lambda number: ROWS[ROWS >= BOUNDS[number]].exp(), 4) == (2, 1, 0, 1)

    def fill(number: int) -> torch.Tensor:
        target = ROWS.clone()
        torch.ops.aten.index_put_(target, [ROWS >= BOUNDS[number]], torch.tensor(0.0))
        return target

    assert _graphs(fill, 4) == (2, 1, 0, 1)


def test_an_op_of_unknown_length_gives_what_is_there():
    # One graph for the mask; the indices come from the host, and the last graph begins with them.
    assert _graphs(lambda number: (ROWS >= BOUNDS[number]).nonzero() + 1, 4) == (2, 1, 0, 1)


def test_a_write_through_a_view_is_a_write():
    def program(number: int) -> torch.Tensor:
        rows = ROWS + 1.0
        if number != 1:
            rows[:3].zero_()
        return rows

    assert _graphs(program) == (1, 1, 0)


def test_a_detached_tensor_is_the_same():
    assert _graphs(lambda number: ROWS.detach()) == (0, 0, 0)


def test_a_momentum_is_made_in_the_first_step_only():
    model = torch.nn.Linear(2, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, foreach=False)

    def program(number: int) -> None:
        optimizer.zero_grad()
        model(torch.ones(4, 2)).sum().backward()
        optimizer.step()

    assert _graphs(program, 4) == (1, 1, 0, 0)


@pytest.mark.parametrize("as_list", [False, True])
def test_the_last_dimension_is_not_the_one_before(as_list):
    square = torch.ones(3, 3)

    def program(number: int) -> torch.Tensor:
        dimension = -1 - number % 2  # of which Python's hash is the same
        return square.sum([dimension]) if as_list else square.cumsum(dimension)

    assert _graphs(program, 4) == (1, 1, 0, 0)


def test_an_open_step_is_predicted_as_if_it_ended():
    recorder = OpRecorder()
    with recorder:
        kept = ROWS.sin()
        assert predict(recorder) == predict(recorder.report()) == {"npu": (1,), "xla": (1,), "torch.compile": (1,)}
        recorder.step()
        kept = ROWS.sin()
    assert predict(recorder) == {"npu": (1, 0), "xla": (1, 0), "torch.compile": (1, 0)}
    assert kept is not None


def test_without_lines_neither_graphs_nor_pieces_are_known():
    with OpRecorder(lines=False) as recorder:
        ROWS.sin()
    assert predict(recorder) == {"npu": (1,)}


def _truth_against_prediction() -> dict[str, tuple[list[int], list[int]]]:
    """Runs in a process of its own: steps under the recorder on the host, and the same steps on XLA with its own count."""
    import torch_xla
    import torch_xla.debug.metrics as metrics

    lengths = (3, 5, 4, 5, 3, 6)

    def rows_of(number: int, device: Any) -> torch.Tensor:
        rows = torch.zeros(9, 6)
        rows[: lengths[number]] = 1.0
        return rows.to(device)

    def static(device: Any) -> Callable[[int], Any]:
        torch.manual_seed(0)
        layers = [torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 5)]
        model = torch.nn.Sequential(*layers).to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

        def prepare(number: int) -> Callable[[], Any]:
            images, labels = torch.rand(2, 3, 8, 8).to(device), torch.randint(5, (2,)).to(device)

            def step() -> torch.Tensor:
                loss = torch.nn.functional.cross_entropy(model(images), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                return loss

            return step

        return prepare

    def linear(device: Any, loss_of: Callable[[torch.nn.Module, torch.Tensor], torch.Tensor]) -> Callable[[int], Any]:
        torch.manual_seed(0)
        model = torch.nn.Linear(6, 3).to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

        def prepare(number: int) -> Callable[[], Any]:
            rows = rows_of(number, device)

            def step() -> torch.Tensor:
                loss = loss_of(model, rows)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                assert loss.item() == loss.item()
                return loss

            return step

        return prepare

    def by_mask(model: torch.nn.Module, rows: torch.Tensor) -> torch.Tensor:
        return model(rows[rows[:, 0] > 0.5]).square().sum()

    def by_nonzero(model: torch.nn.Module, rows: torch.Tensor) -> torch.Tensor:
        out = model(rows)
        index = torch.where(rows.sum(1) > 1)[0]
        return out[index].abs().sum() + out[rows[:, 1] < 0.5].exp().mean()

    def read_halfway(model: torch.nn.Module, rows: torch.Tensor) -> torch.Tensor:
        out = model(rows).square()
        return out.sum() / max(1.0, rows.sum().item()) + out.mean()

    def adamw(device: Any) -> Callable[[int], Any]:
        model = torch.nn.Linear(6, 3).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, foreach=False)

        def prepare(number: int) -> Callable[[], Any]:
            rows = rows_of(number, device)

            def step() -> torch.Tensor:
                loss = model(rows).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                return loss

            return step

        return prepare

    programs: dict[str, Callable[[Any], Callable[[int], Any]]] = {
        "static": static,
        "by mask": lambda device: linear(device, by_mask),
        "by nonzero": lambda device: linear(device, by_nonzero),
        "read halfway": lambda device: linear(device, read_halfway),
        "adamw": adamw,
    }
    device = torch_xla.device()
    torch.ones(1, device=device)  # before autograd first runs

    def compiles() -> int:
        data = metrics.metric_data("CompileTime")
        return int(data[0]) if data else 0

    figures = {}
    for name, program in programs.items():
        recorder = OpRecorder()
        prepare = program("cpu")
        for number in range(6):
            step = prepare(number)
            with recorder:
                kept = step()
            recorder.step()
            del kept
        truth = []
        prepare = program(device)
        for number in range(6):
            step = prepare(number)
            torch_xla.sync()
            before = compiles()
            kept = step()
            torch_xla.sync()
            del kept
            truth.append(compiles() - before)
        figures[name] = (list(predict(recorder)["xla"]), truth)
    return figures


def _ssdlite() -> tuple[list[int], list[int]]:
    """Runs in a process of its own: two steps of torchvision's SSDlite as it is."""
    import torch_xla
    import torch_xla.debug.metrics as metrics
    import torchvision

    device = torch_xla.device()
    torch.ones(1, device=device)
    torch.manual_seed(0)
    batches = []
    for height, width, boxes in ((300, 400, 7), (410, 280, 3)):
        corners = torch.rand(2, boxes, 2) * 100
        boxes_xyxy = torch.cat([corners, corners + 10 + torch.rand(2, boxes, 2) * 80], dim=2)
        targets = [{"boxes": image_boxes, "labels": torch.randint(1, 91, (boxes,))} for image_boxes in boxes_xyxy]
        batches.append(([torch.rand(3, height, width) for _ in range(2)], targets))
    recorder, truth = OpRecorder(), []
    for where in ("cpu", device):
        torch.manual_seed(1)
        model = torchvision.models.detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None).to(where)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
        for images, targets in batches:
            images = [image.to(where) for image in images]
            targets = [{name: value.to(where) for name, value in target.items()} for target in targets]
            torch_xla.sync()
            data = metrics.metric_data("CompileTime")
            with recorder if where == "cpu" else nullcontext():
                loss = sum(model(images, targets).values())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            if where == "cpu":
                recorder.step()
            else:
                torch_xla.sync()
                truth.append(int(metrics.metric_data("CompileTime")[0]) - (int(data[0]) if data else 0))
            del loss
    return list(predict(recorder)["xla"]), truth


def _in_a_process(function: Callable[[], Any]) -> Any:
    code = f"import runpy, json; print(json.dumps(runpy.run_path({__file__!r})[{function.__name__!r}]()))"
    root = Path(__file__).parent.parent.parent
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=root)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.xla
@pytest.mark.slow
def test_a_detectors_prediction_is_what_xla_compiles():
    predicted, truth = _in_a_process(_ssdlite)
    assert len(truth) == 2 and min(truth) >= 5
    # The image size is drawn with a tensor of the host, ``.item()`` and all: here one graph in the first step, there none.
    assert predicted == [truth[0] + 1, truth[1]]


@pytest.mark.xla
def test_the_prediction_is_what_xla_compiles():
    figures = _in_a_process(_truth_against_prediction)
    for name in ("static", "by mask", "by nonzero", "read halfway"):
        predicted, truth = figures[name]
        assert predicted == truth, name
    assert figures["static"][1] == [1, 1, 0, 0, 0, 0]
    assert sum(figures["by nonzero"][1][2:]) > 0
    # AdamW counts its steps in a tensor that stays on the host and is read there: here one graph in the first step, there none.
    predicted, truth = figures["adamw"]
    assert [a - b for a, b in zip(predicted, truth, strict=True)] == [1, 0, 0, 0, 0, 0]
