"""One plan, four targets: what each says of it."""

import pytest

from fixshape.export import Gears, OnnxHeader, Port, legality, legality_text, parse_inputs, plan_gears
from fixshape.plan import Bucket, ShapePlan

TARGETS = ["ATC", "TensorRT", "TorchAir", "ONNX Runtime"]
PLAN = ShapePlan([Bucket(320, 320, 8), Bucket(320, 480, 8)])
INPUTS = parse_inputs("images:N,3,H,W")


def header(*dims, name="images", opset=18):
    return OnnxHeader((Port(name, "float32", dims),), (), {"": opset}, 10, ())


FREE = header("batch", 3, "height", "width")


def rows(gears, **options):
    found = legality(gears, **options)
    assert [row.target for row in found] == TARGETS
    return {row.target: row for row in found}


def test_a_plan_that_all_take():
    found = rows(plan_gears(PLAN, INPUTS, batch_sizes=(2, 4)), soc_version="Ascend310P3", header=FREE)
    assert all(row.legal for row in found.values())
    assert found["ATC"].how == "--dynamic_dims, 4 gears"
    assert found["TensorRT"].how == "4 profiles, one shape each"
    assert found["TorchAir"].how == "4 gears, policy zip"


def test_a_batch_of_one_is_legal_for_all_but_torchair():
    found = rows(plan_gears(PLAN, INPUTS, batch_sizes=(1, 2, 4, 8)))
    assert {target: row.legal for target, row in found.items()} == dict(zip(TARGETS, (True, True, False, True), strict=True))
    assert [violation.rule for violation in found["TorchAir"].violations] == ["A2"]
    assert found["ATC"].how.endswith(", as for Ascend310P3")


def test_one_gear():
    found = rows(plan_gears(ShapePlan([Bucket(320, 320, 8)]), INPUTS), header=FREE)
    assert (found["ATC"].how, found["TensorRT"].how) == ("a fixed shape, as for Ascend310P3", "1 profile, one shape each")
    assert (found["TorchAir"].legal, found["TorchAir"].how) == (False, "without gears")


def test_more_gears_than_a_target_takes():
    many = Gears(parse_inputs("x:N,3"), tuple({"N": batch} for batch in range(2, 123)))
    found = rows(many)
    assert "E10036" in {violation.code for violation in found["ATC"].violations}
    assert [violation.rule for violation in found["TorchAir"].violations] == ["A1"]
    (warning,) = found["TensorRT"].violations
    assert (warning.level, warning.way_out, found["TensorRT"].how) == ("warning", "fixshape trt --ranges 4", "4 profiles, ranges")
    assert found["TensorRT"].legal
    more = rows(Gears(parse_inputs("x:N,3"), tuple({"N": batch} for batch in range(2, 303))))
    assert (more["TensorRT"].legal, more["TensorRT"].how) == (False, "not at all")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (header(1, 3, "height", "width"), "images: 2x3x320x320 is not 1,3,height,width, which the file has; 4 of 4 shapes"),
        (header("batch", 3, "length"), "images: 2x3x320x320 is not batch,3,length"),
        (header("batch", 3, "height", "width", name="data"), "the file has an input data, and the gears have none"),
    ],
)
def test_a_file_that_does_not_fit(file, message):
    found = rows(plan_gears(PLAN, INPUTS, batch_sizes=(2, 4)), header=file)
    assert not found["ONNX Runtime"].legal and not found["TensorRT"].legal
    (violation, *_) = found["ONNX Runtime"].violations
    assert (violation.rule, violation.message[: len(message)]) == ("O1", message)


def test_a_file_of_no_known_rank_is_left_to_the_tools():
    unknown = OnnxHeader((Port("images", "float32", None),), (), {"": 18}, 10, ())
    assert rows(plan_gears(PLAN, INPUTS, batch_sizes=(2, 4)), header=unknown)["ONNX Runtime"].legal


def test_names_that_cannot_be_written():
    found = rows(Gears(parse_inputs("a,b:N,3"), ({"N": 2}, {"N": 3})))
    assert not found["TensorRT"].legal
    assert "the name has ','" in found["TensorRT"].violations[0].message


def test_the_table_has_a_line_for_each_and_the_way_out_below():
    lines = legality_text(legality(plan_gears(PLAN, INPUTS, batch_sizes=(1, 4)))).splitlines()
    assert lines[0].split() == ["target", "legal", "how"]
    assert [line.split("  ")[0] for line in lines if not line.startswith(" ")][1:] == TARGETS
    place = next(index for index, line in enumerate(lines) if line.startswith("TorchAir"))
    assert lines[place].split()[1] == "no"
    assert lines[place + 1] == "    error (A2): N has a gear of 1, expected 2 or more"
    assert lines[place + 3].strip().startswith("instead: N 4 as gears")
