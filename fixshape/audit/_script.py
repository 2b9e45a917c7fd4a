"""How is a script run as its own ``__main__``, as ``python train.py`` runs it, and what became of it?"""

from __future__ import annotations

import importlib.abc
import importlib.util
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any

from fixshape._check import check_at_least
from fixshape.audit._finding import Status
from fixshape.audit._report import AuditReport
from fixshape.audit._stopping import Boundaries, Stop, Terminated
from fixshape.errors import UsageError

_NEVER = (
    "ended without a step: no DataLoader gave a batch that was worked on, and no optimiser of torch made a step, in the main"
    " thread of this process. Call fixshape.audit.step() at the end of each step; where it trains in processes that it starts"
    " itself, audit what these run."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A script or module that compiles.

    Args:
        name: as it was given: ``"train.py"``, ``"-m package.train"``.
        argv0: what the script finds in ``sys.argv[0]``.
        code: of the module.
        file: absolute path of the source.
        folder: what the script finds in ``sys.path[0]``.
        spec: of the module, ``None`` for a script.
    """

    name: str
    argv0: str
    code: CodeType
    file: str
    folder: str
    spec: ModuleSpec | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """What was recorded of a script, and how it ended.

    Args:
        report: the recording; where the script ended by itself, the step that was open is its last one.
        inputs: shapes that its data loaders gave, as :func:`fixshape.audit.inputs` has them.
        steps: how many steps were whole.
        status: see :class:`fixshape.audit._finding.Audit`.
        exit_code: what ``python train.py`` would have ended with; ``None`` where the script was stopped or is running.
        error: the exception or ``SystemExit`` that left it, with no frame in its traceback but the script's own.
        command: name and arguments, quoted for a shell.
        forked: this process is a child that the script has forked, and has nothing to report.
    """

    report: AuditReport
    inputs: Mapping[str, Mapping[str, int]]
    steps: int
    status: Status
    exit_code: int | None = None
    error: BaseException | None = None
    command: str = ""
    forked: bool = False


def load_script(path: str) -> Program:
    """Reads and compiles a script, and runs nothing of it.

    Raises:
        UsageError: there is no such file, it cannot be read, or it is not Python.
    """
    try:
        with open(path, "rb") as file:
            source = file.read()
    except OSError as error:
        raise UsageError(f"audit: {path}: {error.strerror}. Expected a Python script, or -m and the name of a module.") from None
    absolute = os.path.abspath(path)
    code = _compiled(path, lambda: compile(source, absolute, "exec", dont_inherit=True))
    return Program(name=path, argv0=path, code=code, file=absolute, folder=os.path.dirname(os.path.realpath(path)))


def load_module(name: str) -> Program:
    """Finds and compiles a module, or the ``__main__`` of a package, as ``python -m`` does; its packages are imported.

    Raises:
        UsageError: there is no such module, it is not Python, or importing its package fails.
    """
    folder = os.getcwd()
    with _first_on_path(folder):
        try:
            spec = importlib.util.find_spec(name)
            if spec is not None and spec.submodule_search_locations is not None:
                spec = importlib.util.find_spec(f"{name}.__main__")
        except Exception as error:  # a package may raise anything while it is imported
            raise UsageError(f"audit: -m {name}: it cannot be imported ({type(error).__name__}: {error}).") from None
        loader = spec and spec.loader
        if spec is None or not spec.origin or not isinstance(loader, importlib.abc.InspectLoader):
            raise UsageError(f"audit: -m {name}: there is no such module, or no __main__ in the package. A path needs no -m.")
        code = _compiled(f"-m {name}", lambda: loader.get_code(spec.name))
    return Program(name=f"-m {name}", argv0=spec.origin, code=code, file=spec.origin, folder=folder, spec=spec)


def record_script(
    program: Program,
    arguments: Sequence[str],
    *,
    steps: int,
    on_step: Callable[[Recording], None] = lambda recording: None,
    give_up: Callable[[Recording], None] = lambda recording: None,
) -> Recording:
    """Runs a program as ``__main__`` with arguments of its own, and records its first steps.

    It sees what it would see under ``python train.py``: its own ``sys.argv``, ``sys.path[0]`` and ``__main__``, the working
    folder and the environment as they are. SIGTERM ends it as an exception would. Afterwards all of that is as it was, and its
    data loaders' workers have ended; modules that it imported stay.

    Args:
        program: what to run.
        arguments: for the program.
        steps: how many steps to record, at least 1.
        on_step: called after each step with what was recorded until then, status ``"running"``.
        give_up: called where the program swallows every attempt to stop it; it should end the process.

    Returns:
        The recording. No exception of the program passes through: ``error`` has it. One of ``on_step`` does, and ends the
        program.

    Raises:
        ShapeError: ``steps`` is no whole number of at least 1.
        UsageError: it ended by itself, without an error, and never made a step.
    """
    steps = check_at_least("audit", "steps", steps, 1)
    process = os.getpid()
    command = shlex.join([*program.name.split(" ", 1), *arguments] if program.spec else [program.name, *arguments])

    def so_far(status: Status, exit_code: int | None = None, error: BaseException | None = None) -> Recording:
        return Recording(
            report=boundaries.report(),
            inputs=boundaries.shapes.histograms(),
            steps=boundaries.done,
            status=status,
            exit_code=exit_code,
            error=error,
            command=command,
            forked=os.getpid() != process,
        )

    boundaries = Boundaries(steps, on_step=lambda: on_step(so_far("running")), give_up=lambda: give_up(so_far("stopped")))
    left: BaseException | None = None
    with _as_main(program, arguments) as module:
        try:
            with boundaries:
                exec(program.code, vars(module))
        except BaseException as error:
            left = error.with_traceback(_own_frames(error, program.code))
    if boundaries.defect:
        raise boundaries.defect
    status, exit_code = _ending(left)
    # Of the other ways to end, a traceback would keep the script's variables alive and say nothing.
    recording = so_far(status, exit_code, left if status in ("raised", "exited") else None)
    if recording.status in ("finished", "exited") and not recording.exit_code and not recording.steps and not recording.forked:
        raise UsageError(f"audit: {program.name} {_NEVER}")
    return recording


def _ending(left: BaseException | None) -> tuple[Status, int | None]:
    match left:
        case None:
            return "finished", None
        case Stop():
            return "stopped", None
        case Terminated():
            return "terminated", 128 + signal.SIGTERM
        case KeyboardInterrupt():
            return "interrupted", 128 + signal.SIGINT
        case SystemExit(code=None):
            return "exited", 0
        case SystemExit(code=int(code)):
            return "exited", code
        case SystemExit():
            return "exited", 1
    return "raised", 1


def _compiled(name: str, compiler: Callable[[], Any]) -> CodeType:
    try:
        code = compiler()
    except SyntaxError as error:
        line = f" ({error.text.strip()})" if error.text else ""
        raise UsageError(f"audit: {name}, line {error.lineno}: {error.msg}{line}.") from None
    except ValueError as error:  # a zero byte
        raise UsageError(f"audit: {name} is not Python: {error}.") from None
    if not isinstance(code, CodeType):
        raise UsageError(f"audit: {name} is not Python: it has no code to run.")
    return code


@contextmanager
def _as_main(program: Program, arguments: Sequence[str]) -> Iterator[ModuleType]:
    module = ModuleType("__main__")
    loader = program.spec.loader if program.spec else SourceFileLoader("__main__", program.file)
    # With a spec or a file, multiprocessing's "spawn" finds the script again in its children.
    vars(module).update(
        __builtins__=__builtins__, __file__=program.file, __loader__=loader, __spec__=program.spec, __cached__=None
    )
    module.__package__ = program.spec.parent if program.spec else None
    module.__annotations__ = {}
    main, argv = sys.modules["__main__"], sys.argv
    sys.modules["__main__"] = module
    sys.argv = [program.argv0, *arguments]
    try:
        with _first_on_path(program.folder):
            yield module
    finally:
        sys.modules["__main__"], sys.argv = main, argv


@contextmanager
def _first_on_path(folder: str) -> Iterator[None]:
    path = list(sys.path)
    if not sys.flags.safe_path:
        sys.path[:1] = [folder]
    try:
        yield
    finally:
        sys.path[:] = path


def _own_frames(error: BaseException, code: CodeType) -> Any:
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_frame.f_code is not code:
        traceback = traceback.tb_next
    return traceback or error.__traceback__
