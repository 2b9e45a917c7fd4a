"""``fixshape trt`` as a user starts it: profiles of a plan, a checked command, and no torch on the way."""

import json
import shlex
import subprocess
import sys

import pytest
from onnx import TensorProto, helper, save

from fixshape.cli.__main__ import main
from fixshape.export import check_trtexec, read_header
from fixshape.plan import Bucket, ShapePlan

TUTORIAL = (
    "trtexec --onnx=model.onnx --fp16 --best --workspace=4096 --explicitBatch --batch=8 --maxBatch=16 --uff=m.uff"
    " --deploy=m.prototxt --buildOnly --minShapes=images:1x3x512x512"
    " --optShapes=images:1x3x1600x1600 --maxShapes=images:1x3x1024x1024"
)
CORRECTED = (
    "trtexec --onnx=model.onnx --memPoolSize=workspace:4096 --skipInference --minShapes=images:1x3x512x512"
    " --optShapes=images:1x3x1024x1024 --maxShapes=images:1x3x1600x1600"
)


def write_model(path, dims=("batch", 3, "height", "width")):
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name in ("images", "out")]
    graph = helper.make_graph([helper.make_node("Relu", ["images"], ["out"])], "graph", ports[:1], ports[1:])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_model("model.onnx")
    ShapePlan([Bucket(320, 320, 8), Bucket(320, 480, 8), Bucket(480, 480, 8)]).save("plan.json")
    (tmp_path / "sizes.csv").write_text("320,480\n320,400\n300,300\n470,470\n")
    return tmp_path


def run(capsys, *arguments, code=0):
    assert main(["trt", *arguments]) == code
    return capsys.readouterr()


EMIT = ("--onnx", "model.onnx", "--plan", "plan.json")


def test_the_command_of_a_plan(folder, capsys):
    said = run(capsys, *EMIT, "--batch-sizes", "1,4")
    assert said.err == ""
    assert said.out.count("--profile=") == 6
    assert shlex.split(said.out)[-2:] == ["--saveEngine=model.plan", "--skipInference"]
    assert check_trtexec(said.out, header=read_header("model.onnx")) == ()


def test_a_range_with_opt_where_most_images_are(folder, capsys):
    said = run(capsys, *EMIT, "--batch-sizes", "1,4", "--ranges", "1", "--sizes", "sizes.csv", "--emit", "onnxruntime")
    assert json.loads(said.out) == {
        "trt_profile_min_shapes": "images:1x3x320x320",
        "trt_profile_opt_shapes": "images:4x3x320x480",
        "trt_profile_max_shapes": "images:4x3x480x480",
    }
    assert run(capsys, *EMIT, "--batch-sizes", "1,4", "--sizes", "sizes.csv", "--emit", "onnxruntime").out == said.out
    resized = run(capsys, *EMIT, "--sizes", "sizes.csv", "--resize", "470x470", "--emit", "onnxruntime").out
    assert json.loads(resized)["trt_profile_opt_shapes"] == "images:1x3x480x480"


def test_the_program(folder, capsys):
    said = run(capsys, *EMIT, "--emit", "python", "--engine", "e.plan")
    compile(said.out, "build.py", "exec")
    assert 'open("e.plan", "wb")' in said.out and said.out.count('{"images"') == 3


def test_json(folder, capsys):
    told = json.loads(run(capsys, *EMIT, "--json").out)
    assert list(told) == ["schema_version", "emit", "text", "profiles", "violations"]
    assert (told["schema_version"], told["emit"], told["violations"]) == (1, "trtexec", [])
    assert told["text"].startswith("trtexec --onnx=model.onnx --profile=0")
    assert told["profiles"][1]["images"] == {"min": [1, 3, 320, 480], "opt": [1, 3, 320, 480], "max": [1, 3, 320, 480]}
    told = json.loads(run(capsys, "--check", TUTORIAL, "--json", code=1).out)
    assert list(told) == ["schema_version", "violations", "corrected"]
    assert [entry["rule"] for entry in told["violations"]] == ["T2"] * 9 + ["T10"]
    assert told["corrected"] == CORRECTED


def test_a_command_of_a_tutorial_is_translated(folder, capsys):
    said = run(capsys, "--check", TUTORIAL, code=1)
    assert said.out.splitlines()[-1] == f"corrected: {CORRECTED}"
    assert "instead: --minShapes=images:1x3x512x512 --optShapes=images:1x3x1024x1024 --maxShapes=images:1x3x1600x1600" in said.out
    assert run(capsys, "--onnx", "model.onnx", "--check", CORRECTED).out == "no rule is broken\n"


