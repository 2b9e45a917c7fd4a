"""Commands as people post them: what a shell hands to the program, what it cuts off, and what bash itself makes of ours."""

import os
import shlex
import subprocess
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixshape.errors import UsageError
from fixshape.export import Gears, Input, check_atc, parse_atc, plan_profiles, trtexec_command, write_atc
from fixshape.export._command_line import read_call
from fixshape.export._trtexec import parse_trtexec

OPTIONS = ("--model=m.onnx", "--output=m", "--log=info")
LINE = " ".join(OPTIONS)


def read(text, program="atc"):
    return read_call(text, program, example=f"{program} ...")


@pytest.mark.parametrize(
    "text",
    [
        f"atc {LINE}",
        f"$ atc {LINE}",
        f"# atc {LINE}",
        f"root@host:~/models# atc {LINE}",
        f"(cann) user@host:/data$ atc {LINE}",
        f"[user@host models]$ atc {LINE}",
        f"sudo -E /usr/local/Ascend/ascend-toolkit/latest/bin/atc {LINE}",
        f"time nohup ./atc.bin {LINE}",
        f"docker run --rm -v $PWD:/w -e A=1 ascend/cann:8.0 atc {LINE}",
        f"docker exec -it c bash -c 'source set_env.sh && atc {LINE}'",
        f"source set_env.sh; export A=1 && atc {LINE} && ls",
        f"#!/bin/bash\nset -e\n# convert\nbs=4  # images\n\natc {LINE}\nif [ $? != 0 ]; then\n  exit 1\nfi\n",
        f"for bs in 1 4; do\n  atc {LINE}\ndone",
        f"which atc\ncd atc\natc {LINE}",
        f'cmd="atc {LINE}"\n$cmd || exit 1',
        "atc \\\n\t" + " \\\n\t".join(OPTIONS),
        "atc \\\r\n" + " \\\r\n".join(OPTIONS) + "\r\n",
        f"atc {LINE}  # with a comment; and more",
        f"atc {LINE} > log.txt 2>&1 &",
        f"atc {LINE} \\\n",
        f"atc {LINE} 2>&1 | tee -a log.txt",
        f"atc --model=m.onnx > log {' '.join(OPTIONS[1:])}",
        "M=m.onnx\nOUT='m'\natc --model=$M --output=\"${OUT}\" --log=info",
    ],
)
def test_what_stands_around_a_call_is_none_of_its_words(text):
    call = read(text)
    assert (call.words, call.cut, call.meant) == (OPTIONS, "", OPTIONS)


@pytest.mark.parametrize(
    ("text", "words", "cut"),
    [
        ("atc --a=1\n--b=2\n--c=3\nls", ("--a=1",), "--b=2\n--c=3"),
        ("atc --a=1 \\ \n--b=2 --c=3", ("--a=1",), "--b=2 --c=3"),
        ("atc --a=1 \\ # a comment\n--b=2 --c=3", ("--a=1",), "--b=2 --c=3"),
        ("atc --a=1; --b=2 --c=3; ls", ("--a=1",), "--b=2 --c=3"),
        ("atc --a=1& --b=2 --c=3 &", ("--a=1",), "--b=2 --c=3"),
    ],
)
def test_what_the_shell_cuts_off_is_kept(text, words, cut):
    call = read(text)
    assert (call.words, call.cut, call.meant) == (words, cut, ("--a=1", "--b=2", "--c=3"))


def test_a_value_that_an_unquoted_semicolon_took_apart_is_whole_again():
    assert read("atc --s=a:1,2;b:-1;c:3 --x=1").meant == ("--s=a:1,2;b:-1;c:3", "--x=1")
    assert read("atc --d=1,2; 3,4 --x=1").meant == ("--d=1,2;3,4", "--x=1")


def test_variables_are_put_in_where_a_shell_would():
    call = read("bs=4 n='x'\natc --a=${bs},3 --b='$bs' --c=\"$n:$bs\" --d=$other --e=\\$bs")
    assert call.words == ("--a=4,3", "--b=$bs", "--c=x:4", "--d=$other", "--e=$bs")
    assert read("bs=`nproc`\natc --a=$bs").words == ("--a=$bs",), "what only the shell knows stays"


def test_the_shell_of_windows():
    call = read('D:\\onnx>"D:\\TRT 8\\trtexec.exe" --onnx=D:\\m.onnx ^\r\n  --saveEngine="D:\\a b.plan"', "trtexec")
    assert call.words == ("--onnx=D:\\m.onnx", "--saveEngine=D:\\a b.plan")
    assert str(parse_trtexec("D:\\trtexec.exe --onnx=D:\\m.onnx --saveEngine=\"D:\\a b.plan\" --shapes='in:0':1x3")) == (
        "D:\\trtexec.exe --onnx=D:\\m.onnx \"--saveEngine=D:\\a b.plan\" --shapes='in:0':1x3"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "atc: '' is not a command of atc. Give one such as 'atc ...'."),
        ("python atc.py --model=m", "is not a command of atc"),
        ("pip install atc", "is not a command of atc"),
        ('atc --a="1,2 --b=3', "atc: the quotation mark of '\"1,2 --b=3' is not closed. Close it."),
        ("atc --a=it's", 'the quotation mark of "\'s" is not closed'),
        ("atc --a=1\natc --a=2", "atc: 2 commands call atc, expected one. Give each by itself."),
        ("x" * (1 << 20) + "y", "atc: the command has 1,048,577 characters, expected one of at most 1,048,576."),
    ],
)
def test_what_is_no_call(text, message):
    with pytest.raises(UsageError) as error:
        read(text)
    assert message in str(error.value)


