"""What somebody wrote for trtexec: each rule, what it says, and the command that is right instead."""

import shlex
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixshape.errors import UsageError
from fixshape.export import Gears, Input, OnnxHeader, Port, check_trtexec, correct_trtexec, plan_profiles, trtexec_command
from fixshape.export._command_line import quoted
from fixshape.export._trt_flags import CURRENT, RETIRED, VALUED
from fixshape.export._trt_read import matches
from fixshape.export._trt_rules import RULES
from fixshape.export._trtexec import parse_trtexec, profiles_of, shapes_of, shapes_text


def header(**inputs):
    return OnnxHeader(tuple(Port(name, "float32", dims) for name, dims in inputs.items()), (), {"": 18}, 10, ())


IMAGES = header(images=("batch", 3, "height", "width"))
STATIC = header(images=(1, 3, 8, 8))
TWO = header(images=("batch", 3, "height", "width"), sizes=("batch", 2))
BATCH = header(x=("batch", 3))
A, B, C = "images:1x3x8x8", "images:2x3x8x8", "images:4x3x8x8"
FULL = f"--minShapes={A} --optShapes={B} --maxShapes={C}"

# rule, what follows trtexec, header, part of the message, level, what follows trtexec when corrected (None: cannot be told)
CASES = [
    ("T1", f"\N{EN DASH}onnx=m.onnx {FULL}", None, "typographic dash", "error", f"--onnx=m.onnx {FULL}"),
    ("T1", "--onnx m.onnx --verbose", None, "'m.onnx' stands by itself", "error", "--onnx=m.onnx --verbose"),
    ("T1", "--onnx=m.onnx extra", None, "'extra' stands by itself", "error", "--onnx=m.onnx"),
    ("T1", "--onnx=m.onnx --saveEngine", None, "--saveEngine has no value", "error", None),
    ("T2", "--onnx=m.onnx --fp16", None, "--fp16 is gone", "error", "--onnx=m.onnx"),
    ("T2", "--onnx=m.onnx --plugins=p.so", None, "depends on the version", "warning", "--onnx=m.onnx --staticPlugins=p.so"),
    ("T3", "--onnx=m.onnx --savEngine=e", None, "near it: --saveEngine", "error", "--onnx=m.onnx --saveEngine=e"),
    ("T3", "--onnx=m.onnx --quantumMode", None, "--quantumMode is not an option", "warning", "--onnx=m.onnx --quantumMode"),
    ("T4", "--onnx=a.onnx --onnx=b.onnx", None, "comes twice", "error", "--onnx=a.onnx"),
    ("T5", "--saveEngine=e", None, "no model is given", "error", None),
    ("T5", "--onnx=m.onnx --loadEngine=a --saveEngine=b", None, "both given", "error", None),
    ("T6", "--onnx=m.onnx --optShapes=images:1,3,8,8", None, "images:1,3,8,8: 3, 8, 8 has no shape such as", "error",
     f"--onnx=m.onnx --minShapes={A} --optShapes={A} --maxShapes={A}"),
    ("T6", "--onnx=m.onnx --shapes=1x3x8x8", None, "1x3x8x8: 1x3x8x8 has no shape", "error", None),
    ("T7", f"--onnx=m.onnx {FULL} --optShapes={A}", None, "once more without --profile", "error",
     f"--onnx=m.onnx --profile=0 {FULL} --profile=1 --minShapes={A} --optShapes={A} --maxShapes={A}"),
    ("T7", f"--onnx=m.onnx --profile=1 {FULL}", None, "numbered 1, expected 0 to 0", "error", f"--onnx=m.onnx {FULL}"),
    ("T7", f"--onnx=m.onnx --profile=x {FULL}", None, "numbered no number", "error", f"--onnx=m.onnx {FULL}"),
    ("T7", f"--onnx=m.onnx --profile=0 {FULL} --profile=1", None, "profile 1 has no shapes", "error", f"--onnx=m.onnx {FULL}"),
    ("T7", f"--onnx=m.onnx --profile=0 --minShapes={A} --verbose --optShapes={B} --maxShapes={C}", None,
     "not right after a --profile", "error", f"--onnx=m.onnx {FULL} --verbose"),
    ("T8", f"--onnx=m.onnx --minShapes={A} --maxShapes={C}", None, f"--optShapes becomes {C}", "warning",
     f"--onnx=m.onnx --minShapes={A} --optShapes={C} --maxShapes={C}"),
    ("T8", f"--onnx=m.onnx --optShapes={B}", None, f"--minShapes becomes {B}, --maxShapes becomes {B}", "warning",
     f"--onnx=m.onnx --minShapes={B} --optShapes={B} --maxShapes={B}"),
    ("T9", f"--onnx=m.onnx --minShapes={A},sizes:1x2 --optShapes={B} --maxShapes={C}", None,
     "sizes is not in --optShapes and --maxShapes", "error",
     f"--onnx=m.onnx --minShapes={A},sizes:1x2 --optShapes={B},sizes:1x2 --maxShapes={C},sizes:1x2"),
    ("T10", "--onnx=m.onnx --minShapes=x:1x512 --optShapes=x:1x1600 --maxShapes=x:1x1024", None,
     "on axis 1, opt 1600 is not between 512 and 1024", "error",
     "--onnx=m.onnx --minShapes=x:1x512 --optShapes=x:1x1024 --maxShapes=x:1x1600"),
    ("T10", "--onnx=m.onnx --minShapes=x:9 --optShapes=x:5 --maxShapes=x:4", None, "min 9 is above max 4", "error",
     "--onnx=m.onnx --minShapes=x:4 --optShapes=x:5 --maxShapes=x:9"),
    ("T10", "--onnx=m.onnx --minShapes=x:1 --optShapes=x:1x2 --maxShapes=x:1x2", None, "not the same number of axes",
     "error", None),
    ("T11", "--onnx=m.onnx --minShapes=x:-1x3 --optShapes=x:1x3 --maxShapes=x:4x3", None, "below 0", "error", None),
    ("T11", "--onnx=m.onnx --minShapes=x:0x3 --optShapes=x:1x3 --maxShapes=x:4x3", None, "a size of 0", "warning",
     "--onnx=m.onnx --minShapes=x:0x3 --optShapes=x:1x3 --maxShapes=x:4x3"),
    ("T12", "--onnx=m.onnx --shapes=in:0:1x3", None, "in:0 has a colon", "warning", "--onnx=m.onnx --shapes=\"'in:0':1x3\""),
    ("T13", "--onnx=m.onnx --shapes='*a*:1x3'", None, "2 wildcards", "error", None),
    ("T13", "--onnx=m.onnx --shapes='x*:1x3,*1:1x3'", header(x1=("batch", 3)), "x* and *1 both mean x1", "error", None),
    ("T14", f"--onnx=m.onnx {FULL} --useProfile=1", None, "the last profile is 0", "error",
     f"--onnx=m.onnx {FULL} --useProfile=0"),
    ("T14", f"--onnx=m.onnx {FULL} --shapes=images:8x3x8x8", None, "8x3x8x8 is not between 1x3x8x8 and 4x3x8x8", "error",
     f"--onnx=m.onnx {FULL} --shapes={B}"),
    ("T14", f"--onnx=m.onnx --profile=0 {FULL} --profile=1 {FULL}", None, "profile 0 alone is run", "advice",
     f"--onnx=m.onnx --profile=0 {FULL} --profile=1 {FULL}"),
    ("T15", "--onnx=m.onnx --minShapes=image:1x3x8x8 --optShapes=image:1x3x8x8 --maxShapes=image:1x3x8x8", IMAGES,
     "no input image: it has images", "error", f"--onnx=m.onnx --minShapes={A} --optShapes={A} --maxShapes={A}"),
    ("T15", f"--onnx=m.onnx --shapes={A},qqqq:1", IMAGES, "no input qqqq", "error", None),
    ("T16", "--onnx=m.onnx", IMAGES, "images has dynamic axes and no shapes in profile 0", "error", None),
    ("T16", f"--onnx=m.onnx {FULL}", TWO, "sizes has dynamic axes", "error",
     f"--onnx=m.onnx --minShapes={A},sizes:1x2 --optShapes={B},sizes:2x2 --maxShapes={C},sizes:4x2"),
    ("T17", f"--onnx=m.onnx {FULL.replace('x3x', 'x1x')}", IMAGES, "images:1x1x8x8, and the file has batchx3x", "error",
     f"--onnx=m.onnx {FULL}"),
    ("T17", "--onnx=m.onnx --shapes=images:1x8x8", IMAGES, "images:1x8x8, and the file has", "error", None),
    ("T19", "--onnx=m.onnx", replace(STATIC, absent=("m.onnx.data",)), "m.onnx.data are not beside the model", "error", None),
    ("T18", f"--onnx=m.onnx {FULL}", STATIC, "no input of the model is dynamic", "error", "--onnx=m.onnx"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "line", "file", "message", "level", "corrected"), CASES)
