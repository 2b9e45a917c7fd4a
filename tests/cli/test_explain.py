"""``fixshape explain``: one code of the audit or of atc, all of them, and one that is not there."""

import json

from fixshape.audit._catalogue import CATALOGUE, explain
from fixshape.cli.__main__ import main
from fixshape.export._atc_codes import ATC_CODES, explain_atc_code


def test_one_code(capsys):
    assert main(["explain", "fs101"]) == 0
    assert capsys.readouterr().out == explain("FS101") + "\n"


def test_without_a_code_all_of_them(capsys):
    assert main(["explain"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [*CATALOGUE, *ATC_CODES]
    assert lines[0] == "FS101  nonzero, argwhere, or where with one argument"


def test_json(capsys):
    assert main(["explain", "FS102", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["schema_version"], [entry["code"] for entry in told["codes"]]) == (1, ["FS102"])
    assert told["codes"][0]["after"] == CATALOGUE["FS102"].after
    assert main(["explain", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["codes"]) == len(CATALOGUE) + len(ATC_CODES)


def test_a_code_of_atc(capsys):
    assert main(["explain", "e10018"]) == 0
    assert capsys.readouterr().out == explain_atc_code("E10018") + "\n"
    assert main(["explain", "E10018", "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["codes"]
    assert (told["code"], told["rewrite"], told["before"]) == ("E10018", ATC_CODES["E10018"].do, None)


def test_an_unknown_code_is_a_usage_error(capsys):
    for json_too in ([], ["--json"]):
        assert main(["explain", "FS999", *json_too]) == 2
        told = capsys.readouterr()
        assert told.out == ""
        assert "there is no code 'FS999'. Near it: FS" in told.err
    assert main(["explain", "E10099"]) == 2
    assert "there is no code 'E10099'. Near it: E1" in capsys.readouterr().err
