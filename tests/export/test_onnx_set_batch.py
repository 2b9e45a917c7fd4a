"""The batch size of a file, from one constant after another; and that the proof can fail."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper, parser

from fixshape.errors import ExportError, ShapeError, UsageError
from fixshape.export import set_batch
from fixshape.export._onnx_constants import is_rounded
from fixshape.export._onnx_prove import prove_rows
from fixshape.export._onnx_run import differences, open_session, random_feeds, run
from fixshape.export._onnx_trace import Place

HEAD = '<ir_version: 8, opset_import: ["" : 18]>\n'


def parse(body: str):
    return parser.parse_model(HEAD + body)


BAKED = {
    "Reshape": "g (float[2, 3, 4] x) => (float[2, 12] y) <int64[2] s = {2, 12}> { y = Reshape(x, s) }",
    "Reshape with -1 elsewhere": "g (float[2, 3, 4] x) => (float[2, 12] y) <int64[2] s = {2, -1}> { y = Reshape(x, s) }",
    "Reshape to a joined axis": """g (float[2, 3, 4] x) => (float[2, 12] y)
        <int64[2] s = {6, 4}, int64[2] t = {2, 12}> { a = Reshape(x, s) b = Relu(a) y = Reshape(b, t) }""",
    "Reshape with the batch second": """g (float[2, 3, 4] x) => (float[2, 3, 4] y) <int64[2] s = {6, 4}, int64[3] t = {3, 2, 4}>
        { a = Transpose <perm = [1, 0, 2]> (x) b = Reshape(a, s) c = Reshape(b, t) y = Transpose <perm = [1, 0, 2]> (c) }""",
    "Expand": """g (float[2, 3] x) => (float[2, 4] y) <float[1, 1] w = {7.0}, int64[2] s = {2, 1}>
        { a = Expand(w, s) y = Concat <axis = 1> (x, a) }""",
    "Tile": """g (float[2, 3] x) => (float[2, 4] y) <float[1, 1] w = {7.0}, int64[2] s = {2, 1}>
        { a = Tile(w, s) y = Concat <axis = 1> (x, a) }""",
    "ConstantOfShape": """g (float[2, 3] x) => (float[2, 5] y) <int64[2] s = {2, 2}>
        { a = ConstantOfShape(s) y = Concat <axis = 1> (x, a) }""",
    "Slice": """g (float[2, 3] x) => (float[2, 3] y) <int64[1] a = {0}, int64[1] e = {2}>
        { b = Concat <axis = 0> (x, x) y = Slice(b, a, e, a) }""",
    "Slice of the second half": """g (float[2, 3] x) => (float[2, 3] y) <int64[1] a = {2}, int64[1] e = {4}, int64[1] z = {0}>
        { m = Neg(x) b = Concat <axis = 0> (x, m) y = Slice(b, a, e, z) }""",
    "Split": """g (float[2, 3] x) => (float[2, 3] y) <int64[2] s = {2, 2}>
        { m = Neg(x) b = Concat <axis = 0> (x, m) c, d = Split <axis = 0> (b, s) y = Sub(c, d) }""",
    "Resize": """g (float[2, 1, 2, 2] x) => (float[2, 1, 4, 4] y) <int64[4] s = {2, 1, 4, 4}>
        { y = Resize <mode = "nearest"> (x, , , s) }""",
    "a tensor of equal rows": """g (float[2, 3] x) => (float[2, 4] y) <float[2, 1] w = {7.0, 7.0}>
        { y = Concat <axis = 1> (x, w) }""",
    "indices of samples": """g (float[2, 3] x) => (float[2] y) <int64[2, 1] i = {0, 1}>
        { a = ArgMax <axis = 1> (x) b = Concat <axis = 1> (i, a) y = GatherND(x, b) }""",
    "indices of samples, and of what each holds": """g (float[2, 3] x) => (float[2, 2] y)
        <int64[2, 2, 2] i = {0, 2, 0, 0, 1, 2, 1, 0}> { y = GatherND(x, i) }""",
    "places of samples in a row": """g (float[2, 3] x) => (float[2, 3] y)
        <int64[1] all = {6}, int64[2, 3] i = {2, 1, 0, 5, 4, 3}> { a = Reshape(x, all) y = Gather(a, i) }""",
    "equal rows that a product reads": """g (float[2, 3, 2] x) => (float[2, 1, 2] y)
        <float[2, 1, 3] w = {1.0, 2.0, 3.0, 1.0, 2.0, 3.0}> { y = MatMul(w, x) }""",
    "numbers that a shape is made of": """g (float[2, 3, 4] x) => (float[2, 12] y) <int64[1] n = {2}, int64[1] one = {1},
        int64[1] two = {2}>
        { s = Shape(x) b = Gather(s, one) c = Gather(s, two) d = Mul(b, c) t = Concat <axis = 0> (n, d) y = Reshape(x, t) }""",
    "a Constant node": """g (float[2, 3, 4] x) => (float[2, 12] y)
        { s = Constant <value_ints = [2, 12]> () y = Reshape(x, s) }""",
}


@pytest.mark.parametrize("name", BAKED)
@pytest.mark.parametrize("to", ["dynamic", 1, 3, 6])
def test_each_place_where_a_batch_size_is_baked(name, to):
    model = parse(BAKED[name])
    before = model.SerializeToString()
    change = set_batch(model, to)
    assert change.changed
    assert model.SerializeToString() == before, "the original is not changed"
    onnx.checker.check_model(change.model, full_check=True)
    dims = [port.type.tensor_type.shape.dim[0] for port in (change.model.graph.input[0], change.model.graph.output[0])]
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["N" if to == "dynamic" else to] * 2
    # Samples one by one: each twice, since the original takes two.
    session, original = open_session(change.model), open_session(model)
    count = 4 if to == "dynamic" else to
    feeds = random_feeds(session, {"x": (count, *(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[1:]))})
    alone = [run(original, {"x": feeds["x"][[row, row]]})["y"][:1] for row in range(count)]
    assert differences(run(session, feeds), {"y": np.concatenate(alone)}) == []


def test_one_constant_that_two_nodes_read_is_changed_for_one():
    """[2, 12] is a target of Reshape and, elsewhere, two numbers that have nothing to do with the batch."""
    model = parse("g (float[2, 3, 4] x) => (float[2, 12] y, int64[2] z) <int64[2] s = {2, 12}> { y = Reshape(x, s) z = Neg(s) }")
    change = set_batch(model)
    assert change.changed == ("'y' (Reshape)",)
    np.testing.assert_array_equal(run(open_session(change.model), {"x": np.zeros((5, 3, 4), np.float32)})["z"], [-2, -12])


@pytest.mark.parametrize("off", [3e-8, 1e-3])
def test_a_table_that_was_computed_for_each_sample_repeats_but_for_rounding(off):
    """A table of positions that is folded has a row for each sample, of sums in another order; 1e-3 is no rounding."""
    table = f"<float[2, 3] w = {{0.1, 0.2, 0.3, {0.1 + off:.9f}, 0.2, 0.3}}>"
    model = parse(f"g (float[2, 3] x) => (float[2, 3] y) {table} {{ y = Add(x, w) }}")
    if off > 1e-6:
        with pytest.raises(ExportError, match=r"node 'y' \(Add\): Incompatible dimensions"):
            set_batch(model)
        return
    rows = numpy_helper.to_array(model.graph.initializer[0])
    assert (rows[0] != rows[1]).any()
    change = set_batch(model, 3)
    np.testing.assert_array_equal(run(open_session(change.model), {"x": np.zeros((3, 3), np.float32)})["y"], rows[[0, 0, 0]])


@pytest.mark.parametrize("special", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_is_no_rounding(special):
    rows = np.array([[1, special], [1, special]], np.float32)
    assert is_rounded(rows, rows.copy())
    assert not is_rounded(rows, np.array([[1, special], [2, special]], np.float32))
    assert not is_rounded(rows, np.ones((2, 2), np.float32))


@pytest.mark.parametrize("to", ["dynamic", 3])
def test_places_in_a_row_of_one_sample_are_counted_for_more(to):
    """As as_strided is written: a file for one sample does not show how far on the next sample's elements lie."""
    model = parse("""g (float[1, 3] x) => (float[1, 3] y) <int64[1] all = {-1}, int64[1, 3] i = {2, 1, 0}>
        { a = Reshape(x, all) y = Gather(a, i) }""")
    change = set_batch(model, to)
    assert change.changed == ("'y' (Gather)",)
    x = np.arange(9, dtype=np.float32).reshape(3, 3)
    np.testing.assert_array_equal(run(open_session(change.model), {"x": x})["y"], x[:, ::-1])


