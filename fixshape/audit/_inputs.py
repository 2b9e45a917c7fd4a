"""Which shapes does a data loader give? Torch-free but for the tensors that are looked at.

Shapes: B images of a batch, N_i boxes of image i.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch

from fixshape.audit._key import describe

_DEEPEST = 16  # a batch that holds itself has no end
_IDS = frozenset({"id", "ids", "image_id", "image_ids", "sample_id", "sample_ids"})
_PLAIN = (str, bytes, bool, int, float, complex, type(None))


def inputs(loader: Iterable[Any]) -> dict[str, dict[str, int]]:
    """Which shapes a data loader gives, and how often.

    What lies in a list is told together: of images of their own sizes, or of N_i boxes each, it is the tuple of sizes that
    makes a step's shapes, and not their sum. Only tensors and numpy arrays have a shape: texts, numbers, paths and other
    objects are passed over, and so is what is called ``id``, ``image_id`` or ``sample_id`` (or their plural; ``input_ids`` are
    data). The batches are read once from the beginning, and nothing is kept of them; ``itertools.islice(loader, 100)`` reads
    the first hundred.

    Args:
        loader: gives batches: tensors, or mappings, lists, tuples, named tuples and data classes of them, nested.

    Returns:
        For each key path how often each shape came, most often first. In a path, ``.name`` is a key or a field, ``[1]`` a place
        in the batch, ``[*]`` every place of a list in it, and ``batch`` a batch that is a tensor itself. In a shape, sizes that
        differ within one batch are in brackets: ``"2 x f32[(3, 7), 4]"`` are two tensors, ``[3, 4]`` and ``[7, 4]``.

    Raises:
        TypeError: ``loader`` is not iterable.

    Example:
        >>> from fixshape.audit import inputs
        >>> boxes = [torch.zeros(3, 4), torch.zeros(7, 4)]
        >>> loader = [(torch.zeros(2, 3, 8, 8), [{"boxes": entry, "image_id": 5} for entry in boxes])] * 9
        >>> inputs(loader)
        {'[0]': {'f32[2, 3, 8, 8]': 9}, '[1][*].boxes': {'2 x f32[(3, 7), 4]': 9}}
    """
    found = BatchShapes()
    for batch in loader:
        found.add(batch)
    return found.histograms()


class BatchShapes:
    """Counts the shapes of batches as they come."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[str]] = {}

    def add(self, batch: Any, loader: int = 1) -> None:
        """Takes down one batch of the loader with that number; the first one's key paths bear none."""
        gathered: dict[str, list[str]] = {}
        for path, shape in _walk(batch, "", _DEEPEST):
            gathered.setdefault(path, []).append(shape)
        for path, shapes in gathered.items():
            path = path.removeprefix(".") or "batch"
            key = path if loader == 1 else f"loader {loader}: {path}"
            self._counts.setdefault(key, Counter())[_together(shapes) if "[*]" in path else shapes[0]] += 1

    def histograms(self) -> dict[str, dict[str, int]]:
        return {key: dict(counts.most_common()) for key, counts in self._counts.items()}


def _walk(value: Any, path: str, depth: int) -> Iterator[tuple[str, str]]:
    if isinstance(value, torch.Tensor):
        yield path, describe((value,), {})[0][0]
    elif isinstance(value, np.ndarray):
        yield path, f"{value.dtype}[{', '.join(map(str, value.shape))}]"
    elif isinstance(value, _PLAIN) or depth == 0:
        return
    else:
        for step, entry in _entries(value, not path):
            yield from _walk(entry, path + step, depth - 1)


def _entries(value: Any, top: bool) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        named: Iterable[tuple[Any, Any]] = value.items()
    elif is_dataclass(value) and not isinstance(value, type):
        named = ((field.name, getattr(value, field.name)) for field in fields(value))
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        named = zip(value._fields, value, strict=True)
    else:
        if isinstance(value, Sequence):
            yield from _places(value, top)
        return
    yield from ((f".{name}", entry) for name, entry in named if name not in _IDS)


def _places(value: Sequence[Any], top: bool) -> Iterator[tuple[str, Any]]:
    # Whether a list or a tuple holds it says nothing: default_collate makes lists of fields, and torchvision's reference tuples
    # of images. So the outermost one holds fields, unless they are mappings, and what lies in it samples, if they are alike.
    kinds = {_kind(entry) for entry in value}
    samples = len(kinds) == 1 and (not top or isinstance(value[0], Mapping))
    for index, entry in enumerate(value):
        yield "[*]" if samples else f"[{index}]", entry


def _kind(entry: Any) -> Any:
    if isinstance(entry, torch.Tensor):
        return torch.Tensor, entry.dtype, entry.dim()
    if isinstance(entry, np.ndarray):
        return np.ndarray, entry.dtype, entry.ndim
    return type(entry)


def _together(shapes: Sequence[str]) -> str:
    """One text of a batch's tensors: those of one dtype and rank in one, with the sizes that differ in brackets."""
    alike: dict[tuple[str, int], list[list[str]]] = {}
    for shape in shapes:
        dtype, _, sizes = shape.removesuffix("]").partition("[")
        split = sizes.split(", ") if sizes else []
        alike.setdefault((dtype, len(split)), []).append(split)
    return ", ".join(_one(dtype, sizes) for (dtype, _), sizes in alike.items())


def _one(dtype: str, sizes: Sequence[Sequence[str]]) -> str:
    columns = [column[0] if len(set(column)) == 1 else f"({', '.join(column)})" for column in zip(*sizes, strict=True)]
    return f"{len(sizes)} x {dtype}[{', '.join(columns)}]"
