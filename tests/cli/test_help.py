"""The command line's surface, pinned: every ``--help`` is a golden file. ``tools/regen_golden`` writes them anew."""

import re
from pathlib import Path

import pytest

from fixshape.cli.__main__ import main, make_parser

GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.mark.parametrize("name", ["", "train", "plan", "audit", "export", "onnx", "atc", "trt", "torchair", "explain", "env"])
def test_help_is_as_golden(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("NO_COLOR", "1")
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"] if name else ["--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == (GOLDEN / f"help{'_' + name if name else ''}.txt").read_text()


def test_every_subcommand_has_a_golden_help_with_an_example():
    (commands,) = (action for action in make_parser()._actions if hasattr(action, "choices") and action.choices)
    for name in commands.choices:
        text = (GOLDEN / f"help_{name}.txt").read_text()
        assert re.search(r"^examples?:$", text, re.MULTILINE)
        assert f"$ fixshape {name}" in text


def test_no_command_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    assert "the following arguments are required: command" in capsys.readouterr().err


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert re.fullmatch(r"fixshape \d+\.\d+\.\d+\n", capsys.readouterr().out)