def test_each_rule(rule, line, file, message, level, corrected):
    violations = check_trtexec(f"trtexec {line}", header=file)
    (found,) = [violation for violation in violations if violation.rule == rule]
    assert (found.code, found.level) == (None, level)
    assert message in found.message
    assert found.why and found.way_out
    right = correct_trtexec(f"trtexec {line}", header=file)
    assert right == (None if corrected is None else f"trtexec {corrected}")
    if right is not None:
        left = check_trtexec(right, header=file)
        assert not [violation for violation in left if violation.level == "error"]
        assert correct_trtexec(right, header=file) == right, "what is right stays as it is"


def test_every_rule_has_a_case():
    assert len(RULES) + 1 == len({rule for rule, *_ in CASES})


def test_nothing_is_found_in_a_right_command():
    assert check_trtexec(f"trtexec --onnx=m.onnx --saveEngine=e {FULL} --shapes={B}", header=IMAGES) == ()
    assert check_trtexec("trtexec --onnx=m.onnx", header=STATIC) == ()
    assert check_trtexec("trtexec --help") == ()
    assert check_trtexec("trtexec --onnx=m.onnx --shapes=im*:1x3x8x8", header=IMAGES) == ()


def test_of_a_loaded_engine_nothing_is_known():
    assert check_trtexec(f"trtexec --loadEngine=e --useProfile=3 --shapes={B}") == ()


