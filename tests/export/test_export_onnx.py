"""The exporter: what torch's own makes static in silence, what is refused in which words, and real modules at every gear."""

import os
import warnings

import onnx
import pytest
import torch
from torch import nn
from torchvision import models

from fixshape.errors import ExportError, ShapeError, UsageError
from fixshape.export import Gears, export_onnx, parse_inputs, verify_onnx
from fixshape.export._export_asked import asked_against_got
from tests.export import modules
from tests.export.modules import BATCHES, IMAGES, line_of

DIM = torch.export.Dim


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


def _dims(header):
    return [(port.name, port.dims) for port in header.inputs + header.outputs]


def _exported_by_torch(model, path, gears, **options):
    """What a user gets from torch alone, at batch 2."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval(), (torch.randn(2, *gears.shapes(0)["images"][1:]),), os.fspath(path), input_names=["images"],
            output_names=["output"], verbose=False, external_data=False, **options,
        )  # fmt: skip


def _outputs(model, gears):
    with torch.no_grad():
        return [{"output": tuple(model(torch.zeros(gears.shapes(index)["images"])).shape)} for index in range(len(gears))]


# What torch.onnx.export does in silence: the model, how it is called, and what we say of the result. A graph that says what was
# asked and computes something else is caught by running it.
SILENT = {
    "a range becomes static": (
        modules.BakedBatch(),
        BATCHES,
        {"dynamo": True, "opset_version": 18, "dynamic_shapes": {"images": {0: DIM("batch", min=1, max=16)}}},
        "input 'images': axis 0 was asked to be dynamic (N) and is 2 in the graph",
    ),
    "the legacy exporter labels a constant": (
        modules.BakedBatch(),
        BATCHES,
        {"dynamo": False, "opset_version": 18, "dynamic_axes": {"images": {0: "N"}, "output": {0: "N"}}},
        None,
    ),
    "the height is frozen": (
        modules.FrozenHeight(),
        IMAGES,
        {"dynamo": True, "opset_version": 18, "dynamic_shapes": {"images": {2: DIM("H", max=99), 3: DIM("W", max=99)}}},
        "axis 2 was asked to be dynamic (H) and is 32 in the graph",
    ),
    "the legacy exporter freezes .item()": (
        modules.Item(),
        BATCHES,
        {"dynamo": False, "opset_version": 18, "dynamic_axes": {"images": {0: "N"}, "output": {0: "N"}}},
        None,
    ),
    "opset 11 becomes 18": (
        modules.BakedBatch(),
        BATCHES,
        {"dynamo": True, "opset_version": 11, "dynamic_shapes": {"images": {0: "N"}}},
        "the graph has opset 18, asked was 11",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name.startswith("opset") else name for name in SILENT]
)
def test_what_torch_does_in_silence_is_told(name, path, caplog):
    model, gears, options, said = SILENT[name]
    _exported_by_torch(model, path, gears, **options)
    opset = options["opset_version"]
    told = asked_against_got(onnx.load(path), gears, opset=opset, outputs=_outputs(model, gears))
    if said is None:
        assert told == []  # the labels are right
        verified = verify_onnx(model, path, gears)
        assert [row.ok for row in verified.rows] == [shapes["images"][0] == 2 for shapes in map(gears.shapes, range(3))]
    else:
        assert said in "\n".join(told)


@pytest.mark.slow
def test_an_automatic_dim_whose_output_is_static(path):
    """torch 2.15 leaves the input dynamic and the output at its example's batch; torch 2.9 makes both static."""
    model = modules.BakedBatch()
    _exported_by_torch(model, path, BATCHES, dynamo=True, opset_version=18, dynamic_shapes={"images": {0: DIM.AUTO}})
    told = "\n".join(asked_against_got(onnx.load(path), BATCHES, outputs=_outputs(model, BATCHES)))
    assert "output 'output': axis 0 is 2 in the graph, and 1, 2, 4 in the torch model from gear to gear" in told
    assert not verify_onnx(model, path, BATCHES).ok


