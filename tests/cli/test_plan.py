"""``fixshape plan`` as a user starts it: real sizes, real files, and clear words for bad ones."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from torchvision.models import detection

from fixshape import ShapePlan
from fixshape.cli.__main__ import main
from fixshape.cli._train_arguments import MODELS
from fixshape.collate import coco_sizes
from fixshape.detection import host_transform
from fixshape.plan import plan_buckets, resize_sizes

ROWS = [[480, 640, 7], [427, 640, 3], [640, 480, 12], [375, 500, 0], [500, 375, 1], [640, 640, 2]]


def run(capsys, *arguments: str) -> str:
    """Runs in this process, expects success and nothing on stderr, and gives what it printed."""
    code = main(["plan", *map(str, arguments)])
    said = capsys.readouterr()
    assert (code, said.err) == (0, "")
    return said.out


def fails(capsys, *arguments: str) -> str:
    """Runs in this process, expects exit code 2 and nothing on stdout, and gives the message."""
    code = main(["plan", *map(str, arguments)])
    said = capsys.readouterr()
    assert (code, said.out) == (2, "")
    assert said.err.count("\n") == 1, "one line, no traceback"
    return said.err


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "sizes.json"
    path.write_text(json.dumps(ROWS))
    return path


@pytest.fixture
def coco_file(tmp_path):
    images = [{"id": i, "file_name": f"{i}.jpg", "height": row[0], "width": row[1]} for i, row in enumerate(ROWS)]
    annotations = [{"image_id": i, "iscrowd": 0} for i, row in enumerate(ROWS) for _ in range(row[2])]

    def write(change=lambda content: content):
        content = change({"images": images, "annotations": annotations})
        (tmp_path / "instances.json").write_text(content if isinstance(content, str) else json.dumps(content))
        return tmp_path / "instances.json"

    return write


def test_the_main_job_in_a_process_of_its_own(data_folder, tmp_path):
    shapes = data_folder / "coco_shapes.json"
    done = subprocess.run(
        [sys.executable, "-m", "fixshape.cli", "plan", str(shapes), "--resize", "800,1333", "--buckets", "4",
         "--multiple-of", "32", "--batch-size", "8", "-o", str(tmp_path / "plan.json")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["bucket", "slots", "images", "share", "waste", "most", "boxes", "over"]
    assert [line.split()[0] for line in lines[1:6]] == ["800x1088", "800x1216", "800x1344", "1344x800", "all"]
    assert re.fullmatch(r"8\.42 % padding; no plan with 4 buckets has less than 8\.4[12] %", lines[6])
    assert re.fullmatch(r"in whole batches of 8: 8\.\d\d% padding, 62\d steps an epoch, \d+ images left out", lines[7])
    plan = ShapePlan.load(tmp_path / "plan.json")
    sizes = resize_sizes(json.loads(shapes.read_text()), 800, 1333)
    assert plan == plan_buckets(sizes, 4)
    assert (plan.assign(sizes) < 4).all()


def test_every_format_of_file_gives_the_same_plan(capsys, rows, coco_file, tmp_path):
    np.save(tmp_path / "sizes.npy", np.array(ROWS))
    (tmp_path / "sizes.csv").write_text("height,width,boxes\n" + "".join(f"{h},{w},{n}\n" for h, w, n in ROWS))
    files = (rows, coco_file(), tmp_path / "sizes.npy", tmp_path / "sizes.csv")
    found = {run(capsys, path, "--resize", "800,1333", "--buckets", 2) for path in files}
    assert len(found) == 1


def test_real_annotations_end_to_end(capsys, data_folder, tmp_path):
    """The plan that is written is one that ``fixshape train`` pads to."""
    folder = data_folder / "coco_permissive"
    run(capsys, folder / "instances.json", "--model", "ssdlite320_mobilenet_v3_large", "-o", tmp_path / "plan.json")
    assert main([
        "train", "--backend", "cpu", "--data", "coco", "--annotations", str(folder / "instances.json"),
        "--images", str(folder / "images"), "--plan", str(tmp_path / "plan.json"), "--steps", "1", "--batch-size", "2", "--json",
    ]) == 0  # fmt: skip
    most = coco_sizes(folder / "instances.json")[:, 2].max()
    assert list(json.loads(capsys.readouterr().out)["shapes"]) == [f"2x3x320x320, {most} boxes"]


def plan_of(capsys, tmp_path, *arguments) -> ShapePlan:
    run(capsys, *arguments, "-o", tmp_path / "plan.json")
    return ShapePlan.load(tmp_path / "plan.json")


def test_a_fixed_size_is_height_first(capsys, rows, tmp_path):
    (bucket,) = plan_of(capsys, tmp_path, rows, "--resize", "320x640").buckets
    assert (bucket.height, bucket.width, bucket.max_boxes) == (320, 640, 12)


@pytest.mark.parametrize("model", MODELS)
def test_a_model_s_own_resize(capsys, rows, tmp_path, model):
    found = plan_of(capsys, tmp_path, rows, "--model", model)
    with torch.device("meta"):
        built = getattr(detection, model)(weights=None, weights_backbone=None)
    sizes = host_transform(built).sizes(ROWS)
    assert len(sizes) == len(ROWS) * (6 if "keypoint" in model else 1)
    # The static model's canvas: what torchvision's own batching would give each image, at least.
    for size in sizes:
        found.bucket_for(*map(int, size))
    if "ssd" in model:
        side = built.transform.fixed_size[0]
        assert [(bucket.height, bucket.width) for bucket in found.buckets] == [(side, side)]


def test_scales_that_are_drawn(capsys, rows, tmp_path):
    out = run(capsys, rows, "--scales", "480-800", "--buckets", "3", "-o", tmp_path / "plan.json")
    assert out.startswith("6 images, each at 11 scales\n") and "whole batches" not in out
    assert ShapePlan.load(tmp_path / "plan.json") == plan_buckets(resize_sizes(ROWS, range(480, 801, 32), 1333), 3)
    found = plan_of(capsys, tmp_path, rows, "--scales", "480-800:160", "--resize", "800,900", "--buckets", "3")
    assert found == plan_buckets(resize_sizes(ROWS, (480, 640, 800), 900), 3)


def test_options_reach_the_planner(capsys, rows, tmp_path):
    sizes = np.array(ROWS)
    assert plan_of(capsys, tmp_path, rows, "--multiple-of", "64", "--max-boxes", "5", "--buckets", "2") == plan_buckets(
        sizes, 2, multiple_of=64, max_boxes=5
    )
    capped = plan_of(
        capsys, tmp_path, rows, "--pixels-per-batch", "2000000", "--max-pixels", "350000", "--fallback", "--buckets", 3
    )
    assert capped == plan_buckets(sizes, 3, pixels_per_batch=2_000_000, max_pixels=350_000, fallback=True)
    assert capped.batch_sizes and capped.fallback


def test_auto_shows_what_each_number_of_buckets_would_take(capsys, rows):
    price = ("--compile-seconds", "60", "--step-seconds", "0.5", "--epochs", "1000", "--batch-size", "2")
    out = run(capsys, rows, "--buckets", "auto", *price)
    assert re.search(r"^buckets    waste  at least      hours$", out, re.MULTILINE)
    assert len(re.findall("<- chosen", out)) == 1
    found = json.loads(run(capsys, rows, "--buckets", "auto", *price, "--json"))
    chosen = len(found["report"]["rows"])
    assert min(found["frontier"], key=lambda point: point["seconds"])["buckets"] == chosen
    point = found["frontier"][0]
    assert point["seconds"] == pytest.approx(60 * point["buckets"] + 0.5 * 3 * 1000 * (1 + point["waste"]))
    wastes = [point["waste"] for point in found["frontier"]]
    assert wastes == sorted(wastes, reverse=True) and all(0 <= p["lower_bound"] <= p["waste"] for p in found["frontier"])
    # However many scales an image may have, it is in an epoch once.
    scaled = json.loads(run(capsys, rows, "--scales", "480-800", "--buckets", "auto", *price, "--json"))
    assert scaled["frontier"][0]["seconds"] == pytest.approx(60 + 0.5 * 3 * 1000 * (1 + scaled["frontier"][0]["waste"]))
    assert min(scaled["frontier"], key=lambda point: point["seconds"])["buckets"] == len(scaled["report"]["rows"])


def test_json_has_all_of_it(capsys, rows):
    found = json.loads(run(capsys, rows, "--resize", "800,1333", "--batch-size", "1", "--json"))
    assert set(found) == {
        "schema_version", "file", "images", "scales", "multiple_of", "digest", "report", "batches", "frontier",
    }  # fmt: skip
    assert (found["images"], found["scales"], found["multiple_of"], found["frontier"]) == (6, 1, 32, None)
    assert found["report"]["images"] == 6 and len(found["report"]["rows"]) == 4
    # One image to a batch is never promoted: the same padding as the plan's own.
    assert found["batches"]["steps"] == 6 and found["batches"]["left_out"] == 0
    assert found["batches"]["waste"] == pytest.approx(found["report"]["waste"])


def test_fewer_images_than_a_batch(capsys, rows):
    assert "no bucket has the images of a whole batch of 8\n" in run(capsys, rows, "--buckets", "2")


def test_more_boxes_than_slots_are_counted(capsys, rows):
    out = run(capsys, rows, "--buckets", "1", "--max-boxes", "5", "--batch-size", "2")
    assert re.search(r"^all .* 12     2$", out, re.MULTILINE)
    assert "in whole batches of 2: " in out


def test_more_buckets_than_shapes_is_said_and_no_error(capsys, rows, tmp_path):
    assert main(["plan", str(rows), "--buckets", "9", "-o", str(tmp_path / "plan.json")]) == 0
    said = capsys.readouterr()
    assert said.err.startswith("fixshape: warning: plan_buckets: 9 buckets were asked for, but the sizes have 6 distinct shapes")
    assert said.err.count("\n") == 1 and said.out.startswith("bucket")
    assert len(ShapePlan.load(tmp_path / "plan.json").buckets) == 6
    # Nobody asked for four buckets of a size that is fixed.
    assert main(["plan", str(rows), "--resize", "320x320"]) == 0
    assert capsys.readouterr().err == ""


def test_the_plot(capsys, rows, tmp_path):
    run(capsys, rows, "--buckets", "2", "--plot", tmp_path / "plan.png")
    assert (tmp_path / "plan.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_without_matplotlib_the_error_has_the_command_and_nothing_is_written(capsys, rows, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    said = fails(capsys, rows, "--buckets", "2", "--plot", tmp_path / "plan.png", "-o", tmp_path / "plan.json")
    assert "matplotlib is not installed: python -m pip install 'fixshape[plot]'" in said
    assert sorted(tmp_path.iterdir()) == [rows]


def _without_height(content):
    images = [*content["images"][:2], {**content["images"][2], "height": None}, *content["images"][3:]]
    return {**content, "images": images}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (_without_height, r"DatasetError: .*image '2\.jpg' \(images\[2\], id 2\) is missing x 480 \(height x width\)"),
        (
            lambda content: {**content, "images": [{**content["images"][0], "width": 0}, *content["images"][1:]]},
            r"image '0\.jpg' \(images\[0\], id 0\) is 480 x 0 \(height x width\), expected whole numbers of pixels",
        ),
        (lambda content: {"images": [], "annotations": []}, "there is no image in it, expected at least one"),
        (
            lambda content: {**content, "annotations": [{"image_id": 77}]},
            r"annotations\[0\] is of image 77, which the file does not",
        ),
        (lambda content: "[" * 100_000, r"not JSON \(lists within lists too deep at character"),
        (lambda content: '{"images": ' + "[" * 100_000, r"not JSON \(lists within lists too deep at character"),
        (lambda content: "nothing", "not COCO: expected an object with images and annotations"),
        (lambda content: '{"images": [}', r"not JSON \(Expecting value at character 12\)"),
        (lambda content: {"categories": []}, "not COCO: there is no list 'images' in it"),
    ],
)
def test_bad_annotations_are_clear_errors(capsys, coco_file, change, text):
    assert re.search(text, fails(capsys, coco_file(change), "--resize", "800,1333"))


def test_bad_files_are_clear_errors(capsys, tmp_path, rows):
    def written(name, text):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    assert "none.csv: the file cannot be read (No such file or directory)" in fails(capsys, tmp_path / "none.csv")
    assert "expected a file that ends in .json, .csv, .npy" in fails(capsys, written("sizes.txt", "1,2"))
    assert "line 2 is 0 x 640 (height x width)" in fails(capsys, written("sizes.csv", "480,640\n0,640\n"))
    assert "there is no image in it" in fails(capsys, written("empty.csv", "height,width\n"))
    assert "not an array of numpy.save" in fails(capsys, written("sizes.npy", "text"))
    assert "row 1 is 5, expected [height, width]" in fails(capsys, written("rows.json", "[[1, 2], 5]"))
    thin = written("thin.csv", "480,640\n1,5000\n")
    assert "sizes[1] is 1x5000 (height x width), which a resize to 800, at most 1333, makes 0 pixels" in fails(
        capsys, thin, "--resize", "800,1333"
    )


def test_a_cap_that_nothing_satisfies(capsys, rows, tmp_path):
    said = fails(capsys, rows, "--max-pixels", "300000", "-o", tmp_path / "plan.json")
    assert (
        "PlanError: plan_buckets: max_pixels is 300,000, but sample 0 of 480x640 (height x width) needs a bucket of 480x640"
        in said
    )
    assert "pixels_per_batch is 1,000" in fails(capsys, rows, "--pixels-per-batch", "1000")
    assert not (tmp_path / "plan.json").exists()


def test_options_that_need_one_another(capsys, rows, tmp_path):
    assert "--model has its own resize: it cannot be used with --resize or --scales" in fails(
        capsys, rows, "--model", MODELS[0], "--resize", "800,1333"
    )
    assert "--scales draws the short side, but --resize HxW leaves nothing to draw" in fails(
        capsys, rows, "--scales", "480-800", "--resize", "320x320"
    )
    assert "--buckets auto needs --compile-seconds, --step-seconds and --epochs" in fails(
        capsys, rows, "--buckets", "auto", "--epochs", "3"
    )
    assert "--step-seconds is for --buckets auto, but --buckets is 4" in fails(capsys, rows, "--step-seconds", "1")
    assert f"--output {tmp_path} is a folder, expected a file" in fails(capsys, rows, "-o", tmp_path)
    assert "its folder does not exist or cannot be written to" in fails(capsys, rows, "--plot", tmp_path / "none" / "a.png")
    before = rows.read_bytes()
    assert "would overwrite the sizes that are read from it" in fails(capsys, rows, "-o", rows)
    assert rows.read_bytes() == before
    assert "ends in '.pdf', expected .png or .svg" in fails(capsys, rows, "--buckets", "2", "--plot", tmp_path / "a.pdf")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--resize", "800"], "argument --resize: '800' is neither SHORT,LONG (800,1333) nor HxW (320x320)"),
        (["--resize", "0x320"], "argument --resize: '0x320' is neither"),
        (["--resize", "9999999,1"], "argument --resize: '9999999,1' is neither"),
        (["--resize", "٣x٣"], "argument --resize: '٣x٣' is neither"),
        (["--scales", "800-480"], "argument --scales: '800-480' is not LOW-HIGH or LOW-HIGH:STEP (480-800:32)"),
        (["--scales", "1-9:0"], "argument --scales: '1-9:0' is not LOW-HIGH"),
        (["--scales", "1-800:1"], "argument --scales: '1-800:1' is 800 scales, at most 64 are planned for"),
        (["--buckets", "0"], "argument --buckets: '0' is neither a whole number of at least 1 nor auto"),
        (["--buckets", "many"], "argument --buckets: 'many' is neither a whole number of at least 1 nor auto"),
        (["--model", "resnet"], "invalid choice: 'resnet'"),
        (["--multiple-of", "0"], "argument --multiple-of: '0' is not a whole number of at least 1"),
        (["--compile-seconds", "-1"], "argument --compile-seconds: '-1' is not a positive number"),
        (["--step-seconds", "nan"], "argument --step-seconds: 'nan' is not a positive number"),
        (["--out", "x"], "unrecognized arguments: --out x"),
    ],
)
def test_wrong_arguments_end_with_2(capsys, arguments, text):
    with pytest.raises(SystemExit) as ended:
        main(["plan", "sizes.json", *arguments])
    assert ended.value.code == 2
    assert text in capsys.readouterr().err


def test_a_defect_ends_with_3_and_a_traceback(capsys, rows, monkeypatch):
    monkeypatch.setattr("fixshape.cli._plan._check", lambda _: 1 / 0)
    assert main(["plan", str(rows)]) == 3
    assert "ZeroDivisionError" in capsys.readouterr().err
