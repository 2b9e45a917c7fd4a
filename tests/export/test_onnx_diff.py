"""Two exports at different sizes: what differs is said in symbols, and what cannot be is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import parser

from fixshape.errors import ExportError
from fixshape.export import diff
from fixshape.export._onnx_run import differences, open_session, random_feeds, run
from fixshape.export._onnx_shapes import input_dims

HEAD = '<ir_version: 8, opset_import: ["" : 18]>\n'


def parse(body: str):
    return parser.parse_model(HEAD + body)


def image(n, h, w):
    """An image whose sizes stand in a Reshape as factors, products and sums, and in a tensor of equal rows."""
    ones = ", ".join(["1.0"] * (h * 2))
    return parse(
        f"g (float[{n}, 2, {h}, {w}] x) => (float[{n}, 2, {h * w}] y, float[{n}, 2, {h - 1}, {w}] z)"
        f" <int64[3] s = {{{n}, 2, {h * w}}},"
        f" float[{h * 2}, 1] ones = {{{ones}}}, int64[4] t = {{{n}, 1, {h * 2}, {w}}}, int64[4] u = {{{n}, 2, {h}, {w}}},"
        f" int64[1] a = {{0}}, int64[1] e = {{{h - 1}}}, int64[1] axis = {{2}}>"
        " { b = Reshape(x, t) c = Mul(b, ones) d = Reshape(c, u) y = Reshape(d, s) z = Slice(d, a, e, axis) }"
    )


@settings(max_examples=25, deadline=None)
@given(
    first=st.tuples(st.integers(2, 4), st.integers(3, 6), st.integers(3, 6)),
    more=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)),
    other=st.tuples(st.integers(1, 5), st.integers(2, 9), st.integers(2, 9)),
)
def test_the_dynamic_file_is_the_model_at_any_size(first, more, other):
    """Sizes by chance: refused, or right at a third size that is checked."""
    second = tuple(one + step for one, step in zip(first, more, strict=True))
    third = image(*other)
    try:
        found = diff(image(*first), image(*second), third)
    except ExportError as error:
        assert "by the same factor" in str(error) or "diff: the result is not" in str(error) or "onnxruntime" in str(error)
        return
    assert found.symbols == dict(zip("NHW", zip(first, second, strict=True), strict=True))
    feeds = random_feeds(open_session(third), {}, seed=9)
    assert differences(run(open_session(found.model), feeds), run(open_session(third), feeds)) == []


def test_products_and_rests_of_symbols():
    found = diff(image(2, 4, 6), image(3, 8, 10), image(5, 7, 3))
    assert found.symbols == {"N": (2, 3), "H": (4, 8), "W": (6, 10)}
    assert found.proved == (
        "equals the first file at x 2,2,4,6",
        "equals the second file at x 3,2,8,10",
        "equals the third file at x 5,2,7,3",
    )
    assert {port.name: input_dims(port) for port in (*found.model.graph.input, *found.model.graph.output)} == {
        "x": ("N", 2, "H", "W"), "y": ("N", 2, "H*W"), "z": ("N", 2, None, "W"),
    }  # fmt: skip
    assert "'y' (Reshape)" in found.changed


def test_a_wrong_guess_is_refused_by_the_third_file():
    """12 and 20 are 8 * N - 12 as far as two files can say; the model has N * (N + 1)."""

    def model(n):
        return parse(
            f"g (float[{n}, 2] x) => (float[{n * n + n}] y) <int64[1] s = {{{n * n + n}}}>"
            "{ t = ConstantOfShape(s) m = ReduceMax <keepdims = 0> (x) y = Add(t, m) }"
        )

    with pytest.raises(
        ExportError, match=r"diff: the result is not what the original gives: y: it has shape \[36\], expected \[42\]"
    ):
        diff(model(3), model(4), model(6))


BODY = "g (float[{n}, 3] x) => (float[{n}, 3] y) {constants} {{ {nodes} }}"


def at(n, constants="", nodes="y = Neg(x)"):
    return parse(BODY.format(n=n, constants=constants, nodes=nodes))


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (at(2), at(2), "both files have the same input sizes"),
        (at(2), at(3, nodes="y = Abs(x)"), r"where the first has 'y' \(Neg\) the second has 'y' \(Abs\)"),
        (at(2), at(3, nodes="z = Neg(x) y = Abs(z)"), "the second has 'y' .Abs.|the second has 'z'|has no more nodes"),
        (at(2, nodes="y = Softmax <axis = 0> (x)"), at(3, nodes="y = Softmax <axis = 1> (x)"),
         r"node 'y' \(Softmax\): attribute axis differs \(0 and 1\)"),
        (at(2, "<float[3] w = {1.0, 2.0, 3.0}>", "y = Add(x, w)"), at(3, "<float[3] w = {1.0, 2.0, 4.0}>", "y = Add(x, w)"),
         r"node 'y' \(Add\): constant 'w' differs in its numbers \(1 of 3, float32\)"),
        (at(2, "<float[2, 1] w = {1.0, 5.0}>", "y = Add(x, w)"), at(3, "<float[3, 1] w = {1.0, 5.0, 6.0}>", "y = Add(x, w)"),
         r"node 'y' \(Add\): constant 'w' has shape \[2, 1\] and \[3, 1\], and is neither one row that repeats nor"),
        (at(2, "<int64[1] w = {7}>", "z = Cast <to = 1> (w) y = Add(x, z)"),
         at(4, "<int64[1] w = {8}>", "z = Cast <to = 1> (w) y = Add(x, z)"),
         r"node 'z' \(Cast\): constant 'w' is 7 and 8, which does not follow from the sizes \(N 2 and 4\)"),
        (at(2, nodes="a = Neg(x) b = Abs(x) y = Sub(a, b)"), at(3, nodes="a = Neg(x) b = Abs(x) y = Sub(b, a)"),
         r"'y' \(Sub\) reads 'a' and 'b'"),
        (parse("g (float[2, 4] x) => (float[2, 4] y) { y = Neg(x) }"),
         parse("g (float[4, 8] x) => (float[4, 8] y) { y = Neg(x) }"),
         "N goes from 2 to 4 and x_1 from 4 to 8, by the same factor"),
        (at(2), parse("g (float[3, 3] other) => (float[3, 3] y) { y = Neg(other) }"), r"the inputs are \['x'\] and \['other'\]"),
        (at(2), parse("g (float[3] x) => (float[3] y) { y = Neg(x) }"), "input 'x' has 2 axes in one file and 1 in the other"),
        (at(2), parse("g (float[N, 3] x) => (float[N, 3] y) { y = Neg(x) }"),
         "axis 0 of 'x' is 2 and N: expected two fixed sizes"),
    ],
)  # fmt: skip
def test_refused(first, second, said):
    with pytest.raises(ExportError, match=said):
        diff(first, second)


def test_a_third_file_that_is_another_model_is_refused():
    with pytest.raises(ExportError, match="diff: the result is not what the original gives: y: .* numbers differ"):
        diff(at(2), at(3), at(5, nodes="y = Abs(x)"))


def test_indices_of_samples_and_equal_rows():
    def model(n):
        numbers, rows = ", ".join(map(str, range(n))), ", ".join(["7.0"] * n)
        return parse(
            f"g (float[{n}, 3] x) => (float[{n}, 1] y) <int64[{n}, 1] i = {{{numbers}}}, float[{n}, 1] r = {{{rows}}},"
            " int64[1] one = {1}>"
            "{ a = ArgMax <axis = 1> (x) b = Concat <axis = 1> (i, a) c = GatherND(x, b) d = Unsqueeze(c, one) y = Sub(d, r) }"
        )

    found = diff(model(2), model(3))
    x = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
    np.testing.assert_allclose(run(open_session(found.model), {"x": x})["y"][:, 0], x.max(1) - 7, rtol=1e-5)


def grid(n, h, w):
    """A filled tensor and indices, each with two axes that follow the sizes."""
    filled = ", ".join(["2.0"] * (h * w))
    places = ", ".join(f"{sample}, {row}" for sample in range(n) for row in range(h))
    return parse(
        f"g (float[{n}, {h}, {w}] x) => (float[{n}, {h}, {w}] y, float[{n}, {h}, {w}] z)"
        f" <float[{h}, {w}] filled = {{{filled}}}, int64[{n}, {h}, 2] places = {{{places}}}>"
        " { y = Mul(x, filled) z = GatherND(x, places) }"
    )


def test_constants_that_grow_along_two_axes():
    found = diff(grid(2, 3, 4), grid(3, 5, 7))
    assert found.symbols == {"N": (2, 3), "x_1": (3, 5), "x_2": (4, 7)}
    third = grid(4, 2, 9)
    feeds = random_feeds(open_session(third), {}, seed=1)
    assert differences(run(open_session(found.model), feeds), run(open_session(third), feeds)) == []


def test_axes_of_two_inputs_that_are_equal_in_both_files_are_one_size():
    def pair(n, length):
        return parse(
            f"g (float[{n}, {length}] ids, float[{n}, {length}] mask) => (float[{n}, {length}] y) {{ y = Mul(ids, mask) }}"
        )

    found = diff(pair(2, 4), pair(3, 8))
    assert found.symbols == {"N": (2, 3), "ids_1": (4, 8)}
    assert [input_dims(port) for port in found.model.graph.input] == [("N", "ids_1")] * 2


def test_a_number_that_was_taken_for_a_multiple_of_the_batch_is_found():
    """2 * N + 4 and W + 2 are the same in both files: what is not the same is one batch size at another width."""

    def padded(n, w):
        ones = ", ".join(["1.0"] * (w + 2))
        return parse(
            f"g (float[{n}, {w}] x) => (float[{n}, {w + 2}] y) <int64[4] p = {{0, 1, 0, 1}}, float[{w + 2}] ones = {{{ones}}}>"
            " { a = Pad(x, p) y = Mul(a, ones) }"
        )

    found = diff(padded(1, 4), padded(2, 6))
    third = padded(3, 9)
    feeds = random_feeds(open_session(third), {}, seed=1)
    assert differences(run(open_session(found.model), feeds), run(open_session(third), feeds)) == []