@settings(max_examples=40, deadline=None)
@given(
    own=st.integers(1, 4),
    channels=st.sampled_from([2, 4, 6]),
    side=st.integers(1, 4),
    groups=st.sampled_from([1, 2]),
    first=st.booleans(),
)
def test_a_shuffle_of_any_size(own, channels, side, groups, first):
    """Sizes that equal the batch, and ones, are where reading a Reshape could go wrong."""
    inner = [own, groups, channels // groups, side]
    perm = "[0, 2, 1, 3]" if first else "[0, 1, 3, 2]"
    model = parse(
        f"g (float[{own}, {channels}, {side}] x) => (float[{own}, {channels * side}] y)"
        f" <int64[4] s = {{{', '.join(map(str, inner))}}}, int64[2] t = {{{own}, {channels * side}}}>"
        f" {{ a = Reshape(x, s) b = Transpose <perm = {perm}> (a) y = Reshape(b, t) }}"
    )
    change = set_batch(model)
    session, original = open_session(change.model), open_session(model)
    feeds = random_feeds(session, {"x": (own + 3, channels, side)}, seed=own)
    alone = [run(original, {"x": feeds["x"][[row] * own]})["y"][:1] for row in range(own + 3)]
    assert differences(run(session, feeds), {"y": np.concatenate(alone)}) == []


def boundary_only(model):
    """The recipe that the web has: N is written at the inputs and outputs, and nothing inside is changed."""
    edited = onnx.ModelProto()
    edited.CopyFrom(model)
    for port in (*edited.graph.input, *edited.graph.output):
        port.type.tensor_type.shape.dim[0].dim_param = "N"
    return edited


def test_a_boundary_edit_passes_every_checker_and_fails_the_proof():
    model = parse(BAKED["Reshape"])
    edited = boundary_only(model)
    onnx.checker.check_model(edited, full_check=True)
    onnx.shape_inference.infer_shapes(edited, strict_mode=True, data_prop=True)
    open_session(edited)
    given = ({"x": (2, 3, 4)}, {"x": 0}, {"y": Place(0, 1)}, 2)
    with pytest.raises(ExportError, match="at batch size 1 the result does not run: .*Nothing was written"):
        prove_rows("set_batch", model, edited, *given, (1, 2, 5))
    assert prove_rows("set_batch", model, set_batch(model).model, *given, (1, 2, 5)).samples == 8


def test_a_boundary_edit_that_runs_at_any_size_and_gives_the_wrong_batch_fails_the_proof():
    model = parse(BAKED["Reshape with -1 elsewhere"])
    edited = boundary_only(model)
    assert run(open_session(edited), {"x": np.zeros((4, 3, 4), np.float32)})["y"].shape == (2, 24)
    with pytest.raises(
        ExportError, match=r"shape \[2, 24\], expected \[4, 12\]\. The first node that differs is 'y' \(Reshape\)"
    ):
        prove_rows("set_batch", model, edited, {"x": (2, 3, 4)}, {"x": 0}, {"y": Place(0, 1)}, 2, (2, 4))


def test_a_result_with_its_samples_mixed_fails_the_proof():
    """Right shapes, wrong order: what a Reshape that is read in the wrong way gives."""
    model = parse("g (float[2, 3] x) => (float[2, 3] y) { y = Neg(x) }")
    mixed = parse(
        "g (float[N, 3] x) => (float[N, 3] y) <int64[2] s = {3, -1}, int64[2] t = {-1, 3}>"
        "{ a = Neg(x) b = Reshape(a, s) c = Transpose(b) y = Reshape(c, t) }"
    )
    with pytest.raises(ExportError, match="numbers differ"):
        prove_rows("set_batch", model, mixed, {"x": (2, 3)}, {"x": 0}, {"y": Place(0, 1)}, 2, (1, 2, 5))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("g (float[2, 3] x) => (float[2, 3] y) <int64[1] a = {0}> { m = ReduceMean <keepdims = 1> (x, a) y = Sub(x, m) }",
         r"first node that differs is 'y' \(Sub\)"),
        ("g (float[2, 6] x) => (float[3, 4] y) <int64[2] s = {3, 4}> { y = Reshape(x, s) }",
         r"node 'y' \(Reshape\): it joins samples: its result \[3, 4\] has no axis for the batch"),
        ("g (float[2, 3] x) => (float[3] y) <int64 i = {1}> { y = Gather <axis = 0> (x, i) }", "does not run: .*Gather node"),
        ("g (float[2, 3] x) => (float[1, 3] y) <int64[1] a = {0}, int64[1] e = {1}> { y = Slice(x, a, e, a) }",
         r"node 'y' \(Slice\): it takes 1 of 2 along the batch, the same at every size"),
        ("g (float[2, 3] x) => (float[1, 3] y, float[1, 3] z) <int64[2] s = {1, 1}> { y, z = Split <axis = 0> (x, s) }",
         r"node 'y' \(Split\)"),
        ("g (float[2, 3] x) => (float[2, 3] y) <float[2, 1] w = {1.0, 2.0}> { y = Add(x, w) }",
         r"node 'y' \(Add\): Incompatible dimensions \(inputs at batch size 1009: x \[1009, 3\], w \[2, 1\]\)"),
        ("g (float[2, 3] x) => (int64[2, K] y) { y = NonZero(x) }", r"The batch is lost in 'y' \(NonZero\)"),
        ("g (float[2, 3] x) => (float[2, 3] y) <float z = {0.0}> { y = Mul(x, z) }",
         "no output of 'y' differs from sample to sample by more than rounding, so that a run on drawn inputs proves nothing"),
        ("g (float[2, 3] x) => (float[] y) { y = ReduceMax <keepdims = 0> (x) }",
         r"output 'y' has no batch axis and is another for other samples.*lost in 'y' \(ReduceMax\)"),
    ],
)  # fmt: skip
def test_refused_with_the_nodes_name(body, said):
    with pytest.raises(ExportError, match=said):
        set_batch(parse(body))


