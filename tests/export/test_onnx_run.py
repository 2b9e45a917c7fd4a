"""Reading and running ONNX files: hostile ones are refused, and what differs is said."""

import os

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, parser

from fixshape.errors import ExportError, ExtraError, OnnxFileError, UsageError
from fixshape.export import _onnx_run as onnx_run
from fixshape.export import load_model
from fixshape.export._onnx_run import differences, need, open_session, random_feeds, run

ADD = """<ir_version: 8, opset_import: ["" : 18]>
add (float[N, 2] x, int64[N] i) => (float[N, 2] y, int64[N] j) <float[2] w = {1.0, 2.0}> { y = Add(x, w) j = Neg(i) }"""


@pytest.fixture
def model():
    return parser.parse_model(ADD)


def saved(path, model):
    path.write_bytes(model.SerializeToString())
    return path


def test_a_file_is_read_and_run(model, tmp_path):
    session = open_session(load_model(saved(tmp_path / "add.onnx", model)))
    feeds = random_feeds(session, {"x": (3, 2), "i": (3,)})
    assert {name: (value.shape, value.dtype) for name, value in feeds.items()} == {"x": ((3, 2), "float32"), "i": ((3,), "int64")}
    got = run(session, feeds)
    np.testing.assert_array_equal(got["y"], feeds["x"] + np.array([1, 2], np.float32))
    np.testing.assert_array_equal(got["j"], -feeds["i"])
    assert differences(random_feeds(session, {"x": (3, 2), "i": (3,)}), feeds) == []
    assert differences(random_feeds(session, {"x": (3, 2), "i": (3,)}, seed=1), feeds) != []


def external(model, tmp_path, *, location="data.bin", offset=0, length=8, held=8):
    """The weight in a file of its own, as the header claims it."""
    weight = model.graph.initializer[0]
    data = weight.raw_data or np.array([1, 2], np.float32).tobytes()
    weight.ClearField("float_data")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": offset, "length": length}.items():
        entry = weight.external_data.add()
        entry.key, entry.value = key, str(value)
    if held is not None:
        with open(tmp_path / "data.bin", "wb") as file:
            file.write(data)
            file.truncate(held)  # a sparse file where that is more
    return saved(tmp_path / "external.onnx", model)


def test_external_data_is_read_into_the_model(model, tmp_path):
    loaded = load_model(external(model, tmp_path))
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(loaded.graph.initializer[0]), [1, 2])
    assert not loaded.graph.initializer[0].external_data
    open_session(loaded)


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ({"held": None}, "tensor 'w' is in 'data.bin', which is not beside it. Copy both files together."),
        ({"held": None, "length": 3 << 30}, "tensor 'w' is in 'data.bin', which is not beside it. Copy both files together."),
        ({"length": 3 << 30}, "tensor 'w' is 3,221,225,472 bytes at 0 of 'data.bin', which has 8."),
        ({"length": 3 << 30, "held": 3 << 30}, "its external data has 3,221,225,472 bytes, more than the 2,147,483,647"),
        ({"offset": 4}, "tensor 'w' is 8 bytes at 4 of 'data.bin', which has 8."),
        ({"offset": -8}, "tensor 'w' is 8 bytes at -8"),
        ({"offset": "far"}, "has external data at .*, no numbers"),
        ({"location": "../data.bin"}, "tensor 'w' is in '../data.bin', expected a file in the folder of the model."),
        ({"location": "/etc/passwd"}, "expected a file in the folder of the model."),
        ({"location": ""}, "expected a file in the folder of the model."),
    ],
)
def test_external_data_that_cannot_be_used(model, tmp_path, claims, said):
    with pytest.raises(OnnxFileError, match=said):
        load_model(external(model, tmp_path, **claims))


def test_external_data_behind_a_link_out_of_the_folder(model, tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret.bin").write_bytes(b"12345678")
    os.symlink(tmp_path / "secret.bin", inside / "data.bin")
    with pytest.raises(OnnxFileError, match="expected a file in the folder of the model"):
        load_model(external(model, inside, held=None))


def test_a_file_over_two_gigabytes_is_refused_unread(tmp_path):
    path = tmp_path / "large.onnx"
    with open(path, "wb") as file:
        file.truncate(3 << 30)
    with pytest.raises(OnnxFileError, match=r"it has 3,221,225,472 bytes, more than the 2,147,483,647 that an ONNX"):
        load_model(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.opset_import[0].__setattr__("version", 999), "it has opset 999, the installed onnx .* knows 1 to"),
        (lambda m: m.opset_import[0].__setattr__("version", 0), "it has opset 0,"),
        (lambda m: m.ClearField("opset_import"), r"it names no opset of ai\.onnx \(it has none\)"),
        (lambda m: m.opset_import[0].__setattr__("domain", "mine"), r"it has \{'mine': 18\}"),
        (lambda m: m.__setattr__("ir_version", 999), "it has IR version 999, the installed onnx .* knows up to"),
        (lambda m: m.ClearField("graph"), "it is not an ONNX file: it has no graph with outputs"),
    ],
)
def test_versions_that_are_not_known(model, tmp_path, change, said):
    change(model)
    with pytest.raises(OnnxFileError, match=said):
        load_model(saved(tmp_path / "m.onnx", model))


