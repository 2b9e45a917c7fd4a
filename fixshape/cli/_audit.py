"""``fixshape audit``: a training script as it is, recorded, judged and told."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fixshape import __version__
from fixshape._files import read_limited, write_atomic
from fixshape.cli import _audit_arguments
from fixshape.cli._exit import ExitCode
from fixshape.cli._output import check_output
from fixshape.errors import UsageError

if TYPE_CHECKING:
    from fixshape.audit._finding import Audit, DryRun
    from fixshape.audit._script import Recording

_PACKAGES = ("torch", "torchvision", "torch_xla", "torch_npu")
_ALWAYS_WRITTEN = 10  # steps; after these, writing may take a twentieth of the time


def add_parser(commands: Any) -> None:
    """Adds the subcommand."""
    parser = _audit_arguments.add_parser(commands)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the subcommand."""
    _check(arguments)
    if arguments.compare:
        return _compare(arguments)
    baseline = _load(arguments.baseline) if arguments.baseline else None

    from fixshape.audit._script import load_module, load_script, record_script
    from fixshape.cli._audit_ranks import Ranks

    dry_run = _DryRun() if arguments.dry_run else None
    program = load_module(arguments.module) if arguments.module else load_script(arguments.script)
    ranks = Ranks.of_environment(arguments.output)
    target = ranks.file if ranks.many else arguments.output
    snapshots = _Snapshots(
        lambda recording: _write(target, _rendered(_judged(recording, dry_run), "json" if ranks.many else arguments.format))
    )

    def finish(recording: Recording) -> int:
        if recording.forked:
            return recording.exit_code or ExitCode.CLEAN
        audit = _judged(recording, dry_run)
        if ranks.many and arguments.output:
            _write(ranks.file, _rendered(audit, "json"))
            if ranks.rank == 0:
                audit = ranks.merged(audit)
        if ranks.rank == 0:
            _publish(audit, arguments)
        return recording.exit_code or (_verdict(audit, arguments, baseline) if ranks.rank == 0 else ExitCode.CLEAN)

    with _stdout_for_the_report(kept=not arguments.output) as give_back:

        def give_up(recording: Recording) -> None:
            give_back()
            code = finish(recording)
            sys.stdout.flush()
            os._exit(code)

        def after_step(recording: Recording) -> None:
            if dry_run is not None:
                dry_run.end_step()
            if arguments.output:
                snapshots.take(recording)

        recording = record_script(
            program,
            arguments.script_arguments,
            steps=arguments.steps,
            on_step=after_step,
            give_up=give_up,
        )
        _tell(recording)
    return finish(recording)


def _check(arguments: argparse.Namespace) -> None:
    """What argparse cannot: options that need one another, and a place to write to, before anything is run."""
    given = [name for name in (arguments.script, arguments.module) if name is not None]
    if arguments.compare:
        if given or arguments.script_arguments or arguments.baseline:
            raise UsageError("audit: --compare runs nothing: it takes no script, module, arguments or --baseline.")
        if arguments.format not in ("text", "html"):
            raise UsageError(f"audit: --compare is told as text or html, not as {arguments.format}.")
    elif len(given) != 1:
        got = "neither" if not given else f"both {arguments.script} and -m {arguments.module}"
        raise UsageError(f"audit: expected a script or -m and a module, got {got}. A script's own arguments come after --.")
    if arguments.dry_run != (arguments.backend is not None):
        raise UsageError("audit: --backend npu and --dry-run go together. On a real device the script is audited as it is.")
    if arguments.max_compiles is not None and arguments.steps < 3 and not arguments.compare:
        raise UsageError(f"audit: --max-compiles speaks of steps after the warm-up of 2, but --steps is {arguments.steps}.")
    if arguments.output:
        check_output("audit: --output", arguments.output)


class _DryRun:
    """A dry run on the NPU, begun before the script runs: how far it has come."""

    def __init__(self) -> None:
        from fixshape.backend import get_backend

        self._backend: Any = get_backend("npu", dry_run=True)
        self._steps = 0

    def end_step(self) -> None:
        self._backend.step()
        self._steps += 1

    def counts(self) -> DryRun:
        from fixshape.audit._finding import DryRun

        backend, steps = self._backend, self._backend.steps[: self._steps]
        if self._steps and not steps:
            print("fixshape: audit: nothing ran on the npu: the script has to choose that device itself", file=sys.stderr)
        return DryRun(
            backend=backend.name,
            launches=tuple(step.launches for step in steps),
            compiles=tuple(step.compiles for step in steps),
            fallbacks=backend.fallbacks(),
            waits=backend.waits(),
            slow_forms=backend.slow_forms(),
        )


