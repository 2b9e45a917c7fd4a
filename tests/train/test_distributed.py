"""Several ranks: the same training as torchvision's under DDP, one report, and clear words where they do not find each other."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from fixshape import get_backend
from fixshape.errors import BackendError
from fixshape.train import StepRecord, TrainSummary, joined, replicate
from fixshape.train._distributed import gathered, merged

ROOT = Path(__file__).parents[2]
NO_RANKS = {name: None for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")}


def torchrun(*arguments: str, folder: Path = ROOT, restarts: int = 0) -> subprocess.CompletedProcess:
    options = ("--standalone", "--nproc-per-node", "2", "--max-restarts", str(restarts))
    command = [sys.executable, "-m", "torch.distributed.run", *options, "-m", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["retinanet", "fasterrcnn"])
def test_losses_gradients_and_buffers_are_torchvisions_under_ddp(name):
    done = torchrun("tests.train.ddp_steps", name)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(done.stdout.split("\n"))[-2:] == [f"rank {rank}: 3 steps equal" for rank in range(2)]


@pytest.mark.slow
def test_two_ranks_train_and_one_reports(tmp_path):
    options = ("--backend", "cpu", "--batch-size", "2", "--steps", "6", "--json", "--output", "out", "--checkpoint", "kept")
    done = torchrun("fixshape", "train", *options, folder=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)  # one object: the other rank prints nothing
    assert (result["ranks"], result["steps"], len(result["losses"])) == (2, 6, 6)
    assert result["op_compiles_per_step"][3:] == [0, 0, 0], "DDP lays its buffers out anew in the first steps"
    state = torch.load(tmp_path / "out" / "model.pt", weights_only=True)
    assert not any(name.startswith("module.") for name in state)
    again = torchrun("fixshape", "train", *options[:5], "8", *options[6:], "--resume", folder=tmp_path)
    assert again.returncode == 0, again.stderr[-3000:]
    assert json.loads(again.stdout)["resumed_at"] == 6


def test_alone_nothing_is_joined(monkeypatch):
    for name in NO_RANKS:
        monkeypatch.delenv(name, raising=False)
    model = nn.Linear(2, 1)
    with joined(get_backend("cpu")) as (rank, ranks):
        assert (rank, ranks) == (0, 1)
        assert replicate(model, torch.device("cpu")) is model
        summary = TrainSummary((), (), 0, 0, 0, 0, 0, 0)
        assert gathered(summary) is summary


def test_ranks_that_do_not_find_each_other_are_told(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with (
        pytest.raises(BackendError, match=r"train: the ranks do not find each other by gloo \(.*\). Start them with torchrun"),
        joined(get_backend("cpu")),
    ):
        pass


def test_one_summary_of_all():
    step = StepRecord(1, "train", "2x3x8x8", True, 1.0, 5, None)
    first = TrainSummary((step,), (2.0,), 10, 20, 3, 8, 1, 100)
    second = TrainSummary((replace(step, seconds=3.0, op_compiles=9),), (4.0,), 12, 20, 5, 8, 0, 50)
    assert merged([first, second]) == TrainSummary((replace(step, seconds=3.0, op_compiles=9),), (3.0,), 22, 40, 8, 16, 1, 100)
