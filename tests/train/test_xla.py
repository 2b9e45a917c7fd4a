"""The native count on a real device that compiles graphs: XLA on the host's CPU, in a process of its own."""

import json
import subprocess
import sys

import pytest

_LOOP = """
import json, sys
from fixshape.backend import get_backend
backend = get_backend("xla")  # before autograd first runs
import torch
from fixshape.errors import ShapeDriftError
from fixshape.train import CompileGuard, watch

weight = torch.ones(3, 2, device=backend.device(), requires_grad=True)
optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
guard = CompileGuard("error")
watched = watch([torch.ones(4, 3)] * 9, backend=backend, guard=guard, progress=False)
error = None
try:
    for number, batch in enumerate(watched):
        rows = batch.to(backend.device())[: 2 if number == 7 else 4]
        loss = (rows @ weight).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        watched.log(loss)
        if number == 4:
            with guard.pause():
                print((rows.cos() * 3).sum().item(), file=sys.stderr)
except ShapeDriftError as caught:
    error = str(caught)
graphs = [record.graph_compiles for record in watched.records]
ops = [record.op_compiles for record in watched.records]
json.dump({"graphs": graphs, "ops": ops, "losses": watched.losses, "error": error}, sys.stdout)
"""


@pytest.mark.xla
def test_a_guard_goes_by_the_graphs_that_xla_compiles():
    result = subprocess.run([sys.executable, "-c", _LOOP], capture_output=True, text=True, check=True)
    found = json.loads(result.stdout)
    assert sum(found["graphs"][:2]) == 2 and found["graphs"][2:7] == [0] * 5
    assert found["graphs"][7] >= 1
    assert found["error"].startswith(
        "CompileGuard: step 8 (train, 4x3) compiled after the warm-up: 1 graph compile, in the loop at "
    )
    assert found["ops"] == [None] * 8
    assert len(found["losses"]) == 8
