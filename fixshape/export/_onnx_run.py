"""What does an ONNX file compute? Reads it, runs it in onnxruntime on the CPU, and says where two runs differ.

onnx and onnxruntime are imported when a function needs them: they are the extra ``fixshape[export]``.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fixshape._check import shown
from fixshape.errors import ExportError, ExtraError, OnnxFileError, UsageError

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, ModelProto, TensorProto

Array = npt.NDArray[Any]
Arrays = dict[str, Array]

MOST_BYTES = (1 << 31) - 1  # of one protobuf message, https://protobuf.dev/programming-guides/proto-limits/
_NUMPY = {
    "tensor(float16)": np.float16, "tensor(float)": np.float32, "tensor(double)": np.float64,
    "tensor(int8)": np.int8, "tensor(int16)": np.int16, "tensor(int32)": np.int32, "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8, "tensor(uint16)": np.uint16, "tensor(uint32)": np.uint32, "tensor(uint64)": np.uint64,
    "tensor(bool)": np.bool_,
}  # fmt: skip


def need(package: str) -> Any:
    """A package of the extra ``[export]``.

    Raises:
        ExtraError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ExtraError(
            f"export: {package.partition('.')[0]} is needed and cannot be imported ({error}): pip install 'fixshape[export]'"
        ) from None


def load_model(path: str | os.PathLike[str]) -> ModelProto:
    """An ONNX file with its data, external files too.

    The file is taken as hostile: external data is looked for beside it only, and its size is known before it is read. A model
    with more than 2 GB of data is refused, as one protobuf message cannot hold it.

    Args:
        path: the file.

    Returns:
        The model, all data inside.

    Raises:
        OnnxFileError: the file cannot be read, is not ONNX, ends early, is newer than the installed onnx package, or its external
            data is missing, too short, outside its folder, or too large.
        ExtraError: onnx is not installed.
    """
    onnx = need("onnx")
    name = os.fspath(path)
    try:
        size = os.stat(path).st_size
        if size > MOST_BYTES:
            raise OnnxFileError(f"{name}: it has {size:,} bytes, more than the {MOST_BYTES:,} that an ONNX file can have.")
        data = Path(path).read_bytes()
    except OSError as error:
        raise OnnxFileError(f"{name}: it cannot be read: {error.strerror or error}.") from None
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception:  # google.protobuf.message.DecodeError, or ValueError, by version
        raise OnnxFileError(f"{name}: it is not an ONNX file, or ends early. {_RENEW}") from None
    _check_model(name, model, onnx)
    _load_external(name, Path(path).parent, model)
    return model  # type: ignore[no-any-return]


_RENEW = "Export or copy it anew."


def _check_model(name: str, model: ModelProto, onnx: Any) -> None:
    """What protobuf lets pass: an empty or foreign message, and versions that are not known here."""
    if not model.HasField("graph") or not model.graph.output:
        raise OnnxFileError(f"{name}: it is not an ONNX file: it has no graph with outputs. {_RENEW}")
    if model.ir_version > onnx.IR_VERSION:
        raise OnnxFileError(
            f"{name}: it has IR version {model.ir_version}, the installed onnx {onnx.__version__} knows up to {onnx.IR_VERSION}."
            " Install a newer onnx, or export for an older one."
        )
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    opset, newest = opsets.get("ai.onnx"), onnx.defs.onnx_opset_version()
    if opset is None:
        raise OnnxFileError(f"{name}: it names no opset of ai.onnx (it has {opsets or 'none'}). {_RENEW}")
    if not 1 <= opset <= newest:
        raise OnnxFileError(
            f"{name}: it has opset {opset}, the installed onnx {onnx.__version__} knows 1 to {newest}."
            " Install a newer onnx, or export with opset_version=18."
        )


def graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """The graph and those inside its nodes (If, Loop, Scan), outermost first."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            yield from _inside(attribute)


def _inside(attribute: AttributeProto) -> Iterator[GraphProto]:
    for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
        yield from graphs(inner)


def tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor that is written in the file: initializers, and attributes of nodes and of functions' nodes."""
    every = list(graphs(model.graph))
    for graph in every:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    nodes = [node for graph in every for node in graph.node] + [node for function in model.functions for node in function.node]
    for node in nodes:
        for attribute in node.attribute:
            yield from ([attribute.t] if attribute.HasField("t") else []) + list(attribute.tensors)


