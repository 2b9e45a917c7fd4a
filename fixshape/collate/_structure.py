"""What samples consist of: their nested dicts and tuples turned inside out, so that each key has the values of all samples."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from fixshape._check import shown
from fixshape.collate._rule import Pad
from fixshape.collate._size import Size
from fixshape.collate._values import dtype_name, plain
from fixshape.errors import DtypeError, ShapeError, TargetError

Rules: TypeAlias = "Pad | Mapping[Any, Rules] | Sequence[Rules] | None"


@dataclass(frozen=True, slots=True)
class Column:
    """The values of one key in all samples; ``measured`` has their names and the sizes that its rule pads."""

    values: list[Tensor]
    rule: Pad | None
    measured: list[tuple[str, Size]]


@dataclass(frozen=True, slots=True)
class Objects:
    """The values of one key that make no tensor."""

    values: list[Any]


def read_structure(where: str, path: str, values: Sequence[Any], rules: Rules) -> Any:
    """The structure of the samples, with all samples' values of a key in its place."""
    first = values[0]
    if isinstance(rules, Pad):
        return _ruled(where, path, values, rules)
    if isinstance(first, Mapping):
        _check_like(where, path, values, Mapping, set)
        children = {} if rules is None else _children(where, path, rules, Mapping, "dict")
        unknown = [key for key in children if key not in first]
        if unknown:
            raise TargetError(
                f"{where}: there is a rule for {_joined(path, unknown[0])!r}, which {_name(0, path)} does not have"
                f" (it has {shown(list(first))}). Correct the rule's key, or leave the rule out."
            )
        return {
            key: read_structure(where, _joined(path, key), [value[key] for value in values], children.get(key)) for key in first
        }
    if isinstance(first, tuple | list):
        _check_like(where, path, values, (tuple, list), len)
        children = [None] * len(first) if rules is None else _children(where, path, rules, (tuple, list), "tuple")
        if len(children) != len(first):
            raise TargetError(
                f"{where}: {_name(0, path)} has {len(first)} entries, its rules {len(children)}, expected one rule for each."
                " Give None for an entry that does not vary."
            )
        entries = [
            read_structure(where, _joined(path, index), [value[index] for value in values], children[index])
            for index in range(len(first))
        ]
        return type(first)(*entries) if hasattr(first, "_fields") else type(first)(entries)
    if rules is not None:
        raise TargetError(
            f"{where}: {_name(0, path)} is a {type(first).__name__}, but the rules have a {type(rules).__name__} there."
        )
    return _unruled(where, path, values)


def columns(tree: Any) -> Iterator[Column]:
    """Every column of a structure."""
    if isinstance(tree, Column):
        yield tree
    elif not isinstance(tree, Objects):
        for child in tree.values() if isinstance(tree, dict) else tree:
            yield from columns(child)


def _name(position: int, path: str) -> str:
    return f"sample {position}: {path}" if path else f"sample {position}"


def _joined(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _children(where: str, path: str, rules: Any, kind: Any, kind_name: str) -> Any:
    """The rules for the parts of a dict or a tuple."""
    if not isinstance(rules, kind):
        raise TargetError(
            f"{where}: {_name(0, path)} is a {kind_name}, but the rules have a {type(rules).__name__} there."
            " Rules have the structure of a sample."
        )
    return rules


def _check_like(where: str, path: str, values: Sequence[Any], kind: Any, content: Callable[[Any], Any]) -> None:
    """All ``values`` are of ``kind``, with the same keys or the same count."""
    first = values[0]
    for position, value in enumerate(values):
        if not isinstance(value, kind):
            raise TargetError(
                f"{where}: {_name(0, path)} is a {type(first).__name__}, {_name(position, path)} a {type(value).__name__},"
                " expected one structure in a batch."
            )
        if content(value) == content(first):
            continue
        if kind is Mapping:
            odd = next(iter(set(first) ^ set(value)))
            there, missing = (0, position) if odd in first else (position, 0)
            raise TargetError(
                f"{where}: {_name(there, path)} has {_joined(path, odd)!r}, {_name(missing, path)} has not."
                " Give it for every sample, or for none."
            )
        raise TargetError(
            f"{where}: {_name(0, path)} has {len(first)} entries, {_name(position, path)} {len(value)}, expected one count in a"
            " batch. If it is a list of numbers that varies, give it a rule: Pad(size)."
        )


def _ruled(where: str, path: str, values: Sequence[Any], rule: Pad) -> Column:
    tensors = _tensors(where, path, values)
    rule.check_fill(f"{where}: {_name(0, path)}", tensors[0].dtype)
    measured = [
        (_name(position, path), rule.measure(f"{where}: {_name(position, path)}", value))
        for position, value in enumerate(tensors)
    ]
    rest = [rule.canvas(value.shape, (0,) * len(rule.dims)) for value in tensors]
    for position, shape in enumerate(rest):
        if shape != rest[0]:
            raise ShapeError(
                f"{where}: {_name(0, path)} has shape {tuple(tensors[0].shape)}, {_name(position, path)}"
                f" {tuple(tensors[position].shape)}, expected equal sizes but for dim {', '.join(map(str, rule.dims))}."
                " Give Pad every dim that varies, or make them equal in the data set."
            )
    return Column(tensors, rule, measured)


def _unruled(where: str, path: str, values: Sequence[Any]) -> Column | Objects:
    numeric = [
        isinstance(value, Tensor | np.ndarray | np.generic | numbers.Number) and not isinstance(value, str | bytes)
        for value in values
    ]
    if not any(numeric):
        return Objects(list(values))
    if not all(numeric):
        odd = numeric.index(not numeric[0])
        raise TargetError(
            f"{where}: {_name(0, path)} is a {type(values[0]).__name__}, {_name(odd, path)} a {type(values[odd]).__name__},"
            " expected one type in a batch."
        )
    tensors = _tensors(where, path, values)
    for position, value in enumerate(tensors):
        if value.shape != tensors[0].shape:
            raise ShapeError(
                f"{where}: {_name(0, path)} has shape {tuple(tensors[0].shape)}, {_name(position, path)} {tuple(value.shape)},"
                " and no rule says how to pad it. Give it one: Pad(size, dim=...) in its place in the rules."
            )
    return Column(tensors, None, [])


def _tensors(where: str, path: str, values: Sequence[Any]) -> list[Tensor]:
    """The values as plain tensors of one dtype."""
    if all(isinstance(value, numbers.Number) for value in values):
        return list(_tensor(where, _name(0, path), values).unbind())
    tensors = [_tensor(where, _name(position, path), value) for position, value in enumerate(values)]
    # An empty list is float32 by habit, which means nothing.
    known = [value.dtype for value, given in zip(tensors, values, strict=True) if value.numel() or not isinstance(given, list)]
    dtype = known[0] if known else torch.int64
    tensors = [
        value.to(dtype) if isinstance(given, list) and not given else value for value, given in zip(tensors, values, strict=True)
    ]
    for position, value in enumerate(tensors):
        if value.dtype != tensors[0].dtype:
            raise DtypeError(
                f"{where}: {_name(0, path)} is {dtype_name(tensors[0])}, {_name(position, path)} {dtype_name(value)}, expected"
                " one dtype in a batch. Convert it in the data set."
            )
    return tensors


def _tensor(where: str, name: str, value: Any) -> Tensor:
    try:
        return plain(torch.as_tensor(value))
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise DtypeError(
            f"{where}: {name} is a {type(value).__name__} that does not make a tensor ({str(error).splitlines()[0]}),"
            " expected a tensor, an array or a list of numbers."
        ) from None
