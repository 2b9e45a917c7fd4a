"""``fixshape onnx`` as a user starts it: a file in, a proved file out, or a refusal and no file."""

import json

import numpy as np
import onnx
import pytest
from onnx import parser

from fixshape import Bucket, ShapePlan
from fixshape.cli.__main__ import main

BAKED = """<ir_version: 8, opset_import: ["" : 18]>
baked (float[2, 3, 4] x) => (float[2, 12] y) <int64[2] s = {2, 12}> { y = Reshape(x, s) }"""


@pytest.fixture
def file(tmp_path):
    """Writes a model and gives its path."""

    def write(text=BAKED, name="m.onnx"):
        path = tmp_path / name
        path.write_bytes(parser.parse_model(text).SerializeToString())
        return str(path)

    return write


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out.onnx"


def run(capsys, *arguments):
    code = main(["onnx", *map(str, arguments)])
    said = capsys.readouterr()
    return code, said.out, said.err


def fails(capsys, expected, *arguments):
    """Runs, expects that code and one line on stderr, and gives it."""
    try:
        code = main(["onnx", *map(str, arguments)])
    except SystemExit as ended:
        code = ended.code
    said = capsys.readouterr()
    assert (code, said.out) == (expected, "")
    return said.err


def dims(path, name):
    model = onnx.load(path)
    (port,) = [port for port in (*model.graph.input, *model.graph.output) if port.name == name]
    return [dim.dim_param or dim.dim_value for dim in port.type.tensor_type.shape.dim]


@pytest.mark.parametrize(("to", "first"), [("dynamic", "N"), ("B", "B"), ("5", 5)])
def test_set_batch(capsys, file, out, to, first):
    path = file()
    code, said, err = run(capsys, "set-batch", path, "--to", to, "-o", out)
    assert (code, err) == (0, "")
    assert said.splitlines() == [
        f"{path}: batch size 2 -> {first}; 1 node held it: 'y' (Reshape)",
        "proved in onnxruntime at batch sizes 1, 2, 5: each of 8 samples gets what the original gives it",
        f"{out} is written",
    ]
    assert (dims(out, "x"), dims(out, "y")) == ([first, 3, 4], [first, 12])


def test_a_refusal_writes_nothing_and_leaves_what_was_there(capsys, file, out):
    path = file(BAKED.replace("Reshape(x, s)", "Add(x, s)").replace("int64[2] s = {2, 12}", "float[2, 1, 1] s = {1, 2}"))
    out.write_bytes(b"before")
    said = fails(capsys, 1, "set-batch", path, "--to", "dynamic", "-o", out)
    assert said.startswith("fixshape: ExportError: set_batch: node 'y' (Add): Incompatible dimensions") and said.count("\n") == 1
    assert out.read_bytes() == b"before"


def test_rename(capsys, file, out):
    code, said, _ = run(capsys, "rename", file(), "x=data", "y=fc1", "-o", out)
    assert (code, said.splitlines()[0].partition(": ")[2]) == (0, "x -> data, y -> fc1")
    assert (dims(out, "data"), dims(out, "fc1")) == ([2, 3, 4], [2, 12])


def test_fix_shape(capsys, file, out):
    path = file(BAKED.replace("2, 3, 4]", "N, 3, 4]").replace("[2, 12] y", "[N, 12] y").replace("{2, 12}", "{-1, 12}"))
    code, said, _ = run(capsys, "fix-shape", path, "--input", "x:7,3,4", "-o", out, "--json")
    told = json.loads(said)
    assert (code, told["schema_version"], told["command"], told["changed"]) == (0, 1, "fix-shape", ["x"])
    assert dims(out, "y") == [7, 12]


def test_diff(capsys, file, out):
    first, second, third = (file(BAKED.replace("2, 3", f"{n}, 3").replace("2, 12", f"{n}, 12"), f"{n}.onnx") for n in (2, 3, 7))
    code, said, _ = run(capsys, "diff", first, second, "--check", third, "-o", out)
    assert code == 0
    assert said.splitlines() == [
        f"{first}: N (2 and 3); 1 node held it: 'y' (Reshape)", "equals the first file at x 2,3,4",
        "equals the second file at x 3,3,4",
        "equals the third file at x 7,3,4", f"{out} is written",
    ]  # fmt: skip
    assert dims(out, "y") == ["N", 12]


