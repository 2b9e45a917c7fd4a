"""What the bar shows: that a long step is waited for while it runs, and how long the steady ones will still take."""

import io
import os
import re
import subprocess
import sys
import threading
import time
from collections import deque

import pytest
import torch
from tqdm import tqdm

from fixshape.train import _bar, _heartbeat, watch
from fixshape.train._bar import StepBar


@pytest.fixture
def quick(monkeypatch):
    """Steps are long after 50 ms, and beats come every 10."""
    monkeypatch.setattr(_bar, "LONG_STEP", 0.05)
    monkeypatch.setattr(_heartbeat, "INTERVAL", 0.01)


def drawn(err):
    """What was drawn, one after the other."""
    return [part.strip() for part in re.split(r"[\r\n]", err) if part.strip()]


def beating():
    return [thread for thread in threading.enumerate() if thread.name == "fixshape-heartbeat"]


def test_a_long_step_of_the_warm_up_is_spoken_of_while_it_runs(quick, capfd):
    for _ in watch([torch.ones(4)], backend="cpu", predict=True):
        time.sleep(0.2)
        err = capfd.readouterr().err
    assert "warm-up, slow as expected, 0 compiles so far" in drawn(err)[1]
    assert "warm-up, step 1 takes 0 s so far, likely compiling, as expected, 0 compiles so far" in drawn(err)[-1]


def test_a_short_step_is_not(capfd, monkeypatch):
    monkeypatch.setattr(_heartbeat, "INTERVAL", 0.01)
    for _ in watch([torch.ones(4)], backend="cpu"):
        time.sleep(0.1)
    assert "so far" not in capfd.readouterr().err


@pytest.mark.parametrize(("last", "is_told"), [(0.15, False), (0.5, True)])
def test_after_the_warm_up_it_must_be_longer_than_the_others_too(quick, capfd, last, is_told):
    for number, _ in enumerate(watch([torch.ones(4)] * 4, backend="cpu")):
        time.sleep(last if number == 3 else 0.1)
    assert ("steady, step 4 takes 0 s so far, likely compiling]" in capfd.readouterr().err) == is_told


def test_the_loader_s_time_is_not_called_compiling(quick, capfd):
    def slow():
        time.sleep(0.2)
        yield torch.ones(4)

    for _ in watch(slow(), backend="cpu"):
        pass
    assert "likely compiling" not in capfd.readouterr().err


def test_a_bar_inside_of_the_step_is_left_alone(quick, capfd):
    for _ in watch([torch.ones(4)], backend="cpu"):
        with tqdm(total=3):
            time.sleep(0.2)
    assert "likely compiling" not in capfd.readouterr().err


def test_a_bar_around_the_loop_is_not_in_the_way(quick, capfd):
    for _ in tqdm(range(1)):
        for _ in watch([torch.ones(4)], backend="cpu"):
            time.sleep(0.2)
    assert "likely compiling" in capfd.readouterr().err


def test_a_warm_up_before_the_first_step_is_shown_while_it_runs(quick, capfd):
    with watch([torch.ones(4)], backend="cpu").warming_up():
        time.sleep(0.2)
        err = capfd.readouterr().err
        assert len(beating()) == 1
    assert len(drawn(err)) > 2
    assert set(drawn(err)) == {"warm-up before the first step, slow as expected [00:00]"}


@pytest.mark.parametrize("how", ["to its end", "break", "an exception"])
def test_the_thread_ends_with_the_loop(how):
    def loop():
        for number, _ in enumerate(watch([torch.ones(4)] * 3, backend="cpu")):
            assert len(beating()) == 1 and beating()[0].daemon
            if how == "break":
                break
            if how == "an exception" and number == 1:
                raise ArithmeticError

    try:
        loop()
    except ArithmeticError:
        pass
    for thread in beating():
        thread.join(1)
    assert beating() == []


def test_without_a_bar_there_is_no_thread():
    for _ in watch([torch.ones(4)], backend="cpu", progress=False):
        assert beating() == []


@pytest.mark.parametrize("seconds", [[], [2.0], [1.0, 3.0]])
def test_the_time_that_remains_is_told_by_steady_steps_alone(capfd, seconds):
    with StepBar(10, deque(seconds), shown=True) as bar:
        bar.step_begins(1, in_warmup=True, compiles=None)
        bar.step_ends("warm-up", seconds=1000.0, compiles=None, loss=None)
        assert ("00:00<00:18,  2.00s/step, warm-up" if seconds else "1/10 [00:00, warm-up") in str(bar)
        bar.step_begins(2, in_warmup=False, compiles=None)
        bar.step_ends("shape drift", seconds=1000.0, compiles=None, loss=None)
        bar.step_begins(3, in_warmup=False, compiles=None)
        bar.step_ends("steady", seconds=2.0, compiles=None, loss=None)
        assert "3/10 [00:00<00:14,  2.00s/step, steady]" in str(bar)


def test_a_second_epoch_knows_the_pace_of_the_first(capfd):
    watched = watch([torch.ones(4)] * 4, backend="cpu")
    for _ in watched:
        time.sleep(0.02)
    capfd.readouterr()
    for _ in watched:
        break
    assert re.search(r"0/4 \[00:00<00:00, +\d", drawn(capfd.readouterr().err)[0])


def test_the_verdict_is_never_cut(monkeypatch, capfd):
    with StepBar(10, deque([1.0]), shown=True) as bar:
        bar.dynamic_ncols = lambda _: (40, 20)
        bar.step_begins(1, in_warmup=True, compiles=2)
        assert len(str(bar)) <= 40
        bar.conclude("a verdict " * 10, loss=9.3)
    assert drawn(capfd.readouterr().err)[-1] == f"0/10 [00:00, loss 9.3, 2 compiles, {'a verdict ' * 10}]"


_NEVER_LEFT = """
import time, torch
from fixshape.train import _bar, _heartbeat, watch
_bar.LONG_STEP, _heartbeat.INTERVAL = 0.0, 0.0
running = iter(watch([torch.ones(4)] * 3, backend="cpu"))
next(running)
time.sleep(0.2)
"""


def test_a_loop_that_is_never_left_keeps_no_process_alive():
    done = subprocess.run([sys.executable, "-c", _NEVER_LEFT], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0
    assert "likely compiling" in done.stderr
    assert "Fatal" not in done.stderr and "Traceback" not in done.stderr


def test_a_fork_never_comes_in_the_middle_of_a_drawing(monkeypatch, capfd):
    """A child that inherits a stream's lock, taken, would wait for ever. The thread draws nearly all the time here."""
    monkeypatch.setattr(_bar, "LONG_STEP", 0.0)
    monkeypatch.setattr(_heartbeat, "INTERVAL", 0.0001)
    stream = SlowStream()
    monkeypatch.setattr(sys, "stderr", stream)
    for _ in watch([torch.ones(4)] * 2, backend="cpu"):
        for _ in range(20):
            child = os.fork()
            if child == 0:
                os._exit(0 if stream.lock.acquire(timeout=5) else 1)
            assert os.waitpid(child, 0)[1] == 0
    assert stream.writes > 40


class SlowStream(io.StringIO):
    """A stream that is long at each write, and locked for as long."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()
        self.writes = 0

    def write(self, text):
        with self.lock:
            self.writes += 1
            time.sleep(0.002)
        return len(text)
