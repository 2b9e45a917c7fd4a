"""Do the shapes of a command fit the inputs of the ONNX file? Rules T15 to T19."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches

from fixshape.export._trt_flags import SHAPES
from fixshape.export._trt_profiles import is_dynamic, written
from fixshape.export._trt_read import Read, fits, matches, shape_for
from fixshape.export._trtexec import name_text
from fixshape.export._violation import Violation


def _names(read: Read) -> Iterator[Violation]:
    if read.header is None:
        return
    known = [port.name for port in read.header.inputs]
    written_names = dict.fromkeys(name for profile in read.effective for ranges in profile.values() for name in ranges)
    for name in written_names:
        if not any(matches(name, port) for port in known):
            near = get_close_matches(name, known, 1, 0.5)
            listed = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
            yield Violation(
                "T15", None, f"the model has no input {name}: it has {listed or 'none'}",
                "trtexec takes it for a typing error and stops.", f"{near[0]}:..." if near else "the name of an input",
            )  # fmt: skip


def _missing(read: Read) -> Iterator[Violation]:
    for port in read.header.inputs if read.header else ():
        if not is_dynamic(port):
            continue
        lacking = [
            index
            for index, profile in enumerate(read.effective)
            if not any(matches(name, port.name) for ranges in profile.values() for name in ranges)
        ]
        if lacking:
            assert port.dims is not None
            ones = written(dim if isinstance(dim, int) else 1 for dim in port.dims)
            sizes = "x".join(str(dim) if isinstance(dim, int) else f"<{dim or '?'}>" for dim in port.dims)
            yield Violation(
                "T16", None, f"{port.name} has dynamic axes and no shapes in profile {', '.join(map(str, lacking))}",
                f"trtexec goes on with {ones}, after a line in its log: the engine runs no other shape.",
                " ".join(f"{flag}=...,{port.name}:{sizes}" for flag in SHAPES),
            )  # fmt: skip


def _against_file(read: Read) -> Iterator[Violation]:
    for port in read.header.inputs if read.header else ():
        dims = port.dims
        if dims is None:
            continue
        for index, profile in enumerate(read.effective):
            for flag, ranges in profile.items():
                shape = shape_for(ranges, port)
                if shape is None or fits(shape, dims):
                    continue
                told = "x".join(str(dim or "?") for dim in dims) or "scalar"
                right = told
                if len(shape) == len(dims):
                    right = written(want if isinstance(want, int) else got for got, want in zip(shape, dims, strict=True))
                yield Violation(
                    "T17", None, f"profile {index}: {flag} has {port.name}:{written(shape)}, and the file has {told}",
                    "The number of axes and the fixed sizes are those of the file, and no profile changes them.",
                    f"{flag}={name_text(port.name)}:{right}",
                )  # fmt: skip
                break


def _static(read: Read) -> Iterator[Violation]:
    header = read.header
    if header is None or any(map(is_dynamic, header.inputs)) or any(map(is_dynamic, header.outputs)):
        return
    if any(port.dims is None for port in header.inputs):
        return
    if any(ranges for profile in read.effective for ranges in profile.values()):
        yield Violation(
            "T18", None, "shapes are given, and no input of the model is dynamic",
            "trtexec refuses shapes for a model that has them all itself.", "the command without its shapes; or make the batch"
            " dynamic first: fixshape onnx set-batch model.onnx --to dynamic -o dynamic.onnx",
        )  # fmt: skip


def _weights(read: Read) -> Iterator[Violation]:
    for file in read.header.absent if read.header else ():
        yield Violation(
            "T19", None, f"the weights in {file} are not beside the model, expected that file there",
            "TensorRT's parser reads them from the folder of the model.", f"copy {file} to the model",
        )  # fmt: skip


RULES = (_weights, _names, _missing, _against_file, _static)
