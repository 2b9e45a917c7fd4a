"""The step log: a whole line for each step, whatever ended the run before."""

import dataclasses
import errno
import itertools
import json
import os
import resource
import signal
import time

import pytest
import torch

from fixshape.errors import FixshapeWarning
from fixshape.train import watch
from fixshape.train._step_log import StepLog, open_log

WEIGHT = torch.ones(3, 2)


def run(path, steps=3):
    loader = itertools.repeat(torch.ones(4, 3), steps)
    watched = watch(loader, backend="cpu", progress=False, predict=True, step_log=path)
    for batch in watched:
        _ = batch @ WEIGHT
    return watched


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_line_is_a_record_and_the_time(tmp_path):
    began = time.time()
    watched = run(tmp_path / "steps.jsonl")
    found = lines(tmp_path / "steps.jsonl")
    times = [line.pop("time") for line in found]
    assert found == [dataclasses.asdict(record) for record in watched.records]
    assert began <= times[0] <= times[1] <= times[2] <= time.time()


def test_a_step_is_in_the_file_when_the_next_batch_is_there(tmp_path):
    watched = watch([torch.ones(4)] * 3, backend="cpu", progress=False, step_log=tmp_path / "steps.jsonl")
    for number, _ in enumerate(watched):
        assert len(lines(tmp_path / "steps.jsonl")) == number
        if number == 1:
            break
    assert len(lines(tmp_path / "steps.jsonl")) == 2


def test_epochs_and_runs_go_on_in_the_same_file(tmp_path):
    watched = watch([torch.ones(4)] * 2, backend="cpu", progress=False, step_log=tmp_path / "steps.jsonl")
    for _ in range(2):
        for _ in watched:
            pass
    run(tmp_path / "steps.jsonl", 1)
    assert [line["index"] for line in lines(tmp_path / "steps.jsonl")] == [1, 2, 3, 4, 1]


@pytest.mark.parametrize("rest", ["", '{"time": 1.0, "ind', '{"index": 7}\n'])
def test_what_was_cut_in_the_middle_of_a_line_is_left_alone(tmp_path, rest):
    path = tmp_path / "steps.jsonl"
    path.write_text(rest)
    run(path, 2)
    text = path.read_text()
    assert text.startswith(rest)
    assert [json.loads(line)["index"] for line in text[len(rest) :].splitlines() if line] == [1, 2]


def in_a_child(body):
    """The id of a forked process that runs ``body`` and then ends at once."""
    child = os.fork()
    if child == 0:
        try:
            body()
        finally:
            os._exit(0)
    return child


def test_a_killed_process_leaves_whole_lines(tmp_path):
    path = tmp_path / "steps.jsonl"
    path.touch()
    child = in_a_child(lambda: run(path, 10**9))
    while path.stat().st_size < 100_000:
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    found = lines(path)
    assert [line["index"] for line in found] == list(range(1, len(found) + 1))


def test_a_file_that_cannot_be_opened_is_told_before_the_first_batch(tmp_path):
    with pytest.raises(OSError, match="no folder"):
        watch([], backend="cpu", step_log=tmp_path / "no folder" / "steps.jsonl")


class FullDisk:
    """Takes so many bytes; a write that does not fit is cut, and the next one fails."""

    name = "steps.jsonl"

    def __init__(self, room):
        self.room = room
        self.content = b""

    def write(self, data):
        if self.room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written, self.room = data[: self.room], self.room - len(data[: self.room])
        self.content += written
        return len(written)


@pytest.mark.parametrize(("room", "reason"), [(10, "10 of [0-9]+ bytes were written"), (0, "No space left on device")])
def test_a_full_disk_ends_the_log_and_not_the_loop(tmp_path, room, reason):
    watched = run(tmp_path / "steps.jsonl")
    disk = FullDisk(room)
    log = StepLog(disk)
    expected = rf"^watch: the step log steps.jsonl ends before step 1: {reason}. The loop goes on\.$"
    with pytest.warns(FixshapeWarning, match=expected) as caught:
        for record in watched.records:
            log.append(record)
    assert len(caught) == 1
    assert len(disk.content) == room


def test_a_limit_on_the_size_of_files_ends_the_log_and_not_the_loop(tmp_path):
    path = tmp_path / "steps.jsonl"

    def body():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        with pytest.warns(FixshapeWarning, match="the step log") as caught:
            watched = run(path, 20)
        (tmp_path / "seen").write_text(f"{len(watched.records)} steps, {len(caught)} warning")

    os.waitpid(in_a_child(body), 0)
    assert (tmp_path / "seen").read_text() == "20 steps, 1 warning"
    assert path.stat().st_size == 1000


def test_two_processes_do_not_break_each_other_s_lines(tmp_path):
    path = tmp_path / "steps.jsonl"
    records = run(tmp_path / "one.jsonl", 50).records
    with open_log(path) as first, open_log(path) as second:
        for record in records:
            first.append(record)
            second.append(record)
    assert [line["index"] for line in lines(path)] == [index for index in range(1, 51) for _ in range(2)]
