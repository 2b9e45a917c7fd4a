"""When an NPU cannot be used, and why; without torch-npu."""

import ctypes
import importlib.machinery
import importlib.util
import sys
import types

import pytest
import torch

from fixshape.backend import _npu, _npu_dry_run, get_backend, unavailable_reason
from fixshape.errors import BackendError


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Says which torch_npu there is; CANN is not, unless told otherwise."""
    monkeypatch.setattr(torch, "__version__", "2.9.0+cpu")
    monkeypatch.delitem(sys.modules, "torch_npu", raising=False)

    def install(version, *, cann=False):
        spec = importlib.machinery.ModuleSpec("torch_npu", None, origin=str(tmp_path / "torch_npu" / "__init__.py"))
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec if version else None)
        monkeypatch.setattr(_npu.metadata, "version", lambda name: version)

        def load(name):
            if not cann:
                raise OSError(f"{name}: cannot open shared object file")

        monkeypatch.setattr(ctypes, "CDLL", load)

    return install


@pytest.fixture
def starts(monkeypatch):
    """Says what importing torch_npu gives: a number of devices, or an error."""

    def start(result):
        def begin(**options):
            if isinstance(result, Exception):
                raise result
            return types.SimpleNamespace(npu=types.SimpleNamespace(device_count=lambda: result))

        monkeypatch.setattr(_npu, "start", begin)

    return start


def test_a_missing_torch_npu_is_named_with_the_command_for_this_torch(installed):
    installed(None)
    expected = "torch_npu is not installed: python -m pip install --no-deps 'torch-npu==2.9.*'"
    assert unavailable_reason("npu") == expected
    with pytest.raises(BackendError, match=r"^get_backend: a dry run of 'npu' cannot be made here: torch_npu is not installed: "):
        get_backend("npu", dry_run=True)


def test_a_torch_npu_for_another_torch(installed):
    installed("2.13.0")
    expected = "torch_npu 2.13.0 is not made for torch 2.9.0+cpu: python -m pip install --no-deps 'torch-npu==2.9.*'"
    assert unavailable_reason("npu") == expected
    with pytest.raises(
        BackendError, match="a dry run of 'npu' cannot be made here: torch_npu 2.13.0 is not made for torch 2.9.0"
    ):
        get_backend("npu", dry_run=True)


def test_without_cann_nothing_is_imported(installed):
    installed("2.9.0")
    expected = "CANN is not there (libascendcl.so: cannot open shared object file): run 'source set_env.sh' in its folder."
    assert unavailable_reason("npu") == f"{expected} A dry run needs none"
    assert "torch_npu" not in sys.modules


def test_with_cann_it_is_started(installed, starts):
    installed("2.9.0", cann=True)
    starts(8)
    assert unavailable_reason("npu") is None
    starts(0)
    assert unavailable_reason("npu") == "torch.npu.device_count() is 0: no NPU, or no driver, is visible to this process"
    starts(ImportError("libhccl.so:\n  no such file"))
    assert unavailable_reason("npu") == "torch_npu does not start: ImportError: libhccl.so: no such file"


def test_a_process_in_a_dry_run_has_no_real_one(installed, monkeypatch):
    installed("2.9.0", cann=True)
    monkeypatch.setattr(_npu, "_dry", True)
    assert unavailable_reason("npu") == "this process is in a dry run, and has no other NPU"


def test_a_torch_npu_that_has_been_imported_cannot_go_over_to_a_dry_run(installed, monkeypatch):
    installed("2.9.0")
    monkeypatch.setitem(sys.modules, "torch_npu", types.ModuleType("torch_npu"))
    with pytest.raises(
        BackendError, match=r"^get_backend: torch_npu has been imported in this process.*AUTOLOAD=0 keeps torch from"
    ):
        get_backend("npu", dry_run=True)


def test_gpus_have_to_be_hidden_from_a_dry_run(installed, monkeypatch):
    installed("2.9.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(
        BackendError, match=r"^get_backend: torch-npu does not share a process with CUDA\. .* CUDA_VISIBLE_DEVICES=''"
    ):
        get_backend("npu", dry_run=True)


def test_a_torch_npu_that_does_not_start_on_the_stand_in_is_quoted(installed, starts, monkeypatch):
    installed("2.9.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("TASK_QUEUE_ENABLE", "2")
    monkeypatch.setattr(_npu_dry_run, "build", lambda folder, version: folder)
    monkeypatch.setattr(_npu_dry_run, "StandIn", lambda folder: None)
    starts(OSError("undefined symbol: aclFoo"))
    expected = r"torch-npu 2\.9\.0 does not start on the CANN stand-in: OSError: undefined symbol: aclFoo\. It is tested with"
    with pytest.raises(BackendError, match=expected):
        get_backend("npu", dry_run=True)