def _judged(recording: Recording, dry_run: _DryRun | None) -> Audit:
    from fixshape.audit._finding import Audit
    from fixshape.audit._judge import judge
    from fixshape.audit._predict import predict

    findings, unknown = judge(recording.report)
    predicted = predict(recording.report)
    if dry_run is not None:  # what ran is another device's form of the step
        predicted = {"npu": predicted["npu"]}
    return Audit(
        report=recording.report,
        findings=tuple(findings),
        unknown=unknown,
        predicted=predicted,
        inputs=recording.inputs,
        status=recording.status,
        exit_code=recording.exit_code,
        command=recording.command,
        versions=_versions(),
        dry_run=None if dry_run is None else dry_run.counts(),
    )


def _rendered(audit: Audit, form: str, *, colour: bool = False, width: int = 100) -> str:
    if form == "json":
        from fixshape.audit._json import as_json

        return json.dumps(as_json(audit)) + "\n"
    if form == "sarif":
        from fixshape.audit._sarif import as_sarif

        return json.dumps(as_sarif(audit)) + "\n"
    if form == "html":
        from fixshape.audit._html import as_html

        return as_html(audit)
    from fixshape.audit._text import as_text

    return as_text(audit, colour=colour, width=width)


def _publish(audit: Audit, arguments: argparse.Namespace) -> None:
    if arguments.output:
        _write(arguments.output, _rendered(audit, arguments.format))
        print(f"fixshape: written to {arguments.output}", file=sys.stderr)
    else:
        sys.stdout.write(_rendered(audit, arguments.format, colour=_colour(), width=_width()))


def _verdict(audit: Audit, arguments: argparse.Namespace, baseline: Audit | None) -> ExitCode:
    from fixshape.cli._audit_verdict import failures

    reasons = failures(audit, fail_on=arguments.fail_on, max_compiles=arguments.max_compiles, baseline=baseline)
    for reason in reasons:
        print(f"fixshape: audit: {reason}", file=sys.stderr)
    return ExitCode.FINDINGS if reasons else ExitCode.CLEAN


def _compare(arguments: argparse.Namespace) -> int:
    from fixshape.audit._compare import compare, comparison_html, comparison_text

    comparison = compare(*(_load(name) for name in arguments.compare))
    if arguments.format == "html":
        text = comparison_html(comparison)
    elif arguments.output:
        text = comparison_text(comparison)
    else:
        text = comparison_text(comparison, colour=_colour(), width=_width())
    if arguments.output:
        _write(arguments.output, text)
    else:
        sys.stdout.write(text)
    return ExitCode.CLEAN


def _load(name: str) -> Audit:
    from fixshape.audit._json import MOST_BYTES, from_json

    try:
        return from_json(read_limited(name, MOST_BYTES))
    except OSError as error:
        raise UsageError(
            f"audit: {name}: {error.strerror}. Expected a report that --format json --output FILE has written."
        ) from None
    except ValueError as error:
        raise UsageError(f"audit: {name}: {error}") from None


class _Snapshots:
    """Writes what was recorded until now, after each of the first steps and then as seldom as it has to be."""

    def __init__(self, write: Callable[[Recording], None]) -> None:
        self._write = write
        self._not_before = 0.0

    def take(self, recording: Recording) -> None:
        begun = time.monotonic()
        if recording.steps <= _ALWAYS_WRITTEN or begun >= self._not_before:
            self._write(recording)
            now = time.monotonic()
            self._not_before = now + 20 * (now - begun)


def _tell(recording: Recording) -> None:
    """The script's last words, as Python itself would say them."""
    error = recording.error
    if recording.status == "raised" and error is not None:
        sys.excepthook(type(error), error, error.__traceback__)
    elif isinstance(error, SystemExit) and not isinstance(error.code, (int, type(None))):
        print(error.code, file=sys.stderr)


@contextmanager
def _stdout_for_the_report(*, kept: bool) -> Iterator[Callable[[], None]]:
    """Sends to stderr what the script, its workers and its libraries print, so that the report can be piped.

    Yields:
        A function that ends it early.
    """
    if not kept:
        yield lambda: None
        return
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)

    def give_back() -> None:
        sys.stdout.flush()
        os.dup2(saved, 1)

    try:
        yield give_back
    finally:
        give_back()
        os.close(saved)


def _write(name: str | os.PathLike[str], text: str) -> None:
    write_atomic(Path(name), text.encode("utf-8", "backslashreplace"))


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "fixshape": __version__}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _colour() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def _width() -> int:
    # Of a terminal alone: what goes into a pipe or a file is the same wherever it is made.
    return max(shutil.get_terminal_size((100, 24)).columns, 40) if sys.stdout.isatty() else 100
