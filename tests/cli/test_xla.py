"""XLA on the CPU, a real static-shape compiler: started as a user starts it, in the accelerator environment."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.xla


def _run(*arguments: str) -> dict:
    """The command line in a process of its own: XLA dies in one that has compiled too much."""
    environment = {**os.environ, "PJRT_DEVICE": "CPU"}
    environment.pop("TORCH_DEVICE_BACKEND_AUTOLOAD", None)  # the command line has to see to that itself
    command = [sys.executable, "-m", "fixshape.cli", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_env_says_that_xla_can_be_used():
    found = _run("env")
    assert found["backends"]["xla"] == {"usable": True, "why_not": None, "device": "xla:0", "default": False}
    assert found["packages"]["torch_npu"] == "2.9.0"


def test_static_training_compiles_twice_and_falls_back_for_reads_alone():
    found = _run("train", "--backend", "xla", "--steps", "10", "--batch-size", "2")
    compiles = found["graph_compiles_per_step"]
    assert sum(compiles) <= 2 and compiles[2:] == [0] * 8
    assert found["compiles_after_step"] <= 2
    assert set(found["fallbacks"]) <= {"aten::_local_scalar_dense"}
    assert found["fallbacks"]["aten::_local_scalar_dense"] <= 10  # the loss of each step, which the progress bar asks for
    on_host = _run("train", "--backend", "cpu", "--steps", "1", "--batch-size", "2")
    assert found["losses"][0] == pytest.approx(on_host["losses"][0], rel=1e-4)


def test_torchvisions_own_training_compiles_at_every_step():
    found = _run("train", "--backend", "xla", "--dynamic", "--steps", "2", "--batch-size", "2")
    assert min(found["graph_compiles_per_step"]) >= 5
    assert found["fallbacks"]["aten::nonzero"] >= 10
    assert found["compiles_after_step"] is None
