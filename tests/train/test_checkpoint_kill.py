"""A training process that is killed, again and again, at any point and in the middle of a write: nothing is lost but time."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

_SAMPLES, _ROWS, _EPOCHS = 24, 4, 6
_STEPS = _EPOCHS * _SAMPLES // _ROWS

# A write takes its time here, as on a slow disk, so that about every second kill comes in the middle of one.
_TRAINING = f"""
import os, signal, sys, time
import torch
from torch import nn
from fixshape import _files, make_loader
from fixshape.plan import Bucket, ShapePlan
from fixshape.train import fit

folder, workers, die_at = sys.argv[1], int(sys.argv[2]), sys.argv[3]


class Recording(nn.Module):
    \"\"\"Each step writes the samples it saw, and its loss, into its own weights.\"\"\"

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(3 * 8 * 8, 4)
        self.register_buffer("samples", torch.full(({_STEPS}, {_ROWS}), -1))
        self.register_buffer("losses", torch.zeros({_STEPS}))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, images, targets):
        loss = nn.functional.dropout(self.body(images.flatten(1)), 0.3).square().mean()
        with torch.no_grad():
            self.samples[self.count] = targets["image_id"]
            self.losses[self.count] = loss
            self.count += 1
        return loss


class Samples(torch.utils.data.Dataset):
    def __len__(self):
        return {_SAMPLES}

    def __getitem__(self, index):
        image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(index))
        return image, {{"image_id": index, "boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}}


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


saves = 0
replace, fsync, unlink = os.replace, os.fsync, os.unlink


def slowly(handle):
    global saves
    saves += 1
    fsync(handle)
    if die_at == "half" and saves == 4:
        os.ftruncate(handle, 1000)
        die()
    time.sleep(0.03)


def replacing(source, target):
    if die_at == "before" and saves == 3:
        die()
    replace(source, target)
    if die_at == "after" and saves == 5:
        die()


_files.os.fsync, _files.os.replace = slowly, replacing
torch.manual_seed(0)
model = Recording()
plan = ShapePlan([Bucket(8, 8, 2)])
loader = make_loader(Samples(), plan, {_ROWS}, sizes=[(8, 8)] * {_SAMPLES}, num_workers=workers)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
print("ready", flush=True)
summary = fit(
    model, loader, optimizer, epochs={_EPOCHS}, checkpoint=folder, checkpoint_every=1, resume=True, backend="cpu", progress=False
)
print(summary.resumed_at, flush=True)
"""


def start(folder, workers=0, die_at="never"):
    arguments = [sys.executable, "-c", _TRAINING, str(folder), str(workers), die_at]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(folder, workers=0):
    """Runs it to its end; at which step it went on, and the weights."""
    out, err = (process := start(folder, workers)).communicate()
    assert process.returncode == 0, err
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == [], "what was half written is cleared"
    newest = folder / f"step-{_STEPS:08d}.pt"
    return int(out.split()[-1]), torch.load(newest, weights_only=True)["model"]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return finish(tmp_path_factory.mktemp("unbroken"))[1]


def check(weights, unbroken):
    """No sample is repeated or skipped in any epoch, and every loss and weight is the unbroken run's."""
    assert int(weights["count"]) == _STEPS
    for epoch in weights["samples"].view(_EPOCHS, -1).tolist():
        assert sorted(epoch) == list(range(_SAMPLES))
    for name, value in unbroken.items():
        assert torch.equal(weights[name], value), name


def test_killed_in_the_middle_of_a_write(tmp_path, unbroken):
    """With half of the file written; with all of it, but not yet in place; and right after it is."""
    reached = []
    for die_at, expected in (("half", 3), ("before", 5), ("after", 10)):
        process = start(tmp_path, die_at=die_at)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        reached.append(max(int(path.stem.removeprefix("step-")) for path in tmp_path.glob("step-*.pt")))
        assert reached[-1] == expected
        unfinished = list(tmp_path.glob(".step-*"))
        assert len(unfinished) == (die_at != "after")
    resumed_at, weights = finish(tmp_path)
    assert resumed_at == reached[-1]
    check(weights, unbroken)


def kill_at_random(folder, kills, seed):
    """Starts it and kills it ``kills`` times; how far it was each time, and how many kills came in the middle of a write."""
    chance, reached, unfinished = random.Random(seed), [], 0
    for _ in range(kills):
        process = start(folder, chance.choice((0, 2)))
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        time.sleep(chance.uniform(0, 0.12))
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()
        unfinished += any(Path(folder).glob(".step-*"))
        reached.append(max((int(path.stem.removeprefix("step-")) for path in folder.glob("step-*.pt")), default=0))
    assert reached == sorted(reached)
    return reached, unfinished


@pytest.mark.slow
def test_killed_at_random_points(tmp_path, unbroken):
    reached, unfinished = kill_at_random(tmp_path, 30, seed=30)
    resumed_at, weights = finish(tmp_path, workers=2)
    assert resumed_at == reached[-1]
    assert unfinished >= 3 and len(set(reached)) >= 8, (reached, unfinished)
    check(weights, unbroken)
