"""Which backend is chosen, and what is said of those that cannot be."""

import importlib.util
import sys

import pytest
import torch

from fixshape.backend import BACKENDS, _cuda, _registry, _xla, get_backend, unavailable_reason
from fixshape.errors import BackendError


@pytest.fixture
def usable(monkeypatch):
    """Says which backends are there; xla is the host's CPU unless told otherwise."""

    class _Module:
        def __init__(self, name, reason, emulated):
            self.unavailable = lambda: reason
            self.is_emulated = lambda: emulated
            setattr(self, _registry._CLASSES[name], lambda: f"the {name} backend")

    def set_usable(*names, emulated=True):
        modules = {name: _Module(name, None if name in names else f"no {name} here", emulated) for name in BACKENDS}
        monkeypatch.setattr(_registry, "_module", modules.__getitem__)

    return set_usable


@pytest.mark.parametrize(
    ("names", "emulated", "chosen"),
    [
        (("npu", "cuda", "xla", "cpu"), False, "npu"),
        (("cuda", "xla", "cpu"), False, "cuda"),
        (("xla", "cpu"), False, "xla"),
        (("xla", "cpu"), True, "cpu"),
        (("cpu",), False, "cpu"),
    ],
)
def test_auto_takes_the_first_that_is_there_and_no_emulated_xla(usable, names, emulated, chosen):
    usable(*names, emulated=emulated)
    assert get_backend("auto") == get_backend() == f"the {chosen} backend"


def test_emulated_xla_is_given_to_who_asks_for_it(usable):
    usable("xla", "cpu")
    assert get_backend("xla") == "the xla backend"


def test_what_cannot_be_used_is_an_error_with_the_reason_and_those_that_can(usable):
    usable("xla", "cpu")
    with pytest.raises(BackendError, match=r"^get_backend: 'cuda' cannot be used here: no cuda here\. These can: xla, cpu\.$"):
        get_backend("cuda")


@pytest.mark.parametrize("function", [get_backend, unavailable_reason])
def test_an_unknown_name(function):
    expected = r"^there is no backend 'tpu'\. Known are 'npu', 'cuda', 'xla', 'cpu'; get_backend takes 'auto' too\.$"
    with pytest.raises(BackendError, match=expected):
        function("tpu")


def test_a_backend_is_handed_back():
    backend = get_backend("cpu")
    assert get_backend(backend) is backend


@pytest.mark.parametrize("name", ["cpu", "auto"])
def test_only_the_npu_has_a_dry_run(name):
    with pytest.raises(BackendError, match=f"^get_backend: only 'npu' has a dry run, not '{name}'\\.$"):
        get_backend(name, dry_run=True)


def test_the_cpu_is_always_there():
    assert unavailable_reason("cpu") is None


def test_cuda_says_whether_the_build_or_the_device_is_missing(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert _cuda.unavailable() == f"torch {torch.__version__} is built without CUDA"
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    expected = "torch.cuda.is_available() is False: no NVIDIA GPU, or no driver, is visible to this process"
    assert _cuda.unavailable() == expected
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert _cuda.unavailable() is None


def test_a_missing_torch_xla_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert _xla.unavailable() == "torch_xla is not installed: python -m pip install 'fixshape[xla]'"


def test_a_torch_xla_that_does_not_start_is_quoted(monkeypatch, tmp_path):
    (tmp_path / "torch_xla.py").write_text("def device():\n    raise OSError('no such runtime')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torch_xla", raising=False)
    assert _xla.unavailable() == "torch_xla does not start: OSError: no such runtime"
    monkeypatch.delitem(sys.modules, "torch_xla")
