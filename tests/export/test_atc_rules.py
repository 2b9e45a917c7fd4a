"""Every rule of the atc validator: one broken command each, its code, and the corrected command, which passes."""

import re
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixshape.errors import UsageError
from fixshape.export import AtcCommand, NodeHead, OnnxHeader, Port, _atc_rules, check_atc, correct_atc, parse_atc
from fixshape.export._atc_options import GEAR_OPTIONS

BASE = "atc --model=m.onnx --framework=5 --output=m --soc_version=Ascend310P3"
FREE = Port("x", "float32", ("N", 3, "H", "W"))


CONV = NodeHead("Conv", "", "conv")


def header(*inputs: Port, opset=18, nodes=(CONV,), domains=()):
    return OnnxHeader(inputs, (Port("y", "float32", None),), {"": opset, **dict(domains)}, 10, tuple(nodes))


IMAGE = header(FREE)
TOKENS = header(Port("ids", "int64", ("N", "L")), Port("mask", "int64", ("N", "L")))
SCALAR = header(FREE, Port("t", "float32", ()))


@dataclass
class Row:
    rule: str
    code: str | None
    command: str
    header: OnnxHeader | None = None
    then: OnnxHeader | None = None  # the header that is right, where the model is at fault
    level: str = "error"
    only: bool = True  # no other rule of level error is broken