def test_a_graph_inside_a_branch_is_proved_or_refused():
    body = """g (float[2, 3, 4] x, bool c) => (float[2, 12] y) <int64[2] s = {%s}>
    { y = If (c) <then_branch = t () => (float[%s] p) { p = Reshape(x, s) },
                  else_branch = e () => (float[%s] q) { r = Neg(x) q = Reshape(r, s) }> }"""
    free, baked = (parse(body % sizes) for sizes in (("-1, 12", "M, 12", "M, 12"), ("2, 12", "2, 12", "2, 12")))
    assert set_batch(free, axes={"x": 0}).proof.batch_sizes == (1, 2, 5)
    with pytest.raises(ExportError, match=r"What is inside 'y' \(If\) is not rewritten, and may hold the batch size"):
        set_batch(baked, axes={"x": 0})


def test_which_axis_is_the_batch():
    model = parse("g (float[2, 3] x, float[1, 2, 3] h) => (float[1, 2, 3] y) { y = Add(x, h) }")
    with pytest.raises(UsageError, match=r"axis 0 of the inputs is not one size: x \[2, 3\], h \[1, 2, 3\]"):
        set_batch(model)
    with pytest.raises(UsageError, match="axes: there is no input 'hh': the file has x, h. Did you mean 'h'?"):
        set_batch(model, axes={"hh": 1})
    with pytest.raises(UsageError, match="axes: 'h' has 3 axes, 0 to 2; got 3"):
        set_batch(model, axes={"x": 0, "h": 3})
    with pytest.raises(UsageError, match="the batch axes differ: x has 2, h has 1"):
        set_batch(model, axes={"x": 0, "h": 0})
    change = set_batch(model, axes={"x": 0, "h": 1})
    assert [dim.dim_param or dim.dim_value for dim in change.model.graph.output[0].type.tensor_type.shape.dim] == [1, "N", 3]


