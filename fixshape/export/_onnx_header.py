"""What goes in and out of an ONNX file, and through which operators? Read without the onnx package.

A CANN host often has neither onnx nor torch. A file is a protocol-buffer message: fields of a number, a wire type and a
payload (protobuf.dev/programming-guides/encoding); the numbers here are those of ``onnx/onnx.proto``. Weights are
stepped over, not read, so that a file of gigabytes takes no memory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from mmap import ACCESS_READ, mmap

from fixshape.errors import OnnxFileError

# Operators whose output has as many elements as the values say (onnx/docs/Operators.md).
DATA_DEPENDENT = ("Compress", "NonMaxSuppression", "NonZero", "StringSplit", "Unique")
UNBACKED = re.compile(r"\bu\d+\b")  # torch.export's name of a size that depends on data
MOST_DEPTH = 16  # of graphs within graphs
MOST_NODES = 2_000_000
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "string", 9: "bool",
    10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128", 16: "bfloat16",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Port:
    """An input or an output.

    Args:
        name: of the value.
        dtype: numpy's name of it, ``None`` where the file says none that is known.
        dims: a size, a symbol, or ``None`` where an axis has neither; all of it ``None`` where the rank is not known.
    """

    name: str
    dtype: str | None
    dims: tuple[int | str | None, ...] | None

    def __str__(self) -> str:
        return f"{self.name}:{dims_text(self.dims or ())}"


def dims_text(dims: Sequence[int | str | None] | None) -> str:
    """Dims as messages show them: ``"N,3,?,320"``."""
    return "of unknown rank" if dims is None else ",".join("?" if dim is None else str(dim) for dim in dims)


@dataclass(frozen=True, slots=True)
class NodeHead:
    """An operator as it stands in a graph; ``domain`` is ``""`` for ONNX's own, ``name`` may be empty."""

    op_type: str
    domain: str
    name: str


@dataclass(frozen=True, slots=True)
class OnnxHeader:
    """What :func:`read_header` finds.

    Args:
        inputs: of the graph, without those that are initializers (old files list both).
        outputs: of the graph.
        opsets: version of each domain; ``""`` is ONNX's own.
        ir_version: of the file.
        nodes: in their order, those of subgraphs after the node that has them, and at last those of the file's functions.
        absent: files of weights that the graph names and that are not beside it, as a model over 2 GB has them.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    opsets: dict[str, int]
    ir_version: int
    nodes: tuple[NodeHead, ...]
    absent: tuple[str, ...] = ()


@dataclass
class _Graph:
    inputs: list[Port] = field(default_factory=list)
    outputs: list[Port] = field(default_factory=list)
    initializers: set[str] = field(default_factory=set)
    files: dict[str, None] = field(default_factory=dict)  # of weights


def read_header(path: str | os.PathLike[str]) -> OnnxHeader:
    """Reads inputs, outputs, operators and versions of an ONNX file.

    It does not say that the file is a valid model: weights, attributes and the order of the nodes are not looked at.

    Args:
        path: of the file. Weights beside it are not opened; whether they are there is looked at.

    Returns:
        The :class:`OnnxHeader`, with names and dims as they stand in the file.

    Raises:
        OnnxFileError: it cannot be read, is empty, is cut off, or is not ONNX; the message says at which byte.

    Example:
        >>> read_header("no.onnx")
        Traceback (most recent call last):
            ...
        fixshape.errors.OnnxFileError: no.onnx: it cannot be read (No such file or directory). Give the path of an ONNX file.
    """
    where = os.fspath(path)
    try:
        with open(where, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise OnnxFileError(f"{where}: it is empty, expected an ONNX file. Export or copy it again.")
            with mmap(file.fileno(), 0, access=ACCESS_READ) as data:
                header, files = _model(data)
        folder = os.path.dirname(os.path.abspath(where))
        return replace(header, absent=tuple(file for file in files if not os.path.exists(os.path.join(folder, file))))
    except OSError as error:
        raise OnnxFileError(f"{where}: it cannot be read ({error.strerror}). Give the path of an ONNX file.") from None
    except _BrokenError as error:
        raise OnnxFileError(
            f"{where}: {error}, so that it is not an ONNX file or was cut off. Export or copy it again."
        ) from None


class _BrokenError(ValueError):
    """The bytes are not what a model has; becomes an :class:`OnnxFileError` with the file's name."""


def _model(data: mmap) -> tuple[OnnxHeader, list[str]]:
    """The header, and the files of weights that the graph names."""
    graph, nodes, opsets, ir_version, has_graph = _Graph(), list[NodeHead](), dict[str, int](), 0, False
    functions: list[tuple[int, int]] = []
    for number, value, span in _fields(data, 0, len(data)):
        if number == 1 and span is None:
            ir_version = value
        elif number == 7 and span:
            has_graph = True
            _graph(data, *span, graph, nodes, 0)
        elif number == 8 and span:
            domain, version = _opset(data, *span)
            opsets[domain] = version
        elif number == 25 and span:
            functions.append(span)
    if not has_graph or not opsets:
        raise _BrokenError("it has no graph" if not has_graph else "it names no opset")
    for start, stop in functions:
        _function(data, start, stop, nodes)
    inputs = tuple(port for port in graph.inputs if port.name not in graph.initializers)
    return OnnxHeader(inputs, tuple(graph.outputs), opsets, ir_version, tuple(nodes)), list(graph.files)