def _load_external(name: str, folder: Path, model: ModelProto) -> None:
    """Reads external data into the model, after all of it is known to be there and to fit."""
    onnx = need("onnx")
    external = [tensor for tensor in tensors(model) if tensor.data_location == onnx.TensorProto.EXTERNAL]
    places = []
    for tensor in external:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        file = _beside(name, folder, tensor.name, entries.get("location", ""))
        try:
            held = file.stat().st_size
            offset = int(entries.get("offset", 0))
            length = int(entries["length"]) if "length" in entries else held - offset
        except OSError:
            raise OnnxFileError(
                f"{name}: tensor {tensor.name!r} is in {file.name!r}, which is not beside it. Copy both files together."
            ) from None
        except ValueError:
            raise OnnxFileError(f"{name}: tensor {tensor.name!r} has external data at {shown(entries)}, no numbers.") from None
        if offset < 0 or length < 0 or offset + length > held:
            raise OnnxFileError(
                f"{name}: tensor {tensor.name!r} is {length:,} bytes at {offset:,} of {file.name!r}, which has {held:,}. {_RENEW}"
            )
        places.append((tensor, file, offset, length))
    total = sum(length for *_, length in places)
    if total > MOST_BYTES - (1 << 20):
        raise OnnxFileError(
            f"{name}: its external data has {total:,} bytes, more than the {MOST_BYTES:,} that one ONNX file can hold."
            " Files of this size are not rewritten: export the model anew."
        )
    for tensor, file, offset, length in places:
        with file.open("rb") as stream:
            stream.seek(offset)
            tensor.raw_data = stream.read(length)
        del tensor.external_data[:]
        tensor.data_location = onnx.TensorProto.DEFAULT


def _beside(name: str, folder: Path, tensor: str, location: str) -> Path:
    place = PurePosixPath(location.replace("\\", "/"))
    if (
        not location
        or place.is_absolute()
        or ".." in place.parts
        or not (folder / place).resolve().is_relative_to(folder.resolve())
    ):
        raise OnnxFileError(f"{name}: tensor {tensor!r} is in {location!r}, expected a file in the folder of the model.")
    return folder / place


