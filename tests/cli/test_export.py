"""``fixshape export``: what it writes, what it proves, and what it refuses."""

import json
import sys

import pytest
import torch
from torchvision import models

from fixshape.cli.__main__ import main
from fixshape.cli._export_model import build
from fixshape.detection import StaticDetector
from fixshape.errors import CheckpointError
from fixshape.export import read_header
from fixshape.plan import Bucket, ShapePlan
from tests.export import modules
from tests.export.test_export_detector import Brightest

MODULES = "tests.export.modules"


@pytest.fixture
def folder(tmp_path):
    ShapePlan([Bucket(32, 48, 4), Bucket(64, 48, 4)]).save(tmp_path / "plan.json")
    return tmp_path


def _run(folder, model, *arguments, plan=True):
    planned = ("--plan", str(folder / "plan.json")) if plan else ()
    return main(["export", model, *planned, *arguments])


def test_a_file_that_is_proved(folder, capsys):
    path = folder / "model.onnx"
    names = ("--input-names", "data", "--output-names", "rows")
    assert (
        _run(folder, f"{MODULES}:BakedBatch", "--batch-sizes", "1,2", "--onnx", str(path), *names, "--verify", "--targets") == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{path}: data:N,3,H,48 -> rows:N,4,")
    assert lines[0].partition(", opset ")[2].startswith("18, ")
    assert [line.partition(": equal to ")[0] for line in lines[1:5]] == [
        f"data [{batch}, 3, {height}, 48]" for height in (32, 64) for batch in (1, 2)
    ]
    assert all(any(line.startswith(target) for line in lines) for target in ("ATC", "TensorRT", "TorchAir", "ONNX Runtime"))
    assert read_header(path).inputs[0].name == "data"


def test_json(folder, capsys):
    path = str(folder / "model.onnx")
    inputs = ("--inputs", "images:N,3,H,W;image_sizes:N,2")
    options = ("--batch-sizes", "1,2", "--onnx", path, "--verify", "--check-trace", "--json")
    assert _run(folder, f"{MODULES}:Masked", *inputs, *options) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["schema_version"], told["error"], told["trace_breaks"]) == (1, None, [])
    (file,) = told["onnx"]
    assert (file["path"], file["opset"]) == (path, 18)
    assert [port["name"] for port in file["outputs"]] == ["image", "mean"]
    assert [(gear["ok"], gear["image"]) for gear in told["gears"]] == [(True, None)] * 2 + [(True, [32, 48])] * 2


def leaking():
    """Padding has an effect in it."""
    return modules.Masked(leaks=True)


def with_inputs():
    """An encoder, and tokens that it has."""
    return modules.Encoder(), lambda shapes: (torch.ones(shapes["tokens"]).long(),)


def refuses():
    """It raises in its forward."""

    class Refuses(torch.nn.Module):
        def forward(self, x):
            raise KeyError("boom")

    return Refuses()


def leaves():
    """A factory that ends the process."""
    sys.exit(3)


def inputs_that_raise():
    return modules.FreeSize(), lambda shapes: shapes["nothing"]


def wrapped():
    """A model whose forward takes *args, and gives its input and one tensor twice."""

    class Wrapped(torch.nn.Module):
        def forward(self, *inputs):
            (x,) = inputs
            y = x * 2
            return {"same": x, "one": y, "other": y}

    return Wrapped()


def test_outputs_that_are_one_value_have_their_own_names(folder, capsys):
    path = folder / "model.onnx"
    assert _run(folder, f"{__name__}:wrapped", "--batch-sizes", "1,2", "--onnx", str(path), "--verify") == 0
    header = read_header(path)
    assert [port.name for port in (*header.inputs, *header.outputs)] == ["images", "same", "one", "other"]


def test_a_canvas_that_the_model_refuses_is_a_failed_check_of_the_trace_too(folder, capsys):
    assert _run(folder, f"{__name__}:refuses", "--batch-sizes", "1,2", "--check-trace", "--json") == 1
    told = capsys.readouterr()
    assert "KeyError: 'boom'" in told.err
    assert json.loads(told.out)["error"] in told.err