def test_profiles_may_stand_in_any_order():
    other = FULL.replace("8x8", "9x9")
    line = f"trtexec --onnx=m.onnx --profile=1 {FULL} --profile=0 {other} --useProfile=1 --shapes={C}"
    assert check_trtexec(line, header=IMAGES) == ()
    (found,) = check_trtexec(line.replace("--useProfile=1", "--useProfile=0"))
    assert "is not between 1x3x9x9 and 4x3x9x9 of profile 0" in found.message


RETIRED_LINE = (
    "trtexec --onnx=model.onnx --saveEngine=model.plan --fp16 --best --workspace=4096 --explicitBatch --batch=8 --maxBatch=16"
    " --uff=model.uff --deploy=model.prototxt --buildOnly"
)


def test_the_retired_flags_of_old_tutorials_are_translated():
    found = check_trtexec(RETIRED_LINE)
    assert [violation.rule for violation in found] == ["T2"] * 9
    assert [violation.message.split()[0].partition("=")[0] for violation in found] == [
        "--fp16", "--best", "--workspace", "--explicitBatch", "--batch", "--maxBatch", "--uff", "--deploy", "--buildOnly"
    ]  # fmt: skip
    right = correct_trtexec(RETIRED_LINE)
    assert right == "trtexec --onnx=model.onnx --saveEngine=model.plan --memPoolSize=workspace:4096 --skipInference"
    assert check_trtexec(right) == ()


def test_the_batch_of_an_old_command_becomes_a_profile_where_the_file_says_which_inputs_have_one():
    right = correct_trtexec(RETIRED_LINE, header=BATCH)
    assert right is not None and "--minShapes=x:1x3 --optShapes=x:8x3 --maxShapes=x:16x3" in right
    assert check_trtexec(right, header=BATCH) == ()
    assert correct_trtexec(RETIRED_LINE, header=IMAGES) is None, "height and width are not in the command"


def test_a_model_of_another_format_becomes_the_onnx_file_of_its_name():
    assert correct_trtexec("trtexec --uff=a/m.uff --output=y --uffInput=x,3,8,8") == "trtexec --onnx=a/m.onnx"
    assert correct_trtexec("trtexec --deploy=m.prototxt --model=m.caffemodel") == "trtexec --onnx=m.onnx"


@pytest.mark.parametrize("flag", sorted(RETIRED))
def test_each_retired_flag_is_found_and_its_translation_is_current(flag):
    line = f"trtexec --onnx=m.onnx {flag}=1"
    assert any(violation.rule == "T2" and flag in violation.message for violation in check_trtexec(line))
    right = correct_trtexec(line)
    assert right is not None and {word.partition("=")[0] for word in right.split()[1:]} <= CURRENT


def test_no_flag_is_both_current_and_retired():
    assert not CURRENT & set(RETIRED)
    assert {entry.becomes for entry in RETIRED.values() if entry.becomes} <= CURRENT
    assert VALUED < CURRENT


