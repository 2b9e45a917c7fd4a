"""One file for each canvas of a plan: names, axes, refusals, and a check that can fail. The real models are in test_detectors."""

from typing import NamedTuple

import onnx
import pytest
import torch
from torch import Tensor, nn

from fixshape import Bucket, ShapePlan
from fixshape.errors import ExportError, ShapeError, UsageError
from fixshape.export import read_header
from fixshape.export._export_detector import export_detector, verify_detector

PLAN = ShapePlan([Bucket(32, 48, 4), Bucket(32, 48, 9), Bucket(48, 32, 4)])


class Found(NamedTuple):
    boxes: Tensor
    scores: Tensor
    labels: Tensor
    valid_mask: Tensor
    masks: Tensor | None = None


class Brightest(nn.Module):
    """Finds the four brightest columns of each image: a detector as :func:`fixshape.to_static` makes them, in a few lines."""

    def __init__(self, *, looks_at_padding: bool = False, power: float = 1.0) -> None:
        super().__init__()
        self.looks_at_padding = looks_at_padding
        self.power = nn.Parameter(torch.tensor(power))

    def forward(self, images: Tensor, targets: None = None, image_sizes: Tensor | None = None) -> Found:
        height, width = images.shape[2:]
        if height > 48:
            raise ShapeError(f"Brightest: the canvas is {height} x {width}, expected 48 at most.")
        inside = torch.arange(height)[:, None] < image_sizes[:, 0, None, None]
        inside = inside & (torch.arange(width) < image_sizes[:, 1, None, None])
        bright = images.mean(1) if self.looks_at_padding else torch.where(inside, images.mean(1), 0)
        scores, column = (bright.mean(1) ** self.power).topk(4)
        x = column.to(scores.dtype)
        boxes = torch.stack((x, torch.zeros_like(x), x + 1, image_sizes[:, :1].expand_as(x).to(x.dtype)), -1)
        return Found(boxes, scores, column % 3, scores > 0)


def written(folder, model=None, plan=PLAN, batch_sizes=(1, 3), name="found.onnx"):
    return export_detector(model or Brightest().eval(), plan, folder / name, batch_sizes=batch_sizes)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return written(tmp_path_factory.mktemp("onnx"))


def test_each_canvas_is_a_file_with_a_dynamic_batch(files):
    assert [(file.path.name, file.canvas) for file in files] == [("found_32x48.onnx", (32, 48)), ("found_48x32.onnx", (48, 32))]
    for file in files:
        height, width = file.canvas
        dims = {port.name: port.dims for port in (*file.header.inputs, *file.header.outputs)}
        assert dims == {
            "images": ("N", 3, height, width),
            "image_sizes": ("N", 2),
            "boxes": ("N", 4, 4),
            "scores": ("N", 4),
            "labels": ("N", 4),
            "valid_mask": ("N", 4),
        }
        assert file.header.opsets == {"": 18}
        onnx.checker.check_model(str(file.path), full_check=True)


def test_each_file_is_proved_at_each_batch_size(files):
    verification = verify_detector(Brightest().eval(), files)
    assert verification.ok, str(verification)
    assert [row.shapes["images"] for row in verification.rows] == [
        (1, 3, 32, 48), (3, 3, 32, 48), (1, 3, 48, 32), (3, 3, 48, 32)
    ]  # fmt: skip
    assert all(row.image is not None and row.padded == () for row in verification.rows)


def test_the_proof_fails_for_another_model(files):
    verification = verify_detector(Brightest(power=1.1).eval(), files[:1])
    assert not verification.ok
    assert "torch finds and the file does not: slot 0" in str(verification)


def test_the_proof_fails_where_padding_reaches_a_result(tmp_path):
    model = Brightest(looks_at_padding=True).eval()
    rows = verify_detector(model, written(tmp_path, model)).rows
    assert all(row.differences == () and row.padded for row in rows)


def test_one_batch_size_is_a_fixed_one(tmp_path):
    (file, _) = written(tmp_path, batch_sizes=(2,), name="found")
    assert file.path.name == "found_32x48.onnx"
    assert file.header.inputs[0].dims == (2, 3, 32, 48)


def test_a_model_in_training_is_exported_in_evaluation_and_left_as_it_was(tmp_path):
    model = Brightest().train()
    written(tmp_path, model, ShapePlan([Bucket(32, 32, 1)]))
    assert model.training


def test_a_canvas_that_the_model_refuses(tmp_path):
    with pytest.raises(ExportError, match="64 x 64.*48 at most"):
        written(tmp_path, plan=ShapePlan([Bucket(64, 64, 1)]))
    assert list(tmp_path.iterdir()) == []


def test_a_canvas_that_is_refused_leaves_nothing_of_those_before_it(tmp_path):
    older = tmp_path / "found_32x32.onnx"
    older.write_bytes(b"an older one")
    with pytest.raises(ExportError, match="64 x 64.*48 at most"):
        written(tmp_path, plan=ShapePlan([Bucket(32, 32, 1), Bucket(64, 64, 1)]), batch_sizes=(1,))
    assert list(tmp_path.iterdir()) == [older]
    assert older.read_bytes() == b"an older one"
    (file,) = written(tmp_path, plan=ShapePlan([Bucket(32, 32, 1)]), batch_sizes=(1,))
    assert file.path == older
    assert read_header(older) == file.header


def test_bad_arguments(tmp_path):
    with pytest.raises(UsageError, match="no batch size"):
        written(tmp_path, batch_sizes=())
    with pytest.raises(UsageError, match="does not exist"):
        written(tmp_path / "nowhere")