SHELL = st.text(st.sampled_from("atc -=a1,:;\"'\\\n #$`{}()<>&|*~\r\t."), max_size=40)


@settings(max_examples=300, deadline=None)
@given(SHELL)
def test_any_text_is_read_or_refused(text):
    for program in ("atc", "trtexec"):
        try:
            read(f"{program} --m={text}", program)
        except UsageError:
            continue


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.sampled_from("a1-=,:\"'\\ #$~*!é;&|<>(){}`"), max_size=8), max_size=4))
def test_a_quoted_word_is_read_as_a_shell_reads_it(words):
    line = " ".join(map(shlex.quote, words))
    assert list(read(f"atc --first {line}").words[1:]) == words


@pytest.mark.parametrize("piece", ["\\\n", "a;1:", "'\\'", "$x", "x atc\n", "a@b ", "(", "[a@", "&&&& RUNNING "])
def test_a_hostile_text_takes_no_time(piece):
    start = time.process_time()
    try:
        read("atc --a=" + piece * (100_000 // len(piece)))
    except UsageError:
        pass
    assert time.process_time() - start < 10, "it takes well under a second"


FAKE = '#!/bin/sh\nprintf "%s\\0" "$@" > argv\n'
NAMES = ("images", "input.1", "/model/x:0", "a b", "it's", 'x"y', "b\\c", "a!b", "*", "~", "#1", "(x)", "a&b", "é")


@pytest.fixture
def fake(tmp_path):
    """Runs a line in bash, with an atc and a trtexec that write down their words."""
    for name in ("atc", "trtexec"):
        (tmp_path / name).write_text(FAKE)
        (tmp_path / name).chmod(0o755)

    def run(line, shell="bash"):
        environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        subprocess.run([shell, "-c", line], cwd=tmp_path, env=environment, check=True)
        return (tmp_path / "argv").read_text().split("\0")[:-1]

    return run


def gear_sets():
    """One bucket, 30, 101; with batch sizes; sequences; two symbols; a detector with image_sizes; names of every kind."""
    sides = [{"N": 1, "H": 32 * i, "W": 32 * (31 - i)} for i in range(1, 31)]
    yield Gears((Input("images", ("N", 3, "H", "W")),), ({"N": 1, "H": 320, "W": 320},))
    yield Gears((Input("images", ("N", 3, "H", "W")),), tuple(sides))
    yield Gears((Input("images", ("N", 3, "H", "W")), Input("image_sizes", ("N", 2))), tuple(sides[:4]))
    yield Gears((Input("images", ("N", 3, "H", "W")),), tuple({**side, "N": n} for side in sides[:3] for n in (1, 4)))
    yield Gears((Input("images", ("N", 3, 320, 320)),), tuple({"N": n} for n in range(1, 31)))
    yield Gears((Input("ids", ("N", "L")), Input("mask", ("N", "L"))), tuple({"N": 1, "L": n} for n in (64, 128)))
    yield Gears((Input("q", (1, "L")), Input("k", (1, "S")), Input("t", ())), ({"L": 1, "S": 64}, {"L": 1, "S": 128}))
    for name in NAMES:
        yield Gears((Input(name, ("N", 3)),), ({"N": 1}, {"N": 2}))


def test_bash_hands_to_the_tools_what_is_written(fake):
    for gears in gear_sets():
        build = write_atc(gears, model="a model.onnx", soc_version="Ascend310P3", output="it's $x")
        assert [violation for violation in build.violations if violation.level == "error"] == []
        assert fake(str(build.command)) == [f"--{name}={value}" for name, value in build.command.options]
        assert [violation for violation in check_atc(str(build.command)) if violation.level == "error"] == []
        if "*" not in gears.inputs[0].name and "'" not in gears.inputs[0].name:
            line = trtexec_command(plan_profiles(gears), onnx="a model.onnx", engine="it's $x")
            assert fake(line) == [str(flag) for flag in parse_trtexec(line).flags]


def test_the_fake_can_tell(fake):
    assert fake("atc --input_shape=a:1;true") == ["--input_shape=a:1"]
    assert fake("atc $UNSET '$UNSET'") == ["$UNSET"]


@pytest.mark.parametrize(
    "line",
    [
        'bs=4; atc --model=m.onnx --input_shape="x:${bs},3" --framework=5',
        "atc --model='m.onnx' \\\n  --input_shape=x:4,3 \\\n  --framework=5 2>&1 # done",
        "A=1 atc --model=m.onnx --input_shape=x:4,3 --framework=5; true",
        'atc --model="m.onnx" --input_shape="x:4,3" --framework=5 && true || false',
    ],
)
def test_we_read_what_bash_reads(fake, line):
    command = parse_atc(line)
    assert fake(line) == [f"--{name}={value}" for name, value in command.options]
    assert command.meant is None
