"""Commands of atc, read as a shell and atc read them, and written so that a shell keeps them."""

import shlex
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixshape.errors import UsageError
from fixshape.export import AtcCommand, parse_atc

WORDS = st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" "), max_size=20)


@pytest.mark.parametrize(
    "line",
    [
        "atc --model=m.onnx --framework=5",
        "atc --model m.onnx --framework 5",
        "atc -model=m.onnx -framework 5",
        "/usr/local/Ascend/bin/atc --model=m.onnx --frame=5",
        "ASCEND_LEVEL=1 atc --model='m.onnx' --framework=\"5\"",
        "--model=m.onnx --framework=5",
        "atc --model=m.onnx \\\n    --framework=5",
        "atc --model=m.onnx \\\r\n--framework=5\n",
        "atc --model=old.onnx --model=m.onnx --framework=5",
    ],
)
def test_the_same_command_in_many_forms(line):
    command = parse_atc(line)
    assert dict(command.options) == {"model": "m.onnx", "framework": "5"}
    assert (command.cut, command.strays, command.unfinished) == ("", (), ())


def test_dashes_within_a_name_and_beginnings_of_one():
    assert parse_atc("atc --soc-version=A --dynamic_b=1").options == (("soc_version", "A"), ("dynamic_batch_size", "1"))
    assert parse_atc("atc --dynamic=1").options == (("dynamic", "1"),), "three options begin so"


def test_what_does_not_fit_is_kept():
    command = parse_atc("atc --input_shape x:1, 3 --log")
    assert (command.strays, command.unfinished) == (("3",), ("log",))
    assert command.meant.get("input_shape") == "x:1,3"


@pytest.mark.parametrize(
    ("line", "cut"),
    [
        ("atc --input_shape=a:1;b:2 --model=m", "b:2 --model=m"),
        ("atc --dynamic_dims=1,2;3,4", "3,4"),
        ("atc --dynamic_dims=1,2;3,4;5,6 --model=m", "3,4;5,6 --model=m"),
        ("atc --dynamic_dims=1,2\n--model=m", "--model=m"),
    ],
)
def test_an_unquoted_semicolon_cuts_the_command(line, cut):
    command = parse_atc(line)
    assert command.cut == cut
    assert command.meant is not None
    assert command.meant == parse_atc(str(command.meant)), "quoted, it is whole"
    assert shlex.split(str(command.meant))[1:] == line.replace("\n", " ").split()[1:]


@pytest.mark.parametrize(
    "line", ["atc --model=m; echo done", "atc --model=m && ls -l", "atc --model=m | tee a;b", "atc --model=m\nls"]
)
def test_another_command_after_it_is_none_of_ours(line):
    assert parse_atc(line) == AtcCommand((("model", "m"),))


def test_bad_input():
    with pytest.raises(UsageError, match=r"the quotation mark of '\"m' is not closed. Close it."):
        parse_atc('atc --model="m')
    for line in ("trtexec --onnx=m", "", "python atc.py"):
        with pytest.raises(UsageError, match="is not a command of atc. Give one such as 'atc --model=m.onnx"):
            parse_atc(line)
    with pytest.raises(UsageError, match=r"has 2,000,004 characters, expected one of at most 1,048,576"):
        parse_atc("atc " + "x" * 2_000_000)


def test_other_values():
    command = parse_atc("atc --model=m --framework=5")
    assert str(command.with_options(framework=None, log="info", model="n")) == "atc --model=n --log=info"
    assert (command.get("model"), command.get("om")) == ("m", "")


@given(st.dictionaries(st.sampled_from(["model", "output", "input_shape", "log", "om"]), WORDS, min_size=1))
def test_what_is_written_is_read_back_by_a_shell_and_by_us(values):
    command = AtcCommand(tuple(values.items()))
    assert shlex.split(str(command))[1:] == [f"--{name}={value}" for name, value in values.items()]
    assert replace(parse_atc(str(command)), meant=None) == command


def test_a_variable_stays_one():
    assert str(parse_atc("atc --soc_version=Ascend${chip}")) == 'atc --soc_version="Ascend${chip}"'