@pytest.mark.parametrize("model", [modules.BakedBatch(), modules.FrozenHeight()], ids=["baked batch", "frozen height"])
def test_ours_is_dynamic_in_what_was_asked_and_equal_at_every_gear(model, path):
    header = export_onnx(model, IMAGES, path)
    assert header.inputs[0].dims == ("N", 3, "H", "W")
    assert header.outputs[0].dims[0] == "N"
    assert header.opsets == {"": 18}
    verified = verify_onnx(model, path, IMAGES)
    assert verified.ok, str(verified)
    assert len(verified.rows) == 6


def test_inputs_and_outputs_have_the_names_that_were_asked(path):
    gears = Gears(parse_inputs("left:N,3;right:N,3"), ({"N": 1}, {"N": 2}, {"N": 5}))
    assert _dims(export_onnx(modules.Two(), gears, path)) == [
        ("left", ("N", 3)), ("right", ("N", 3)), ("sum", ("N", 3)), ("rest_output_0", ("N", 3)), ("rest_output_1", ("N",))
    ]  # fmt: skip
    header = export_onnx(modules.Two(), gears, path, output_names=["a", "b", "c"])
    assert [port.name for port in header.outputs] == ["a", "b", "c"]
    assert verify_onnx(modules.Two(), path, gears).ok
    with pytest.raises(
        UsageError, match=r"got 2 output names \(a, b\), but the model gives 3 tensors: sum, rest_output_0, rest_out"
    ):
        export_onnx(modules.Two(), gears, path, output_names=["a", "b"])
    with pytest.raises(UsageError, match="left is the name of two inputs or outputs"):
        export_onnx(modules.Two(), gears, path, output_names=["left", "b", "c"])


@pytest.mark.slow
def test_a_symbol_with_one_size_is_fixed(path):
    gears = Gears(parse_inputs("images:N,3,H,16"), ({"N": 1, "H": 16}, {"N": 1, "H": 32}))
    assert export_onnx(modules.FreeSize(), gears, path).inputs[0].dims == (1, 3, "H", 16)
    assert verify_onnx(modules.FreeSize(), path, gears).ok
    alone = Gears(gears.inputs, gears.values[:1])
    assert export_onnx(modules.FreeSize(), alone, path).outputs[0].dims == (1, 3, 32, 32)


@pytest.mark.slow
def test_training_mode_comes_back(path):
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(4).eval())
    export_onnx(model, Gears(parse_inputs("x:N,4"), ({"N": 2}, {"N": 3})), path)
    assert [module.training for module in model.modules()] == [True, True, False]


class Counted(nn.Module):
    def forward(self, images):
        return {"count": 3, "images": images}


