"""Every backend passes the checks, and each check fails on a backend that is broken in that way."""

import json
import subprocess
import sys

import pytest
import torch

from fixshape.backend import conformance, get_backend
from fixshape.backend._cpu import CpuBackend
from fixshape.errors import BackendError

NAMES = [check.__name__ for check in conformance.CHECKS]


def test_every_check_of_the_module_is_in_the_list():
    assert sorted(NAMES) == sorted(name for name in vars(conformance) if name.startswith("check_"))


@pytest.mark.parametrize("check", conformance.CHECKS, ids=NAMES)
def test_cpu(check):
    check(get_backend("cpu"))


@pytest.mark.cuda
@pytest.mark.parametrize("check", conformance.CHECKS, ids=NAMES)
def test_cuda(check):
    check(get_backend("cuda"))


_ON_XLA = """
import json, sys
from fixshape.backend import conformance, get_backend
backend, results = get_backend("xla"), {}
for check in conformance.CHECKS:
    try:
        check(backend)
        results[check.__name__] = "passes"
    except Exception as error:
        results[check.__name__] = repr(error)
json.dump(results, sys.stdout)
"""


@pytest.mark.xla
def test_xla():
    # A process of its own: torch_xla has to be there before autograd first runs.
    result = subprocess.run([sys.executable, "-c", _ON_XLA], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == dict.fromkeys(NAMES, "passes")


class WithoutValues(CpuBackend):
    """It says that it computes nothing, and hands values out."""

    has_values = False


class OnAnotherDevice(CpuBackend):
    def device(self, index=0):
        return torch.device("meta")


class NoSuchDevice(CpuBackend):
    name = "cuda"


class IdleAutocast(CpuBackend):
    def autocast(self, *, dtype=None, enabled=True):
        return super().autocast(dtype=dtype, enabled=False)


class StubbornAutocast(CpuBackend):
    def autocast(self, *, dtype=None, enabled=True):
        return super().autocast(dtype=torch.float16, enabled=enabled)


class EternalAutocast(CpuBackend):
    def autocast(self, *, dtype=None, enabled=True):
        return super().autocast(dtype=dtype, enabled=True)


class _Scaler:
    """Scales by two; ``unscales`` says whether it takes that back."""

    def __init__(self, unscales):
        self.unscales = unscales

    def scale(self, loss):
        return loss * 2

    def step(self, optimizer):
        if self.unscales:
            for parameter in optimizer.param_groups[0]["params"]:
                parameter.grad /= 2
        optimizer.step()

    def update(self):
        pass


class ScalesWithoutUnscaling(CpuBackend):
    def grad_scaler(self, *, enabled=True):
        return _Scaler(unscales=False) if enabled else super().grad_scaler()


class ScalesThoughDisabled(CpuBackend):
    def grad_scaler(self, *, enabled=True):
        return _Scaler(unscales=True)


class FallingCount(CpuBackend):
    count = 9

    def compiles(self):
        self.count -= 1
        return self.count


class CountThatGoesAway(CpuBackend):
    answers = (3, None)

    def compiles(self):
        first, *rest = self.answers
        self.answers = (*rest, first)
        return first


class FallbacksOfNothing(CpuBackend):
    def fallbacks(self):
        return {"aten::nonzero": 0}


class ForgetfulFallbacks(CpuBackend):
    seen = False

    def fallbacks(self):
        before, self.seen = self.seen, True
        return {} if before else {"aten::nonzero": 2}


class NoMemory(CpuBackend):
    def peak_memory(self):
        return 0


class ShrinkingPeak(CpuBackend):
    peak = 1000

    def peak_memory(self):
        self.peak -= 1
        return self.peak


class NoCollective(CpuBackend):
    collective = ""


@pytest.mark.parametrize(
    ("broken", "check", "message"),
    [
        (OnAnotherDevice, "check_device", r"backend 'cpu' fails: device\(\) is meta, expected type 'cpu'"),
        (NoSuchDevice, "check_device", r"backend 'cuda' fails: device\(\) is cpu:0, expected type 'cuda'"),
        (IdleAutocast, "check_autocast", r"autocast\(\) makes a matrix product torch.float32"),
        (StubbornAutocast, "check_autocast", r"autocast\(dtype=torch.bfloat16\) makes a matrix product torch.float16"),
        (EternalAutocast, "check_autocast", r"autocast\(enabled=False\) changes a matrix product"),
        (ScalesWithoutUnscaling, "check_grad_scaler", r"a step through grad_scaler\(enabled=True\) is not the step without it"),
        (ScalesThoughDisabled, "check_grad_scaler", r"grad_scaler\(enabled=False\) scales the loss"),
        (FallingCount, "check_counters", r"compiles\(\) fell from 8 to 7"),
        (CountThatGoesAway, "check_counters", r"compiles\(\) went from 3 to None"),
        (FallbacksOfNothing, "check_counters", r"fallbacks\(\) is \{'aten::nonzero': 0\}, expected counts above 0"),
        (ForgetfulFallbacks, "check_counters", r"fallbacks\(\) fell from \{'aten::nonzero': 2\} to \{\}"),
        (NoMemory, "check_counters", r"peak_memory\(\) is not positive"),
        (ShrinkingPeak, "check_counters", r"peak_memory\(\) fell from 999 to \d+"),
        (NoCollective, "check_collective", "collective is empty"),
        (WithoutValues, "check_step", r"it has no values, and reading one gives tensor\("),
        (WithoutValues, "check_grad_scaler", r"it has no values, and reading one gives tensor\(\[0\., 0\., 0\.\]\)"),
        (WithoutValues, "check_counters", r"it has no values, and reading one gives 21\.0"),
        (WithoutValues, "check_collective", r"it has no values, and reading one gives 3\.0"),
    ],
)
def test_a_broken_backend_fails_its_check(broken, check, message):
    with pytest.raises(BackendError, match=f"conformance: .*{message}"):
        getattr(conformance, check)(broken())


def test_a_step_with_other_numbers_fails(monkeypatch):
    descend = conformance._descend
    monkeypatch.setattr(conformance, "_descend", lambda w, b, backend: descend(w, b, backend) + (0.001 if backend else 0.0))
    with pytest.raises(BackendError, match=r"two SGD steps differ from the host's by 1\.0e-03, expected less than 1e-5"):
        conformance.check_step(get_backend("cpu"))


def test_a_step_with_another_shape_fails(monkeypatch):
    descend = conformance._descend
    monkeypatch.setattr(
        conformance, "_descend", lambda w, b, backend: descend(w, b, backend).T if backend else descend(w, b, None)
    )
    with pytest.raises(
        BackendError, match=r"two SGD steps make a weight torch\.float32\[3, 4\], expected torch\.float32\[4, 3\]"
    ):
        conformance.check_step(get_backend("cpu"))


def test_emptying_the_cache_may_not_lose_a_tensor(monkeypatch):
    ones, made = torch.ones, []
    monkeypatch.setattr(conformance.torch, "ones", lambda *args, **kwargs: made.append(ones(*args, **kwargs)) or made[-1])

    class Overzealous(CpuBackend):
        def empty_cache(self):
            made[-1].zero_()

    with pytest.raises(BackendError, match=r"empty_cache\(\) lost a tensor that was in use"):
        conformance.check_collective(Overzealous())