X = ' --input_shape="x:1,3,64,64"'
BATCH = ' --input_shape="x:-1,3,64,64"'
SIDES = ' --input_shape="x:1,3,-1,-1"'
DIMS = ' --input_format=ND --input_shape="x:-1,3,-1,64"'
ROWS = [
    Row("G1", "E10054", "atc --model=m.onnx --framework=5 --output=m" + X),
    Row("G1", "E10054", BASE.replace(" --model=m.onnx", "") + X),
    Row("G1", "E10054", BASE.replace(" --output=m", "") + X),
    Row(
        "G1",
        "E10054",
        "atc --model=m.onnx --dynamic_dims=1,64;2,64" + DIMS + " --framework=5 --output=m --soc_version=Ascend310P3",
    ),
    Row("G2", "E10007", BASE.replace(" --framework=5", "") + X),
    Row("G2", "E10007", BASE.replace("=5", "=2") + X),
    Row("G3", "E10008", BASE.replace("=5", "=0").replace("m.onnx", "m.prototxt") + X),
    Row("G4", "E10022", BASE.replace("output=m", "output=out/") + X),
    Row("G4", "E10021", BASE.replace("output=m", "output=" + "m" * 5000) + X),
    Row("G5", "E10001", BASE + X + " --input_format=NHWC"),
    Row("G5", "E10001", BASE.replace("=5", "=0").replace("m.onnx", "m.prototxt") + X + " --weight=w --input_format=NHWC"),
    Row("G6", "E10009", BASE + BATCH + " --dynamic_batch_size=1,2 --dynamic_image_size='64,64;32,32'"),
    Row("G6", "E10009", BASE + BATCH + " --dynamic_batch_size=1,2 --input_shape_range='x:[1~4,3,64,64]'"),
    Row("G7", "E10004", BASE + " --dynamic_batch_size=1,2", IMAGE),
    Row("G7", "E10004", BASE + " --dynamic_image_size='64,64;32,32'", IMAGE),
    Row("G7", "E10004", BASE + " --dynamic_batch_size=1,2"),
    Row("G7", "E10004", BASE + " --input_format=ND --dynamic_dims='1,64;2,64'"),
    Row("G8", "E10001", BASE + DIMS + " --dynamic_dims='1,64;2,64' --insert_op_conf=aipp.cfg"),
    Row("G9", "E10001", BASE + BATCH + " --dynamic_batch_size=1,2 --input_hint_shape='0:[1,3,64,64]'"),
    Row("G10", "E10016", BASE + ' --input_shape="y0:1,3,64,64"', IMAGE, only=False),
    Row("G10", "E10016", BASE + ' --input_shape="ids:1,64,mask:1,64"', TOKENS, only=False),
    Row("G10", "E10016", BASE + ' --input_shape="ids:1,64,mask:1,64"', level="warning"),
    Row("G11", "E10017", BASE + ' --input_shape="conv:1,3,64,64"', IMAGE, only=False),
    Row("G12", "E10001", BASE, IMAGE),
    Row("G12", "E10001", BASE + ' --input_shape="ids:1,64"', TOKENS),
    Row("G13", "E10041", BASE.replace("=5", "=3") + X),
    Row("G13", "E10041", BASE.replace("=5", "=3").replace("m.onnx", "m") + X, IMAGE),
    Row("G13", "E10041", BASE + X, replace(IMAGE, absent=("m.onnx.data", "b")), IMAGE),
    Row("G14", "E16002", BASE + X, header(FREE, opset=20), IMAGE),
    Row("G14", "E16002", BASE + X, header(FREE, opset=9), IMAGE),
    Row("G14", "E16001", BASE, header(), header(Port("x", "float32", (1,)))),
    Row("G14", "E19999", BASE + X, header(FREE, nodes=[NodeHead("Roi", "mine", "")]), IMAGE),
    Row("G14", "E16002", BASE + X, header(FREE, nodes=[NodeHead("Roi", "mine", "r")], domains={"mine": 1}), IMAGE, "warning"),
    Row("G14", "E16005", BASE + X, header(FREE, domains={"ai.onnx.ml": 3}), IMAGE, "warning"),
    Row("G15", None, BASE + BATCH + " --dynamic_bach=1,2"),
    Row("G15", None, BASE + X + " --log"),
    Row("G15", None, BASE + " --input_shape x:1, 3,64,64", only=False),
    Row("G15", "E10006", BASE + X + " --status_check=yes"),
    Row("G15", "E10010", BASE + X + " --log=verbose"),
    Row("G15", "E10001", BASE + X + " --precision_mode=fp16"),
    Row("G15", "E10056", BASE + X + " --precision_mode=force_fp32 --precision_mode_v2=origin"),
    Row("G15", "E10057", "atc --mode=6"),
    Row("G16", None, BASE.replace("Ascend310P3", "310P3") + X),
    Row("G16", None, BASE.replace("Ascend310P3", "ascend310p3") + X),
    Row("G16", None, BASE.replace("Ascend310P3", "Ascend910_93") + X, level="warning"),
    Row("S1", "E10002", BASE + ' --input_shape="1,3,64,64"'),
    Row("S1", "E10002", BASE + ' --input_shape=":1,3,64,64"', IMAGE),
    Row("S1", "E10002", BASE + ' --input_shape="x"', IMAGE),
    Row("S2", "E10002", BASE + ' --input_shape="x:1,3,64.0,64"'),
    Row("S2", "E10002", BASE + ' --input_shape="x:1, 3,64,64"'),
    Row("S3", "E10013", BASE + ' --input_shape="x:1,3,64,99999999999999999999"'),
    Row("S4", "E10011", BASE + ' --input_shape="x:0,3,64,64"'),
    Row("S4", "E10011", BASE + ' --input_shape="x:-2,3,64,64"'),
    Row("S5", None, BASE + BATCH + " --dynamic_batch_size=1,2", SCALAR),
    Row("S5", None, BASE + SIDES + " --dynamic_image_size='64,64;32,32'", SCALAR),
    Row("S6", "E10049", BASE + ' --input_shape="x:3,64,64"', IMAGE),
    Row("S6", "E10050", BASE + ' --input_shape="x:1~4,3,64~96,64"', header(Port("x", "float32", ("N", 3, 32, 64)))),
    Row("S6", None, BASE + BATCH + " --dynamic_batch_size=1,2", header(Port("x", "float32", (1, 3, 64, 64))), level="warning"),
    Row("S7", "E10040", BASE + ' --input_shape="x:1~4,3,64,64" --dynamic_batch_size=1,2', only=False),
    Row("S8", "E10001", BASE + ' --input_format=ND --input_shape="ids:-1,64" --dynamic_dims="1;2"', TOKENS),
    Row("S9", "E10048", BASE + " --input_shape_range='x:1~4,3,64,64'"),
    Row("S9", "E10048", BASE + " --input_shape_range='x:[1~,3,64,64]'"),
    Row("S9", "E10048", BASE + ' --input_shape="x:1~,3,64,64"'),
    Row("S9", "E10048", BASE.replace("=5", "=1").replace("m.onnx", "m.air") + " --input_shape_range='x:[1~4,3]'"),
    Row("S10", None, BASE + X + " --input_shape_range='x:[1~4,3,64,64]'", level="warning"),
    Row("S11", "E10011", BASE + BATCH, level="warning"),
    Row("S12", None, BASE + ' --input_shape="x:4~1,3,64,64"'),
    Row("S12", None, BASE + ' --input_shape="x:-1,3,-2,64" --dynamic_batch_size=1,2'),
    Row("S12", None, BASE + ' --input_shape="x:-1,0,64,64" --dynamic_batch_size=1,2'),
    Row("B1", "E10018", BASE + ' --input_shape="x:-1,3,-1,-1" --dynamic_batch_size=1,2,4'),
    Row("B1", "E10018", BASE + ' --input_shape="x:-1,3,64,64;y:-1,-1" --dynamic_batch_size=1,2'),
    Row("B2", "E10031", BASE + X + " --dynamic_batch_size=1,2"),
    Row("B2", "E10031", BASE + ' --input_shape="ids:1,-1" --dynamic_batch_size=64,128'),
    Row("B3", "E10003", BASE + BATCH + ' --dynamic_batch_size="1, 2"'),
    Row("B3", "E10003", BASE + BATCH + ' --dynamic_batch_size="1;2"'),
    Row("B3", "E10003", BASE + BATCH + " --dynamic_batch_size=1,,2"),
    Row("B4", None, BASE + ' --input_shape="a:-1,3;b:-1,4" --dynamic_batch_size=1,2', level="advice"),
    Row("B5", None, BASE + BATCH + " --dynamic_batch_size=1,2,4096", level="advice"),
    Row("B6", "E10012", BASE + ' --input_shape="x:-1,3,64,64;t:" --dynamic_batch_size=1,2', level="warning"),
    Row("I1", "E10019", BASE + ' --input_shape="x:-1,3,-1,-1" --dynamic_image_size="64,64;32,32"'),
    Row("I1", "E10019", BASE + ' --input_shape="x:1,-1,-1,-1" --dynamic_image_size="64,64;32,32"'),
    Row("I1", "E10019", BASE + ' --input_shape="x:1,3,-1,64" --dynamic_image_size="64,64;32,32"'),
    Row("I1", "E10019", BASE + X + ' --dynamic_image_size="64,64;32,32"'),
    Row("I1", "E10019", BASE + ' --input_shape="x:1,3,-1,-1;m:1,-1,-1" --dynamic_image_size="64,64;32,32"'),
    Row("I1", "E10019", BASE + ' --input_shape="x:1,3" --dynamic_image_size="64,64;32,32"'),
    Row("I2", "E10003", BASE + SIDES + " --input_format=ND --dynamic_image_size='64,64;32,32'"),
    Row("I3", None, BASE + SIDES + " --dynamic_image_size='64, 64;32,32'"),
    Row("I3", "E10003", BASE + SIDES + " --dynamic_image_size='64x64;32x32'"),
    Row("I4", "E10020", BASE + SIDES + " --dynamic_image_size='64;32'"),
    Row("I4", "E10020", BASE + SIDES + " --dynamic_image_size='64,64,32,32'", only=False),
    Row("I5", None, BASE + SIDES + " --dynamic_image_size='64,64;32,32' --insert_op_conf=a.cfg", level="advice"),
    Row(
        "I6",
        None,
        BASE + SIDES + " --dynamic_image_size='64,64;32,32'",
        header(Port("x", "float32", (1, 3, 64, 64))),
        level="warning",
    ),
    Row("D1", "E10001", BASE + X + " --input_format=ND --dynamic_dims='1,64,64;2,32,32'", IMAGE),
    Row("D1", "E10001", BASE + X + " --input_format=ND --dynamic_dims='1;2'"),
    Row("D2", "E10003", BASE + DIMS + " --dynamic_dims='1,64,64;2,32,32'"),
    Row("D2", "E10003", BASE + DIMS + " --dynamic_dims='1;2'"),
    Row("D3", "E10001", BASE + DIMS + " --dynamic_dims='1, 64;2,32'"),
    Row("D3", "E10001", BASE + DIMS + " --dynamic_dims='-1,64;2,32'"),
    Row("D4", None, BASE + DIMS.replace("=ND", "=NCHW") + " --dynamic_dims='1,64;2,32'", level="warning"),
    Row(
        "D4",
        None,
        BASE + ' --input_format=ND --input_shape="x:-1,-1,-1,-1,-1" --dynamic_dims="1,1,1,1,1;2,2,2,2,2"',
        level="warning",
    ),
    Row("D5", None, BASE.replace("=5", "=1").replace("m.onnx", "m.air") + BATCH + " --dynamic_batch_size=1,2"),
    Row("P1", "E10035", BASE + BATCH + " --dynamic_batch_size=8"),
    Row("P1", "E10035", BASE + SIDES + " --dynamic_image_size='64,64'"),
    Row("P1", "E10035", BASE + DIMS + " --dynamic_dims='1,64'"),
    Row("P2", "E10036", BASE + BATCH + " --dynamic_batch_size=" + ",".join(map(str, range(1, 102)))),
    Row(
        "P2", "E10036", BASE.replace("310P3", "950PR_9599") + BATCH + " --dynamic_batch_size=" + ",".join(map(str, range(1, 259)))
    ),
    Row("P3", "E10037", BASE + DIMS + " --dynamic_dims='1,64;2'", only=False),
    Row("P4", "E10038", BASE + BATCH + " --dynamic_batch_size=0,1,2"),
    Row("P5", "E10039", BASE + BATCH + " --dynamic_batch_size=1,2,2"),
    Row("P6", None, BASE + DIMS + " --dynamic_dims='1,64;2,64;3,64;4,64;5,64'", level="advice"),
    Row("P7", "E19999", BASE + BATCH + " --dynamic_batch_size=1,2", header(FREE, nodes=[NodeHead("NonZero", "", "nz")]), IMAGE),
    Row("P7", "E19999", BASE + X, header(FREE, nodes=[NodeHead("NonZero", "", "nz")]), IMAGE, "warning"),
    Row("3g", "E10055", BASE.replace("310P3", "035") + X),
    Row("3g", None, BASE.replace("310P3", "035") + BATCH + " --mode=30 --dynamic_batch_size=1,2"),
    Row("3g", None, BASE.replace("310P3", "310B1") + ' --input_shape="x:1~4,3,64,64"'),
    Row("3g", None, BASE.replace("310P3", "310B1") + BATCH),
    Row("3g", None, BASE.replace("310P3", "910B3").replace("=5", "=0").replace("m.onnx", "m.prototxt") + X + " --weight=w"),
]
NUMBERS = {"G": 16, "S": 12, "B": 6, "I": 6, "D": 5, "P": 7}


