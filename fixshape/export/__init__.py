"""The same buckets for ONNX, ATC, TensorRT and TorchAir. What touches no ONNX file is pure Python, and needs no torch."""

from fixshape.export._atc_log import AtcLogEntry, read_atc_log
from fixshape.export._atc_options import AtcCommand, parse_atc
from fixshape.export._atc_rules import check_atc, correct_atc
from fixshape.export._atc_write import AtcBuild, write_atc
from fixshape.export._export_detector import CanvasFile, export_detector, verify_detector
from fixshape.export._export_onnx import export_onnx
from fixshape.export._gears import Gears, Input, header_inputs, parse_inputs, plan_gears
from fixshape.export._legality import Legality, legality
from fixshape.export._legality import as_text as legality_text
from fixshape.export._onnx_check import check_onnx, check_runs
from fixshape.export._onnx_diff import Difference, diff
from fixshape.export._onnx_fix_shape import fix_shape
from fixshape.export._onnx_header import NodeHead, OnnxHeader, Port, read_header
from fixshape.export._onnx_prove import Proof
from fixshape.export._onnx_rename import rename
from fixshape.export._onnx_run import load_model
from fixshape.export._onnx_set_batch import BatchChange, set_batch
from fixshape.export._torchair import DimGears, check_dim_gears, check_torchair, dim_gears, torchair_code
from fixshape.export._trt_correct import correct_trtexec
from fixshape.export._trt_emit import builder_code, onnxruntime_options, trtexec_command
from fixshape.export._trt_profiles import Profile, ShapeRange, plan_profiles
from fixshape.export._trt_rules import check_trtexec
from fixshape.export._verify import Verification, VerifiedGear, verify_onnx
from fixshape.export._violation import Violation, as_text

__all__ = [
    "AtcBuild",
    "AtcCommand",
    "AtcLogEntry",
    "BatchChange",
    "CanvasFile",
    "Difference",
    "DimGears",
    "Gears",
    "Input",
    "Legality",
    "NodeHead",
    "OnnxHeader",
    "Port",
    "Profile",
    "Proof",
    "ShapeRange",
    "Verification",
    "VerifiedGear",
    "Violation",
    "as_text",
    "builder_code",
    "check_atc",
    "check_dim_gears",
    "check_onnx",
    "check_runs",
    "check_torchair",
    "check_trtexec",
    "correct_atc",
    "correct_trtexec",
    "diff",
    "dim_gears",
    "export_detector",
    "export_onnx",
    "fix_shape",
    "header_inputs",
    "legality",
    "legality_text",
    "load_model",
    "onnxruntime_options",
    "parse_atc",
    "parse_inputs",
    "plan_gears",
    "plan_profiles",
    "read_atc_log",
    "read_header",
    "rename",
    "set_batch",
    "torchair_code",
    "trtexec_command",
    "verify_detector",
    "verify_onnx",
    "write_atc",
]