@pytest.mark.parametrize("content", [b"", b"no onnx", b"\x00" * 64, b"PK\x03\x04" + b"\x01" * 99])
def test_what_is_not_onnx(tmp_path, content):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(OnnxFileError, match=r"m\.onnx: it is not an ONNX file"):
        load_model(path)


def test_a_missing_file_and_a_folder(tmp_path):
    for path in (tmp_path / "missing.onnx", tmp_path):
        with pytest.raises(OnnxFileError, match="it cannot be read"):
            load_model(path)


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, len(parser.parse_model(ADD).SerializeToString()) - 1))
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("cut") / "m.onnx"
    path.write_bytes(parser.parse_model(ADD).SerializeToString()[:cut])
    with pytest.raises(OnnxFileError):
        load_model(path)


def test_onnxruntime_names_the_node(model):
    session = open_session(model)
    with pytest.raises(ExportError, match=r"onnxruntime cannot run the model on x \[3, 5\]; i \[3\]: .*[^.]\.$"):
        run(session, random_feeds(session, {"x": (3, 5), "i": (3,)}))
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(ExportError, match="onnxruntime refuses the model: .*NoSuchOperator"):
        open_session(model)


def test_feeds_for_unknown_names_and_open_sizes(model):
    session = open_session(model)
    with pytest.raises(UsageError, match="there is no input 'xx': the file has x, i. Did you mean 'x'?"):
        random_feeds(session, {"xx": (1, 2)})
    with pytest.raises(UsageError, match=r"input 'x' has shape \['N', 2\] in the file: a size is needed for each symbol"):
        random_feeds(session, {"i": (3,)})


def test_given_feeds_are_repeated_and_cut(model):
    session, rows = open_session(model), np.array([[1.0, 2.0], [3.0, 4.0]])
    for count in (1, 2, 5):
        feeds = random_feeds(session, {"x": (count, 2), "i": (count,)}, given={"x": rows})
        np.testing.assert_array_equal(feeds["x"], np.tile(rows, (3, 1))[:count])
        assert feeds["x"].dtype == np.float32
    with pytest.raises(UsageError, match=r"input 'x' is given an array of shape \[2\], expected 2 axes and a number"):
        random_feeds(session, {"x": (3, 2), "i": (3,)}, given={"x": rows[0]})


def test_an_input_of_strings_cannot_be_drawn():
    port = helper.make_tensor_value_info("words", TensorProto.STRING, [2])
    node = helper.make_node("Identity", ["words"], ["y"])
    graph = helper.make_graph([node], "g", [port], [helper.make_tensor_value_info("y", TensorProto.STRING, [2])])
    session = open_session(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8))
    with pytest.raises(ExportError, match=r"input 'words' is tensor\(string\), expected a tensor of numbers"):
        random_feeds(session, {})


@pytest.mark.parametrize(
    ("got", "expected", "said"),
    [
        ([1.0], [[1.0]], "y: it has shape [1], expected [1, 1]"),
        ([1.0], [1], "y: it has dtype float64, expected int64"),
        ([1, 2, 3], [1, 5, 9], "y: 2 of 3 numbers differ, most at [1]: 2, expected 5"),
        ([1.0, float("nan")], [1.0, 2.0], "y: 1 of 2 numbers differ, most at [1]: nan, expected 2.0"),
        (
            [[0.0, 1.0], [float("inf"), 9.0]],
            [[0.0, 2.0], [1.0, 1.0]],
            "y: 3 of 4 numbers differ, most at [1, 0]: inf, expected 1.0",
        ),
        ([True], [False], "y: 1 of 1 numbers differ, most at [0]: True, expected False"),
    ],
)
def test_differences_are_sentences(got, expected, said):
    assert differences({"y": np.array(got)}, {"y": np.array(expected)}) == [said]


def test_what_is_no_difference():
    same = {"a": np.array([np.nan, np.inf, -np.inf, 1.0]), "b": np.array(3), "c": np.zeros((0, 4))}
    assert differences(same, {name: value.copy() for name, value in same.items()}) == []
    assert differences({"y": np.array([1.0005])}, {"y": np.array([1.0])}) == []
    assert differences({"y": np.array([1.002])}, {"y": np.array([1.0])}) != []
    assert differences({"a": np.array(1)}, {"b": np.array(1)}) == ["b: it is missing", "a: it is not expected"]


def test_a_missing_extra_is_named_with_its_command(monkeypatch):
    monkeypatch.setattr(onnx_run.importlib, "import_module", lambda name: (_ for _ in ()).throw(ImportError(f"No module {name}")))
    with pytest.raises(ExtraError, match=r"export: onnx is needed .* pip install 'fixshape\[export\]'"):
        need("onnx.helper")