def errors(command, header=None):
    return [violation for violation in check_atc(command, header) if violation.level == "error"]


def test_every_rule_of_the_note_has_a_row():
    rules = {row.rule for row in ROWS}
    assert rules == {f"{letter}{number}" for letter, count in NUMBERS.items() for number in range(1, count + 1)} | {"3g"}


@pytest.mark.parametrize("row", ROWS, ids=[f"{row.rule}-{index}" for index, row in enumerate(ROWS)])
def test_a_broken_command_is_told_and_its_correction_passes(row):
    found = [violation for violation in check_atc(row.command, row.header) if violation.rule == row.rule]
    assert found, f"{row.rule} says nothing of {row.command}"
    violation = found[0]
    assert (violation.code, violation.level) == (row.code, row.level)
    assert "expected" in violation.message or row.level != "error"
    assert violation.why.endswith(".") and violation.why != violation.message
    if row.only:
        assert {other.rule for other in errors(row.command, row.header)} <= {row.rule}
    corrected = violation.way_out.splitlines()[0]
    assert corrected.startswith("atc ")
    told = check_atc(corrected, row.then or row.header)
    assert [other for other in told if other.level == "error"] == []
    unavoidable = {"B4", "I5"}  # they advise, and the command may stay as it is
    assert row.rule in unavoidable or (row.rule, row.code) not in {(other.rule, other.code) for other in told}


