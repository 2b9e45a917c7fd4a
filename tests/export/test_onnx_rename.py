"""Names of inputs and outputs, in every place that has them."""

import re

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, parser

from fixshape.errors import ExportError, UsageError
from fixshape.export import rename
from fixshape.export._onnx_rename import _rename_graph
from fixshape.export._onnx_run import differences, open_session, run

HEAD = '<ir_version: 8, opset_import: ["" : 18]>\n'


def parse(body: str):
    return parser.parse_model(HEAD + body)


BRANCHES = """g (float[N, 3] images, bool c) => (float[N, 3] output) <float[3] w = {1.0, 2.0, 3.0}> {
    output = If (c) <
        then_branch = t () => (float[N, 3] p) { p = Add(images, w) },
        else_branch = e () => (float[N, 3] q) { r = If (c) <
            then_branch = t2 () => (float[N, 3] s) { s = Neg(images) },
            else_branch = e2 () => (float[N, 3] u) { u = Mul(images, w) }> q = Relu(r) }>
}"""


def every_name(model) -> set[str]:
    """Read from the text of the file, so that no place can be forgotten."""
    return set(re.findall(r'"([^"]*)"', str(model)))


def test_names_in_graphs_inside_nodes():
    model = parse(BRANCHES)
    before = model.SerializeToString()
    renamed = rename(model, {"images": "data", "output": "fc1", "c": "flag"})
    assert model.SerializeToString() == before
    onnx.checker.check_model(renamed, full_check=True)
    assert not {"images", "output"} & every_name(renamed)
    x = np.arange(-3, 3, dtype=np.float32).reshape(2, 3)
    for flag in (True, False):
        one = run(open_session(model), {"images": x, "c": np.array(flag)})["output"]
        assert differences(run(open_session(renamed), {"data": x, "flag": np.array(flag)}), {"fc1": one}) == []


def test_a_graph_that_has_a_value_of_that_name_keeps_it():
    """The specification forbids such shadowing, and files have it."""
    model = parse("""g (float[N] x, bool c) => (float[N] y) {
        y = If (c) <then_branch = t () => (float[N] p) { x2 = Neg(x) p = Abs(x2) },
                    else_branch = e () => (float[N] q) { q = Neg(x) }>
    }""")
    inner = next(a.g for a in model.graph.node[0].attribute if a.name == "then_branch")
    inner.node[0].output[0] = inner.node[1].input[0] = "y"
    _rename_graph(model.graph, {"y": "z", "x": "data"})
    assert (inner.node[0].input, inner.node[0].output, inner.node[1].input) == (["data"], ["y"], ["y"])
    assert model.graph.node[0].output == ["z"]


def test_what_the_file_says_of_a_value_goes_with_its_name():
    model = parse("g (float[N, 2] x, float[2] w) => (float[N, 2] y) <float[2] w = {1.0, 2.0}> { y = Add(x, w) }")
    model.graph.value_info.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2]))
    note = model.graph.quantization_annotation.add(tensor_name="x")
    entry = note.quant_parameter_tensor_names.add()
    entry.key, entry.value = "SCALE_TENSOR", "y"
    binding = model.training_info.add().update_binding.add()
    binding.key, binding.value = "x", "y"
    renamed = rename(model, {"x": "data", "y": "fc1"})
    assert not {"x", "y"} & every_name(renamed)
    assert (renamed.graph.quantization_annotation[0].tensor_name, entry.value) == ("data", "y")
    assert renamed.training_info[0].update_binding[0].value == "fc1"


def test_an_input_that_is_an_initializer_too_is_no_input():
    model = parse("g (float[N, 2] x, float[2] w) => (float[N, 2] y) <float[2] w = {1.0, 2.0}> { y = Add(x, w) }")
    assert "w" in [port.name for port in model.graph.input]
    with pytest.raises(UsageError, match="there is no input or output 'w': the file has x, y"):
        rename(model, {"w": "weight"})


def test_an_output_that_is_an_input_is_one_value():
    model = parse("g (float[N] x) => (float[N] x, float[N] y) { y = Neg(x) }")
    renamed = rename(model, {"x": "data"})
    assert [port.name for port in (*renamed.graph.input, *renamed.graph.output)] == ["data", "data", "y"]


def test_two_names_are_swapped():
    model = parse("g (float[N] a, float[N] b) => (float[N] y) { y = Sub(a, b) }")
    swapped = rename(model, {"a": "b", "b": "a"})
    assert swapped.graph.node[0].input == ["b", "a"]
    values = {"a": np.array([1.0], np.float32), "b": np.array([5.0], np.float32)}
    assert run(open_session(swapped), values)["y"] == 4


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"imgs": "data"}, "there is no input or output 'imgs': the file has images, output. Did you mean 'images'?"),
        ({"hidden": "data"}, "there is no input or output 'hidden'"),
        ({"images": "hidden"}, "'images' cannot be named 'hidden': another value of the file is"),
        ({"images": "inner"}, "'images' cannot be named 'inner'"),
        ({"images": "output"}, "'images' cannot be named 'output'"),
        ({"images": "z", "output": "z"}, "two values would be named 'z'"),
        ({"images": ""}, "the new name of 'images' is empty"),
    ],
)
def test_names_that_cannot_be(names, said):
    model = parse("""g (float[N] images) => (float[N] output) <bool c = {1}> { hidden = Neg(images) output = If (c) <
        then_branch = t () => (float[N] p) { inner = Neg(hidden) p = Abs(inner) },
        else_branch = e () => (float[N] q) { q = Abs(hidden) }> }""")
    with pytest.raises(UsageError, match=said):
        rename(model, names)


def test_a_model_that_does_not_run_is_refused():
    model = parse("g (float[N, 3] x) => (float[N, 2] y) <float[2] w = {1.0, 2.0}> { y = Add(x, w) }")
    with pytest.raises(ExportError, match="onnxruntime (cannot run|refuses)"):
        rename(model, {"x": "data"})


@given(st.permutations(["a", "b", "y", "t"]))
def test_any_permutation_there_and_back(names):
    model = parse("g (float[N] a, float[N] b) => (float[N] y, float[N] t) { y = Sub(a, b) t = Mul(y, b) }")
    there = dict(zip(("a", "b", "y", "t"), names, strict=True))
    back = rename(rename(model, there), {new: old for old, new in there.items()})
    assert back.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)
