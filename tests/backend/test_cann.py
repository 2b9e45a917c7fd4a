"""The stand-in for CANN: built once, for what torch-npu wants and nothing less, and its keys. A C compiler is there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fixshape.backend import _cann
from fixshape.backend._cann import Counts, OpCount
from fixshape.errors import BackendError
from tests.backend.elf import package

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fixshape"


@pytest.fixture
def small(tmp_path):
    return package(tmp_path / "torch_npu", ["aclInit", "aclrtMalloc", "aclopSetAttrListInt", "memcpy"], ["aclnnAdd", "aclnnMul"])


def test_it_is_built_once_for_a_version_and_its_operators(cache, small, tmp_path, monkeypatch):
    folder = _cann.build(small, "2.9.0")
    assert folder.parent == cache
    assert folder.name.startswith("cann-for-torch-npu-2.9.0-")
    assert (folder / "operators.h").read_text() == "OPERATOR(aclnnAdd)\nOPERATOR(aclnnMul)\n"
    assert [path.name for path in cache.iterdir()] == [folder.name]
    monkeypatch.setenv("CC", "no-such-compiler")  # it is not asked again
    assert _cann.build(small, "2.9.0") == folder
    monkeypatch.delenv("CC")
    more = package(tmp_path / "other", ["aclInit"], ["aclnnAdd", "aclnnSub"])
    assert len({folder, _cann.build(more, "2.9.0"), _cann.build(small, "2.9.1")}) == 3


def test_processes_that_build_at_once_get_one_folder(cache, small):
    code = f"from pathlib import Path; from fixshape.backend._cann import build; print(build(Path({str(small)!r}), '2.9.0'))"
    running = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = {process.communicate()[0] for process in running}
    assert all(process.returncode == 0 for process in running)
    assert [f"{path}\n" for path in cache.iterdir()] == list(said)


def test_a_function_that_the_stand_in_does_not_know_is_named(cache, tmp_path):
    newer = package(tmp_path / "torch_npu", ["aclInit", "aclrtFoldSpace", "HcclTeleport", "memcpy"], [])
    expected = (
        "^the CANN stand-in does not know HcclTeleport, aclrtFoldSpace, which torch-npu 9.9.0 cannot be loaded without. A dry run"
        r" is tested with torch-npu 2.9.0: python -m pip install torch-npu==2.9.0$"
    )
    with pytest.raises(BackendError, match=expected):
        _cann.build(newer, "9.9.0")
    assert not cache.exists()


def test_a_package_without_libraries(cache, tmp_path):
    with pytest.raises(BackendError, match="torch_npu has no libraries. Install torch-npu again.$"):
        _cann.build(tmp_path / "torch_npu", "2.9.0")


def test_no_compiler_says_how_to_install_one(cache, small, monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BackendError, match=r"neither cc, gcc nor clang is there: apt-get install gcc \(or dnf install gcc\)"):
        _cann.build(small, "2.9.0")


def test_a_compiler_that_is_not_there_or_fails(cache, small, tmp_path, monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler -m64")
    with pytest.raises(BackendError, match=r"the C compiler 'no-such-compiler' cannot be run: .*No such file.*CC names it\.$"):
        _cann.build(small, "2.9.0")
    broken = tmp_path / "broken-cc"
    broken.write_text("#!/bin/sh\necho it is too late >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    with pytest.raises(BackendError, match=r"broken-cc -std=gnu11 .* failed with 3: it is too late$"):
        _cann.build(small, "2.9.0")
    assert list(cache.iterdir()) == []  # nothing half-built stays


def test_a_cache_that_cannot_be_written_to(small, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(BackendError, match=r"cannot be built: .*XDG_CACHE_HOME may name another cache folder\.$"):
        _cann.build(small, "2.9.0")


def test_a_folder_that_does_not_load(tmp_path):
    with pytest.raises(BackendError, match=r"does not load: .*Remove .*, and it is built again\.$"):
        _cann.StandIn(tmp_path)


def test_counts_since():
    before = Counts(5, 2, 1, {"Add": OpCount(3, 1), "Mul": OpCount(2, 1)}, 0)
    after = Counts(9, 3, 1, {"Add": OpCount(6, 1), "Mul": OpCount(2, 1), "Sub": OpCount(1, 1)}, 0)
    assert after.since(before) == Counts(4, 1, 0, {"Add": OpCount(3, 0), "Sub": OpCount(1, 1)}, 0)


# Operators that are compiled online, called as torch-npu calls them: key by key, whether it is new.
_CALLS = """
import ctypes, json, sys
from pathlib import Path
from fixshape.backend._cann import StandIn
folder = Path(sys.argv[1])
standin = StandIn(folder)
c = ctypes.CDLL(str(folder / "libascendcl.so"))
for name in ("aclCreateTensorDesc", "aclopCreateAttr", "aclCreateDataBuffer"):
    getattr(c, name).restype = ctypes.c_void_p