@pytest.mark.parametrize("rule", _atc_rules.RULES, ids=lambda rule: rule.__name__)
def test_each_rule_is_needed_by_some_row(rule, monkeypatch):
    """The table fails where a rule says nothing."""
    monkeypatch.setattr(_atc_rules, "RULES", [other for other in _atc_rules.RULES if other is not rule])
    silent = [row for row in ROWS if row.rule not in {violation.rule for violation in check_atc(row.command, row.header)}]
    assert silent


CLASSIC = [
    (BASE, IMAGE, "E10001"),
    (BASE + BATCH + " --dynamic_batch_size=8", IMAGE, "E10035"),
    (BASE + ' --input_shape="x:-1,3,-1,-1" --dynamic_batch_size=1,2,4', IMAGE, "E10018"),
    (BASE + ' --input_shape="x:-1,3,-1,-1" --dynamic_image_size="64,64;32,32"', IMAGE, "E10019"),
]


@pytest.mark.parametrize(("command", "model", "code"), CLASSIC)
def test_the_four_cases_that_everybody_meets_first(command, model, code):
    first, *_ = check_atc(command, model)
    assert first.code == code
    assert errors(first.way_out.splitlines()[0], model) == []


def test_what_is_right_breaks_no_rule():
    for shapes, gears in ((X, ""), (BATCH, " --dynamic_batch_size=1,2,4"), (SIDES, " --dynamic_image_size='64,96;96,64'")):
        assert check_atc(BASE + shapes + gears, IMAGE) == ()
    assert check_atc(BASE + DIMS + " --dynamic_dims='1,64;2,96'", IMAGE) == ()
    assert check_atc(BASE + ' --input_shape="x:1~4,3,64,64~96"', IMAGE) == ()
    assert check_atc("atc --help") == ()
    assert check_atc("atc --mode=1 --om=m.om --json=m.json") == ()


