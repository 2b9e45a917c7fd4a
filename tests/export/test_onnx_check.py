"""What was asked of a file against what it is: each rule, and that the way out is one."""

import subprocess
import sys

import pytest
from onnx import parser

from fixshape import Bucket, ShapePlan
from fixshape.errors import ShapeError
from fixshape.export import NodeHead, OnnxHeader, Port, check_onnx, check_runs, parse_inputs, plan_gears, read_header, set_batch

PLAN = ShapePlan([Bucket(64, 64, 8), Bucket(64, 96, 8)])
GEARS = plan_gears(PLAN, parse_inputs("images:N,3,H,W"), batch_sizes=(1, 4))


def header(inputs=(("N", 3, "H", "W"),), outputs=(("N", 5),), *, opset=18, nodes=(), names=("images",)):
    ports = tuple(Port(name, "float32", dims) for name, dims in zip(names, inputs, strict=True))
    return OnnxHeader(ports, tuple(Port("y", "float32", dims) for dims in outputs), {"": opset}, 8, nodes)


def test_a_file_that_is_what_was_asked_for():
    for target in (None, "atc", "trt", "ort"):
        assert check_onnx(header(), GEARS, target=target) == ()


@pytest.mark.parametrize(
    ("given", "target", "rule", "level", "message", "way_out"),
    [
        (header(names=("image",)), None, "O1", "error", "there is no input 'images': the file has image. Did you mean 'image'?",
         "fixshape onnx rename model.onnx image=images -o renamed.onnx"),
        (header((("N", 3, "H", "W"), ("N", 2)), names=("images", "sizes")), None, "O2", "error",
         "sizes:N,2 is an input of the file and was not asked for", "--inputs 'images:N,3,H,W;sizes:N,2'"),
        (header((("N", "H", "W"),)), None, "O3", "error",
         "images has 3 axes in the file (images:N,H,W), expected 4 (images:N,3,H,W)",
         "--inputs with images:N,H,W"),
        (header(((2, 3, "H", "W"),)), None, "O4", "error", "axis 0 of images is 2 in the file, expected to be dynamic (1, 4)",
         "fixshape onnx set-batch model.onnx --to dynamic -o out.onnx"),
        (header((("N", 3, "H", 64),)), None, "O4", "error", "axis 3 of images is 64 in the file, expected to be dynamic (64, 96)",
         "two exports at different sizes and fixshape onnx diff"),
        (header((("N", 1, "H", "W"),)), None, "O5", "error", "axis 1 of images is 1 in the file, expected 3", "fixshape export"),
        (header(outputs=((2, 5),)), None, "O6", "warning",
         "y:2,5 does not have N, which the inputs have, expected N in one axis", "--run"),
        (header(outputs=(("u0", 5),)), None, "O7", "warning", "sizes depend on data: outputs y:u0,5", "fixshape.to_static"),
        (header(nodes=(NodeHead("NonZero", "", "/nz"),)), "trt", "O7", "warning", "sizes depend on data: NonZero (/nz)",
         "fixed_nonzero"),
        (header(nodes=(NodeHead("NonMaxSuppression", "", ""),)), "atc", "O7", "error",
         "NonMaxSuppression (no name)", "batched_nms"),
        (header(opset=20), "atc", "O8", "error", "the file has opset 20, expected 11 to 18 for ATC",
         "fixshape export --opset 18"),
        (header(opset=10), "atc", "O8", "error", "the file has opset 10", "--opset 18"),
    ],
)  # fmt: skip
def test_each_rule(given, target, rule, level, message, way_out):
    (found,) = [violation for violation in check_onnx(given, GEARS, target=target) if violation.rule == rule]
    assert (found.level, message in found.message, way_out in found.way_out) == (level, True, True), found
    assert found.why.endswith(".")


def test_an_opset_is_a_rule_of_atc_alone():
    assert check_onnx(header(opset=20), GEARS, target="trt") == check_onnx(header(opset=20), GEARS) == ()


def test_an_unknown_target():
    with pytest.raises(ShapeError, match="target is 'tpu', expected one of 'atc', 'trt', 'ort'"):
        check_onnx(header(), GEARS, target="tpu")


LABELLED = """<ir_version: 8, opset_import: ["" : 18]>
g (float[N, 3, H, W] images) => (float[N, 3, K] y) <int64[3] s = {4, 3, -1}> { y = Reshape(images, s) }"""


def test_a_run_tells_what_the_header_cannot(tmp_path):
    """Symbols over a graph that holds batch size 4: the header is right in every word."""
    path = tmp_path / "labelled.onnx"
    path.write_bytes(parser.parse_model(LABELLED).SerializeToString())
    said = read_header(path)
    assert check_onnx(said, GEARS) == ()
    found = check_runs(path, said, GEARS)
    assert [violation.rule for violation in found] == ["O9", "O9"], "at batch size 1, on both canvases"
    assert found[0].message == "at images 1,3,64,64: output y is 4,3,1024, expected 1,3,? (y:N,3,K)"
    # The way out is one.
    change = set_batch(parser.parse_model(LABELLED))
    path.write_bytes(change.model.SerializeToString())
    assert check_runs(path, read_header(path), GEARS) == ()


def test_a_gear_that_does_not_run(tmp_path):
    path = tmp_path / "fixed.onnx"
    model = parser.parse_model(LABELLED.replace("{4, 3, -1}", "{-1, 3, 4096}"))
    path.write_bytes(model.SerializeToString())
    found = check_runs(path, read_header(path), GEARS)
    assert [violation.rule for violation in found] == ["O9"] * len(found) and 1 <= len(found) <= 2
    assert "images 1,3,64,96" in found[0].message or "Reshape" in found[0].message


def test_the_header_is_checked_without_onnx_and_torch(tmp_path):
    path = tmp_path / "labelled.onnx"
    path.write_bytes(parser.parse_model(LABELLED).SerializeToString())
    code = f"""
import sys
for name in ("onnx", "onnxruntime", "onnxscript", "torch"):
    sys.modules[name] = None
from fixshape.export import Gears, check_onnx, load_model, parse_inputs, read_header
gears = Gears(parse_inputs("images:N,3,64,64"), ({{"N": 1}}, {{"N": 2}}))
print(check_onnx(read_header({str(path)!r}), gears))
try:
    load_model({str(path)!r})
except ImportError as error:
    print(type(error).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("()\nExtraError\n", 0), done.stderr