def _graph(data: mmap, start: int, stop: int, graph: _Graph, nodes: list[NodeHead], depth: int) -> None:
    for number, _, span in _fields(data, start, stop):
        if span is None:
            continue
        if number == 1:
            _node(data, *span, nodes, depth)
        elif number == 5:
            _initializer(data, *span, graph)
        elif number == 15:  # a sparse one; its values are a tensor that bears the name
            for inner, _, part in _fields(data, *span):
                if inner == 1 and part:
                    graph.initializers.add(_text_field(data, *part, 8))
        elif number == 11:
            graph.inputs.append(_port(data, *span))
        elif number == 12:
            graph.outputs.append(_port(data, *span))


def _initializer(data: mmap, start: int, stop: int, graph: _Graph) -> None:
    for number, _, span in _fields(data, start, stop):
        if number == 8 and span:
            graph.initializers.add(_text(data, *span))
        elif number == 13 and span and _text_field(data, *span, 1) == "location":
            graph.files.setdefault(_text_field(data, *span, 2))


def _node(data: mmap, start: int, stop: int, nodes: list[NodeHead], depth: int) -> None:
    if depth > MOST_DEPTH or len(nodes) >= MOST_NODES:
        raise _BrokenError(f"byte {start}: graphs are more than {MOST_DEPTH} deep or have more than {MOST_NODES:,} nodes")
    texts = {3: "", 4: "", 7: ""}
    attributes = []
    for number, _, span in _fields(data, start, stop):
        if span and number in texts:
            texts[number] = _text(data, *span)
        elif span and number == 5:
            attributes.append(span)
    nodes.append(NodeHead(texts[4], "" if texts[7] == "ai.onnx" else texts[7], texts[3]))
    for attribute in attributes:
        for number, _, span in _fields(data, *attribute):
            if span and number in (6, 11):
                _graph(data, *span, _Graph(), nodes, depth + 1)


def _function(data: mmap, start: int, stop: int, nodes: list[NodeHead]) -> None:
    for number, _, span in _fields(data, start, stop):
        if span and number == 7:
            _node(data, *span, nodes, 0)


def _opset(data: mmap, start: int, stop: int) -> tuple[str, int]:
    domain, version = "", 0
    for number, value, span in _fields(data, start, stop):
        if number == 1 and span:
            domain = _text(data, *span)
        elif number == 2 and span is None:
            version = value
    return ("" if domain == "ai.onnx" else domain), version


def _port(data: mmap, start: int, stop: int) -> Port:
    name, dtype, dims = "", None, None
    for number, _, span in _fields(data, start, stop):
        if number == 1 and span:
            name = _text(data, *span)
        elif number == 2 and span:
            for kind, _, tensor in _fields(data, *span):
                if kind == 1 and tensor:
                    dtype, dims = _tensor_type(data, *tensor)
    return Port(name, dtype, dims)


def _tensor_type(data: mmap, start: int, stop: int) -> tuple[str | None, tuple[int | str | None, ...] | None]:
    dtype, dims = None, None
    for number, value, span in _fields(data, start, stop):
        if number == 1 and span is None:
            dtype = _DTYPES.get(value)
        elif number == 2 and span:
            dims = tuple(_dim(data, *part) for inner, _, part in _fields(data, *span) if inner == 1 and part)
    return dtype, dims


def _dim(data: mmap, start: int, stop: int) -> int | str | None:
    found: int | str | None = None
    for number, value, span in _fields(data, start, stop):
        if number == 1 and span is None:
            found = value - (1 << 64) if value >> 63 else value
        elif number == 2 and span:
            found = _text(data, *span) or None
    return found


def _text_field(data: mmap, start: int, stop: int, wanted: int) -> str:
    found = ""
    for number, _, span in _fields(data, start, stop):
        if number == wanted and span:
            found = _text(data, *span)
    return found


def _text(data: mmap, start: int, stop: int) -> str:
    if stop - start > 1 << 16:
        raise _BrokenError(f"byte {start}: a name has {stop - start:,} bytes")
    try:
        return data[start:stop].decode()
    except UnicodeDecodeError:
        raise _BrokenError(f"byte {start}: a name is not UTF-8") from None


def _fields(data: mmap, start: int, stop: int) -> Iterator[tuple[int, int, tuple[int, int] | None]]:
    """Each field of a message: its number, its value where that is a number, and where its bytes stand where it has bytes."""
    at = start
    while at < stop:
        key, at = _varint(data, at, stop)
        number, wire = key >> 3, key & 7
        value, span = 0, None
        if wire == _VARINT:
            value, at = _varint(data, at, stop)
        elif wire == _BYTES:
            size, at = _varint(data, at, stop)
            span = (at, at + size)
            at += size
        elif wire in (_FIXED32, _FIXED64):
            at += 4 if wire == _FIXED32 else 8
        else:
            raise _BrokenError(f"byte {at}: a field of wire type {wire}")
        if at > stop or number == 0:
            raise _BrokenError(f"byte {at}: a field that ends beyond what holds it, or has the number 0")
        yield number, value, span


def _varint(data: mmap, at: int, stop: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= stop:
            raise _BrokenError(f"byte {at}: the file ends within a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value & ((1 << 64) - 1), at
    raise _BrokenError(f"byte {at}: a number of more than ten bytes")