def test_the_first_is_the_one_that_atc_stops_at():
    command = "atc --model=m.onnx --input_shape=x:-1,3,-1,64 --dynamic_batch_size=1,1 --input_format=NHWC --framework=5"
    codes = [violation.code for violation in errors(command)]
    assert codes == ["E10054", "E10001", "E10018", "E10039"]


def test_a_doubtful_rule_is_no_error_unless_the_manual_has_it():
    documented = {"B1", "D5", "G14", "I3", "P2", "P4"}  # other axes, .air, the opset, spaces, 100 gears, sizes above 0
    for row in ROWS:
        for violation in check_atc(row.command, row.header):
            assert not violation.doubtful or violation.level != "error" or violation.rule in documented


def test_more_gears_are_allowed_on_the_950():
    command = BASE.replace("310P3", "950PR_9599") + BATCH + " --dynamic_batch_size=" + ",".join(map(str, range(1, 257)))
    assert check_atc(command) == ()


def test_variables_of_the_shell_are_let_through_where_no_rule_reads_them():
    assert check_atc(BASE.replace("Ascend310P3", "Ascend${chip_name}").replace("m.onnx", "$MODEL") + X) == ()
    line = BASE + DIMS + ' --dynamic_dims="$GEARS"'
    with pytest.raises(
        UsageError, match=r"atc: --dynamic_dims is '\$GEARS', which only the shell can fill in\. Say .*: 'GEARS=\.\.\.; atc"
    ):
        check_atc(line)
    assert [violation.rule for violation in check_atc(f"GEARS='1,64'; {line}")] == ["P1"], "as the message says"
    with pytest.raises(
        UsageError, match=r"--input_shape is '`cat shape`', which only the shell can fill in. Put its result there."
    ):
        check_atc(BASE + ' --input_shape="`cat shape`"')


