"""The reader of ONNX files against the onnx package, and on files that are none."""

import random

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fixshape.errors import OnnxFileError
from fixshape.export import NodeHead, Port, read_header


def _model():
    """With all that the reader looks at: subgraphs, an initializer listed as an input, a function, every kind of dim."""
    float_, int_ = TensorProto.FLOAT, TensorProto.INT64
    branch = helper.make_graph(
        [helper.make_node("NonZero", ["x"], ["inner"], name="in_the_branch")],
        "branch", [], [helper.make_tensor_value_info("inner", int_, None)],
    )  # fmt: skip
    graph = helper.make_graph(
        [
            helper.make_node("If", ["flag"], ["found"], then_branch=branch, else_branch=branch, name="choice"),
            helper.make_node("Own", ["x"], ["y"], domain="own", name="call"),
            helper.make_node("Add", ["y", "w"], ["z"], domain="ai.onnx"),
        ],
        "main",
        [
            helper.make_tensor_value_info("x", float_, ["N", 3, None, 5]),
            helper.make_tensor_value_info("w", float_, [1]),
            helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
        ],
        [
            helper.make_tensor_value_info("z", TensorProto.FLOAT16, ["N", "2*H"]),
            helper.make_tensor_value_info("found", int_, None),
        ],
        [helper.make_tensor("w", float_, [1], [1.0])],
    )
    own = helper.make_function(
        "own", "Own", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"], name="body")], [helper.make_opsetid("", 18)]
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, functions=[own], opset_imports=opsets, ir_version=10)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    path.write_bytes(_model().SerializeToString())
    return path


def test_everything_is_read(file):
    header = read_header(file)
    assert header.inputs == (Port("x", "float32", ("N", 3, None, 5)), Port("flag", "bool", ()))
    assert header.outputs == (Port("z", "float16", ("N", "2*H")), Port("found", "int64", None))
    assert header.opsets == {"": 18, "own": 1}
    assert header.ir_version == 10
    inner = NodeHead("NonZero", "", "in_the_branch")
    own, add, body = NodeHead("Own", "own", "call"), NodeHead("Add", "", ""), NodeHead("Relu", "", "body")
    assert header.nodes == (NodeHead("If", "", "choice"), inner, inner, own, add, body)


def test_all_element_types_have_numpys_names(tmp_path):
    for name, number in TensorProto.DataType.items():
        port = helper.make_tensor_value_info("x", number, [1])
        graph = helper.make_graph([], "g", [port], [port])
        (tmp_path / "m.onnx").write_bytes(helper.make_model(graph).SerializeToString())
        got = read_header(tmp_path / "m.onnx").inputs[0].dtype
        known = {"FLOAT": "float32", "DOUBLE": "float64"}.get(name, name.lower())
        assert (name, got) == (name, known if 0 < number <= 16 else None)


def test_weights_are_stepped_over(tmp_path):
    model = _model()
    model.graph.initializer[0].raw_data = bytes(50_000_000)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert read_header(tmp_path / "m.onnx").inputs[0].name == "x"


def test_every_cut_is_said_or_is_a_model_still(file, tmp_path):
    """Cut anywhere: an error with the file's name, or what stands before the cut, never another exception."""
    data, cut = file.read_bytes(), tmp_path / "cut.onnx"
    broken = 0
    for length in range(len(data)):
        cut.write_bytes(data[:length])
        try:
            read_header(cut)
        except OnnxFileError as error:
            broken += 1
            assert str(error).startswith(f"{cut}: ")
    assert broken > 0.9 * len(data)


def test_noise_is_never_another_exception(file, tmp_path):
    data, noisy, dice = bytearray(file.read_bytes()), tmp_path / "noisy.onnx", random.Random(0)
    for _ in range(500):
        changed = bytearray(data)
        for _ in range(dice.randint(1, 8)):
            changed[dice.randrange(len(changed))] = dice.randrange(256)
        noisy.write_bytes(changed)
        try:
            read_header(noisy)
        except OnnxFileError:
            pass


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", r"it is empty, expected an ONNX file\. Export or copy it again\.$"),
        (b"<html>404</html>", r"byte \d+: .*, so that it is not an ONNX file or was cut off\. Export or copy it again\.$"),
        (bytes([0x08, 0x0A]), r"it has no graph, so that it is not an ONNX file"),
        (bytes([0x3A, 0x7F, 0x00]), r"byte 129: a field that ends beyond what holds it"),
        (bytes([0xFF] * 12), r"byte 10: a number of more than ten bytes"),
        (bytes([0x08]), r"byte 1: the file ends within a number"),
    ],
)
def test_a_file_that_is_no_model(data, said, tmp_path):
    path = tmp_path / "bad.onnx"
    path.write_bytes(data)
    with pytest.raises(OnnxFileError, match=f"bad.onnx: {said}"):
        read_header(path)


def test_a_graph_without_an_opset_and_a_folder(tmp_path):
    model = _model()
    del model.opset_import[:]
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(OnnxFileError, match="it names no opset, so that"):
        read_header(tmp_path / "m.onnx")
    with pytest.raises(OnnxFileError, match=r"it cannot be read \(Is a directory\)\. Give the path of an ONNX file\."):
        read_header(tmp_path)


def test_graphs_within_graphs_without_end_are_refused(tmp_path):
    graph = helper.make_graph([], "g", [], [])
    for _ in range(20):
        graph = helper.make_graph([helper.make_node("If", ["c"], ["o"], then_branch=graph)], "g", [], [])
    (tmp_path / "deep.onnx").write_bytes(onnx.ModelProto(ir_version=10, graph=graph).SerializeToString())
    with pytest.raises(OnnxFileError, match="graphs are more than 16 deep"):
        read_header(tmp_path / "deep.onnx")


def test_weights_that_are_not_beside_the_file(tmp_path):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [300]) for name in ("x", "y")]
    weights = [numpy_helper.from_array(np.ones(300, np.float32), name) for name in ("w", "v")]
    nodes = [helper.make_node("Add", ["x", "w"], ["a"]), helper.make_node("Add", ["a", "v"], ["y"])]
    model = helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:], weights), ir_version=10)
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    whole = read_header(tmp_path / "m.onnx")
    assert (whole.absent, [port.name for port in whole.inputs]) == ((), ["x"])
    (tmp_path / "m.data").rename(tmp_path / "elsewhere")
    assert read_header(tmp_path / "m.onnx").absent == ("m.data",)
