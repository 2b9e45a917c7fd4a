"""``fixshape atc`` as a user starts it: a command for a plan, one that is checked, a log, a host without onnx and torch."""

import json
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec

import pytest

from fixshape import Bucket, ShapePlan
from fixshape.cli.__main__ import main
from fixshape.cli._atc import _EPILOG

RIGHT = "atc --model=m.onnx --framework=5 --output=m --soc_version=Ascend310P3 --input_shape=x:8,3,64,64"
BROKEN = RIGHT.replace("x:8", "x:-1") + " --dynamic_batch_size=8"
LOG = "E10018: Value [-1] for shape [2] is invalid.\nE19999: Inner Error!\nE19999: Inner Error!\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a model and a plan in it, where the command is run."""
    monkeypatch.chdir(tmp_path)
    ShapePlan([Bucket(320, 480, 8), Bucket(480, 320, 8)]).save("plan.json")
    save("model.onnx", 18)
    return tmp_path


def save(path, opset):
    from onnx import TensorProto, helper, save_model

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, "H", "W"]) for name in ("images", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["images"], ["y"])], "graph", values[:1], values[1:])
    save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), path)


def run(capsys, *arguments):
    code = main(["atc", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


WRITE = ("--onnx", "model.onnx", "--plan", "plan.json", "--soc-version", "Ascend310P3")


def test_the_command_for_a_plan(capsys, folder):
    code, out, err = run(capsys, *WRITE)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "atc --model=model.onnx --framework=5 --output=model --soc_version=Ascend310P3 --input_format=NCHW \\",
        '    --input_shape=images:1,3,-1,-1 --dynamic_image_size="320,480;480,320"',
        "2 gears by --dynamic_image_size: height and width alone vary",
        "at run time aclmdlSetDynamicHWSize chooses the gear, and where it is not called, the largest runs",
    ]


def test_batch_sizes_and_inputs(capsys, folder):
    code, out, _ = run(capsys, *WRITE, "--batch-sizes", "1,4", "--inputs", "images:N,3,320,480", "--emit")
    assert code == 0
    assert out == (
        "atc --model=model.onnx --framework=5 --output=model --soc_version=Ascend310P3 --input_shape=images:-1,3,320,480"
        " --dynamic_batch_size=1,4\n"
    )


def test_nothing_is_emitted_that_would_be_refused(capsys, folder):
    save("model.onnx", 20)
    code, out, err = run(capsys, *WRITE, "--emit")
    assert (code, out) == (1, "")
    assert err.startswith("error E16002 (G14, to be checked on the device): the model has opset 20, expected 11 to 18\n")
    code, out, _ = run(capsys, *WRITE)
    assert code == 1
    assert out.startswith("atc --model=model.onnx ") and "error E16002" in out


def test_json_of_a_command(capsys, folder):
    code, out, _ = run(capsys, *WRITE, "--batch-sizes", "1,2", "--json")
    told = json.loads(out)
    assert (code, told["schema_version"], told["gears"], told["option"]) == (0, 1, 4, "dynamic_dims")
    assert told["command"].endswith('--dynamic_dims="1,320,480;2,320,480;1,480,320;2,480,320"')
    assert told["why"] == "what varies is neither one batch nor one height and width: images axis 0, 2, 3"
    assert [(entry["rule"], entry["level"]) for entry in told["violations"]] == [("P6", "warning")]
    assert set(told["violations"][0]) == {"rule", "code", "message", "why", "way_out", "level", "doubtful"}


def test_a_command_that_somebody_wrote(capsys, folder):
    code, out, err = run(capsys, "--check", BROKEN)
    assert (code, err) == (1, "")
    assert out.startswith("error E10035 (P1): --dynamic_batch_size has 1 gear, expected 2 to 100\n")
    assert out.endswith(f"instead: {RIGHT}\n")
    code, out, _ = run(capsys, "--check", RIGHT)
    assert (code, out) == (0, "no rule is broken; names and operators were not checked, for which --onnx is needed\n")
    code, out, _ = run(capsys, "--check", RIGHT, "--onnx", "model.onnx")
    assert code == 1
    assert "error E10016 (G10): 'x' is not in the model, expected one of images\n" in out
    code, out, _ = run(capsys, "--check", RIGHT.replace("x:", "images:"), "--onnx", "model.onnx", "--json")
    assert (code, json.loads(out)["violations"]) == (0, [])


def test_the_command_with_all_that_is_mended(capsys):
    line = RIGHT.replace("x:8", "x:-1") + " --dynamic_batch_size=8 --precision_mode=fp16"
    code, out, _ = run(capsys, "--check", line)
    assert code == 1
    assert out.splitlines()[-1] == f"corrected: {RIGHT} --precision_mode_v2=fp16"
    told = json.loads(run(capsys, "--check", line, "--json")[1])
    assert (set(told), told["corrected"]) == (
        {"schema_version", "command", "violations", "corrected"},
        f"{RIGHT} --precision_mode_v2=fp16",
    )


def test_no_command_mends_a_model(capsys, folder):
    save("model.onnx", 20)
    line = RIGHT.replace("x:", "images:").replace("m.onnx", "model.onnx")
    code, out, _ = run(capsys, "--check", line, "--onnx", "model.onnx")
    assert (code, out.splitlines()[-1]) == (1, "No command mends this: the model is at fault.")
    assert json.loads(run(capsys, "--check", line, "--onnx", "model.onnx", "--json")[1])["corrected"] is None


def test_a_whole_script_may_be_given(capsys):
    script = f"#!/bin/bash\nsource set_env.sh\nbs=8\n{RIGHT.replace('x:8', 'x:$bs')} > log 2>&1\n"
    assert run(capsys, "--check", script)[0] == 0
    code, _, err = run(capsys, "--check", script + RIGHT.replace("x:8", "x:4"))
    assert code == 2
    assert "2 commands call atc, expected one." in err


def test_warnings_and_doubts_alone_leave_the_exit_code_at_0(capsys):
    code, out, _ = run(capsys, "--check", BROKEN.replace("=8", "=1,2").replace('64,64"', "64,64") + " --input_format=NCHW")
    assert code == 0
    code, out, _ = run(capsys, "--check", RIGHT.replace("x:8", "x:-1"))
    assert code == 0
    assert out.startswith("warning E10011 (S11, to be checked on the device): x:-1,3,64,64: -1 and no gears")


def test_a_log(capsys, folder):
    (folder / "atc.log").write_text(LOG)
    code, out, _ = run(capsys, "--log", "atc.log")
    assert code == 1
    first, second = out.split("\n\n")
    assert first.splitlines()[:3] == [
        "E10018 (line 1): -1 outside of the batch",
        "    it says: Value [-1] for shape [2] is invalid.",
        "    values:  -1 | 2",
    ]
    assert second.startswith("E19999 (line 2, 2 times): an inner error\n")
    code, out, _ = run(capsys, "--log", "atc.log", "--json")
    told = json.loads(out)
    assert [(entry["code"], entry["line"], entry["times"]) for entry in told["entries"]] == [("E10018", 1, 1), ("E19999", 2, 2)]
    assert told["entries"][0]["values"] == ["-1", "2"]
    (folder / "atc.log").write_text("EE4321: odd\n")
    assert run(capsys, "--log", "atc.log")[1].startswith("EE4321 (line 1): not in the catalogue; it is of the runtime\n")
    (folder / "atc.log").write_text("ATC run success, welcome to the next use.\n")
    assert run(capsys, "--log", "atc.log")[:2] == (0, "no code of atc is in this log; with --log=debug atc says more\n")
    (folder / "atc.log").write_text("W11001: Op x does not hit\n")
    assert run(capsys, "--log", "atc.log")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--onnx is missing. Give --onnx, --plan and --soc-version for a command, --check for one that is there, or --log"),
        (["--onnx", "model.onnx", "--plan", "plan.json"], "--soc-version is missing."),
        (["--check", RIGHT, "--log", "x"], "--check cannot be used with --log. Give it alone or with --onnx."),
        (["--check", RIGHT, "--batch-sizes", "2"], "--check cannot be used with --batch-sizes."),
        (["--log", "x", "--onnx", "model.onnx"], "--log cannot be used with --onnx. Give it alone."),
        ([*WRITE, "--emit", "--json"], "--emit cannot be used with --json, which holds the command too."),
        (["--log", "none.log"], "none.log: it cannot be read (No such file or directory)."),
        (["--check", "trtexec"], "'trtexec' is not a command of atc."),
        (["--check", RIGHT, "--onnx", "plan.json"], "plan.json"),
        ([*WRITE[:2], "--plan", "none.json", *WRITE[4:]], "none.json: there is no such file."),
        ([*WRITE, "--inputs", "images:N,3,L,W"], "a plan has no sizes for L"),
    ],
)
def test_bad_arguments(capsys, folder, arguments, said):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


