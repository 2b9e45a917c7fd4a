"""One padded tensor of a batch, of any rank: one allocation, a copy of each value, and its padding written only where needed.

Shapes: B rows of the batch (fillers included), S the canvas of one value, any number of dimensions.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from fixshape.collate._memory import empty, shared_zeros

_PIECE = 8 << 20  # bytes written to a file at once: what is larger has left the cache before it is written


def stack_padded(values: Sequence[Tensor], rows: int, canvas: Sequence[int], fill_value: float = 0) -> Tensor:
    """[B, *S]: each value at the origin of its row, ``fill_value`` everywhere else; in a DataLoader worker in shared memory.

    The values have one dtype and fit into the canvas.
    """
    shape, dtype = (rows, *canvas), values[0].dtype
    if get_worker_info() is None:
        batch, is_zero = empty(shape, dtype)
    else:
        (batch, file), is_zero = shared_zeros(shape, dtype), True
        if file is not None:
            _write(file, values, canvas, fill_value)
            if fill_value != 0:
                batch[len(values) :].fill_(fill_value)
            return batch
    is_filled = is_zero and fill_value == 0
    for row, value in zip(batch, values, strict=False):
        _place(row, value, None if is_filled else fill_value)
    if not is_filled:
        batch[len(values) :].fill_(fill_value)
    return batch


def _place(row: Tensor, value: Tensor, fill_value: float | None) -> None:
    """Writes ``value`` to the origin of ``row``, and ``fill_value`` around it unless it is ``None``."""
    inside: tuple[slice, ...] = ()
    for size, end in zip(value.shape, row.shape, strict=True):
        if fill_value is not None and size < end:
            row[(*inside, slice(size, None))].fill_(fill_value)
        inside += (slice(size),)
    row[inside].copy_(value)


def _write(file: int, values: Sequence[Tensor], canvas: Sequence[int], fill_value: float) -> None:
    """Writes the values to the file behind a batch, piece by piece.

    Through the mapping each of its pages would fault once more, which costs more than a second copy of a piece that is still in
    the cache. Leading dimensions that no value pads may be cut into pieces: the channels of an image.
    """
    split = 0
    while (
        split < len(canvas) - 1
        and math.prod(canvas[split:]) * values[0].itemsize > _PIECE
        and all(value.shape[split] == canvas[split] for value in values)
    ):
        split += 1
    piece = torch.empty(tuple(canvas[split:]), dtype=values[0].dtype)
    data = piece.reshape(-1).view(torch.uint8).numpy().data.cast("B")
    at = 0
    for value in values:
        for part in value.flatten(0, split - 1) if split else (value,):
            _place(piece, part, fill_value)
            written = 0
            while written < len(data):
                written += os.pwrite(file, data[written:], at + written)
            at += len(data)