REFUSED = {
    "an error of ours": (modules.Asks(), rf"the model refuses images \[.*: ShapeError: masked_sum: .*{line_of('asks')}\)"),
    "nonzero": (modules.Indices(), rf"sizes depend on data: NonZero '\w+' \(.*{line_of('nonzero')}\)"),
    "a branch on data": (modules.Branch(), rf"cannot be captured: GuardOnData.*{line_of('branch')}\)\. A branch or a loop"),
    "another model's plan": (
        nn.Conv2d(5, 1, 1),
        r"the model refuses images \[.*to have 5 channels.*Is it the model that the plan",
    ),
    "no tensor": (Counted(), r"the model gives 3 \(int\) as count, expected tensors"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_told_and_writes_nothing(name, path):
    model, said = REFUSED[name]
    path.write_bytes(b"an older one")
    with pytest.raises(ExportError, match=f"(?s){said}"):
        export_onnx(model, BATCHES, path)
    assert path.read_bytes() == b"an older one"
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.slow
def test_a_size_that_follows_from_data_is_kept_when_asked(path):
    header = export_onnx(modules.Indices(), BATCHES, path, data_dependent=True)
    assert header.outputs[0].dims == ("u0", 2)
    assert verify_onnx(modules.Indices(), path, BATCHES).ok


@pytest.mark.slow
def test_an_operator_without_translation_is_named(path):
    class Sorted(nn.Module):
        def forward(self, images):
            return torch.special.bessel_j0(images)

    with pytest.raises(ExportError, match=r"bessel_j0.*There is no ONNX form of this operator: give one in custom_translation_t"):
        export_onnx(Sorted(), BATCHES, path)


def test_a_quantised_module_is_named_with_the_line_that_calls_it(path):
    class Quantised(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(torch.ao.nn.quantized.Conv2d(3, 2, 1), torch.ao.nn.quantized.Conv2d(2, 2, 1))

        def forward(self, images):
            return self.inner(torch.quantize_per_tensor(images, 0.1, 0, torch.quint8)).dequantize()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = Quantised()
    line = Quantised.forward.__code__.co_firstlineno + 1
    said = (
        rf"inner\.0 \(QuantizedConv2d, called at .*test_export_onnx\.py:{line}\), as the first of 2 modules, holds weights packed"
        r" for torch's own operators \(quantized\.Conv2dPackedParamsBase\), which torch\.export does not take\. Export the float"
    )
    with pytest.raises(ExportError, match=said):
        export_onnx(model, BATCHES, path)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_an_operator_that_cannot_be_simplified_is_named_with_its_line(path):
    class Halves(nn.Module):
        def forward(self, images):
            return torch.cat([images, images]).split(images.shape[0])[0]

    line = Halves.forward.__code__.co_firstlineno + 1
    with pytest.raises(
        ExportError, match=rf"SplitToSequence '\w+' \(aten\.split\.Tensor, .*test_export_onnx\.py:{line}\): Attrib"
    ):
        export_onnx(Halves(), BATCHES, path)
    assert not path.exists()


@pytest.mark.slow
def test_an_axis_that_the_capture_makes_a_number_is_named(path):
    class Fixed(nn.Module):
        def forward(self, images):
            return images.reshape(4, 2, -1) if images.shape[0] == 4 else images.reshape(images.shape[0], 2, -1)

    with pytest.raises(
        ExportError, match=r"axis 0 of images is made a Python number, and cannot be dynamic. fixshape export --check"
    ):
        export_onnx(Fixed(), Gears(parse_inputs("images:N,2,4"), ({"N": 4}, {"N": 9})), path)


@pytest.mark.parametrize("opset", [0, 99, True, "18"])
def test_an_opset_that_is_none(opset, path):
    with pytest.raises(UsageError, match=rf"there is no opset {opset!r}: expected 1 to \d+, and 18 for ATC"):
        export_onnx(modules.FreeSize(), IMAGES, path, opset=opset)


def test_an_older_opset_is_refused_when_it_is_not_reached(path):
    with pytest.raises(ExportError, match="the graph has opset 18, asked was 11: torch's exporter writes 18 or later"):
        export_onnx(modules.BakedBatch(), BATCHES, path, opset=11)


def test_inputs_that_are_made_wrongly(path):
    with pytest.raises(UsageError, match="make_inputs: got 2 values, expected a tuple of 1 tensors: images"):
        export_onnx(modules.FreeSize(), BATCHES, path, make_inputs=lambda shapes: (torch.zeros(1), torch.zeros(1)))
    with pytest.raises(UsageError, match="make_inputs: got Tensor, expected a tuple of 1 tensors: images"):
        export_onnx(modules.FreeSize(), BATCHES, path, make_inputs=lambda shapes: torch.zeros(1))
    with pytest.raises(ShapeError, match=r"make_inputs: images has shape \(1,\), expected \(2, 3, 16, 16\) in gear images"):
        export_onnx(modules.FreeSize(), BATCHES, path, make_inputs=lambda shapes: (torch.zeros(1),))


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="the folder .*none does not exist"):
        export_onnx(modules.FreeSize(), BATCHES, tmp_path / "none" / "model.onnx")


def test_torchscript_goes_through_the_older_exporter_and_is_proved(path):
    scripted = torch.jit.script(modules.BakedBatch().eval())
    header = export_onnx(scripted, IMAGES, path)
    assert header.inputs[0].dims == ("N", 3, "H", "W")
    assert verify_onnx(scripted, path, IMAGES).ok
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(modules.BakedBatch().eval(), torch.zeros(2, 3, 32, 48))
    with pytest.raises(
        ExportError, match=r"for N = 1 and 4: it was traced, and kept the size of its example. Give the module that"
    ):
        export_onnx(traced, IMAGES, path)


def test_what_the_graph_says_otherwise(path):
    """Each sentence, by asking for something else than there is."""
    export_onnx(modules.FreeSize(), IMAGES, path)
    graph = onnx.load(path)

    def told(inputs, outputs=()):
        gears = Gears(parse_inputs(inputs), ({"N": 1, "H": 8, "W": 8, "M": 3}, {"N": 2, "H": 9, "W": 9, "M": 4}))
        return "\n".join(asked_against_got(graph, gears, outputs=outputs))

    assert told("images:N,3,H,W") == ""
    assert "input 'image' is not in the graph, which has images" in told("image:N,3,H,W")
    assert "input 'images' is in the graph and was not asked for; asked were image." in told("image:N,3,H,W")
    assert "input 'images' has 4 axes in the graph, asked was images:N,3,H" in told("images:N,3,H")
    assert "axis 0 is called N in the graph, asked was M: axes of one name are no longer one" in told("images:M,3,H,W")
    assert "axis 1 is 3 in the graph, asked was 4." in told("images:N,4,H,W")
    assert "axis 0 is N in the graph, asked was 7." in told("images:7,3,H,W")
    assert "output 'y' is not in the graph, which has output." in told("images:N,3,H,W", [{"y": (1,)}])
    assert "output 'output' has 4 axes in the graph, and [2] in the torch model." in told("images:N,3,H,W", [{"output": (1, 2)}])


TOKENS = Gears(parse_inputs("tokens:N,L"), tuple({"N": batch, "L": length} for batch in (1, 3) for length in (4, 8)))
STEPS = Gears(parse_inputs("steps:N,5,8"), tuple({"N": batch} for batch in (1, 2, 4)))
BUCKETS = Gears(
    parse_inputs("images:N,3,H,W"),
    tuple({"N": batch, "H": height, "W": width} for height, width in ((64, 96), (96, 64)) for batch in (1, 2, 4)),
)
REAL = {
    "shufflenet_v2_x0_5": (lambda: modules.lively(models.shufflenet_v2_x0_5(weights=None)), BUCKETS, None),
    "lraspp_mobilenet_v3_large": (
        lambda: modules.lively(models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None)), BUCKETS, None
    ),
    "transformer encoder": (modules.Encoder, TOKENS, lambda shapes: (torch.ones(shapes["tokens"]).cumsum(1).long(),)),
    "super-resolution": (modules.SuperResolution, IMAGES, None),
    "LSTM": (modules.Recurrent, STEPS, None),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_real_modules_are_equal_at_every_gear(name, path):
    build, gears, make_inputs = REAL[name]
    model = build()
    header = export_onnx(model, gears, path, make_inputs=make_inputs)
    assert [port.dims for port in header.inputs] == [entry.dims for entry in gears.inputs]
    verified = verify_onnx(model, path, gears, make_inputs=make_inputs)
    assert verified.ok, str(verified)
    assert len(verified.rows) == len(gears)
    # The comparison would see it if the images of a batch were mixed up.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.05)
    assert not any(row.ok for row in verify_onnx(model, path, gears, make_inputs=make_inputs).rows)


@pytest.mark.slow
def test_a_dynamic_length_of_an_lstm_is_exported_or_refused_by_name(path):
    gears = Gears(parse_inputs("steps:N,L,8"), tuple({"N": batch, "L": length} for batch in (1, 2) for length in (3, 6)))
    model = modules.Recurrent()
    try:
        export_onnx(model, gears, path)
    except ExportError as error:
        assert torch.__version__ < "2.15"
        assert "axis 1 of steps is made a Python number, and cannot be dynamic. This torch writes out each step of lstm" in str(
            error
        )
    else:
        assert verify_onnx(model, path, gears).ok