def test_check(capsys, file, tmp_path):
    plan = tmp_path / "plan.json"
    ShapePlan([Bucket(4, 4, 8)]).save(plan)
    path = file("""<ir_version: 8, opset_import: ["" : 20]>
        g (float[2, 3, 4, 4] x) => (float[2, 3, 4, 4] y) { y = Neg(x) }""")
    code, said, _ = run(capsys, "check", path, "--plan", plan, "--batch-sizes", "1,4", "--inputs", "x:N,3,H,W")
    assert code == 1
    assert run(capsys, "check", path, "--plan", plan, "--batch-sizes", "1,4")[:2] == (1, said), "what a plan asks of any input"
    assert said.splitlines()[0] == "error (O4): axis 0 of x is 2 in the file, expected to be dynamic (1, 4)"
    assert f"    instead: fixshape onnx set-batch {path} --to dynamic -o out.onnx" in said.splitlines()
    code, said, _ = run(capsys, "check", path, "--plan", plan, "--batch-sizes", "2", "--target", "atc", "--json")
    assert (code, [entry["rule"] for entry in json.loads(said)["violations"]]) == (1, ["O8"])
    code, said, _ = run(capsys, "check", path, "--plan", plan, "--batch-sizes", "2", "--run")
    assert (code, said) == (0, f"{path}: is what was asked for, and runs at every gear (1)\n")


def test_sizes_and_feeds(capsys, file, out, tmp_path):
    path = file("""<ir_version: 8, opset_import: ["" : 18]> g (float[2, 1, H, 4] x, float[4] scales) => (float[2, 1, K, 8] y)
        { y = Resize <mode = "nearest"> (x, , scales) }""")
    feeds = tmp_path / "feeds.npz"
    np.savez(feeds, scales=np.array([1, 1, 2, 2], np.float32))
    command = ("set-batch", path, "--to", "N", "--axis", "x=0", "--size", "H=6", "-o", out)
    assert "Resize" in fails(capsys, 1, *command)
    assert run(capsys, *command, "--feeds", feeds)[0] == 0
    feeds.write_bytes(b"no arrays")
    assert "is no .npz file of arrays: write one by numpy.savez" in fails(capsys, 2, *command, "--feeds", feeds)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["set-batch", "{m}", "--to", "0", "-o", "{o}"], "argument --to"),
        (["set-batch", "{m}", "--to", "4,2", "-o", "{o}"], "'4,2' is neither a batch size, nor dynamic, nor a symbol such as N"),
        (["set-batch", "{m}", "--to", "4", "--axis", "x", "-o", "{o}"], "'x' is not NAME=AXIS (h0=1)"),
        (["set-batch", "{m}", "--to", "4", "--axis", "z=0", "-o", "{o}"], "there is no input 'z': the file has x."),
        (["set-batch", "{m}", "--to", "4", "--axis", "x=0", "--axis", "x=0", "-o", "{o}"], "--axis: 'x' is given twice"),
        (["set-batch", "{m}", "--to", "4", "--size", "7", "-o", "{o}"], "'7' is not SYMBOL=SIZE (H=320)"),
        (["set-batch", "{m}", "--to", "4", "-o", "{m}"], "would overwrite"),
        (["set-batch", "{m}", "--to", "4", "-o", "-"], "--output '-' is no file, expected the path of one"),
        (["set-batch", "{m}", "--to", "4", "-o", "/dev/null"], "--output '/dev/null' is no file"),
        (["set-batch", "{m}", "--to", "4", "--size", "H=7", "-o", "{o}"], "there is no symbol 'H': the file has none"),
        (["set-batch", "{m}", "--to", "4", "-o", "{d}"], "is a folder, expected a file"),
        (["set-batch", "{m}", "--to", "4", "-o", "{d}/no/out.onnx"], "its folder does not exist or cannot be written to"),
        (["set-batch", "{d}/none.onnx", "--to", "4", "-o", "{o}"], "none.onnx: it cannot be read: No such file or directory"),
        (["rename", "{m}", "x", "-o", "{o}"], "'x' is not OLD=NEW"),
        (["rename", "{m}", "xx=data", "-o", "{o}"], "there is no input or output 'xx': the file has x, y. Did you mean 'x'?"),
        (["fix-shape", "{m}", "--input", "x:N,3,4", "-o", "{o}"], "--input x:N,3,4: N is no size, expected a whole number"),
        (
            ["fix-shape", "{m}", "--input", "x:4,3,4", "-o", "{o}"],
            "fixed to 2 in the file, and given as 4: fixshape onnx set-batch",
        ),
        (["check", "{m}"], "--plan is needed"),
        ([], "the following arguments are required: action"),
    ],
)
def test_wrong_arguments(capsys, file, out, tmp_path, arguments, said):
    places = {"m": file(), "o": out, "d": tmp_path}
    assert said in fails(capsys, 2, *(argument.format(**places) for argument in arguments))
    assert not out.exists()


@pytest.mark.parametrize("action", ["set-batch", "rename", "fix-shape", "diff", "check"])
def test_each_action_has_help(capsys, action):
    with pytest.raises(SystemExit) as ended:
        main(["onnx", action, "--help"])
    assert ended.value.code == 0
    assert f"usage: fixshape onnx {action}" in capsys.readouterr().out
