"""The README is run: its Python as it stands, its shell commands against what the command line knows."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fixshape.cli.__main__ import make_parser
from fixshape.cli._audit_arguments import split

README = (Path(__file__).parent.parent / "README.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("code", _blocks("python"))
def test_the_python_runs(code, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    if "weights.pt" in code:
        assert (tmp_path / "weights.pt").stat().st_size > 1_000_000
    promised = re.findall(r"print\(.*\)  # (.*)", code)
    assert done.stdout.splitlines()[: len(promised)] == promised


def test_every_fixshape_command_parses():
    commands = re.findall(r"^fixshape .*$", "\n".join(_blocks("text") + _blocks("sh")), re.MULTILINE)
    assert len(commands) >= 4
    for command in commands:
        own, _ = split(shlex.split(command, comments=True)[1:])  # what comes after -- is the audited script's
        make_parser().parse_args(own)


def test_the_two_promised_lines_are_there():
    assert _blocks("sh") == [
        "python -m pip install -e . && fixshape train\npython -m pip install -e '.[test]' && python -m pytest\n"
    ]


def test_every_file_that_is_named_exists():
    named = set(re.findall(r"`((?:fixshape|tests|tools|examples)/[\w./]+\w)`", README)) | set(
        re.findall(r"python (tools/[\w/]+\.py)", README)
    )
    assert len(named) > 8
    for name in named:
        assert (Path(__file__).parent.parent / name).exists(), name


def test_no_placeholder_is_left():
    assert re.findall(r"\b[A-Z]+_(?:FIGURES|DYNAMIC)\b|^SUMMARY$", README, re.MULTILINE) == []
