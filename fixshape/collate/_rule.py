"""How one value of a sample is padded: which of its dimensions, to which sizes, with what.

Shapes: D dimensions that a rule pads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fixshape._check import check_at_least, shown
from fixshape.collate._size import Size
from fixshape.collate._values import dtype_name
from fixshape.errors import DtypeError, ShapeError
from fixshape.plan import Bucket, ShapePlan

AnySize = int | Sequence[int] | Sequence[Sequence[int]] | Bucket | ShapePlan


@dataclass(frozen=True, slots=True)
class Pad:
    """The rule for one key of :func:`pad_ragged`: which dimensions are padded, to which sizes, with what.

    A batch takes the smallest size that covers all its samples; of equal areas the one that is smaller in the first dimension.
    The value sits at the origin, the padding comes after it.

    Args:
        size: for one dimension an int, or several bucket ends as :func:`fixshape.plan.plan_lengths` gives them; for D dimensions
            one tuple of D ints, or several; for two also a :class:`~fixshape.plan.Bucket` or a
            :class:`~fixshape.plan.ShapePlan`, whose (height, width) are taken, a plan's fallback last. Each at least 1. Where
            samples carry a bucket of the plan, as :func:`fixshape.make_loader` gives it to them (a number under ``"bucket"`` in a
            sample that is a dict, or in the dict that is the second of a pair), that one is taken.
        dim: the dimension, or a tuple of the D dimensions, that is padded; negative ones count from the end. All others must be
            equal in a batch.
        fill_value: what the padding holds; the dtype of the values must be able to hold it.

    Raises:
        ShapeError: a size or a dim is not one of the above, or their counts differ.
        DtypeError: ``fill_value`` is not a number.

    Example:
        >>> Pad((128, 64))
        Pad(sizes=((64,), (128,)), dims=(0,), fill_value=0, planned=False)
        >>> Pad((480, 640), dim=(-2, -1), fill_value=255)
        Pad(sizes=((480, 640),), dims=(-2, -1), fill_value=255, planned=False)
    """

    sizes: tuple[Size, ...]
    dims: tuple[int, ...]
    fill_value: float
    planned: bool  # the sizes are those of a plan's shapes, in their order

    def __init__(self, size: AnySize, dim: int | Sequence[int] = 0, fill_value: float = 0) -> None:
        dims = tuple(dim) if isinstance(dim, tuple | list) else (dim,)
        if not dims or len(set(dims)) < len(dims) or not all(type(number) is int for number in dims):
            raise ShapeError(f"Pad: dim is {shown(dim)}, expected a whole number, or a tuple of different ones.")
        if not isinstance(fill_value, int | float):
            raise DtypeError(f"Pad: fill_value is {shown(fill_value)}, expected a number.")
        object.__setattr__(self, "sizes", _as_sizes(size, len(dims)))
        object.__setattr__(self, "dims", dims)
        object.__setattr__(self, "fill_value", fill_value)
        object.__setattr__(self, "planned", isinstance(size, ShapePlan))

    def measure(self, name: str, value: Tensor) -> Size:
        """The sizes [D] of the dimensions of ``value`` that are padded.

        Raises:
            ShapeError: the value has no such dimensions.
        """
        try:
            places = [range(value.ndim)[dim] for dim in self.dims]
        except IndexError:
            places = []
        if len(set(places)) < len(self.dims):
            raise ShapeError(
                f"{name} has shape {tuple(value.shape)}, but its rule pads dim {', '.join(map(str, self.dims))}."
                " Give Pad the dim= that varies."
            )
        return tuple(value.shape[place] for place in places)

    def canvas(self, shape: Sequence[int], size: Size) -> list[int]:
        """The shape of a padded value: ``size`` [D] in the padded dimensions, ``shape`` in the others."""
        canvas = list(shape)
        for dim, end in zip(self.dims, size, strict=True):
            canvas[dim] = end
        return canvas

    def check_fill(self, name: str, dtype: torch.dtype) -> None:
        """Raises :class:`DtypeError` unless ``dtype`` can hold the fill value."""
        if dtype.is_complex:
            return
        if dtype.is_floating_point:
            fits = not math.isfinite(self.fill_value) or abs(self.fill_value) <= torch.finfo(dtype).max
        else:
            limits = (0, 1) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
            fits = limits[0] <= self.fill_value <= limits[1] and self.fill_value == int(self.fill_value)
        if not fits:
            raise DtypeError(
                f"{name} is {dtype_name(torch.empty(0, dtype=dtype))}, which cannot hold the fill value {self.fill_value}."
                " Convert it in the data set, or choose another fill value."
            )


def _as_sizes(size: AnySize, count: int) -> tuple[Size, ...]:
    """The sizes, each of ``count`` numbers, in the order in which they are tried."""
    if isinstance(size, Bucket | ShapePlan):
        buckets = size.shapes if isinstance(size, ShapePlan) else (size,)
        canvases: list[Size] = [(bucket.height, bucket.width) for bucket in buckets]
        if count != 2:
            raise ShapeError(f"Pad: size is a {type(size).__name__}, which has two dimensions, but dim names {count}.")
        return tuple(canvases)
    several = list(size) if isinstance(size, tuple | list) else [size]
    if count > 1 and several and not any(isinstance(row, tuple | list) for row in several):
        several = [several]
    rows = [tuple(row) if isinstance(row, tuple | list) else (row,) for row in several]
    if not rows or any(len(row) != count for row in rows):
        wanted = "a whole number, or several" if count == 1 else f"a tuple of {count} whole numbers, or several"
        raise ShapeError(f"Pad: size is {shown(size)}, expected {wanted}.")
    sizes = [tuple(check_at_least("Pad", "size", number, 1) for number in row) for row in rows]
    return tuple(sorted(set(sizes), key=lambda row: (math.prod(row), row)))