I, P = ctypes.c_int64, ctypes.c_void_p

def tensor(dtype, *dims):
    return P(c.aclCreateTensorDesc(dtype, len(dims), (I * len(dims))(*dims), 2))

def launch(name, tensors, attributes=None, buffers=None):
    before = standin.totals().compiles
    inputs = (P * len(tensors))(*tensors)
    out = (P * 1)(tensor(0, 4))
    code = c.aclopCompileAndExecuteV2(name.encode(), len(tensors), inputs, buffers, 1, out, None, attributes, 0, 0, None, None)
    assert code == 0
    return standin.totals().compiles - before

def attribute(kind, *value):
    made = P(c.aclopCreateAttr())
    getattr(c, "aclopSetAttr" + kind)(made, b"axis", *value)
    return made

def host(dtype, kind, *values, place=1):
    described = tensor(dtype, len(values))
    c.aclSetTensorPlaceMent(described, place)
    data = (kind * len(values))(*values)
    kept.append(data)
    return [described], (P * 1)(P(c.aclCreateDataBuffer(data, ctypes.c_size_t(ctypes.sizeof(data)))))

kept = []
found = {
    "first": launch("Add", [tensor(0, 2, 3)]), "same": launch("Add", [tensor(0, 2, 3)]),
    "name": launch("Sub", [tensor(0, 2, 3)]), "dtype": launch("Add", [tensor(1, 2, 3)]),
    "shape": launch("Add", [tensor(0, 3, 2)]), "one more": launch("Add", [tensor(0, 2, 3)] * 2),
    "int": [launch("X", [], attribute("Int", I(value))) for value in (1, 1, 2)],
    "bool": [launch("B", [], attribute("Bool", value)) for value in (0, 1, 1)],
    "text": [launch("X", [], attribute("String", value)) for value in (b"a", b"b", b"a")],
    "float": [launch("X", [], attribute("Float", ctypes.c_float(value))) for value in (1.0, 2.0)],
    "ints": [launch("X", [], attribute("ListInt", len(v), (I * len(v))(*v))) for v in ((1, 2), (1, 2), (2, 1), (1,))],
    "on the host": [launch("Y", *swap) for swap in
        ((lambda t, b: (t, None, b))(*host(9, I, *v)) for v in ((4, 5), (4, 5), (5, 4)))],
    "floats on the host": [launch("Z", *swap) for swap in
        ((lambda t, b: (t, None, b))(*host(0, ctypes.c_float, v)) for v in (1.0, 2.0))],
    "not compiled in": [launch("W", *swap) for swap in
        ((lambda t, b: (t, None, b))(*host(9, I, v, place=2)) for v in (1, 2))],
    "a seed": [launch("StatelessRandomUniformV2", [], attribute("Int", I(value))) for value in (1, 2)],
}
read = ctypes.create_string_buffer(4)
four = ctypes.c_size_t(4)
found["a read"] = c.aclrtMemcpyAsync(read, four, b"abc", four, 2, None) != 0, read.value.decode()
with standin.reads_allowed():
    found["a read that is allowed"] = c.aclrtMemcpy(read, four, b"abc", four, 2) == 0, read.value.decode()
counts = standin.counts()
found["counts"] = [counts.launches, counts.refused, counts.operators["Add"].launches, counts.operators["Add"].compiles]
json.dump(found, sys.stdout)
"""


def test_what_belongs_to_a_key_and_what_does_not(cache, small):
    folder = _cann.build(small, "2.9.0")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", _CALLS, str(folder)], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "first": 1, "same": 0, "name": 1, "dtype": 1, "shape": 1, "one more": 1,
        "int": [1, 0, 1], "bool": [1, 1, 0], "text": [1, 1, 0], "float": [1, 0], "ints": [1, 0, 1, 1],
        "on the host": [1, 0, 1], "floats on the host": [1, 0], "not compiled in": [1, 0], "a seed": [1, 0],
        "a read": [True, ""], "a read that is allowed": [True, "abc"],
        "counts": [30, 1, 5, 4],
    }  # fmt: skip
