"""Scripts that fork, spawn, are killed, or end without a word: processes of their own, started as a user starts them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import fixshape
from fixshape.audit import Audit
from fixshape.audit._json import from_json

ROOT = Path(fixshape.__file__).parent.parent
MODEL = """
import os, sys, time
import torch
from torch.utils.data import DataLoader
model = torch.nn.Linear(4, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
row = torch.ones(4)
def train(rows):
    optimizer.zero_grad()
    model(rows).sum().backward()
    optimizer.step()
"""


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def write(folder: Path, source: str) -> str:
    (folder / "train.py").write_text(MODEL + textwrap.dedent(source))
    return "train.py"


def audit(folder: Path, source: str, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "fixshape.cli", "audit", write(folder, source), *options]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False, timeout=300)


def read(folder: Path) -> Audit:
    return from_json((folder / "audit.json").read_bytes())


JSON = ("--format", "json", "--output", "audit.json")


def test_a_traceback_and_an_exit_code_are_pythons(tmp_path):
    source = """
    def fail():
        try: {}["key"]
        except KeyError as error: raise ValueError("no such key") from error
    for index, rows in enumerate(DataLoader([row] * 40, 4)):
        train(rows)
        if index == 1: fail()
    """
    done = audit(tmp_path, source, *JSON)
    itself = subprocess.run([sys.executable, "train.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert itself.stderr.count("Traceback") == 2
    assert done.stderr == itself.stderr + "fixshape: written to audit.json\n"
    assert done.returncode == itself.returncode == 1
    found = read(tmp_path)
    assert (found.status, found.exit_code, len(found.report.steps)) == ("raised", 1, 2)


def test_a_message_and_a_code_of_its_own(tmp_path):
    done = audit(tmp_path, "for rows in DataLoader([row] * 8, 4): train(rows)\nsys.exit('enough')\n", *JSON)
    assert (done.returncode, done.stderr.splitlines()[0]) == (1, "enough")
    done = audit(tmp_path, "for rows in DataLoader([row] * 8, 4): train(rows)\nsys.exit(42)\n", *JSON)
    found = read(tmp_path)
    assert (done.returncode, found.status, found.exit_code) == (42, "exited", 42)


def test_what_it_prints_does_not_reach_the_report(tmp_path):
    source = """
    for rows in DataLoader([row] * 40, 4, num_workers=1, worker_init_fn=lambda _: print("from a worker", flush=True)):
        print("from the script")
        os.system("echo from a child")
        train(rows)
    """
    done = audit(tmp_path, source, "--format", "json", "--steps", "2")
    assert json.loads(done.stdout)["status"] == "stopped"
    assert all(f"from {who}" in done.stderr for who in ("the script", "a worker", "a child"))
    # With a file for the report, stdout is the script's.
    done = audit(tmp_path, source, *JSON, "--steps", "2")
    assert done.stdout.count("from the script") == 2


def test_workers_that_are_spawned_find_the_script_again(tmp_path):
    source = """
    class Samples(torch.utils.data.Dataset):
        def __len__(self): return 80
        def __getitem__(self, index): return row + len(sys.argv)
    if __name__ == "__main__":
        for rows in DataLoader(Samples(), 4, num_workers=2, multiprocessing_context="spawn"):
            assert (rows == 3).all()
            train(rows)
    """
    done = audit(tmp_path, source, *JSON, "--steps", "2", "--", "argument")
    assert done.returncode == 1, done.stderr  # it reads a value
    found = read(tmp_path)
    assert (found.status, len(found.report.steps)) == ("stopped", 2)


def test_a_child_that_it_forks_reports_nothing(tmp_path):
    source = """
    for index, rows in enumerate(DataLoader([row] * 40, 4)):
        train(rows)
        if index == 1 and os.fork() == 0:
            for more in DataLoader([row] * 400, 4): train(more)  # far more steps than are asked for
            raise SystemExit(5)
        if index == 1:
            assert os.waitstatus_to_exitcode(os.wait()[1]) == 5
    """
    done = audit(tmp_path, source, *JSON)
    assert done.returncode == 0, done.stderr
    found = read(tmp_path)
    assert (found.status, len(found.report.steps), found.inputs) == ("stopped", 5, {"batch": {"f32[4, 4]": 5}})
    assert done.stderr.count("written to") == 1


def test_what_ends_without_a_word_leaves_what_was_written(tmp_path):
    source = "for index, rows in enumerate(DataLoader([row] * 40, 4)):\n    train(rows)\n    if index == 3: os._exit(9)\n"
    done = audit(tmp_path, source, *JSON)
    found = read(tmp_path)
    assert (done.returncode, found.status, found.exit_code, len(found.report.steps)) == (9, "running", None, 3)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_writes_what_was_recorded(tmp_path, number):
    source = """
    for index, rows in enumerate(DataLoader([row] * 400, 4, num_workers=2)):
        if index == 2:
            open("ready", "w").close()
            time.sleep(300)
        train(rows)
    """
    _signalled(tmp_path, source, number)


def test_a_script_that_swallows_sigterm_ends_at_its_next_batch(tmp_path):
    source = """
    for index, rows in enumerate(DataLoader([row] * 400, 4)):
        if index == 2:
            open("ready", "w").close()
            try: time.sleep(300)
            except BaseException: pass
        train(rows)
    """
    _signalled(tmp_path, source, signal.SIGTERM)


def _signalled(folder: Path, source: str, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "fixshape.cli", "audit", write(folder, source), "--format", "json"]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Tests that run as a shell's background job inherit a SIGINT that is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    until = time.monotonic() + 200
    while not (folder / "ready").exists() and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(number)
    said, complained = process.communicate(timeout=300)
    found = from_json(said)
    status = {signal.SIGTERM: "terminated", signal.SIGINT: "interrupted"}[number]
    assert (process.returncode, found.status, found.exit_code) == (128 + number, status, 128 + number), complained
    assert [step.launches > 0 for step in found.report.steps] == [True, True]
    assert "Traceback" not in complained


def test_the_tool_is_the_same_as_a_script(tmp_path):
    write(tmp_path, "for rows in DataLoader([row] * 40, 4): train(rows)\n")
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, str(ROOT / "tools" / "op_audit.py"), "train.py", "--steps", "3", "--format", "json"]
    done = subprocess.run(command, cwd=tmp_path, env=bare, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(from_json(done.stdout).report.steps) == 3
