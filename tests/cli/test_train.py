"""``fixshape train`` as a user starts it: real processes, real images, real files, and clear words for bad ones."""

import json
import os
import subprocess
import sys

import pytest
import torch

from fixshape import ShapePlan
from fixshape.cli.__main__ import main
from fixshape.cli._train_arguments import MODELS
from fixshape.detection import SUPPORTED
from fixshape.plan import Bucket

KEYS = {
    "schema_version", "model", "backend", "dynamic", "steps", "losses", "op_compiles_per_step", "graph_compiles_per_step",
    "compiles_after_step", "fallbacks", "seconds_per_step", "shapes", "padding", "boxes_dropped", "peak_memory_mb", "warmup",
    "dry_run", "resumed_at", "evaluation", "ranks",
}  # fmt: skip


def start(*arguments: str) -> subprocess.CompletedProcess:
    """The command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "fixshape.cli", "train", "--backend", "cpu", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_summary_and_the_progress():
    done = start("--steps", "6", "--batch-size", "2")
    assert done.returncode == 0, done.stderr
    assert "6/6" in done.stderr and "steady" in done.stderr and "loss" in done.stderr and "compiles" in done.stderr
    lines = dict((line[:28].strip(), line[29:]) for line in done.stdout.splitlines())
    assert lines["shapes used: 1"] == "2x3x320x320, 12 boxes (6 steps)"
    assert lines["boxes dropped"] == "0"
    assert lines["nothing compiled after step"] == "2"
    assert lines["padding"].startswith("0.0% of pixels, ")
    assert lines["op compiles per step"].endswith("0, 0, 0 (predicted)")
    assert set(lines) >= {"model", "steps", "loss", "seconds per step", "peak memory"}


@pytest.mark.slow
def test_static_and_dynamic_are_the_same_training():
    """The first losses agree (float32, the same weights and order); one stops compiling, the other does not."""
    static, dynamic = (
        json.loads(start("--json", "--steps", "6", "--batch-size", "2", *more).stdout) for more in ((), ("--dynamic",))
    )
    assert set(static) == set(dynamic) == KEYS
    assert static["losses"][0] == pytest.approx(dynamic["losses"][0], rel=1e-4)
    assert static["op_compiles_per_step"][2:5] == [0, 0, 0]
    assert static["compiles_after_step"] == 2 and static["warmup"] == {"steps": 0, "compiles": None}
    assert all(count >= 40 for count in dynamic["op_compiles_per_step"][2:])
    assert dynamic["compiles_after_step"] is None  # it never came to rest
    assert (static["padding"]["pixels"], dynamic["padding"]["pixels"]) == (0, None)
    assert (len(static["shapes"]), len(dynamic["shapes"])) == (1, 6)
    assert static["graph_compiles_per_step"] is None and static["fallbacks"] == {}


@pytest.mark.slow
def test_several_buckets_are_all_warm_before_the_first_step(tmp_path):
    model = ("--model", "fasterrcnn_mobilenet_v3_large_320_fpn")
    options = (*model, "--batch-size", "2", "--steps", "8", "--workers", "1", "--guard", "error", "--json")
    planned = start(*options, "--buckets", "3", "--output", str(tmp_path))
    assert planned.returncode == 0, planned.stderr
    result = json.loads(planned.stdout)
    plan = ShapePlan.load(tmp_path / "plan.json")
    assert len(plan.buckets) == 3 and plan.certificate is not None
    assert {f"2x3x{bucket.height}x{bucket.width}, 12 boxes" for bucket in plan.buckets} >= set(result["shapes"])
    assert len(result["shapes"]) > 1
    assert result["warmup"]["steps"] == 6 and result["warmup"]["compiles"] > 1000
    assert result["op_compiles_per_step"] == [0] * 8 and result["compiles_after_step"] == 0
    again = start(*options, "--plan", str(tmp_path / "plan.json"))
    assert json.loads(again.stdout)["losses"] == result["losses"], again.stderr


@pytest.mark.slow
def test_average_precision_on_other_images(data_folder):
    folder = data_folder / "coco_permissive"
    files = ("--annotations", str(folder / "instances.json"), "--images", str(folder / "images"))
    validation = ("--val-annotations", files[1], "--val-images", files[3])
    done = start("--data", "coco", *files, *validation, "--batch-size", "8", "--steps", "3", "--json")
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)["evaluation"]
    assert set(measured) == {"AP", "AP50", "AP75"} and all(0 <= value < 0.5 for value in measured.values())


@pytest.mark.slow
def test_a_run_that_is_ended_goes_on_bitwise(tmp_path):
    options = ("--batch-size", "2", "--json")
    whole = json.loads(start(*options, "--steps", "6").stdout)
    kept = (*options, "--checkpoint", str(tmp_path / "kept"), "--resume")
    first = json.loads(start(*kept, "--steps", "3").stdout)
    rest = json.loads(start(*kept, "--steps", "6").stdout)
    assert (first["resumed_at"], rest["resumed_at"]) == (0, 3)
    assert first["losses"] + rest["losses"] == whole["losses"]
    done = start(*kept[:2], *kept[3:], "--steps", "6")
    assert done.returncode == 0 and "resumed at step" in done.stdout, done.stderr


@pytest.mark.slow
def test_real_images_with_workers_and_output(data_folder, tmp_path):
    folder = data_folder / "coco_permissive"
    arguments = ["--data", "coco", "--annotations", str(folder / "instances.json"), "--images", str(folder / "images")]
    done = start(
        *arguments,
        "--steps",
        "4",
        "--batch-size",
        "4",
        "--workers",
        "2",
        "--lr",
        "1e-3",
        "--output",
        str(tmp_path / "run"),
        "--json",
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == result
    plan = ShapePlan.load(tmp_path / "run" / "plan.json")
    assert plan.buckets[0].height == 320
    assert list(result["shapes"]) == [f"4x3x320x320, {plan.buckets[0].max_boxes} boxes"]
    state = torch.load(tmp_path / "run" / "model.pt", weights_only=True)
    # What was written can be started from, with the plan that was written.
    again = start(
        *arguments, "--steps", "1", "--batch-size", "2", "--weights", str(tmp_path / "run" / "model.pt"),
        "--plan", str(tmp_path / "run" / "plan.json"), "--json",
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert state["head.classification_head.module_list.0.1.weight"].shape[0] == 91 * 6


@pytest.mark.slow
def test_the_default_run_is_short_and_its_loss_falls():
    """What ``pip install -e . && fixshape train`` shows; about a minute on two cores, and the limit is three."""
    done = start("--json")
    assert done.returncode == 0, done.stderr
    losses = json.loads(done.stdout)["losses"]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


@pytest.mark.slow
def test_ssd300_on_real_images(data_folder):
    folder = data_folder / "coco_permissive"
    done = start(
        "--data", "coco", "--annotations", str(folder / "instances.json"), "--images", str(folder / "images"),
        "--model", "ssd300_vgg16", "--steps", "3", "--batch-size", "2", "--lr", "1e-4", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["op_compiles_per_step"][2:] == [0]


def _trains(model: str, *arguments: str) -> dict:
    done = start("--model", model, "--steps", "3", "--batch-size", "1", "--lr", "1e-4", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["op_compiles_per_step"][2] == 0
    assert found["boxes_dropped"] == 0
    return found


def test_a_faster_rcnn_on_drawn_shapes():
    found = _trains("fasterrcnn_mobilenet_v3_large_320_fpn")
    assert list(found["shapes"]) == ["1x3x320x320, 12 boxes"]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["retinanet_resnet50_fpn", "fcos_resnet50_fpn", "keypointrcnn_resnet50_fpn"])
def test_other_models_on_drawn_shapes(model):
    _trains(model)


@pytest.mark.slow
def test_masks_of_real_images(data_folder):
    """At torchvision's own 800 to 1333: three steps of one image."""
    folder = data_folder / "coco_permissive"
    files = ("--annotations", str(folder / "instances.json"), "--images", str(folder / "images"))
    found = _trains("maskrcnn_resnet50_fpn", "--data", "coco", *files)
    assert len(found["shapes"]) == 1


