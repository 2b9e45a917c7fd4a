"""``fixshape env``: the block for a bug report, and the same as JSON."""

import json

import torch

from fixshape.cli.__main__ import main


def test_text_names_every_backend_with_its_reason(capsys):
    assert main(["env"]) == 0
    said = capsys.readouterr().out
    assert f"torch        {torch.__version__}" in said
    for line in ("packages", "backends", "  cpu   yes: cpu:0", "extras"):
        assert line in said
    assert all("no: " in line or "yes" in line for line in said.split("backends\n")[1].splitlines() if line.startswith("  "))


def test_json_has_a_schema_version_and_a_reason_for_each_backend_that_is_not_there(capsys):
    assert main(["env", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema_version"] == 1
    assert list(found["backends"]) == ["npu", "cuda", "xla", "cpu"]
    for backend in found["backends"].values():
        assert backend["usable"] == (backend["why_not"] is None) == (backend["device"] is not None)
    assert sum(backend["default"] for backend in found["backends"].values()) == 1
    for extra, state in found["extras"].items():
        assert state["usable"] or f"python -m pip install 'fixshape[{extra}]'" in state["why_not"]