def test_the_file_says_which_inputs_there_are(folder, capsys):
    line = "trtexec --onnx=model.onnx --saveEngine=e"
    assert run(capsys, "--check", line).out == "no rule is broken\n"
    said = run(capsys, "--onnx", "model.onnx", "--check", line, code=1).out
    assert "(T16): images has dynamic axes and no shapes in profile 0" in said
    assert "What is meant cannot be told from the command" in said


def test_warnings_leave_the_exit_code_at_0(folder, capsys):
    assert "warning (T8)" in run(capsys, "--check", "trtexec --onnx=m.onnx --optShapes=x:1x3").out


def test_a_model_that_does_not_fit_the_plan_is_a_finding(folder, capsys):
    write_model("model.onnx", (1, 3, "height", "width"))
    assert "--profile=2" in run(capsys, *EMIT).out
    said = run(capsys, *EMIT, "--inputs", "images:N,3,H,W", "--batch-sizes", "1,4", code=1)
    assert "(T17): profile 1: --minShapes has images:4x3x320x320, and the file has 1x3xheightxwidth" in said.err


def test_a_model_of_one_canvas_needs_no_profile_if_the_plan_has_that_canvas(folder, capsys):
    write_model("model.onnx", (1, 3, 320, 480))
    assert run(capsys, *EMIT).out == "trtexec --onnx=model.onnx --saveEngine=model.plan --skipInference\n"
    write_model("model.onnx", (1, 3, 224, 224))
    said = run(capsys, *EMIT, code=2)
    assert "trt: images is 224x224 in the file, and the plan has 320x320, 320x480, 480x480: it is of another model." in said.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "trt: give --onnx with --plan, or --check with a command."),
        (["--onnx", "model.onnx"], "trt: --plan is needed"),
        (["--onnx", "plan.json", "--plan", "plan.json"], "OnnxFileError: plan.json"),
        (["--onnx", "model.onnx", "--plan", "model.onnx"], "PlanError"),
        (["--check", "trtexec --onnx=m", "--plan", "plan.json"], "it cannot be used with --plan"),
        (["--check", "python train.py"], "is not a command of trtexec"),
        ([*EMIT, "--resize", "320x320"], "trt: --resize is for the images of --sizes"),
        ([*EMIT, "--inputs", "images"], "'images' is not NAME:DIM"),
        (
            [*EMIT, "--batch-sizes", ",".join(map(str, range(1, 12)))],
            "got 33 gears, and an engine should have at most 32 profiles",
        ),
        ([*EMIT, "--emit", "onnxruntime", "--ranges", "2"], "got 2 profiles, expected one"),
    ],
)
def test_wrong_arguments(folder, capsys, arguments, message):
    said = run(capsys, *arguments, code=2)
    assert said.out == "" and message in said.err


def test_a_list_of_batch_sizes(folder, capsys):
    with pytest.raises(SystemExit):
        main(["trt", *EMIT, "--batch-sizes", "1,x"])
    assert "'1,x' is not a list of whole numbers of at least 1 (1,2,4,8)" in capsys.readouterr().err


BLOCKED = """
import sys
for name in ("torch", "torchvision", "onnx", "onnxruntime", "onnxscript", "tensorrt", "torchair"):
    sys.modules[name] = None
from fixshape.cli.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["trt", *EMIT], 0, "--profile=2"),
        (["trt", "--onnx", "model.onnx", "--check", TUTORIAL], 1, CORRECTED),
        (["torchair", "--plan", "plan.json"], 0, "set_dim_gears(images, {2: [320, 320, 480], 3: [320, 480, 480]})"),
    ],
)
def test_without_torch_and_without_the_export_extra(folder, arguments, code, part):
    done = subprocess.run([sys.executable, "-c", BLOCKED, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, "")
    assert part in done.stdout


def test_sizes_are_read_where_torch_is(folder):
    command = [sys.executable, "-c", BLOCKED, "trt", *EMIT, "--ranges", "1", "--sizes", "sizes.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "ExtraError: trt: --sizes needs torch, which is not installed here. Run this where it is" in done.stderr


def test_the_block_can_fail(folder):
    done = subprocess.run([sys.executable, "-c", BLOCKED, "train"], capture_output=True, text=True, check=False)
    assert done.returncode == 3 and "import of torch halted" in done.stderr
