"""The same buckets for ONNX, ATC, TensorRT and TorchAir. What touches no ONNX file is pure Python, and needs no torch."""

from fixshape.export._gears import Gears, Input, parse_inputs, plan_gears
from fixshape.export._onnx_header import NodeHead, OnnxHeader, Port, read_header
from fixshape.export._violation import Violation, as_text

__all__ = [
    "Gears",
    "Input",
    "NodeHead",
    "OnnxHeader",
    "Port",
    "Violation",
    "as_text",
    "parse_inputs",
    "plan_gears",
    "read_header",
]