def test_a_model_that_raises_is_a_failed_check(folder, capsys):
    assert _run(folder, f"{__name__}:refuses", "--onnx", str(folder / "m.onnx")) == 1
    assert "the model refuses images [1, 3, 32, 48]: KeyError: 'boom' (" in capsys.readouterr().err


def test_a_file_that_differs_is_not_kept(folder, capsys):
    path = folder / "model.onnx"
    options = ("--inputs", "images:N,3,H,W;image_sizes:N,2", "--batch-sizes", "1,2", "--onnx", str(path))
    assert _run(folder, f"{__name__}:leaking", *options, "--verify") == 1
    assert f"{path} is not written: it differs from torch" in capsys.readouterr().out
    assert [entry.name for entry in folder.iterdir()] == ["plan.json"]


class Detector(Brightest, StaticDetector):
    """What is called as a static detection model is."""

    _detect = _losses = num_classes = None

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.looks_at_padding, self.power = False, torch.nn.Parameter(torch.tensor(1.0))


def leaking_detector():
    """Padding has an effect in it."""
    model = Detector()
    model.looks_at_padding = True
    return model


def test_a_detection_model_is_one_file_for_each_canvas(folder, capsys):
    ShapePlan([Bucket(32, 48, 4), Bucket(48, 32, 4)]).save(folder / "plan.json")
    names = ("--input-names", "data", "--output-names", "corners")
    options = ("--batch-sizes", "1,2", "--onnx", str(folder / "found.onnx"), "--verify")
    assert _run(folder, f"{__name__}:Detector", *options, *names) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(
        f"{folder / 'found_32x48.onnx'}: data:N,3,32,48; image_sizes:N,2 -> corners:N,4,4; scores:N,4; labels"
    )
    assert lines[2].startswith("images [1, 3, 32, 48], image_sizes [1, 2]: equal to ")
    assert len(lines) == 6
    written = sorted(entry.name for entry in folder.iterdir())
    assert written == ["found_32x48.onnx", "found_48x32.onnx", "plan.json"]


def test_a_detection_model_that_is_not_written(folder, capsys):
    ShapePlan([Bucket(32, 48, 4)]).save(folder / "plan.json")
    options = ("--batch-sizes", "2", "--onnx", str(folder / "found.onnx"), "--verify")
    assert _run(folder, f"{__name__}:leaking_detector", *options) == 1
    assert "found_32x48.onnx is not written: it differs from torch" in capsys.readouterr().out
    assert _run(folder, f"{__name__}:Detector", *options, "--input-names", "a,b,c") == 2
    assert "--input-names has 3 names (a, b, c), expected at most 2, for images, image_sizes." in capsys.readouterr().err
    assert [entry.name for entry in folder.iterdir()] == ["plan.json"]


def test_inputs_that_the_factory_makes(folder, capsys):
    assert _run(folder, f"{__name__}:with_inputs", "--inputs", "tokens:N,W", "--batch-sizes", "1,2", "--check-trace") == 0
    assert capsys.readouterr().out == "tracing freezes nothing in the gears that were tried\n"


def test_what_tracing_would_freeze(folder, capsys):
    assert _run(folder, f"{MODULES}:BakedBatch", "--batch-sizes", "2,4", "--check-trace") == 1
    assert f"{modules.line_of('baked batch')}: aten.view.default(" in capsys.readouterr().out
    assert _run(folder, f"{MODULES}:BakedBatch", "--batch-sizes", "2,4", "--check-trace", "--json") == 1
    (found,) = json.loads(capsys.readouterr().out)["trace_breaks"]
    assert (found["kind"], found["site"]["function"]) == ("number", "BakedBatch.forward")


def test_a_graph_that_is_not_what_was_asked_is_a_failed_check(folder, capsys):
    path = folder / "model.onnx"
    assert _run(folder, f"{MODULES}:Indices", "--batch-sizes", "1,2", "--onnx", str(path), "--json") == 1
    told = capsys.readouterr()
    assert "sizes depend on data: NonZero" in json.loads(told.out)["error"]
    assert "fixshape: ExportError: export_onnx: model.onnx is not written.\nsizes depend on data: NonZero" in told.err
    assert not path.exists()


