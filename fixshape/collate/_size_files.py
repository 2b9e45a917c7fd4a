"""Which sizes does a file hold? An array, a table, rows of JSON, or COCO annotations.

Shapes: N images.
"""

from __future__ import annotations

import csv
import os
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from fixshape._check import shown
from fixshape.collate._coco_sizes import read_coco
from fixshape.collate._json_stream import JsonStream
from fixshape.collate._size_checks import MOST_ROWS, check_rows, is_count, is_side, no_image, not_a_size
from fixshape.errors import DatasetError

_LONGEST_LINE = 4096  # characters
_COLUMNS = ("height", "width", "boxes")


def read_sizes(path: str | os.PathLike[str]) -> NDArray[np.int64]:
    r"""The sizes that a file holds, whatever its format; its extension says which.

    * ``.json``: COCO annotations, as :func:`coco_sizes` reads them; or a list of rows ``[height, width]`` or
      ``[height, width, boxes]``.
    * ``.csv``: with commas. A first line of names may say which columns are ``height``, ``width`` and ``boxes``, others are then
      passed over; without it a line is height, width[, boxes].
    * ``.npy``: an array [N, 2] or [N, 3] of whole numbers. Nothing in it is unpickled.

    Args:
        path: the file. It is taken as hostile: what it promises is checked before memory is taken.

    Returns:
        [N, 2] or [N, 3] int64, (height, width[, boxes]) in pixels as the file has them, in its order (COCO: by image id).

    Raises:
        DatasetError: the file is missing, or has another extension, or is not what its extension says; a row is no size (the
            message names it); or there is no row.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "sizes.csv")
        ...     _ = path.write_text("file,width,height\na.jpg,640,480\n")
        ...     read_sizes(path).tolist()
        [[480, 640]]
    """
    where = f"read_sizes: {os.fspath(path)}"
    readers = {".json": _from_json, ".csv": _from_csv, ".npy": _from_npy}
    reader = readers.get(Path(path).suffix.lower())
    if reader is None:
        raise DatasetError(f"{where}: expected a file that ends in {', '.join(readers)}.")
    try:
        with open(path, "rb") as file:
            return reader(where, file)
    except OSError as error:
        raise DatasetError(f"{where}: the file cannot be read ({error.strerror}). Give its path.") from None


def _from_json(where: str, file: BinaryIO) -> NDArray[np.int64]:
    stream = JsonStream(file)
    try:
        if stream.next_character() != "[":
            return read_coco(where, stream)
        found, columns = array("q"), 0
        for index, row in enumerate(stream.elements()):
            columns = columns or (len(row) if isinstance(row, list) else 0)
            if not isinstance(row, list) or len(row) != columns or columns not in (2, 3):
                raise DatasetError(f"{where}: row {index} is {shown(row)}, expected [height, width] or [height, width, boxes].")
            _append(where, f"row {index}", found, row)
        stream.finish()
    except DatasetError:
        raise
    except ValueError as error:
        raise DatasetError(f"{where}: not JSON ({error}). Give COCO annotations, or a list of [height, width, boxes].") from None
    return _table(where, found, columns)


def _from_csv(where: str, file: BinaryIO) -> NDArray[np.int64]:
    found, width = array("q"), 0
    columns: tuple[int, ...] = (0, 1, 2)
    try:
        for number, cells in enumerate(csv.reader(_lines(where, file)), 1):
            if not cells:
                continue
            if not width:
                width, names = len(cells), [cell.strip().lower() for cell in cells]
                if not all(name.lstrip("+-").isdigit() for name in names):
                    columns = _named(where, names)
                    continue
                if width not in (2, 3):
                    raise DatasetError(
                        f"{where}: line {number} has {width} columns, expected height,width or height,width,boxes."
                    )
                columns = columns[:width]
            if len(cells) != width:
                raise DatasetError(f"{where}: line {number} has {len(cells)} columns, the first has {width}.")
            row = [cells[column].strip() for column in columns]
            whole = all(cell.isascii() and cell.removeprefix("-").isdigit() and len(cell) < 19 for cell in row)
            _append(where, f"line {number}", found, [int(cell) for cell in row] if whole else row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{where}: not a table ({error}). Give lines of height,width,boxes.") from None
    return _table(where, found, len(columns))


def _lines(where: str, file: BinaryIO) -> Iterator[str]:
    """The lines of a text, none of them longer than memory should be."""
    number = 0
    while line := file.readline(_LONGEST_LINE + 1):
        number += 1
        if len(line) > _LONGEST_LINE:
            raise DatasetError(f"{where}: line {number} has more than {_LONGEST_LINE:,} characters.")
        yield line.decode("utf-8-sig" if number == 1 else "utf-8")


def _named(where: str, names: list[str]) -> tuple[int, ...]:
    """Which columns are height, width and boxes, where the first line says so."""
    if names.count("height") != 1 or names.count("width") != 1 or names.count("boxes") > 1:
        raise DatasetError(
            f"{where}: the first line is {shown(','.join(names))}, expected whole numbers, or names: one height, one width and at"
            " most one boxes among them."
        )
    return tuple(names.index(name) for name in _COLUMNS if name in names)


def _append(where: str, name: str, found: array[int], row: Sequence[object]) -> None:
    if not (is_side(row[0]) and is_side(row[1]) and all(is_count(boxes) for boxes in row[2:])):
        raise not_a_size(where, name, row)
    if len(found) >= MOST_ROWS * len(row):
        raise DatasetError(f"{where}: it has more than {MOST_ROWS:,} rows.")
    found.extend(row)  # type: ignore[arg-type]


def _table(where: str, found: array[int], columns: int) -> NDArray[np.int64]:
    if not found:
        raise no_image(where)
    return np.array(found, np.int64).reshape(-1, columns)


def _from_npy(where: str, file: BinaryIO) -> NDArray[np.int64]:
    try:
        readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        version = npy.read_magic(file)
        if version not in readers:
            raise ValueError(f"its format is version {version[0]}.{version[1]}")
        shape, column_major, dtype = readers[version](file)
    # A header is a Python literal: a hostile one may raise whatever the parser does.
    except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError) as error:
        raise DatasetError(f"{where}: not an array of numpy.save ({error!s:.100}).") from None
    if len(shape) != 2 or shape[1] not in (2, 3) or dtype.kind not in "iu":
        raise DatasetError(
            f"{where}: the array is {shape} {dtype}, expected [N, 2] or [N, 3] whole numbers: height, width[, boxes]."
        )
    promised, there = shape[0] * shape[1] * dtype.itemsize, os.fstat(file.fileno()).st_size - file.tell()
    if promised != there or shape[0] > MOST_ROWS:
        raise DatasetError(
            f"{where}: its header promises {promised:,} bytes, {there:,} follow, and {MOST_ROWS:,} rows are read at most."
        )
    values = np.frombuffer(file.read(promised), dtype)
    rows = values.reshape(shape, order="F" if column_major else "C")
    return check_rows(where, rows, lambda index: f"row {index}")
