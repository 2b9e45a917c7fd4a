"""Audits of several ranks as one: sums by step, findings by what they are, and two real ranks."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import fixshape
from fixshape.audit import Audit, AuditReport, Finding, Location, OpEvent, Origin, PhaseCounts, StepCounts, merge
from fixshape.audit._json import from_json
from fixshape.errors import ShapeError

ROOT = Path(fixshape.__file__).parent.parent
HERE = Location("train.py", 12)
ORIGIN = Origin(kind="dynamic", op="aten.nonzero.default", phase="forward", site=HERE)


def rank(*compiles: int, **changes) -> Audit:
    steps = tuple(StepCounts(PhaseCounts(launches=10, compiles=number)) for number in compiles)
    event = OpEvent(kind="dynamic", op=ORIGIN.op, phase="forward", site=HERE)
    report = AuditReport(steps, (event,), {"dynamic": 1}, {ORIGIN: 3}, causes={ORIGIN: 2}, graphs=compiles, pieces=compiles)
    finding = Finding(code="FS101", op=ORIGIN.op, phase="forward", site=HERE, count=3, steps=2, compiles=4, shapes=("bool[9]",))
    audit = Audit(
        report=report, findings=(finding,), unknown={"a.b": 1}, predicted={"npu": compiles},
        inputs={"batch": {"f32[2]": 2}}, status="stopped", command="train.py",
    )  # fmt: skip
    return replace(audit, **changes)


def test_counts_are_sums_step_by_step():
    merged = merge([rank(5, 1, 0), rank(7, 2)])
    assert [step.compiles for step in merged.report.steps] == [12, 3, 0]
    assert (merged.predicted, merged.report.graphs) == ({"npu": (12, 3, 0)}, (12, 3, 0))
    assert merged.report.pieces == (12, 3, 0)
    assert (merged.unknown, merged.inputs) == ({"a.b": 2}, {"batch": {"f32[2]": 4}})
    assert merged.report.origins == {ORIGIN: 6} and merged.report.causes == {ORIGIN: 4}
    assert len(merged.report.events) == 2 and merged.report.left_out["dynamic"] == 2


def test_one_finding_on_two_ranks_is_one_and_another_stays():
    other = Finding(code="FS201", op="aten._local_scalar_dense.default", phase="forward", site=HERE, compiles=9)
    one = rank(1)
    changed = replace(one.findings[0], shapes=("bool[4]",), steps=5)
    merged = merge([one, rank(1, findings=(changed, other))])
    assert [(finding.code, finding.count, finding.steps, finding.compiles) for finding in merged.findings] == [
        ("FS201", 1, 1, 9),
        ("FS101", 6, 5, 8),
    ]


def test_events_stay_bounded():
    many = rank(1)
    events = many.report.events * 6000
    merged = merge([replace(many, report=replace(many.report, events=events))] * 2)
    assert len(merged.report.events) == 10_000 and merged.report.left_out["dynamic"] == 2 + 2000


@pytest.mark.parametrize(
    ("statuses", "worst"),
    [
        ([("stopped", None), ("stopped", None)], ("stopped", None)),
        ([("stopped", None), ("raised", 1)], ("raised", 1)),
        ([("terminated", 143), ("raised", 1)], ("raised", 1)),
        ([("finished", None), ("running", None)], ("running", None)),
    ],
)
def test_the_worst_status_speaks(statuses, worst):
    merged = merge([rank(1, status=status, exit_code=code) for status, code in statuses])
    assert (merged.status, merged.exit_code) == worst


def test_of_one_rank_it_is_that_one():
    audit = rank(5, 1)
    left_out = {"compile": 0, "dynamic": 1, "sync": 0, "input": 0}
    assert merge([audit]) == replace(audit, report=replace(audit.report, left_out=left_out))


def test_of_none():
    with pytest.raises(ShapeError, match="merge: audits is empty, expected one audit of each rank"):
        merge([])


DDP = """
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
dist.init_process_group("gloo")
model = DistributedDataParallel(torch.nn.Linear(4, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
rows = torch.rand(64, 4)
try:
    for batch in torch.utils.data.DataLoader(rows, 4):
        out = model(batch)
        loss = out[out > 0].sum() + out.sum() if dist.get_rank() == 1 else out.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
finally:
    dist.destroy_process_group()
"""


def test_two_ranks_of_a_distributed_script_make_one_report(tmp_path):
    (tmp_path / "train.py").write_text(DDP)
    for old in (0, 1):  # of an earlier run
        (tmp_path / f"audit.json.rank{old}.json").write_text("{}")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0", "--rdzv-backend", "c10d",
        "--rdzv-endpoint", "localhost:0", "-m", "fixshape.cli", "audit", "train.py", "--steps", "3", "--format", "json",
        "--output", "audit.json", "--fail-on", "none",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    ranks = [from_json((tmp_path / f"audit.json.rank{number}.json").read_bytes()) for number in (0, 1)]
    merged = from_json((tmp_path / "audit.json").read_bytes())
    assert merged == merge(ranks)
    assert [len(audit.report.steps) for audit in (*ranks, merged)] == [3, 3, 3]
    assert merged.status == "stopped"
    # Only rank 1 reads by a mask.
    assert [any(finding.code == "FS102" for finding in audit.findings) for audit in (*ranks, merged)] == [False, True, True]