_BLOCKED = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"onnx", "onnxruntime", "onnxscript", "torch", "torchvision"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
from fixshape.cli.__main__ import main
from fixshape.cli._atc import _EPILOG
codes = [
    main(["atc", "--onnx", "model.onnx", "--plan", "plan.json", "--soc-version", "Ascend310P3"]),
    main(["atc", "--check", sys.argv[1], "--onnx", "model.onnx"]),
    main(["atc", "--log", "atc.log"]),
    main(["explain", "E10018"]),
    main(["explain", "FS101"]) if "audit" in sys.argv else 0,
]
print(*codes)
"""


def _blocked(folder, *arguments):
    (folder / "atc.log").write_text(LOG)
    code = [sys.executable, "-c", _BLOCKED, RIGHT, *arguments]
    return subprocess.run(code, capture_output=True, text=True, cwd=folder, check=False)


def test_it_works_where_onnx_and_torch_are_not(folder):
    done = _blocked(folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "0 1 1 0 0"


def test_the_block_is_one(folder):
    assert find_spec("torch")
    assert "torch is blocked" in _blocked(folder, "audit").stderr


def test_the_examples_of_the_help_are_real(capsys, folder):
    """Both commands of it that say what they print, run as a shell would."""
    ShapePlan([Bucket(h, w, 8) for h, w in ((800, 1088), (800, 1216), (800, 1344), (1344, 800))]).save("plan.json")
    blocks = _EPILOG.split("\n  $ fixshape ")
    for block in (blocks[1], blocks[2]):
        shown = ("  " + block).replace("\n  ", "\n")
        line = re.match(r"  atc (?:[^'\n]|'[^']*')*", shown)[0]
        run_code, out, _ = run(capsys, *shlex.split(line)[1:])
        assert run_code == ("--check" in line)
        assert shown[len(line) :].split("\n\n")[0].strip() == out.strip()
