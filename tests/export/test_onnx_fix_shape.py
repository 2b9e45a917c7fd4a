"""Sizes in the place of symbols, and contradictions."""

import onnx
import pytest
from onnx import parser

from fixshape.errors import ExportError, ShapeError, UsageError
from fixshape.export import fix_shape
from fixshape.export._onnx_shapes import input_dims

HEAD = '<ir_version: 8, opset_import: ["" : 18]>\n'
TWO = """g (float[N, 3, H, W] images, int64[N, 2] sizes, float[?, 3] any) => (float[N, 3, P, Q] y, int64[N, 2] z, float[?, 3] w) <
    float[4] scales = {1.0, 1.0, 2.0, 2.0}> {
    a = Neg(images) y = Resize <mode = "nearest"> (a, , scales) z = Neg(sizes) w = Neg(any) }"""


def parse(body: str):
    return parser.parse_model(HEAD + body)


def dims(ports):
    return {port.name: input_dims(port) for port in ports}


def test_a_symbol_gets_its_size_everywhere_and_what_follows_is_inferred():
    fixed = fix_shape(parse(TWO), {"images": (2, 3, 8, 10)})
    assert dims(fixed.graph.input) == {"images": (2, 3, 8, 10), "sizes": (2, 2), "any": (None, 3)}
    assert dims(fixed.graph.output)["y"] == (2, 3, 16, 20)
    assert dims(fixed.graph.output)["z"] == (2, 2)
    assert dims(fixed.graph.value_info)["a"] == (2, 3, 8, 10)
    onnx.checker.check_model(fixed, full_check=True)
    assert dims(fix_shape(fixed, {"any": (7, 3)}).graph.output)["w"] == (7, 3)


def test_a_size_that_depends_on_data_is_not_written():
    fixed = fix_shape(parse("g (float[N, 3] x) => (int64[2, K] y) { y = NonZero(x) }"), {"x": (4, 3)})
    assert dims(fixed.graph.output) == {"y": (2, None)}


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({"image": (2, 3, 8, 8)}, "there is no input 'image': the file has images, sizes, any. Did you mean 'images'?"),
        ({"images": (2, 3, 8)}, "'images' is given 3 sizes, 2,3,8, and has 4 axes, N,3,H,W"),
        ({"images": (2, 4, 8, 8)}, "axis 1 of 'images' is fixed to 3 in the file, and given as 4: export the model anew"),
        (
            {"images": (2, 3, 8, 8), "sizes": (3, 2)},
            "symbol 'N' is given as 2 at axis 0 of 'images' and as 3 at axis 0 of 'sizes'; in the file they are one size",
        ),
    ],
)
def test_contradictions(shapes, said):
    with pytest.raises(UsageError, match=said):
        fix_shape(parse(TWO), shapes)


def test_a_fixed_batch_and_a_size_below_one():
    model = parse("g (float[2, 3] x) => (float[2, 3] y) { y = Neg(x) }")
    with pytest.raises(UsageError, match="axis 0 of 'x' is fixed to 2 in the file, and given as 4: fixshape onnx set-batch"):
        fix_shape(model, {"x": (4, 3)})
    with pytest.raises(ShapeError, match="axis 0 of 'x' is 0, expected a whole number of at least 1"):
        fix_shape(model, {"x": (0, 3)})


def test_a_size_that_the_graph_does_not_take_is_refused_with_the_node():
    model = parse("g (float[N, 3] x) => (float[M, 2] y) <int64[2] s = {3, 2}> { y = Reshape(x, s) }")
    assert dims(fix_shape(model, {"x": (2, 3)}).graph.output) == {"y": (3, 2)}
    with pytest.raises(ExportError, match="Reshape"):
        fix_shape(model, {"x": (4, 3)})