RIGHT = BASE + " --input_shape=x:1,3,64,64"
# As people post them: the line, what is said first, and the command that was meant.
POSTED = [
    (RIGHT.replace("--model", "\u2014model"), ("G15", None), RIGHT),
    (RIGHT.replace("--model", "\u2013-model"), ("G15", None), RIGHT),
    (RIGHT.replace("=", " = "), ("G15", None), RIGHT),
    (RIGHT.replace("--model=", "--model ="), ("G15", None), RIGHT),
    (RIGHT.replace("--model=", "--model= "), ("G15", None), RIGHT),
    (RIGHT.replace("--", ""), ("G15", None), RIGHT),
    (RIGHT.replace("1,3,64,64", "1, 3, 64,64"), ("G15", None), RIGHT),
    (RIGHT.replace("Ascend310P3", "\u201cAscend310P3\u201d"), ("G15", None), RIGHT),
    (RIGHT.replace("x:1,3,64,64", "\u201cx:1,3,64,64\u201d"), ("S1", "E10002"), RIGHT),
    (RIGHT.replace(",", "\uff0c"), ("S1", "E10002"), RIGHT),
    (RIGHT.replace("x:1", "x\uff1a1") + "\uff1by:1", ("S1", "E10016"), RIGHT.replace("=x:1,3,64,64", '="x:1,3,64,64;y:1"')),
    (RIGHT.replace("Ascend310P3", "<soc_version>"), ("G16", None), RIGHT),
    (RIGHT.replace(" --framework", "\n--framework"), ("G1", "E10054"), RIGHT),
    (RIGHT.replace(" --framework", " \\ # ONNX\n--framework"), ("G1", "E10054"), RIGHT),
    (BASE + " --input_shape=x:1,3,64,64;y:1 --log=info", ("G1", "E10054"), BASE + ' --input_shape="x:1,3,64,64;y:1" --log=info'),
    (
        BASE + BATCH + " --dynamic_batch_size=1\uff0c2",
        ("B3", "E10003"),
        BASE + " --input_shape=x:-1,3,64,64 --dynamic_batch_size=1,2",
    ),
    (
        BASE + SIDES + " --dynamic_image_size='64\uff0c64\uff1b32,32'",
        ("I3", "E10003"),
        BASE + ' --input_shape=x:1,3,-1,-1 --dynamic_image_size="64,64;32,32"',
    ),
    (
        BASE + " --input_format=ND --input_shape=x:-1,3 --dynamic_dims='1\uff1b2'",
        ("D3", "E10001"),
        BASE + ' --input_format=ND --input_shape=x:-1,3 --dynamic_dims="1;2"',
    ),
    (BASE + " --input_shape='x:[1~4,3];y:[1~4]'", ("S9", "E10048"), BASE + ' --input_shape="x:1~4,3;y:1~4"'),
    (RIGHT + " --precision_mode=fp16", ("G15", "E10001"), RIGHT + " --precision_mode_v2=fp16"),
    ("atc --mode=1 --om=a.om", ("G15", "E10004"), "atc --mode=1 --om=a.om --json=model.json"),
    (
        BASE + " --input_format=NCDHW --input_shape=x:1,3,16,-1,-1 --dynamic_image_size='64,96;32,48'",
        ("I2", "E10003"),
        BASE + ' --input_format=ND --input_shape=x:1,3,16,-1,-1 --dynamic_dims="64,96;32,48"',
    ),
]


@pytest.mark.parametrize(("line", "first", "meant"), POSTED)
def test_what_people_post_is_told_and_put_right(line, first, meant):
    violation = errors(line)[0]
    assert (violation.rule, violation.code) == first
    assert str(correct_atc(line)) == meant
    assert errors(meant) == []


WARNED = [
    (RIGHT + " --input_shape=x:1,3,32,32", "--input_shape is set more than once, expected once"),
    (RIGHT.replace("=x:1,3,64,64", "='x:1,3,64,64;x:1'"), "--input_shape has 'x' more than once, expected each input once"),
    (RIGHT + " --dynamic_dims=", "--dynamic_dims is empty, expected a value or no such option"),
    (RIGHT + " --auto_tune_mode=RL,GA", "--auto_tune_mode is set, expected no such option"),
]


