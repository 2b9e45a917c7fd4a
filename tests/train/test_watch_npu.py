"""A watched and guarded loop in a dry run on an NPU, in a process of its own: operators are counted, and called operators."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.npu

_LOOP = """
import json, os, sys, tempfile
from fixshape import get_backend
backend = get_backend("npu", dry_run=True)  # before torch has run a backward pass
import torch
from fixshape.errors import ShapeDriftError
from fixshape.train import CompileGuard, watch

predict = json.loads(sys.argv[1])
weight = torch.ones(3, 2, device=backend.device(), requires_grad=True)
optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
guard = CompileGuard("error")
log = os.path.join(tempfile.mkdtemp(), "steps.jsonl")
watched = watch([torch.ones(4, 3)] * 9, backend=backend, guard=guard, predict=predict, step_log=log)
seen, error = [], None
try:
    for number, batch in enumerate(watched):
        before = backend.compiles()
        rows = batch.to(backend.device())[: 2 if number == 7 else 4]
        loss = (rows @ weight).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        watched.log(loss)
        if number == 4:
            with guard.pause():
                inside = backend.compiles()
                (rows.cos() * 3).sum()
                before += backend.compiles() - inside
        seen.append(backend.compiles() - before)
except ShapeDriftError as caught:
    error = str(caught)
print(json.dumps({
    "seen": seen,
    "native": [record.native_op_compiles for record in watched.records],
    "predicted": [record.op_compiles for record in watched.records],
    "graphs": [record.graph_compiles for record in watched.records],
    "logged": [json.loads(line)["native_op_compiles"] for line in open(log)],
    "losses": watched.losses,
    "error": error,
    "verdict": watched.verdict,
}))
"""


@pytest.mark.parametrize("predict", [False, True])
def test_it_goes_by_the_operators_that_the_stand_in_counts(predict):
    command = [sys.executable, "-c", _LOOP, json.dumps(predict)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["native"] == found["seen"] == found["logged"]
    assert found["native"][0] > 3 and found["native"][2:7] == [0] * 5 and found["native"][7] > 0
    assert found["graphs"] == [None] * 8
    assert found["losses"] == []
    assert "graph" not in found["error"]
    number = found["native"][7]
    told = f"CompileGuard: step 8 (train, 4x3) compiled after the warm-up: {number} op compiles by the device's own count, "
    assert found["error"].startswith(told)
    assert ("the first of them aten." in found["error"]) == predict
    assert found["predicted"][2:7] == ([0] * 5 if predict else [None] * 5)
    assert found["verdict"].startswith("not steady: ") and found["verdict"].endswith("; a dry run: its seconds are no device's")
    assert "loss" not in done.stderr
