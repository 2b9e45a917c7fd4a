"""Give an operator of your own an ONNX form: an upsampling whose scales are an input of the model.

torch sizes the result in Python, and so asks the scales for their values: a trace freezes them, and torch.export goes no further.
As one custom operator the size is the operator's own business, and in ONNX it is Resize, which takes its scales as a tensor. Such
a size follows from data, so that the file is for onnxruntime: a device with fixed shapes wants one file for each scale.

Run: python examples/upsample_onnx.py
"""

import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from onnxscript import opset18 as op
from torch import Tensor, nn

from fixshape.errors import ExportError
from fixshape.export import Gears, export_onnx, parse_inputs, verify_onnx

SCALES = ((1.0, 1.0), (2.0, 2.0), (1.5, 3.0), (0.5, 2.5))
GEARS = Gears(parse_inputs("images:N,3,H,W;scales:2"), ({"N": 1, "H": 16, "W": 24}, {"N": 2, "H": 24, "W": 16}))


@torch.library.custom_op("example::upsample", mutates_args=())
def upsample(images: Tensor, scales: Tensor) -> Tensor:
    """[N, C, H, W] images to [N, C, floor(H * scales[0]), floor(W * scales[1])]."""
    return F.interpolate(images, scale_factor=scales.tolist(), mode="bilinear")


@upsample.register_fake
def _(images: Tensor, scales: Tensor) -> Tensor:
    context = torch.library.get_ctx()  # while a graph is captured, nobody knows the scales
    return images.new_empty(*images.shape[:2], context.new_dynamic_size(), context.new_dynamic_size())


def upsample_in_onnx(images, scales):
    """Resize has a scale for each of the four axes."""
    return op.Resize(images, None, op.Concat(op.Constant(value_floats=[1.0, 1.0]), scales, axis=0), mode="linear")


class SuperResolution(nn.Module):
    """Two convolutions, then as large as the scales say."""

    def __init__(self, enlarge) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 3, 3, padding=1)
        self.enlarge = enlarge

    def forward(self, images, scales):
        return self.enlarge(self.second(self.first(images).relu()), scales)


def as_it_was(images, scales):
    return F.interpolate(images, scale_factor=scales.tolist(), mode="bilinear")


def inputs_at(scales):
    def make_inputs(shapes):
        generator = torch.Generator().manual_seed(shapes["images"][0])
        return torch.randn(shapes["images"], generator=generator), torch.tensor(scales)

    return make_inputs


def main() -> None:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            export_onnx(SuperResolution(as_it_was), GEARS, path, make_inputs=inputs_at(SCALES[1]), data_dependent=True)
        except ExportError as error:
            print(error)
        model = SuperResolution(upsample)
        table = {torch.ops.example.upsample.default: upsample_in_onnx}
        export_onnx(
            model,
            GEARS,
            path,
            make_inputs=inputs_at(SCALES[1]),
            output_names=["enlarged"],
            data_dependent=True,
            custom_translation_table=table,
        )
        for scales in SCALES:
            verified = verify_onnx(model, path, GEARS, make_inputs=inputs_at(scales))
            print(f"scales {scales}\n{verified}")
            assert verified.ok
    print(f"one file, equal to torch at {len(SCALES)} scales")


if __name__ == "__main__":
    main()