def open_session(model: ModelProto | str | os.PathLike[str]) -> Any:
    """A session of onnxruntime on the CPU, with one thread and without its log.

    Args:
        model: a model, all data inside; or a file.

    Returns:
        ``onnxruntime.InferenceSession``.

    Raises:
        ExportError: onnxruntime refuses the model; its own words, which name the node, are in the message.
        ExtraError: onnxruntime is not installed.
    """
    ort = need("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    source = os.fspath(model) if isinstance(model, str | os.PathLike) else model.SerializeToString()
    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no root of their own
        raise ExportError(f"onnxruntime refuses the model: {_words(error)}.") from None


def random_feeds(
    session: Any, shapes: Mapping[str, tuple[int, ...]], *, seed: int = 0, given: Mapping[str, Array] | None = None
) -> Arrays:
    """Drawn inputs: standard normal floats, bools, and whole numbers of 0 or 1, which are in every table that they index.

    Args:
        session: of :func:`open_session`.
        shapes: of each input; one without symbols may be left out.
        seed: the same seed gives the same numbers.
        given: arrays for inputs that are not drawn, as scales and lengths, which must mean something; they are repeated or cut
            to the shape.

    Returns:
        An array per input, by name.

    Raises:
        UsageError: ``shapes`` has a name that is no input, or lacks one whose shape is not fixed.
        ExportError: an input is no tensor of numbers.
    """
    generator = np.random.default_rng(seed)
    inputs = {port.name: port for port in session.get_inputs()}
    for name in shapes:
        if name not in inputs:
            raise UsageError(f"{unknown('input', name, inputs)}")
    feeds = {}
    for name, port in inputs.items():
        shape = shapes.get(name, tuple(port.shape))
        if not all(isinstance(size, int) for size in shape):
            raise UsageError(f"input {name!r} has shape {list(port.shape)} in the file: a size is needed for each symbol.")
        if port.type not in _NUMPY:
            raise ExportError(f"input {name!r} is {port.type}, expected a tensor of numbers: no value can be drawn for it.")
        dtype = np.dtype(_NUMPY[port.type])
        if given and name in given:
            feeds[name] = _fitted(name, given[name], shape).astype(dtype)
            continue
        try:
            drawn = generator.standard_normal(shape) if dtype.kind == "f" else generator.integers(0, 2, shape)
            feeds[name] = np.asarray(drawn).astype(dtype)
        except (MemoryError, ValueError):  # numpy's two, for what is large and for what no computer has
            raise UsageError(f"input {name!r} of shape {list(shape)} does not fit in memory: give smaller sizes.") from None
    return feeds


def _fitted(name: str, value: Array, shape: tuple[int, ...]) -> Array:
    if value.ndim != len(shape) or not value.size:
        raise UsageError(
            f"input {name!r} is given an array of shape {list(value.shape)}, expected {len(shape)} axes and a number."
        )
    for axis, size in enumerate(shape):
        value = value.take(np.arange(size) % value.shape[axis], axis)
    return value


def run(session: Any, feeds: Mapping[str, Array]) -> Arrays:
    """What the session computes.

    Args:
        session: of :func:`open_session`.
        feeds: an array per input, by name.

    Returns:
        An array per output, by name.

    Raises:
        ExportError: onnxruntime fails; its own words, which name the node, are in the message. Or an output is no tensor.
    """
    names = [port.name for port in session.get_outputs()]
    try:
        values = session.run(names, dict(feeds))
    except Exception as error:
        given = "; ".join(f"{name} {list(np.shape(value))}" for name, value in feeds.items())
        raise ExportError(f"onnxruntime cannot run the model on {given}: {_words(error)}.") from None
    for name, value in zip(names, values, strict=True):
        if not isinstance(value, np.ndarray):
            raise ExportError(f"output {name!r} is {type(value).__name__}, expected a tensor.")
    return dict(zip(names, values, strict=True))


def differences(got: Mapping[str, Array], expected: Mapping[str, Array], *, rtol: float = 1e-3, atol: float = 1e-4) -> list[str]:
    """Where two runs differ: one sentence for each output that does.

    Whole numbers and bools are equal or not; floats may differ by ``atol + rtol * |expected|``, and NaN equals NaN.

    Args:
        got: arrays by name.
        expected: arrays by name.
        rtol: relative to the expected number.
        atol: in the unit of the output.

    Returns:
        The sentences, none where all agree.

    Example:
        >>> differences({"scores": np.array([1.0, 2.0])}, {"scores": np.array([1.0, 2.5])})
        ['scores: 1 of 2 numbers differ, most at [1]: 2.0, expected 2.5']
    """
    found = [f"{name}: it is missing" for name in expected if name not in got]
    for name, value in got.items():
        if name not in expected:
            found.append(f"{name}: it is not expected")
        elif sentence := _difference(np.asarray(value), np.asarray(expected[name]), rtol, atol):
            found.append(f"{name}: {sentence}")
    return found


def _difference(got: Array, expected: Array, rtol: float, atol: float) -> str | None:
    if got.shape != expected.shape:
        return f"it has shape {list(got.shape)}, expected {list(expected.shape)}"
    if got.dtype != expected.dtype:
        return f"it has dtype {got.dtype}, expected {expected.dtype}"
    if got.dtype.kind not in "fc":
        wrong = got != expected
        distance = wrong.astype(np.float64)
    else:
        with np.errstate(invalid="ignore", over="ignore"):
            wrong = ~np.isclose(got, expected, rtol=rtol, atol=atol, equal_nan=True)
            distance = np.where(wrong, np.abs(got.astype(np.float64) - expected.astype(np.float64)), -1.0)
            distance = np.where(wrong & ~np.isfinite(distance), math.inf, distance)
    if not wrong.any():
        return None
    place = np.unravel_index(int(distance.argmax()), got.shape)
    where = [int(index) for index in place]
    return (
        f"{int(wrong.sum()):,} of {got.size:,} numbers differ, most at {where}: {got[place].item()!r},"
        f" expected {expected[place].item()!r}"
    )


def unknown(what: str, name: str, names: Mapping[str, object] | list[str]) -> str:
    """What to say of a name that does not exist: the nearest one, and all where they are few."""
    known = list(names)
    near = get_close_matches(name, known, 1, 0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    listed = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
    return f"there is no {what} {name!r}: the file has {listed or 'none'}.{hint}"


def _words(error: Exception) -> str:
    """The message of an exception of onnxruntime, on one line and without its code."""
    text = " ".join(str(error).split())
    text = text.split(" : ", 3)[-1] if text.startswith("[ONNXRuntimeError]") else text
    return (text if len(text) <= 500 else text[:497] + "...").rstrip(".")
