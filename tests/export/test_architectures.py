"""Real files of exporters through set-batch, rename, fix-shape and diff: each is proved, or refused with the node's name."""

import numpy as np
import onnx
import pytest
import torch
import torchvision
from torch import nn

import fixshape
from fixshape.errors import ExportError
from fixshape.export import diff, fix_shape, load_model, rename, set_batch
from fixshape.export._onnx_run import differences, open_session, run
from fixshape.export._onnx_translations import translations
from tests.export.architectures import CASES, export, quiet

QUICK = ("channel shuffle", "LSTM, TorchScript", "nonzero inside")
PARAMETERS = [pytest.param(case, id=str(case), marks=[] if case.name in QUICK else [pytest.mark.slow]) for case in CASES]


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """The file of a case at a batch size, made once."""
    folder, made = tmp_path_factory.mktemp("architectures"), {}

    def get(case, batch):
        if (case, batch) not in made:
            made[case, batch] = load_model(export(case, batch, folder / f"{case}_{batch}.onnx"))
        return made[case, batch]

    get.folder = folder
    return get


def eager(case, batch):
    """What torch itself gives, and for which input."""
    torch.manual_seed(0)
    model = case.make().eval()
    example = torch.randn(batch, *case.shape)
    with torch.no_grad():
        return example.numpy(), model(example).numpy()


@pytest.mark.parametrize("case", PARAMETERS)
def test_set_batch_is_proved_or_refused(case, exported):
    if case.refused:
        with pytest.raises(ExportError, match=f"{case.refused}.*Nothing was written") as refused:
            set_batch(exported(case, 2))
        assert "'" in str(refused.value)
        return
    change = set_batch(exported(case, 2))
    assert (change.before, change.after, change.proof.batch_sizes) == (2, "N", (1, 2, 5))
    assert change.changed, "these models hold their batch size"
    onnx.checker.check_model(change.model, full_check=True)
    # An oracle that the rewriting never saw: torch at batch sizes of neither file nor proof.
    session = open_session(change.model)
    for batch in (3, 7):
        example, expected = eager(case, batch)
        assert differences(run(session, {"x": example}), {"y": expected}) == []
    fixed = set_batch(exported(case, 2), 4)
    assert fixed.model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 4
    assert fixed.model.graph.output[0].type.tensor_type.shape.dim[0].dim_value == 4


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if not case.refused and len(case.shape) < 3], ids=str)
def test_a_file_for_one_sample(case, exported):
    """Of one sample, a Reshape can be read in several ways, and indices of samples are zeros."""
    change = set_batch(exported(case, 1))
    assert (change.before, change.proof.batch_sizes) == (1, (1, 2, 3))
    example, expected = eager(case, 4)
    assert differences(run(open_session(change.model), {"x": example}), {"y": expected}) == []


@pytest.mark.parametrize("case", PARAMETERS)
def test_rename_and_fix_shape(case, exported):
    renamed = rename(exported(case, 2), {"x": "data", "y": "fc1"})
    assert [port.name for port in (*renamed.graph.input, *renamed.graph.output)] == ["data", "fc1"]
    shape = (2, *case.shape)
    fixed = fix_shape(renamed, {"data": shape})
    assert [dim.dim_value for dim in fixed.graph.input[0].type.tensor_type.shape.dim] == list(shape)


@pytest.mark.parametrize("case", PARAMETERS)
def test_two_exports_give_the_dynamic_file(case, exported):
    if case.refused:
        with pytest.raises(ExportError, match=r"'[^']+'"):
            diff(exported(case, 2), exported(case, 3))
        return
    found = diff(exported(case, 2), exported(case, 3))
    assert found.symbols == {"N": (2, 3)}
    example, expected = eager(case, 5)
    assert differences(run(open_session(found.model), {"x": example}), {"y": expected}) == []