def test_the_models_are_those_of_to_static():
    assert set(MODELS) == set(SUPPORTED)


def _fails(capsys, *arguments: str) -> str:
    """Runs in this process, expects exit code 2 and nothing on stdout, and gives the message."""
    code = main(["train", "--backend", "cpu", *arguments])
    said = capsys.readouterr()
    assert (code, said.out) == (2, "")
    assert said.err.count("\n") == 1, "one line, no traceback"
    return said.err


def test_bad_files_are_clear_errors(capsys, tmp_path):
    newer = tmp_path / "newer.json"
    newer.write_text('{"schema_version": 9}')
    small = tmp_path / "small.json"
    ShapePlan([Bucket(100, 100, 9)]).save(small)
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"\x80\x04cos\nsystem\n")
    other = tmp_path / "other.pt"
    torch.save({"weight": torch.zeros(1)}, other)
    assert "there is no such file" in _fails(capsys, "--plan", str(tmp_path / "none.json"))
    assert "schema_version is 9" in _fails(capsys, "--plan", str(newer))
    assert "there is no such file" in _fails(capsys, "--weights", str(tmp_path / "none.pt"))
    assert "not a state_dict of ssdlite320_mobilenet_v3_large with 4 classes" in _fails(capsys, "--weights", str(broken))
    assert "Missing key(s)" in _fails(capsys, "--weights", str(other))
    assert "the annotation file cannot be read" in _fails(
        capsys, "--data", "coco", "--annotations", str(tmp_path / "n"), "--images", "."
    )


