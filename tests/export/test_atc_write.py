"""The command that is written for gears: which option says them, and that it breaks no rule."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixshape.errors import UsageError
from fixshape.export import Gears, Input, NodeHead, OnnxHeader, Port, check_atc, parse_atc, parse_inputs, write_atc
from fixshape.export._command_line import _NARROW

CHIP = {"model": "dir/m.onnx", "soc_version": "Ascend310P3"}
SIZES = ({"H": 320, "W": 480}, {"H": 480, "W": 320})


def gears(text, *values):
    return Gears(parse_inputs(text), values)


def options(command):
    return {name: value for name, value in command.options if name.startswith(("input", "dynamic"))}


def test_one_gear_is_a_fixed_shape():
    build = write_atc(gears("x:N,3,H,W", {"N": 2, "H": 320, "W": 480}), **CHIP)
    assert str(build.command) == (
        "atc --model=dir/m.onnx --framework=5 --output=m --soc_version=Ascend310P3 --input_shape=x:2,3,320,480"
    )
    assert build.violations == ()


def test_the_batch_alone():
    build = write_atc(gears("x:N,3,H,W;ids:N,77", *({"N": n, "H": 320, "W": 480} for n in (1, 2, 4))), **CHIP)
    assert options(build.command) == {"input_shape": "x:-1,3,320,480;ids:-1,77", "dynamic_batch_size": "1,2,4"}
    assert [violation.level for violation in build.violations] == ["advice"], "one number for both batches"


def test_height_and_width_alone():
    build = write_atc(gears("x:N,3,H,W;sizes:N,2", *({"N": 1} | size for size in SIZES)), **CHIP)
    assert options(build.command) == {
        "input_format": "NCHW",
        "input_shape": "x:1,3,-1,-1;sizes:1,2",
        "dynamic_image_size": "320,480;480,320",
    }
    assert build.violations == ()


def test_one_side_alone_takes_pairs_all_the_same():
    build = write_atc(gears("x:1,3,64,W", {"W": 320}, {"W": 480}), **CHIP)
    assert options(build.command)["dynamic_image_size"] == "64,320;64,480"


def test_batch_and_sizes_together_are_dims_and_their_product_is_told():
    build = write_atc(gears("x:N,3,H,W", *({"N": n} | size for n in (1, 2) for size in SIZES)), **CHIP)
    assert options(build.command) == {
        "input_format": "ND",
        "input_shape": "x:-1,3,-1,-1",
        "dynamic_dims": "1,320,480;1,480,320;2,320,480;2,480,320",
    }
    (product,) = build.violations
    assert (product.rule, product.level) == ("P6", "warning")
    assert product.message == "2 batch sizes and 2 canvases are 4 gears"


def test_lengths_and_scalars_are_dims():
    lengths = write_atc(gears("ids:1,L;mask:1,L", {"L": 64}, {"L": 128}), **CHIP)
    assert options(lengths.command)["dynamic_dims"] == "64,64;128,128"
    scalar = write_atc(gears("x:N,3;t:", {"N": 1}, {"N": 2}), **CHIP)
    assert options(scalar.command) == {"input_format": "ND", "input_shape": "x:-1,3;t:", "dynamic_dims": "1;2"}


def test_batches_that_differ_between_inputs_are_dims():
    build = write_atc(gears("a:N,3;b:M,3", {"N": 1, "M": 2}, {"N": 2, "M": 1}), **CHIP)
    assert options(build.command)["dynamic_dims"] == "1,2;2,1"


def test_too_many_gears_and_chips_without_them_are_told():
    many = write_atc(gears("x:N,3", *({"N": n} for n in range(1, 102))), **CHIP)
    assert [violation.code for violation in many.violations if violation.level == "error"] == ["E10036"]
    two = gears("x:N,3", {"N": 1}, {"N": 2})
    nano = write_atc(two, model="m.onnx", soc_version="Ascend035")
    assert [violation.rule for violation in nano.violations] == ["3g"]


def test_the_header_is_checked_too():
    port = Port("images", "float32", ("N", 3))
    header = OnnxHeader((port,), (), {"": 20}, 10, (NodeHead("NonZero", "", "/roi/NonZero"),))
    build = write_atc(gears("x:N,3", {"N": 1}, {"N": 2}), **CHIP, header=header)
    errors = [violation for violation in build.violations if violation.level == "error"]
    assert [violation.rule for violation in errors] == ["G14", "G12", "G10", "P7"]
    assert "opset 20, expected 11 to 18" in errors[0].message
    assert "NonZero (/roi/NonZero)" in errors[-1].message


def test_a_name_that_no_quotes_can_save():
    for name in ("a;b", "a\nb"):
        with pytest.raises(
            UsageError, match="cannot be named in --input_shape, whose parts are separated by ;. Rename the input"
        ):
            write_atc(Gears((Input(name, (1,)),), ({},)), **CHIP)


WIDE = "".join(map(chr, _NARROW))  # in a command that somebody wrote they are a mistake
symbol = st.sampled_from(["N", "H", "W", "L"])
dim = st.one_of(symbol, st.integers(1, 4000))
image = st.tuples(st.sampled_from(["N", 1]), st.just(3), st.sampled_from(["H", 64]), st.sampled_from(["W", 64]))
shape = st.one_of(image, st.lists(dim, max_size=5).map(tuple))
name = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters=";" + WIDE), min_size=1, max_size=8)
inputs = st.dictionaries(name, shape, min_size=1, max_size=3)
values = st.lists(st.fixed_dictionaries(dict.fromkeys("NHWL", st.sampled_from([1, 2, 8, 320, 5000]))), min_size=1, max_size=12)


def _written(named, given):
    return write_atc(Gears(tuple(itertools.starmap(Input, named.items())), tuple(given)), **CHIP)


@settings(max_examples=300, deadline=None)
@given(inputs, values)
def test_whatever_is_written_breaks_no_rule_and_says_every_gear(named, given):
    build = _written(named, given)
    assert [violation for violation in build.violations if violation.level == "error"] == []
    line = parse_atc(str(build.command))
    assert line == build.command
    assert [violation for violation in check_atc(line) if violation.level == "error"] == []
    told = _gears_of(line)
    asked = {tuple(tuple(gear[d] if isinstance(d, str) else d for d in dims) for dims in named.values()) for gear in given}
    assert set(told) == asked
    assert len(told) == len(asked)


def _gears_of(command):
    """The shapes that a command builds, read as the manual has it: a second reading, not the writer's."""
    shapes = [part.rpartition(":")[2].split(",") for part in command.get("input_shape").split(";")]
    shapes = [[int(size) for size in shape] if shape != [""] else [] for shape in shapes]
    batch, sides, dims = (command.get(f"dynamic_{kind}") for kind in ("batch_size", "image_size", "dims"))
    free = [(i, axis) for i, shape in enumerate(shapes) for axis, size in enumerate(shape) if size == -1]
    told = []
    for gear in batch.split(",") if batch else (sides or dims or "").split(";"):
        numbers = [int(number) for number in gear.split(",") if number]
        filled = [list(shape) for shape in shapes]
        for count, (i, axis) in enumerate(free):
            filled[i][axis] = numbers[0] if batch else numbers[axis - 2] if sides else numbers[count]
        told.append(tuple(map(tuple, filled)))
    return told


def test_the_second_reading_can_tell():
    command = parse_atc("atc --input_shape='x:-1,3;y:-1' --dynamic_dims='1,2;3,4'")
    assert _gears_of(command) == [((1, 3), (2,)), ((3, 3), (4,))]
    assert _gears_of(command.with_options(dynamic_dims="1,2;3,5")) != _gears_of(command)