def in_order(found):
    """By label and box: of two scores that are equal but for rounding, either may come first."""
    order = np.lexsort((found["boxes"][..., 1], found["boxes"][..., 0], found["labels"]))
    return {name: np.take_along_axis(value, order[..., None] if value.ndim == 3 else order, 1) for name, value in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize("one", [1, 2])
def test_a_static_detector_with_its_nms(one, tmp_path):
    class Outputs(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.model = fixshape.to_static(
                torchvision.models.detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5)
            )
            # Scores as far apart as trained ones: those of a new model are equal, and rounding would choose among them.
            for layer in self.model.modules():
                if isinstance(layer, nn.Conv2d) and layer.out_channels % 5 == 0 and layer.bias is not None:
                    nn.init.normal_(layer.weight, std=0.1)
                elif isinstance(layer, nn.BatchNorm2d):
                    layer.momentum = None
            with torch.no_grad():
                self.model.head.train()(list(self.model.backbone.train()(torch.randn(4, 3, 320, 320)).values()))

        def forward(self, images, image_sizes):
            found = self.model(images, None, image_sizes)
            return found.boxes, found.scores, found.labels, found.valid_mask

    model, sizes = Outputs().eval(), torch.tensor([[320, 320], [300, 280], [320, 200]])
    path = tmp_path / "ssdlite.onnx"
    with quiet():
        torch.onnx.export(
            model, (torch.rand(one, 3, 320, 320), sizes[:1].expand(one, 2).clone()), path,
            input_names=["images", "image_sizes"], output_names=["boxes", "scores", "labels", "valid_mask"],
            opset_version=18, external_data=False, verbose=False, custom_translation_table=translations(),
        )  # fmt: skip
    change = set_batch(load_model(path), feeds={"image_sizes": sizes.numpy()})
    assert len(change.changed) > 20
    images = torch.rand(3, 3, 320, 320)
    got = run(open_session(change.model), {"images": images.numpy(), "image_sizes": sizes.numpy()})
    with torch.no_grad():
        expected = dict(zip(got, (value.numpy() for value in model(images, sizes)), strict=True))
    assert expected["valid_mask"].any()
    assert differences(in_order(got), in_order(expected)) == []


@pytest.mark.slow
def test_torchvisions_own_detector_is_refused_at_the_node_that_splits_the_batch(tmp_path):
    class Lists(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
                weights=None, weights_backbone=None, num_classes=5
            )

        def forward(self, images):
            return tuple(value for found in self.model(list(images)) for value in found.values())

    path = tmp_path / "ssdlite.onnx"
    with quiet():
        torch.onnx.export(Lists().eval(), (torch.rand(2, 3, 320, 320),), path, dynamo=False, opset_version=18)
    with pytest.raises(ExportError, match=r"node '[^']+' \(Split\)"):
        set_batch(load_model(path))


@pytest.mark.slow
def test_sizes_of_images_from_two_exports_equal_a_third(exported):
    case = next(case for case in CASES if case.name == "lraspp_mobilenet_v3_large")
    first, second, third = (
        load_model(export(case, 2, exported.folder / f"{height}.onnx", shape=(3, height, width)))
        for height, width in ((64, 64), (96, 128), (128, 96))
    )
    found = diff(first, second, third)
    assert found.symbols == {"H": (64, 96), "W": (64, 128)}
    assert found.proved[-1] == "equals the third file at x 2,3,128,96"


def test_a_symbol_over_a_baked_size(tmp_path):
    """torch's exporter of TorchScript writes a symbol at the boundary, and one size inside."""
    case = next(case for case in CASES if case.name == "channel shuffle, TorchScript")
    path = tmp_path / "labelled.onnx"
    with quiet():
        torch.onnx.export(
            case.make().eval(), (torch.randn(2, 8, 4, 4),), path, dynamo=False, opset_version=18,
            input_names=["x"], output_names=["y"], dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}},
        )  # fmt: skip
    model = load_model(path)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    with pytest.raises(ExportError, match="Reshape"):
        run(open_session(model), {"x": np.zeros((3, 8, 4, 4), np.float32)})
    change = set_batch(model)
    assert (change.before, change.after, len(change.changed)) == ("batch", "N", 2)
    example, expected = eager(case, 3)
    assert differences(run(open_session(change.model), {"x": example}), {"y": expected}) == []