def test_weights(folder, capsys):
    model, path = modules.FreeBatch(), folder / "weights.pt"
    torch.save(model.state_dict(), path)
    options = ("--onnx", str(folder / "model.onnx"), "--weights", str(path))
    assert _run(folder, f"{MODULES}:FreeBatch", *options) == 0
    capsys.readouterr()
    assert _run(folder, f"{MODULES}:SuperResolution", *options) == 2
    assert "weights.pt is not of tests.export.modules:SuperResolution: Error(s) in loading" in capsys.readouterr().err
    torch.save({"model": Hostile()}, path)
    assert _run(folder, f"{MODULES}:FreeBatch", *options) == 2
    assert "it does not load with weights_only=True (UnpicklingError), expected a state_dict" in capsys.readouterr().err
    path.unlink()
    assert _run(folder, f"{MODULES}:FreeBatch", *options) == 2
    assert "weights.pt: No such file or directory" in capsys.readouterr().err


class Hostile:
    """What is no tensor."""


# What is asked, and what is said on stderr; the exit code is 2.
WRONG = {
    "no model": (["shufflenet_v2_x05", "--onnx", "{}/m.onnx"], "there is no model 'shufflenet_v2_x05' in torchvision"),
    "a near model": (["shufflenet_v2_x05", "--onnx", "{}/m.onnx"], "Did you mean 'shufflenet_v2_x0_5'?"),
    "no module": (["nothing.here:model", "--check-trace"], "'nothing.here' cannot be imported (No module named 'nothing')"),
    "no factory": ([f"{MODULES}:BakdBatch", "--check-trace"], "has no 'BakdBatch'. Did you mean 'BakedBatch'?"),
    "a factory with arguments": ([f"{MODULES}:line_of", "--check-trace"], "line_of raises TypeError: line_of() missing 1"),
    "no model in it": ([f"{MODULES}:CANVASES", "--check-trace"], "gives tuple, expected a torch.nn.Module, or a pair of one"),
    "a path": (["./my/model.py:make", "--check-trace"], "'./my/model.py:make' is not package.module:factory, as Python imports"),
    "a factory that leaves": ([f"{__name__}:leaves", "--check-trace"], "leaves raises SystemExit: 3 ("),
    "inputs that raise": ([f"{__name__}:inputs_that_raise", "--onnx", "{}/m.onnx"], "it raises KeyError: 'nothing' ("),
    "a device": ([f"{MODULES}:FreeSize", "--onnx", "/dev/null"], "--onnx '/dev/null' is no file, expected the path of one"),
    "no name": ([f"{MODULES}:FreeSize", "--onnx", ""], "--onnx '' is no file, expected the path of one"),
    "a long name": ([f"{MODULES}:FreeSize", "--onnx", "{}/" + "m" * 250], "the name is too long for its folder"),
    "nothing to do": ([f"{MODULES}:FreeSize"], "there is nothing to do: give --onnx FILE, --check-trace or --targets"),
    "no file": ([f"{MODULES}:FreeSize", "--verify", "--check-trace"], "--verify is for the file of --onnx, which is not given"),
    "no targets": ([f"{MODULES}:FreeSize", "--soc-version", "Ascend310P3", "--check-trace"], "is for the rules of --targets"),
    "a folder": ([f"{MODULES}:FreeSize", "--onnx", "{}"], "is a folder, expected a file"),
    "no folder": ([f"{MODULES}:FreeSize", "--onnx", "{}/a/m.onnx"], "its folder does not exist or cannot be written to"),
    "input names": (
        [f"{MODULES}:FreeSize", "--onnx", "{}/m.onnx", "--input-names", "a,b"],
        "--input-names has 2 names (a, b), expected one of its own for each of 1 inputs: images:N,3,H,W. --inputs says which",
    ),
    "output names": (
        [f"{MODULES}:FreeSize", "--onnx", "{}/m.onnx", "--output-names", "a,b"],
        "got 2 output names (a, b), but the model gives 1 tensors: output. Give one name for each",
    ),
    "opset": ([f"{MODULES}:FreeSize", "--onnx", "{}/m.onnx", "--opset", "99"], "there is no opset 99: expected 1 to"),
    "symbols": ([f"{MODULES}:FreeSize", "--check-trace", "--inputs", "x:N,L"], "a plan has no sizes for L of x:N,L"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_is_a_usage_error(name, folder, capsys):
    arguments, said = WRONG[name]
    assert _run(folder, *(argument.format(folder) for argument in arguments)) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert said in told.err


def test_a_plan_is_needed_and_must_be_one(folder, capsys):
    assert _run(folder, f"{MODULES}:FreeSize", "--check-trace", plan=False) == 2
    assert "export: --plan is needed" in capsys.readouterr().err
    (folder / "plan.json").write_text("{}")
    assert _run(folder, f"{MODULES}:FreeSize", "--check-trace") == 2
    assert "PlanError" in capsys.readouterr().err


def test_a_plan_for_another_model(folder, capsys):
    options = ("--batch-sizes", "1,2", "--onnx", str(folder / "m.onnx"))
    assert _run(folder, f"{MODULES}:BakedBatch", "--inputs", "images:N,1,H,W", *options) == 1
    assert "the model refuses images [2, 1, 32, 48]: RuntimeError: Given groups=1" in capsys.readouterr().err


def test_empty_names(folder, capsys):
    with pytest.raises(SystemExit) as ended:
        _run(folder, f"{MODULES}:FreeSize", "--output-names", "a,,b")
    assert ended.value.code == 2
    assert "'a,,b' has an empty name, expected names with commas (boxes,scores)" in capsys.readouterr().err


def test_a_factory_of_this_folder_is_found(folder, monkeypatch, capsys):
    (folder / "my_model.py").write_text("import torch\nmodel = torch.nn.Conv2d(3, 1, 3)\n")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(folder))])
    assert _run(folder, "my_model:model", "--check-trace") == 0