def test_an_image_larger_than_the_plan_is_a_clear_error(capsys, tmp_path):
    ShapePlan([Bucket(100, 100, 9)]).save(tmp_path / "small.json")
    code = main(["train", "--backend", "cpu", "--plan", str(tmp_path / "small.json"), "--steps", "1"])
    assert code == 2
    assert "320x320" in capsys.readouterr().err


def test_options_that_need_one_another(capsys):
    assert "--data coco needs --annotations A.json and --images DIR" in _fails(capsys, "--data", "coco")
    assert "--images is for --data coco, but --data is 'shapes'" in _fails(capsys, "--images", "x")
    assert "--dynamic does not pad: it cannot be used with --plan" in _fails(capsys, "--dynamic", "--plan", "x")
    assert "--val-annotations A.json and --val-images DIR go together" in _fails(capsys, "--val-images", "x")
    assert "--resume needs --checkpoint DIR" in _fails(capsys, "--resume")
    assert "--checkpoint-every needs --checkpoint DIR" in _fails(capsys, "--checkpoint-every", "3")
    assert "--checkpoint is not for --dynamic" in _fails(capsys, "--checkpoint", "x", "--dynamic")
    assert "--dynamic does not pad: it cannot be used with --buckets" in _fails(capsys, "--dynamic", "--buckets", "2")


def test_a_backend_that_is_not_there(capsys):
    if torch.cuda.is_available():
        pytest.fail("run this where there is no GPU")
    code = main(["train", "--backend", "cuda"])
    assert code == 2
    assert "BackendError: get_backend: 'cuda' cannot be used here: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--steps", "0"], "argument --steps: '0' is not a whole number of at least 1"),
        (["--workers", "-1"], "argument --workers: '-1' is not a whole number of at least 0"),
        (["--lr", "nan"], "argument --lr: 'nan' is not a positive number"),
        (["--model", "resnet"], "invalid choice: 'resnet'"),
        (["--step", "3"], "unrecognized arguments: --step 3"),
    ],
)
def test_wrong_arguments_end_with_2(capsys, arguments, text):
    with pytest.raises(SystemExit) as ended:
        main(["train", *arguments])
    assert ended.value.code == 2
    assert text in capsys.readouterr().err


def test_a_loss_that_explodes_ends_with_1(capsys):
    code = main(["train", "--backend", "cpu", "--batch-size", "2", "--steps", "20", "--lr", "1e9"])
    assert code == 1
    assert "NonFiniteLossError: fit: the loss of step" in capsys.readouterr().err


def test_a_defect_ends_with_3_and_a_traceback(capsys, monkeypatch):
    monkeypatch.setattr("fixshape.cli._train._check", lambda _: 1 / 0)
    assert main(["train"]) == 3
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_hostile_weights_run_nothing(capsys, tmp_path):
    """A pickle that would write a file is refused, not run."""
    import pickle

    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "owned"),))

    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil()))
    torch.save(Evil(), tmp_path / "evil2.pt")
    for name in ("evil.pt", "evil2.pt"):
        assert "not a state_dict" in _fails(capsys, "--weights", str(tmp_path / name))
    assert not (tmp_path / "owned").exists()