def test_a_command_is_read_as_a_shell_reads_it():
    command = parse_trtexec(
        "$ CUDA_VISIBLE_DEVICES=1 /usr/bin/trtexec --onnx=a\\ b.onnx \\\n  --shapes=\\'in:0\\':1x3 2>&1 | tee log"
    )
    assert command.before == "CUDA_VISIBLE_DEVICES=1 /usr/bin/trtexec"
    assert [str(flag) for flag in command.flags] == ["--onnx=a b.onnx", "--shapes='in:0':1x3"]
    assert command.after == "2>&1 | tee log"
    assert str(parse_trtexec(str(command))) == str(command)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("python train.py", "'python train.py' is not a command of trtexec. Give one such as 'trtexec --onnx=model.onnx'."),
        ("", "'' is not a command of trtexec"),
        ("trtexec --onnx='m.onnx", 'the quotation mark of "\'m.onnx" is not closed. Close it.'),
        ("trtexec " + "x" * (1 << 20), "expected one of at most 1,048,576"),
        ("trtexec --onnx=a.onnx\ntrtexec --onnx=b.onnx", "2 commands call trtexec, expected one. Give each by itself."),
        ("trtexec --onnx=$M --shapes=x:${B}x3", r"has a size that only the shell knows. Say .*: 'B=...; trtexec ...'"),
    ],
)
def test_what_is_no_command(text, message):
    for function in (check_trtexec, correct_trtexec):
        with pytest.raises(UsageError, match=message):
            function(text)


@given(st.text())
def test_no_text_ends_in_another_error(text):
    try:
        check_trtexec(f"trtexec --onnx=m.onnx {text}", header=IMAGES)
        correct_trtexec(f"trtexec --onnx=m.onnx {text}", header=IMAGES)
    except UsageError:
        pass


X3 = "--minShapes=x:1x3 --optShapes=x:4x3 --maxShapes=x:8x3"
# As people post them: the line, the first rule, and the command that was meant.
POSTED = [
    (X3.replace("x3", ",3"), "T6", X3),
    (X3.replace("1x3", "1\u00d73").replace("4x3", "4X3").replace("8x3", "8*3"), "T6", X3),
    (X3.replace(":", "\uff1a"), "T6", X3),
    (X3.replace("x3", "x3;y:1"), "T1", X3.replace("x3", "x3,y:1")),
    (X3.replace("1x3", '"1x3, y:1"').replace("4x3", '"4x3; y:1"').replace("8x3", "8x3,y:1"), "T6", X3.replace("x3", "x3,y:1")),
    (X3.replace(" ", "\n"), "T1", X3),
    (X3.replace(" ", " \\ \n"), "T1", X3),
    (X3.replace("=x", " x"), "T1", X3),
    (X3.replace("--", "\u2014"), "T1", X3),
    (X3 + " --notf32", "T3", X3 + " --noTF32"),
    (X3 + " --allocationStrategy=Static", "T3", X3 + " --allocationStrategy=static"),
    (X3 + " --allocationStrategy=dynamic", "T3", X3),
]


@pytest.mark.parametrize(("line", "rule", "meant"), POSTED)
def test_what_people_post_is_told_and_put_right(line, rule, meant):
    line, meant = f"trtexec --onnx=m.onnx {line}", f"trtexec --onnx=m.onnx {meant}"
    assert (check_trtexec(line)[0].rule, check_trtexec(line)[0].level) == (rule, "error")
    assert correct_trtexec(line) == meant
    assert check_trtexec(meant) == ()


def test_a_shape_that_cannot_be_read_is_not_left_out_in_silence():
    assert correct_trtexec("trtexec --onnx=m.onnx --minShapes=x:ax3 --maxShapes=x:8x3") is None


def test_what_stands_before_a_command_and_variables_stay():
    for before in ("docker run --gpus all -v $PWD:/w nv/trt:24.01 trtexec", "sudo LD_LIBRARY_PATH=/a:$LD ./trtexec"):
        assert correct_trtexec(f"{before} --onnx=$M --saveEngine='a $b'") == f"{before} --onnx=\"$M\" --saveEngine='a $b'"
    assert correct_trtexec("&&&& RUNNING TensorRT.trtexec [TensorRT v8601] # ./trtexec --onnx=m") == "./trtexec --onnx=m"
    assert correct_trtexec(f"B=4\ntrtexec --onnx=m.onnx {X3.replace('4x', '${B}x')}") == f"trtexec --onnx=m.onnx {X3}"


