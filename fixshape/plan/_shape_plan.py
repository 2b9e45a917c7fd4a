"""A plan: the few shapes that a training uses, which of them a sample goes to, and its file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fixshape._check import check_at_least, shown
from fixshape._files import read_limited, write_atomic
from fixshape.errors import BucketError, PlanError, ShapeError
from fixshape.plan._bucket import Bucket

SCHEMA_VERSION = 1
_MOST_BYTES = 1 << 20  # a plan of 10,000 buckets is a quarter of this
_MOST_PIXELS = 1 << 32  # a larger canvas is a typing error or an attack, not a picture


@dataclass(frozen=True, slots=True)
class ShapePlan:
    """The buckets of one training, smallest first.

    It does not say how they were chosen, and makes no promise on how much padding they cost.

    Args:
        buckets: at least one :class:`~fixshape.plan.Bucket`; duplicates are merged, the order does not matter.

    Raises:
        PlanError: no bucket was given.

    Example:
        >>> plan = ShapePlan([Bucket(640, 480, 32), Bucket(480, 640, 32), Bucket(320, 320, 8)])
        >>> plan.buckets[plan.bucket_for(300, 310, boxes=4)]
        Bucket(height=320, width=320, max_boxes=8)
        >>> plan.buckets[plan.bucket_for(300, 310, boxes=9)]
        Bucket(height=480, width=640, max_boxes=32)
    """

    buckets: tuple[Bucket, ...]

    def __init__(self, buckets: Iterable[Bucket]) -> None:
        ordered = tuple(sorted(set(buckets), key=lambda bucket: (bucket.area, bucket.max_boxes, bucket)))
        if not ordered:
            raise PlanError("ShapePlan: got no bucket, expected at least one: ShapePlan([Bucket(320, 320, max_boxes=64)]).")
        object.__setattr__(self, "buckets", ordered)

    def bucket_for(self, height: int, width: int, boxes: int = 0) -> int:
        """The index of the smallest bucket that covers a sample.

        Smallest by pixels, then by box slots.

        Args:
            height: of the image, in pixels.
            width: of the image, in pixels.
            boxes: how many boxes it has.

        Raises:
            BucketError: no bucket covers it; the message says whether the size or the boxes are at fault.
        """
        for index, bucket in enumerate(self.buckets):
            if bucket.covers(height, width, boxes):
                return index
        known = "; ".join(str(bucket) for bucket in self.buckets)
        if any(bucket.covers(height, width) for bucket in self.buckets):
            slots = max(bucket.max_boxes for bucket in self.buckets if bucket.covers(height, width))
            raise BucketError(
                f"ShapePlan.bucket_for: got {boxes} boxes, but the buckets that hold {height}x{width} pixels have at most"
                f" {slots} box slots (buckets: {known})."
                f" Plan with max_boxes={boxes} or more, or give PadToBucket an overflow policy."
            )
        raise BucketError(
            f"ShapePlan.bucket_for: got an image of {height}x{width} (height x width), larger than every bucket ({known})."
            " Resize it before padding (fixshape.detection.host_transform), or plan a bucket that covers it."
        )

    @property
    def digest(self) -> str:
        """A short hash of the buckets: equal for equal plans, in every process and version."""
        return hashlib.sha256(json.dumps(self._rows()).encode()).hexdigest()[:16]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the plan as JSON, atomically.

        Raises:
            OSError: the folder does not exist or cannot be written to.
        """
        body = {"schema_version": SCHEMA_VERSION, "digest": self.digest, "buckets": self._rows()}
        write_atomic(path, (json.dumps(body, indent=2) + "\n").encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ShapePlan:
        """Reads a plan that :meth:`save` wrote. The file is taken as hostile: sizes are checked before they are used.

        Raises:
            PlanError: the file is missing, or not JSON, or no plan, or of a newer schema, or was changed by hand without its
                digest (a plan's digest is what resumed runs and exported models are compared by).
        """
        return cls(_read(path))

    def _rows(self) -> list[list[int]]:
        return [[bucket.height, bucket.width, bucket.max_boxes] for bucket in self.buckets]


def cover_all(sizes: Iterable[Sequence[int]], *, multiple_of: int = 32, max_boxes: int | None = None) -> ShapePlan:
    """A plan of one bucket that covers every sample.

    One shape is the fewest compiles and the most padding; it is no attempt at choosing well.

    Args:
        sizes: ``(height, width)`` or ``(height, width, boxes)`` per sample, pixels after the host resize.
        multiple_of: height and width are rounded up to a multiple of this.
        max_boxes: box slots; ``None`` takes the most that any sample has (at least 1).

    Returns:
        A :class:`ShapePlan` with one bucket.

    Raises:
        PlanError: ``sizes`` is empty.
        ShapeError: a size is not two or three whole numbers, or ``multiple_of`` or ``max_boxes`` is below 1.

    Example:
        >>> cover_all([(300, 400, 7), (410, 200, 2)]).buckets
        (Bucket(height=416, width=416, max_boxes=7),)
    """
    check_at_least("cover_all", "multiple_of", multiple_of, 1)
    height = width = boxes = 0
    for size in sizes:
        if len(size) not in (2, 3):
            raise ShapeError(f"cover_all: got a size of {len(size)} numbers, expected (height, width) or (height, width, boxes).")
        height, width = max(height, int(size[0])), max(width, int(size[1]))
        boxes = max(boxes, int(size[2]) if len(size) == 3 else 0)
    if height == 0:
        raise PlanError("cover_all: got no sizes, expected at least one (height, width[, boxes]).")
    slots = max(boxes, 1) if max_boxes is None else max_boxes
    return ShapePlan([Bucket(_round_up(height, multiple_of), _round_up(width, multiple_of), slots)])


def _round_up(pixels: int, multiple_of: int) -> int:
    return -(-pixels // multiple_of) * multiple_of


def _read(path: str | os.PathLike[str]) -> list[Bucket]:
    where = f"ShapePlan.load: {os.fspath(path)}"
    try:
        body: Any = json.loads(read_limited(path, _MOST_BYTES))
    except FileNotFoundError:
        raise PlanError(f"{where}: there is no such file. Write one with ShapePlan.save.") from None
    except OSError as error:
        raise PlanError(f"{where}: the file cannot be read ({error.strerror}).") from None
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{where}: not a plan: {error}. Write it anew with ShapePlan.save.") from None
    version = body.get("schema_version") if isinstance(body, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise PlanError(f"{where}: not a plan: expected a JSON object with a schema_version, got {shown(body)}.")
    if version > SCHEMA_VERSION:
        raise PlanError(
            f"{where}: schema_version is {version}, this fixshape reads up to {SCHEMA_VERSION}."
            " Update fixshape, or save the plan anew."
        )
    rows = body.get("buckets")
    if not isinstance(rows, list) or not rows:
        raise PlanError(f"{where}: buckets is {shown(rows)}, expected a list of [height, width, max_boxes].")
    buckets = [_bucket(where, index, row) for index, row in enumerate(rows)]
    digest = ShapePlan(buckets).digest
    if body.get("digest") != digest:
        raise PlanError(
            f"{where}: digest is {shown(body.get('digest'))}, but the buckets give {digest!r}: the file was changed."
            f' Set "digest" to that value if the change was meant.'
        )
    return buckets


def _bucket(where: str, index: int, row: Any) -> Bucket:
    whole = isinstance(row, list) and len(row) == 3 and all(type(number) is int and number >= 1 for number in row)
    if not whole or row[0] * row[1] > _MOST_PIXELS or row[2] > _MOST_PIXELS:
        raise PlanError(
            f"{where}: bucket {index} is {shown(row)}, expected [height, width, max_boxes], whole numbers of at least 1."
        )
    return Bucket(*row)
