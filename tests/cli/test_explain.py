"""``fixshape explain``: one code, all of them, and one that is not there."""

import json

from fixshape.audit._catalogue import CATALOGUE, explain
from fixshape.cli.__main__ import main


def test_one_code(capsys):
    assert main(["explain", "fs101"]) == 0
    assert capsys.readouterr().out == explain("FS101") + "\n"


def test_without_a_code_all_of_them(capsys):
    assert main(["explain"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:5] for line in lines] == list(CATALOGUE)
    assert lines[0] == "FS101  nonzero, argwhere, or where with one argument"


def test_json(capsys):
    assert main(["explain", "FS102", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["schema_version"], [entry["code"] for entry in told["codes"]]) == (1, ["FS102"])
    assert told["codes"][0]["after"] == CATALOGUE["FS102"].after
    assert main(["explain", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["codes"]) == len(CATALOGUE)


def test_an_unknown_code_is_a_usage_error(capsys):
    for json_too in ([], ["--json"]):
        assert main(["explain", "FS999", *json_too]) == 2
        told = capsys.readouterr()
        assert told.out == ""
        assert "there is no code 'FS999'. Near it: FS" in told.err
