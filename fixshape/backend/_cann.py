"""The stand-in for CANN: how it is built for the installed torch-npu, and how its counts are read.

``_cann.c`` is compiled once for each torch-npu and kept in the user's cache. torch-npu finds it as it would find CANN: libraries
that are loaded already are found by their names.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fixshape.backend._elf import undefined_symbols
from fixshape.errors import BackendError

_SOURCE = Path(__file__).with_name("_cann.c")
_CORE = "libfixshape_cann.so"
_LIBRARIES = (
    "libascendcl.so",
    "libhccl.so",
    "libacl_op_compiler.so",
    "libge_runner.so",
    "libgraph.so",
    "libacl_tdt_channel.so",
    "libopapi.so",
    "libcust_opapi.so",
)
"""The names under which torch-npu looks for CANN: the first five when it is loaded, the others while it runs."""

_OF_CANN = re.compile(r"(?:acl[a-z]*|Hccl|ge|Prof|Msprof|rt)[A-Z]\w*")
_OPERATOR = re.compile(rb"\0(acl(?:nn)?[A-Z]\w{0,200}?)GetWorkspaceSize(?=\0)")
_DEFINED = re.compile(r"\bZERO\((\w+)\)|\bREFUSE\((\w+)\)|\bDESTROY\((\w+)\)|^API [\w *]+?(\w+)\(", re.MULTILINE)
_ATTRIBUTE = re.compile(r"\bSET(_LIST)?\((\w+),")


@dataclass(frozen=True)
class OpCount:
    """Of one operator type.

    Args:
        launches: how often it was launched.
        compiles: with how many keys that had not been seen before.
    """

    launches: int
    compiles: int


@dataclass(frozen=True)
class Counts:
    """What the stand-in has counted.

    Args:
        launches: of operators.
        compiles: launches with a key that had not been seen before.
        refused: values, or shapes that follow from values, that were asked for and are not there.
        operators: by operator type, as CANN names them (``aclnnAdd``, or ``Add`` where it is compiled online).
        unread: launches whose arguments could not be told apart; their key is the name alone. 0 with a tested torch-npu.
    """

    launches: int
    compiles: int
    refused: int
    operators: dict[str, OpCount]
    unread: int

    def since(self, earlier: Counts) -> Counts:
        """What came after ``earlier``, operators without a launch left out."""
        nothing = OpCount(0, 0)
        operators = {}
        for name, now in self.operators.items():
            before = earlier.operators.get(name, nothing)
            if now.launches > before.launches:
                operators[name] = OpCount(now.launches - before.launches, now.compiles - before.compiles)
        return Counts(
            self.launches - earlier.launches,
            self.compiles - earlier.compiles,
            self.refused - earlier.refused,
            operators,
            self.unread - earlier.unread,
        )


class Totals(NamedTuple):
    """Of all operators: see :class:`Counts`."""

    launches: int
    compiles: int
    refused: int


class StandIn:
    """The loaded stand-in. One process has one, for as long as it lives.

    Args:
        folder: where :func:`build` put it.

    Raises:
        BackendError: the system does not load it.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self._core = ctypes.CDLL(str(folder / _CORE), mode=ctypes.RTLD_GLOBAL)
            self._others = [ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL) for name in _LIBRARIES]
        except OSError as error:
            raise BackendError(f"the CANN stand-in does not load: {error}. Remove {folder}, and it is built again.") from None
        self._core.fixshape_operator.restype = ctypes.c_char_p
        self._core.fixshape_operator.argtypes = [ctypes.c_size_t, ctypes.c_void_p]
        self._core.fixshape_counts.argtypes = [ctypes.c_void_p]

    def totals(self) -> Totals:
        """What changes with a launch."""
        values = (ctypes.c_long * 4)()
        self._core.fixshape_counts(values)
        return Totals(*values[:3])

    @contextmanager
    def reads_allowed(self) -> Iterator[None]:
        """Inside, a copy from the device to the host is made: of what the host has put there itself."""
        self._core.fixshape_allow_reads(1)
        try:
            yield
        finally:
            self._core.fixshape_allow_reads(0)

    def counts(self) -> Counts:
        """All counts so far."""
        of_one, operators, index = (ctypes.c_long * 2)(), {}, 0
        while (name := self._core.fixshape_operator(index, of_one)) is not None:
            operators[name.decode()] = OpCount(of_one[0], of_one[1])
            index += 1
        values = (ctypes.c_long * 4)()
        self._core.fixshape_counts(values)
        launches, compiles, refused, unread = values
        return Counts(launches, compiles, refused, operators, unread)


