"""What would trtexec refuse, or do in silence? Every rule that a command breaks, in the order in which trtexec comes to it.

How trtexec reads its arguments is in samples/common/sampleOptions.cpp of NVIDIA/TensorRT, what it does with the shapes in
samples/common/sampleEngines.cpp, and what a profile must be in the documentation of IOptimizationProfile. It has no error codes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fixshape.export import _trt_rules_flags, _trt_rules_model, _trt_rules_shapes
from fixshape.export._onnx_header import OnnxHeader
from fixshape.export._trt_profiles import settled
from fixshape.export._trt_read import Read, meant
from fixshape.export._trtexec import parse_trtexec
from fixshape.export._violation import Violation

RULES: tuple[Callable[[Read], Iterator[Violation]], ...] = (
    *_trt_rules_flags.RULES,
    *_trt_rules_shapes.RULES,
    *_trt_rules_model.RULES,
)


def check_trtexec(text: str, *, header: OnnxHeader | None = None) -> tuple[Violation, ...]:
    """Every rule of trtexec that a command breaks.

    What only the build itself can find is not among them: operators that TensorRT lacks, too little memory, a network that cannot
    run some size of a range, and input tensors whose *values* are shapes.

    Args:
        text: the command.
        header: of its ONNX file; with it, the shapes are held against the inputs.

    Returns:
        The violations, in the order in which trtexec would come to them; none where it is fine.

    Raises:
        UsageError: it is no command that calls trtexec.

    Example:
        >>> line = "trtexec --onnx=m.onnx --minShapes=x:1x512 --optShapes=x:1x1600 --maxShapes=x:1x1024"
        >>> (violation,) = check_trtexec(line)
        >>> violation.message
        'x: min 1x512, opt 1x1600, max 1x1024: on axis 1, opt 1600 is not between 512 and 1024'
        >>> violation.way_out
        '--minShapes=x:1x512 --optShapes=x:1x1024 --maxShapes=x:1x1600'
    """
    command = parse_trtexec(text)
    read = Read(meant(command), None if header is None else settled(header))
    return (*_trt_rules_flags.form(command), *(violation for rule in RULES for violation in rule(read)))