def test_another_symbol_and_bad_ones():
    model = parse(BAKED["Reshape"])
    assert set_batch(model, "batch").model.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert set_batch(set_batch(model).model, "B").model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "B"
    with pytest.raises(UsageError, match="to is '4,2', expected a batch size, 'dynamic', or a symbol such as N"):
        set_batch(model, "4,2")
    with pytest.raises(ShapeError, match="to is 0, expected a whole number of at least 1"):
        set_batch(model, 0)
    with pytest.raises(UsageError, match="no input has an axis"):
        set_batch(parse("g (float x) => (float y) { y = Neg(x) }"))


def test_inputs_that_mean_something_are_given():
    """Drawn scales would be negative."""
    model = parse(
        'g (float[2, 1, 4, 4] x, float[4] scales) => (float[2, 1, H, W] y) { y = Resize <mode = "nearest"> (x, , scales) }'
    )
    with pytest.raises(ExportError, match="Resize"):
        set_batch(model, axes={"x": 0})
    scales = np.array([1, 1, 2, 2], np.float32)
    change = set_batch(model, axes={"x": 0}, feeds={"scales": scales})
    assert run(open_session(change.model), {"x": np.zeros((3, 1, 4, 4), np.float32), "scales": scales})["y"].shape == (3, 1, 8, 8)


