"""The static detection models as ONNX, suppression inside: onnxruntime finds what torch finds, at every batch size."""

from pathlib import Path

import onnx
import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from fixshape import Bucket, ShapePlan, to_static
from fixshape.export._export_asked import DATA_DEPENDENT
from fixshape.export._export_detector import export_detector, verify_detector
from fixshape.export._onnx_run import open_session, run
from fixshape.export._verify_detections import different_detections
from tests.detection import reduced
from tests.detection.twins import build

pytestmark = pytest.mark.slow
BATCH_SIZES = (1, 2)
# And the candidates of a level: as many as torchvision has, of one, and as many as make a suppression of a few tiles.
CANDIDATES = {"fcos": 1000, "retinanet": 60, "ssdlite320_mobilenet_v3_large": 60, "maskrcnn": None, "keypointrcnn": None}


def awake(model: nn.Module) -> nn.Module:
    """Random weights whose scores differ: the statistics of each norm of the backbone become those of noise."""

    def measure(norm, inputs):
        (x,) = inputs
        norm.running_mean.copy_(x.mean((0, 2, 3)))
        norm.running_var.copy_(x.var((0, 2, 3)))

    norms = [part for part in model.backbone.modules() if isinstance(part, nn.BatchNorm2d | FrozenBatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
    with torch.no_grad():
        model.eval().backbone(torch.randn(8, 3, 128, 128, generator=torch.Generator().manual_seed(0)))
    for hook in hooks:
        hook.remove()
    return model


def small(name: str, candidates: int | None) -> tuple[nn.Module, tuple[int, int]]:
    """A static model and its canvas."""
    if name.startswith("ssd"):
        model, canvas = build(name, dtype=torch.float32), (320, 320)
    else:
        model, canvas = reduced.build(name, dtype=torch.float32), reduced.CANVAS
    if name == "retinanet":  # its own initial weights are for scores of 0.01 throughout
        for part in model.head.classification_head.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight)
    if candidates is not None:
        model.topk_candidates = candidates
    return to_static(awake(model)), canvas


@pytest.fixture(scope="module", params=CANDIDATES)
def exported(request, tmp_path_factory):
    model, canvas = small(request.param, CANDIDATES[request.param])
    plan = ShapePlan([Bucket(*canvas, 8)])
    (file,) = export_detector(model, plan, tmp_path_factory.mktemp("onnx") / "model.onnx", batch_sizes=BATCH_SIZES)
    return request.param, model, file


def test_it_finds_what_torch_finds(exported):
    _, model, file = exported
    verification = verify_detector(model, (file,))
    assert verification.ok, str(verification)
    assert len(verification.rows) == len(BATCH_SIZES)
    with torch.no_grad():
        found = model(torch.rand(2, 3, *file.canvas), None, torch.tensor([file.canvas] * 2))
    assert found.valid_mask.sum() > 10, "too few to compare"


def test_the_graph_is_static_but_for_its_batch(exported):
    name, _, file = exported
    outputs = ["boxes", "scores", "labels", "valid_mask", *(["masks"] if "mask" in name else ["keypoints"] * ("key" in name))]
    assert [port.name for port in file.header.outputs] == outputs
    assert all(port.dims[0] == "N" and all(isinstance(dim, int) for dim in port.dims[1:]) for port in file.header.outputs)
    assert file.header.opsets == {"": 18}
    loops = {"Loop", "Scan", "If"}
    assert not {node.op_type for node in file.header.nodes} & {*DATA_DEPENDENT, *loops}
    onnx.checker.check_model(str(file.path), full_check=True)


def test_the_proof_sees_another_overlap(exported, monkeypatch):
    """The oracle can fail: torch with another threshold of the suppression is told from the file."""
    name, model, file = exported
    holder = model.roi_heads if name.endswith("rcnn") else model
    if name in ("fcos", "retinanet"):
        monkeypatch.setattr(model, "_limits", model._limits._replace(nms_thresh=0.05))
    else:
        monkeypatch.setattr(holder, "_nms_thresh" if name.startswith("ssd") else "nms_thresh", 0.05)
    assert not verify_detector(model, (file,)).ok


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """As torchvision makes it: all scores are about 0.01, and rounding picks among them."""
    torch.manual_seed(0)
    model = reduced.build("retinanet", dtype=torch.float32)
    model.topk_candidates, model.score_thresh = 60, 0.0
    static = to_static(model)
    plan = ShapePlan([Bucket(*reduced.CANVAS, 8)])
    (file,) = export_detector(static, plan, tmp_path_factory.mktemp("onnx") / "model.onnx", batch_sizes=(2,))
    return static, file


def test_what_rounding_picks_of_random_weights_is_proved(untrained):
    model, file = untrained
    verification = verify_detector(model, (file,))
    assert verification.ok, str(verification)
    (row,) = verification.rows
    assert row.followed is not None or row.padded_followed is not None, "rounding picked nothing"


@pytest.mark.parametrize("part", ["classification_head", "regression_head"])
def test_another_weight_is_seen_where_scores_are_equal(part, untrained, monkeypatch):
    model, file = untrained
    for name, parameter in model.head.named_parameters():
        if part in name and parameter.ndim == 4:
            monkeypatch.setattr(parameter, "data", parameter.data * 1.01)
    assert not verify_detector(model, (file,)).ok


def test_real_images_are_detected_as_in_torch(exported, data_folder):
    """Images of a data set on one canvas, each with its size."""
    from torchvision.io import ImageReadMode, decode_image

    _, model, file = exported
    pictures = sorted(path for path in Path(data_folder).rglob("*.jpg"))[:3]
    images, sizes = torch.zeros(len(pictures), 3, *file.canvas), []
    for row, path in zip(images, pictures, strict=True):
        image = decode_image(str(path), mode=ImageReadMode.RGB)[:, : file.canvas[0], : file.canvas[1]] / 255
        row[:, : image.shape[1], : image.shape[2]] = image
        sizes.append(image.shape[1:])
    image_sizes = torch.tensor(sizes)
    with torch.no_grad():
        expected = model(images, None, image_sizes)
    got = run(open_session(file.path), {"images": images.numpy(), "image_sizes": image_sizes.numpy()})
    wanted = {key: value.numpy() for key, value in expected._asdict().items() if value is not None}
    # Pixels are no noise, which the statistics are of: rounding grows on the way.
    assert different_detections(got, wanted, rtol=1e-3, atol=1e-3)[0] == ()