def build(package: Path, version: str) -> Path:
    """The folder of the stand-in for a torch-npu; compiles it if it is not there yet.

    Several processes may do so at once: each builds in a folder of its own, and the first to end gives it its name.

    Args:
        package: the folder of the installed ``torch_npu``.
        version: its version.

    Returns:
        The folder.

    Raises:
        BackendError: torch-npu wants a function that the stand-in does not know, there is no C compiler, it fails, or the cache
            cannot be written to.
    """
    operators = _operators(package, version)
    source = _SOURCE.read_bytes()
    digest = hashlib.sha256(source + b"\0" + operators).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fixshape"
    folder = cache / f"cann-for-torch-npu-{version}-{digest}"
    if folder.is_dir():
        return folder
    compiler = _compiler()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=cache, prefix=".building."))
    except OSError as error:
        raise BackendError(f"the CANN stand-in cannot be built: {error}. XDG_CACHE_HOME may name another cache folder.") from None
    try:
        (work / "_cann.c").write_bytes(source)
        (work / "operators.h").write_bytes(operators)
        (work / "empty.c").write_bytes(b"")
        _compile(compiler, work, "_cann.c", _CORE, [])
        for name in _LIBRARIES:
            _compile(compiler, work, "empty.c", name, ["-L.", "-Wl,--no-as-needed", f"-l:{_CORE}", "-Wl,-rpath,$ORIGIN"])
        try:
            work.rename(folder)
        except OSError:
            if not folder.is_dir():  # another process was faster
                raise
    except OSError as error:
        raise BackendError(f"the CANN stand-in cannot be built in {cache}: {error}.") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def _operators(package: Path, version: str) -> bytes:
    """The header that names each operator; checks that all else that torch-npu cannot be loaded without is known."""
    libraries = [*sorted(package.glob("_C*.so")), *sorted((package / "lib").glob("*.so"))]
    if not libraries:
        raise BackendError(f"the CANN stand-in: {package} has no libraries. Install torch-npu again.")
    wanted: set[str] = set()
    operators: set[bytes] = set()
    for library in libraries:
        wanted |= {name for name in undefined_symbols(library) if _OF_CANN.fullmatch(name)}
        operators |= set(_OPERATOR.findall(library.read_bytes()))
    missing = sorted(wanted - _known())
    if missing:
        raise BackendError(
            f"the CANN stand-in does not know {', '.join(missing)}, which torch-npu {version} cannot be loaded without."
            " A dry run is tested with torch-npu 2.9.0: python -m pip install torch-npu==2.9.0"
        )
    return b"".join(b"OPERATOR(%s)\n" % name for name in sorted(operators))


def _known() -> set[str]:
    source = _SOURCE.read_text()
    names = {name for found in _DEFINED.findall(source) for name in found if name}
    return names | {f"aclopSetAttr{'List' * bool(is_list)}{kind}" for is_list, kind in _ATTRIBUTE.findall(source)}


def _compiler() -> list[str]:
    chosen = os.environ.get("CC")
    if chosen:
        return shlex.split(chosen)
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            return [name]
    raise BackendError(
        "the CANN stand-in needs a C compiler, and neither cc, gcc nor clang is there: apt-get install gcc"
        " (or dnf install gcc), or name one in CC."
    )


def _compile(compiler: list[str], folder: Path, source: str, library: str, options: list[str]) -> None:
    command = [*compiler, "-std=gnu11", "-O1", "-fPIC", "-shared", "-w", source, "-o", library, f"-Wl,-soname,{library}"]
    command += ["-pthread", *options]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BackendError(f"the CANN stand-in: the C compiler {compiler[0]!r} cannot be run: {error}. CC names it.") from None
    if done.returncode:
        said = " ".join(done.stderr.split())[-400:]
        raise BackendError(f"the CANN stand-in: {shlex.join(command)} failed with {done.returncode}: {said}")