def test_targets_of_a_chip(folder, capsys):
    """Without a name the limits of one chip stand in; a name is held against the rules of ATC."""
    options = ("--batch-sizes", "1,2", "--targets")
    assert _run(folder, f"{MODULES}:FreeSize", *options) == 0
    assert "4 gears, as for Ascend310P3" in capsys.readouterr().out
    assert _run(folder, f"{MODULES}:FreeSize", *options, "--soc-version", "310P3") == 0
    told = capsys.readouterr().out
    assert "as for" not in told
    assert "--soc_version is '310P3', expected Ascend and the name that npu-smi info shows" in told


@pytest.mark.slow
def test_a_model_of_torchvision(folder, capsys):
    path = folder / "model.onnx"
    ShapePlan([Bucket(64, 96, 4), Bucket(96, 64, 4)]).save(folder / "plan.json")
    assert _run(folder, "shufflenet_v2_x0_5", "--batch-sizes", "1,4", "--onnx", str(path), "--verify", "--check-trace") == 0
    assert "images [4, 3, 96, 64]: equal to " in capsys.readouterr().out
    assert read_header(path).inputs[0].dims == ("N", 3, "H", "W")


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("squeezenet1_1", "classifier.1.weight"),
        ("ssdlite320_mobilenet_v3_large", "head.classification_head.module_list.0.1.bias"),
    ],
)
def test_weights_say_how_many_classes_there_are(name, part, tmp_path):
    backbone = {"weights_backbone": None} if name.startswith("ssd") else {}
    model = models.get_model(name, weights=None, num_classes=7, **backbone)
    path = tmp_path / "weights.pt"
    torch.save(model.state_dict(), path)
    built, _ = build(name, str(path))
    assert torch.equal(built.state_dict()[part], model.state_dict()[part])


@pytest.mark.parametrize("state", [[1, 2], {"epoch": 3}])
def test_weights_that_are_no_state_dict(state, tmp_path):
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=r"weights.pt: it holds (list|dict), expected a state_dict of tensors alone:"):
        build("squeezenet1_1", str(tmp_path / "weights.pt"))