def test_functions_of_the_file_are_looked_into():
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 18, "mine" : 1]>
        g (float[2, 3, 4] x) => (float[2, 12] y) { y = mine.flat(x) }
        <domain: "mine", opset_import: ["" : 18]> flat (a) => (b) { s = Constant <value_ints = [2, 12]> () b = Reshape(a, s) }"""
    )
    assert len(set_batch(model).changed) == 1


def test_types_are_kept_where_a_shape_is_int32():
    model = parse(
        "g (float[2, 3] x) => (float[2, 4] y) <int32[2] s = {2, 1}, float[1, 1] w = {1.0}>"
        "{ t = Cast <to = 7> (s) a = Expand(w, t) y = Concat <axis = 1> (x, a) }"
    )
    change = set_batch(model)
    kinds = {node.op_type for node in change.model.graph.node}
    assert {"Shape", "Gather", "Mul", "Add", "Cast"} <= kinds
    assert any(numpy_helper.to_array(tensor).dtype == np.int32 for tensor in change.model.graph.initializer)


def test_sizes_and_feeds_of_what_the_file_does_not_have():
    model = parse("g (float[N, 3] x) => (float[N, 3] y) { y = Neg(x) }")
    with pytest.raises(UsageError, match="sizes: there is no symbol 'M': the file has N"):
        set_batch(model, sizes={"M": 3})
    with pytest.raises(UsageError, match=r"feeds: there is no input 'z': the file has x\."):
        set_batch(model, feeds={"z": np.zeros(3)})
    with pytest.raises(UsageError, match=r"input 'x' of shape \[9999999999999, 3\] does not fit in memory"):
        set_batch(model, 9999999999999)


def test_a_size_that_was_chosen_and_does_not_fit_is_named():
    model = parse(
        "g (float[N, W] x) => (float[N, 2] y) <int64[2] s = {-1, 2}, int64[2] t = {-1, 9}>"
        " { a = Reshape(x, t) y = Reshape(a, s) }"
    )
    with pytest.raises(ExportError, match=r"Other sizes were chosen, W = 8: give them with sizes \(--size\)"):
        set_batch(model)
