"""The command line in a dry run on an NPU: the real torch-npu, in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fixshape.audit._json import from_json
from fixshape.audit._text import as_text
from fixshape.cli.__main__ import main

SCRIPT = """
import argparse
import torch
from torch.utils.data import DataLoader

parser = argparse.ArgumentParser()
parser.add_argument("--device", default="cpu")
parser.add_argument("--read", action="store_true")
options = parser.parse_args()
model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.Hardswish()).to(options.device)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
for images in DataLoader(torch.rand(40, 3, 16, 16), batch_size=4):
    outputs = model(images.to(options.device))
    loss = torch.nn.functional.huber_loss(outputs, outputs.detach() * 0.5)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if options.read:
        print(loss.item())
"""


def start(*arguments: str, folder: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, "-m", "fixshape", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def audited(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    (folder / "train.py").write_text(SCRIPT)
    options = ("audit", "--backend", "npu", "--dry-run", "train.py", "--steps", "4", "--format", "json", "--output", "audit.json")
    return start(*options, "--", *arguments, folder=folder)


@pytest.mark.npu
def test_an_audit_has_what_torch_npu_says(tmp_path):
    done = audited(tmp_path, "--device", "npu")
    audit = from_json((tmp_path / "audit.json").read_bytes())
    assert audit.status == "stopped", done.stderr
    counts = audit.dry_run
    assert counts.backend == "npu" and len(counts.launches) == len(counts.compiles) == 4
    assert counts.compiles[0] > 10 and counts.compiles[2:] == (0, 0)
    assert counts.launches[2] == counts.launches[3] > 10
    assert counts.fallbacks == {"aten::huber_loss": 4}
    assert counts.waits == {"aten::hardswish_backward": 4, "aten::huber_loss_backward": 4}
    told = as_text(audit)
    assert "Of each step, counted in a dry run on npu" in told and "aten::huber_loss" in told
    assert [(finding.code, finding.op) for finding in audit.findings] == [("FS402", "aten.huber_loss.default")]
    assert set(audit.predicted) == {"npu"} and audit.unknown == {}


@pytest.mark.npu
def test_a_value_that_the_script_reads_ends_it_at_its_line(tmp_path):
    done = audited(tmp_path, "--device", "npu", "--read")
    assert done.returncode == 1
    line = SCRIPT[: SCRIPT.index("loss.item()")].count("\n") + 1
    assert "BackendError" in done.stderr and f"train.py:{line}" in done.stderr
    assert from_json((tmp_path / "audit.json").read_bytes()).status == "raised"


@pytest.mark.npu
def test_a_script_that_does_not_use_the_device_is_told(tmp_path):
    done = audited(tmp_path)
    assert "nothing ran on the npu: the script has to choose that device itself" in done.stderr
    assert from_json((tmp_path / "audit.json").read_bytes()).dry_run.launches == ()


@pytest.mark.npu
@pytest.mark.parametrize("model", ["ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn"])
def test_a_training_compiles_nothing_after_its_warm_up(tmp_path, model):
    options = ("train", "--backend", "npu", "--dry-run", "--model", model, "--batch-size", "2", "--steps", "5", "--json")
    done = start(*options, "--output", "out", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["losses"] is None and result["seconds_per_step"] is None
    assert result["op_compiles_per_step"][0] > 500 and result["op_compiles_per_step"][2:] == [0, 0, 0]
    assert result["graph_compiles_per_step"] is None and result["compiles_after_step"] == 2
    assert result["fallbacks"] == {}
    launches = result["dry_run"]["launches_per_step"]
    assert len(launches) == 5 and launches[2] == launches[4] > 500
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"plan.json", "summary.json"}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["train", "--dry-run"], "train: --dry-run is for --backend npu, but --backend is auto."),
        (
            ["train", "--dry-run", "--backend", "npu", "--dynamic"],
            "train: a dry run has no values, and --dynamic makes its shapes",
        ),
        (["audit", "x.py", "--dry-run"], "audit: --backend npu and --dry-run go together."),
        (["audit", "x.py", "--backend", "npu"], "audit: --backend npu and --dry-run go together."),
    ],
)
def test_options_that_need_one_another(capsys, arguments, text):
    assert main(arguments) == 2
    assert text in capsys.readouterr().err
