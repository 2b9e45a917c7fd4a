"""``fixshape torchair``: the program for a plan, or the limit that it breaks."""

import json

import pytest

from fixshape.cli.__main__ import main
from fixshape.plan import Bucket, ShapePlan


@pytest.fixture
def plan(tmp_path):
    ShapePlan([Bucket(320, 320, 8), Bucket(320, 480, 8)]).save(tmp_path / "plan.json")
    return str(tmp_path / "plan.json")


def run(capsys, *arguments, code=0):
    assert main(["torchair", *arguments]) == code
    return capsys.readouterr()


def test_the_program(plan, capsys):
    said = run(capsys, "--plan", plan, "--batch-sizes", "2,4", "--inputs", "images:N,3,H,W;image_sizes:N,2")
    compile(said.out, "gears.py", "exec")
    assert "torchair.inference.set_dim_gears(images, {0: [2, 4, 2, 4], 3: [320, 320, 480, 480]})" in said.out
    assert "torchair.inference.set_dim_gears(image_sizes, {0: [2, 4, 2, 4]})" in said.out
    assert said.err == ""


def test_a_limit_is_a_finding(plan, capsys):
    said = run(capsys, "--plan", plan, "--batch-sizes", "1,4", code=1)
    assert said.out.startswith("error (A2): N has a gear of 1, expected 2 or more\n")
    assert "instead: N 4 as gears" in said.out


def test_json(plan, capsys):
    told = json.loads(run(capsys, "--plan", plan, "--json").out)
    assert list(told) == ["schema_version", "code", "policy", "settings", "violations"]
    assert (told["schema_version"], told["policy"], told["violations"]) == (1, "zip", [])
    assert told["settings"] == [{"input": "images", "axes": {"3": [320, 480]}}]
    assert "compile_with_gears" in told["code"]
    told = json.loads(run(capsys, "--plan", plan, "--batch-sizes", "1,4", "--json", code=1).out)
    assert told["code"] is None and told["violations"][0]["rule"] == "A2"


def test_wrong_arguments(plan, capsys):
    assert "torchair: --plan is needed" in run(capsys, code=2).err
    assert "a plan has no sizes for L" in run(capsys, "--plan", plan, "--inputs", "tokens:N,L", code=2).err
