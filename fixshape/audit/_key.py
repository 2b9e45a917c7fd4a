"""The key of an op compile, and its text.

Two launches with one key run one compiled kernel. In the key: dtype, shape and device of each tensor, and every argument that is
an int, a bool, a text, a dtype, a memory format, a device, or a list of those. Not in it: Python floats (an optimiser has new
ones each step, and no device compiles for them), strides, and values of tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

_PLAIN = frozenset({int, type(None), str, torch.dtype, torch.layout, torch.memory_format, torch.device})
_SHORT = {
    torch.float64: "f64",
    torch.float32: "f32",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.complex64: "c64",
    torch.complex128: "c128",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int16: "i16",
    torch.int8: "i8",
    torch.uint8: "u8",
}
_MOST_IN_TEXT = 8
_MINUS_ONE = "-1"  # Python's hash of -1 is that of -2, and the last dimension is not the one before it


def op_key(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """The key of one call, but for the overload itself. It runs at every launch, hence the repeated branches."""
    parts: list[Any] = []
    for value in args:
        if isinstance(value, torch.Tensor):
            parts.append(value.dtype)
            parts.append(value.shape if not value.is_nested else _nested_shape(value))
            parts.append(value.device)
        elif type(value) in _PLAIN:
            parts.append(_MINUS_ONE if value == -1 else value)
        else:
            _append(parts, value)
    for name, value in kwargs.items():
        parts.append(name)
        _append(parts, value)
    return tuple(parts)


def hashable_key(key: tuple[Any, ...]) -> tuple[Any, ...]:
    """A stand-in for a key with symbolic sizes, which have no hash: their names are compared."""
    return (repr(key),)


def describe(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Texts of a call: ``(tensors, other arguments of the key)``."""
    shapes: list[str] = []
    arguments: list[str] = []
    for name, value in [("", value) for value in args] + list(kwargs.items()):
        if isinstance(value, torch.Tensor):
            shapes.append(_text(value))
        elif isinstance(value, (list, tuple)) and any(isinstance(entry, torch.Tensor) for entry in value):
            shapes.append(_text(value))
        elif value is not None and not isinstance(value, (float, complex)):
            arguments.append(f"{name}={_text(value)}" if name else _text(value))
    return tuple(shapes), tuple(arguments)


def _append(parts: list[Any], value: Any) -> None:
    kind = type(value)
    if kind in _PLAIN:
        parts.append(_MINUS_ONE if value == -1 else value)
    elif kind is list or kind is tuple:
        entries: list[Any] = []
        for entry in value:
            if type(entry) is int:
                entries.append(_MINUS_ONE if entry == -1 else entry)
            else:
                _append(entries, entry)
        parts.append(tuple(entries))
    elif isinstance(value, torch.Tensor):
        parts.append(value.dtype)
        parts.append(value.shape if not value.is_nested else _nested_shape(value))
        parts.append(value.device)
    elif kind is bool:
        parts.append((bool, value))  # True == 1, and the two are different arguments
    elif kind is torch.SymInt:
        parts.append(str(value))
    else:
        parts.append(kind)  # floats, generators, streams: there is one, whichever


def _nested_shape(value: torch.Tensor) -> tuple[Any, ...]:
    # A nested tensor of the strided layout has no shape and answers with an error; its sizes are a table.
    return ("nested", *(tuple(part.shape) for part in value.unbind())) if value.layout is torch.strided else (value.shape,)


def _text(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        shape = ["nested"] if value.is_nested else value.shape
        dtype = _SHORT.get(value.dtype, str(value.dtype).removeprefix("torch."))
        return f"{dtype}[{', '.join(str(size) for size in shape)}]"
    if isinstance(value, (list, tuple)):
        entries = [_text(entry) for entry in value[:_MOST_IN_TEXT]]
        if len(value) > _MOST_IN_TEXT:
            entries.append(f"and {len(value) - _MOST_IN_TEXT} more")
        return f"[{', '.join(entries)}]"
    if isinstance(value, (int, str, torch.dtype, torch.layout, torch.memory_format, torch.device)):
        return str(value)
    return type(value).__name__