@pytest.mark.parametrize(("line", "message"), WARNED)
def test_what_atc_may_take_and_is_seldom_meant(line, message):
    (violation,) = check_atc(line)
    assert (violation.level, violation.message) == ("warning", message)
    assert check_atc(violation.way_out.splitlines()[0]) == ()


FINE = [
    "atc --singleop=add.json --output=out --soc_version=Ascend310P3",
    "atc --mode=6 --om=m.om",
    BASE.replace("m.onnx", "m.pb").replace("=5", "=3") + " --input_shape=x:1,-1,-1,3 --dynamic_image_size='112,112;224,224'",
    BASE.replace("m.onnx", "m.pb").replace("=5", "=3") + " --input_shape=x:-1,64,64,3 --dynamic_batch_size=1,2",
    BASE + " --input_shape='data:8,3,-1,-1;img_info:8,4,-1,-1' --dynamic_image_size='416,416;832,832'",
    BASE
    + " --input_format=ND --input_shape='data:1,1,40,-1;label:1,-1;mask:-1,-1' --dynamic_dims='20,20,1,1;40,40,2,2;80,60,4,4'",
    BASE + " --input_format=NCDHW --input_shape=x:-1,3,16,64,64 --dynamic_batch_size=1,2",
    BASE + " --input_shape='input.1:1,3,64,64;/model/x:0:1,2;scale:'",
]


@pytest.mark.parametrize("line", FINE)
def test_what_manuals_and_model_zoos_have_breaks_no_rule(line):
    assert check_atc(line) == ()
    assert str(correct_atc(line)) == str(parse_atc(line))


def test_a_command_for_a_model_that_is_at_fault_is_not_mended():
    assert correct_atc(RIGHT, header(FREE, opset=20)) is None
    assert correct_atc(RIGHT.replace("x:", "y:"), IMAGE).get("input_shape") == "x:1,3,64,64"


def test_a_redirect_is_no_word_of_atc():
    for after in (" > log.txt 2>&1", " 2>&1 | tee log", " && echo done", "; echo done", " &"):
        assert check_atc(BASE + X + after) == (), after


PIECES = """x:1,3,64,64 x:-1,3,-1,-1 x:-1 y: : x 1,2 1~4 x:1~4,3 x:0 ; , -1 0 a:b:c 64,64;32,32 1;2 1,2;3 x:[1~2] x:[ 1.5 é - ~
99999999999999999999 x:-1,-1,-1,-1 3,4;3,4 1,2,3,4""".split()
pieces = st.sampled_from([*PIECES, " "])
names = st.sampled_from(["input_shape", "input_shape_range", *GEAR_OPTIONS, "input_format", "framework", "soc_version", "mode"])
options = st.dictionaries(names, st.lists(pieces, max_size=3).map("".join), max_size=6)
models = st.sampled_from([None, IMAGE, TOKENS, SCALAR, header(), header(Port("x", None, None))])


@settings(max_examples=400, deadline=None)
@given(options, models)
def test_whatever_is_written_is_judged(values, model):
    base = {"model": "m.onnx", "framework": "5", "output": "m", "soc_version": "Ascend310P3"}
    command = AtcCommand(tuple((base | values).items()))
    found = check_atc(command, model)
    for violation in found:
        line = violation.way_out.splitlines()[0]
        assert str(parse_atc(line)) == line
    if all(violation.level != "error" for violation in found):  # then all of it can be read
        gears = [command.get(option) for option in GEAR_OPTIONS if command.get(option)]
        assert len(gears) < 2
        assert all(int(number) > 0 for text in gears for number in re.findall("[^,;]+", text))
        assert all(re.fullmatch("(.+:[-0-9,~]*)?", part) for part in command.get("input_shape").split(";"))


@settings(max_examples=200, deadline=None)
@given(options, models.filter(lambda model: model is None or model.inputs))
def test_ways_out_lead_out(values, model):
    """Each correction mends the first error, until none is left."""
    base = {"model": "m.onnx", "framework": "5", "output": "m", "soc_version": "Ascend310P3"}
    command = AtcCommand(tuple((base | values).items()))
    for _ in range(30):
        found = errors(command, model)
        if not found:
            break
        command = parse_atc(found[0].way_out.splitlines()[0])
    assert found == []