def test_a_retired_flag_is_told_with_the_version_that_lost_it():
    told = {flag: check_trtexec(f"trtexec --onnx=m {flag}")[0].message for flag in ("--fp16", "--explicitBatch")}
    assert told == {
        "--fp16": "--fp16 is gone: the trtexec of TensorRT 11 and later does not know it",
        "--explicitBatch": "--explicitBatch is gone: the trtexec of TensorRT 10 and later does not know it",
    }


WORDS = st.sampled_from(
    [*FULL.split(), "--profile=0", "--profile=1", "--onnx=m.onnx", "--fp16", "--verbose", "images:1x3x8x8", "--useProfile=1",
     "--minShapes=images:9x3x8x8", "--optShapes=images:1x1x8x8,q:2", "--maxShapes=x", "--shapes=i*:2x3x9x9", "--saveEngine",
     "\N{EN DASH}batch=4", "--maxShapes", "--shapes=images:0x3x8x8", "--skipInference"]
)  # fmt: skip


@given(st.lists(WORDS, max_size=9), st.sampled_from([None, IMAGES, TWO, STATIC]))
def test_what_is_corrected_has_no_error_and_stays(words, file):
    right = correct_trtexec(" ".join(["trtexec", *words]), header=file)
    if right is not None:
        assert not [violation for violation in check_trtexec(right, header=file) if violation.level == "error"]
        assert correct_trtexec(right, header=file) == right


LETTERS = st.characters(codec="utf-8", exclude_characters=",'*", exclude_categories=["Cc", "Zs", "Zl", "Zp"])
NAMES = st.text(LETTERS, min_size=1, max_size=6)


@st.composite
def gears_and_header(draw):
    names = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    dims = st.lists(st.sampled_from(["N", "H", "W"]) | st.integers(1, 9), max_size=4)
    inputs = tuple(Input(name, tuple(draw(dims))) for name in names)
    size = st.integers(1, 2000)
    values = draw(st.lists(st.fixed_dictionaries({"N": size, "H": size, "W": size}), min_size=1, max_size=6))
    ports = tuple(Port(entry.name, "float32", entry.dims) for entry in inputs)
    return Gears(inputs, tuple(values)), OnnxHeader(ports, (), {"": 18}, 10, ())


@given(gears_and_header(), st.none() | st.integers(1, 6))
def test_whatever_is_written_passes_and_reads_back(case, ranges):
    gears, file = case
    profiles = plan_profiles(gears, ranges=ranges, header=file)
    line = trtexec_command(profiles, onnx="a model.onnx", engine="m$x.plan")
    assert check_trtexec(line, header=file) == ()
    assert correct_trtexec(line, header=file) == line
    read, apart = profiles_of(parse_trtexec(line))
    assert not apart
    spans = [{name: (span.smallest, span.opt, span.largest) for name, span in profile.ranges.items()} for profile in profiles]
    assert [
        {
            name: tuple(profile.shapes[flag][name] for flag in ("--minShapes", "--optShapes", "--maxShapes"))
            for name in profile.names
        }
        for profile in read
    ] == spans


def test_the_validator_fails_what_a_broken_writer_writes():
    """The property above can fail: a writer that swaps opt and max is caught."""
    gears = Gears((Input("images", ("N", 3, "H", "W")),), ({"N": 1, "H": 8, "W": 8}, {"N": 4, "H": 8, "W": 8}), (9, 1))
    line = trtexec_command(plan_profiles(gears, ranges=1), onnx="m.onnx", engine="m.plan")
    broken = line.replace("--maxShapes", "--X").replace("--optShapes", "--maxShapes").replace("--X", "--optShapes")
    assert [violation.rule for violation in check_trtexec(broken, header=IMAGES)] == ["T10"]


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"])))
def test_quoted_words_come_back(word):
    assert shlex.split(quoted(word)) == [word]
    assert shlex.split(quoted(f"--shapes={word}")) == [f"--shapes={word}"]


def test_shapes_are_read_and_written():
    shapes = {"in:0": (1, 3), "scale": (), "x": (-1, 0)}
    assert shapes_text(shapes) == "'in:0':1x3,scale:scalar,x:-1x0"
    assert shapes_of(shapes_text(shapes)) == shapes
    assert shapes_of("x:1x,y:ax2,:3,z") == {}


def test_one_wildcard_matches_as_in_trtexec():
    assert matches("x", "x") and not matches("x", "xy")
    assert matches("a*b", "ab") and matches("a*b", "a1b") and not matches("ab*ba", "aba")
