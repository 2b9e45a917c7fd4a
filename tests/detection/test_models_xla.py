"""Training on XLA on the CPU, a real static-shape compiler: two compiles at most, nothing on the host, the host's own losses."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.xla


@pytest.mark.parametrize("name", ["retinanet", "fcos", "fasterrcnn", "maskrcnn", "keypointrcnn"])
def test_eight_steps_of_varying_content_compile_at_most_twice(name):
    environment = {**os.environ, "PJRT_DEVICE": "CPU", "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.detection.xla_steps", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=root)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert sum(found["compiles"]) <= 2
    assert found["compiles"][2:] == [0] * 6
    assert set(found["fallbacks"]) <= {"aten::_local_scalar_dense"}  # the losses, which the test reads
    assert all(map(math.isfinite, found["totals"]))
    assert found["first"] == pytest.approx(found["expected"], rel=1e-4, abs=1e-6)
