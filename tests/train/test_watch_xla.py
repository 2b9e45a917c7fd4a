"""``watch`` counts what torch_xla counts, and makes it compile nothing more; its bar moves while XLA compiles."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.xla

_LOOP = """
import contextlib, io, json, sys
from fixshape.backend import get_backend
backend = get_backend("xla")  # before autograd first runs
import torch, torch_xla
import torch_xla.debug.metrics as metrics
from fixshape.train import _bar, _heartbeat, watch

watching, progress = json.loads(sys.argv[1])
_bar.LONG_STEP, _heartbeat.INTERVAL = 0.2, 0.02


def compiled():
    measured = metrics.metric_data("CompileTime")
    return measured[0] if measured else 0


def step(batch, number):
    rows = batch.to(backend.device())[: 2 if number == 7 else 4]
    value = rows @ weight
    for extra in range(600 if number == 4 else 3):  # a graph that is long in compiling
        value = (value * 0.9).tanh() + 0.01 * (extra % 7)
    loss = value.square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


torch.manual_seed(0)
weight = torch.ones(3, 2, device=backend.device(), requires_grad=True)
optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
batches = [torch.ones(length, 3) for length in (4, 4, 5, 4, 4, 5, 4, 4, 4, 5)]
torch_xla.sync()
seen, losses, unread = [compiled()], [], None
if watching:
    watched = watch(batches, backend=backend, progress=progress)
    for number, batch in enumerate(watched):
        if number:
            seen.append(compiled())
        watched.log(step(batch, number))
    seen.append(compiled())
    losses = watched.losses
else:
    for number, batch in enumerate(batches):
        if unread is not None:
            losses.append(float(unread))
        unread = step(batch, number).detach()
        torch_xla.sync()
        seen.append(compiled())
    losses.append(float(unread))
found = {"metric": [after - before for before, after in zip(seen, seen[1:])], "total": seen[-1] - seen[0], "losses": losses}
if watching:
    found["watched"] = [record.graph_compiles for record in watched.records]
    found["ops"] = [record.op_compiles for record in watched.records]
    found["verdict"] = watched.verdict
print(json.dumps(found))
"""


def _run(*, watching, progress=False):
    command = [sys.executable, "-c", _LOOP, json.dumps([watching, progress])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout), done.stderr


@pytest.fixture(scope="module")
def watched():
    return _run(watching=True, progress=True)


def test_each_step_has_the_graphs_that_torch_xla_s_metric_has_for_it(watched):
    found, _ = watched
    assert found["watched"] == found["metric"]
    assert sum(found["watched"]) == found["total"] > 3
    assert found["watched"][4] == 1 and found["watched"][7] == 1 and found["watched"][8:] == [0, 0]
    assert found["ops"] == [None] * 10
    assert len(set(found["losses"])) == 10


def test_the_same_loop_without_watch_compiles_the_same(watched):
    found, _ = watched
    plain, _ = _run(watching=False)
    assert (plain["metric"], plain["total"], plain["losses"]) == (found["metric"], found["total"], found["losses"])


def test_the_verdict_names_the_steps_that_compiled_late(watched):
    found, _ = watched
    assert found["verdict"].startswith("steady since step 9; compiled after the warm-up in steps 5, 8; warm-up ")


def test_the_bar_moves_while_xla_compiles(watched):
    _, err = watched
    assert "steady, step 5 takes" in err and "likely compiling" in err
