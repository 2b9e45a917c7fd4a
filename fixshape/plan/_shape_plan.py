"""A plan: the few shapes that a training uses, and which of them a sample goes to.

Shapes: ``N`` samples.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fixshape._check import check_at_least
from fixshape._files import write_atomic
from fixshape.errors import BucketError, PlanError, ShapeError
from fixshape.plan._bucket import Bucket
from fixshape.plan._certificate import Certificate
from fixshape.plan._plan_file import PlanBody, check_digest, digest_of, encode, read
from fixshape.plan._rows import Sizes, as_rows


@dataclass(frozen=True, slots=True)
class ShapePlan:
    """The buckets of one training, smallest first.

    It does not say how they were chosen, and promises no more on padding than its certificate does.

    Args:
        buckets: at least one :class:`~fixshape.plan.Bucket`; duplicates are merged, the order does not matter.
        fallback: a bucket for samples that no other covers, so that it is compiled only when one comes.
        batch_sizes: images per batch of each bucket, in the order the buckets are given in, and one more for the fallback where
            it has its own. ``None`` leaves them to whoever makes the batches.
        certificate: what is proven of the padding. It is kept in the plan's file and is no part of its identity.

    Attributes:
        shapes: the buckets and after them the fallback, where there is one: what an index of :meth:`bucket_for` counts in.

    Raises:
        PlanError: no bucket was given, or the batch sizes are not one of each, or a bucket was given twice with two of them.
        ShapeError: a batch size is not a whole number of at least 1.

    Example:
        >>> plan = ShapePlan([Bucket(640, 480, 32), Bucket(480, 640, 32), Bucket(320, 320, 8)])
        >>> plan.buckets[plan.bucket_for(300, 310, boxes=4)]
        Bucket(height=320, width=320, max_boxes=8)
        >>> plan.buckets[plan.bucket_for(300, 310, boxes=9)]
        Bucket(height=480, width=640, max_boxes=32)
        >>> ShapePlan([Bucket(320, 320, 8)], fallback=Bucket(640, 640, 99)).bucket_for(500, 500)
        1
    """

    buckets: tuple[Bucket, ...]
    fallback: Bucket | None
    batch_sizes: tuple[int, ...] | None
    certificate: Certificate | None = field(compare=False)

    def __init__(
        self,
        buckets: Iterable[Bucket],
        *,
        fallback: Bucket | None = None,
        batch_sizes: Sequence[int] | None = None,
        certificate: Certificate | None = None,
    ) -> None:
        given = tuple(buckets)
        ordered = tuple(sorted(set(given), key=lambda bucket: (bucket.area, bucket.max_boxes, bucket)))
        if not ordered:
            raise PlanError("ShapePlan: got no bucket, expected at least one: ShapePlan([Bucket(320, 320, max_boxes=64)]).")
        object.__setattr__(self, "buckets", ordered)
        object.__setattr__(self, "fallback", fallback)
        object.__setattr__(self, "batch_sizes", _sorted_batch_sizes(given, ordered, fallback, batch_sizes))
        object.__setattr__(self, "certificate", certificate)

    @property
    def shapes(self) -> tuple[Bucket, ...]:
        """The buckets, and the fallback where there is one."""
        return self.buckets if self.fallback is None else (*self.buckets, self.fallback)

    def bucket_for(self, height: int, width: int, boxes: int = 0) -> int:
        """The index in :attr:`shapes` of the smallest bucket that covers a sample; of the fallback only when none does.

        Smallest by pixels, then by box slots.

        Args:
            height: of the image, in pixels.
            width: of the image, in pixels.
            boxes: how many boxes it has.

        Raises:
            BucketError: nothing covers it; the message says whether the size or the boxes are at fault.
        """
        for index, bucket in enumerate(self.shapes):
            if bucket.covers(height, width, boxes):
                return index
        raise self._uncovered("ShapePlan.bucket_for", height, width, boxes)

    def assign(self, sizes: Sizes) -> npt.NDArray[np.int64]:
        """:meth:`bucket_for` of every sample at once.

        Args:
            sizes: [N, 2] or [N, 3] whole numbers: (height, width[, boxes]), pixels after the host resize.

        Returns:
            [N] int64: indices in :attr:`shapes`.

        Raises:
            BucketError: nothing covers some sample; the message names the first.
            ShapeError: a row is not two or three whole numbers in range.

        Example:
            >>> ShapePlan([Bucket(320, 320, 8), Bucket(640, 480, 8)]).assign([(300, 300), (400, 300), (300, 20)])
            array([0, 1, 0])
        """
        rows = as_rows("ShapePlan.assign", sizes, empty=True)
        found = np.full(len(rows), -1, np.int64)
        for index in reversed(range(len(self.shapes))):  # the smallest writes last
            bucket = self.shapes[index]
            found[(rows <= [bucket.height, bucket.width, bucket.max_boxes]).all(axis=1)] = index
        if (found < 0).any():
            first = int((found < 0).argmax())
            raise self._uncovered(f"ShapePlan.assign: sample {first}", *rows[first].tolist())
        return found

    def batch_size(self, index: int, default: int) -> int:
        """How many images a batch of one shape has.

        Args:
            index: of the shape in :attr:`shapes`.
            default: what holds where the plan says nothing.

        Returns:
            The plan's own batch size of that shape, or ``default``.

        Raises:
            ShapeError: there is no such shape.
        """
        if not 0 <= index < len(self.shapes):
            raise ShapeError(f"ShapePlan.batch_size: index is {index}, expected 0 to {len(self.shapes) - 1}.")
        if self.batch_sizes is None or index >= len(self.batch_sizes):
            return default
        return self.batch_sizes[index]

    @property
    def digest(self) -> str:
        """A short hash of buckets, fallback and batch sizes: equal for equal plans, in every process and version."""
        return digest_of(self._body())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the plan as JSON, atomically.

        Raises:
            OSError: the folder does not exist or cannot be written to.
        """
        write_atomic(path, encode(self._body()))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ShapePlan:
        """Reads a plan that :meth:`save` wrote. The file is taken as hostile: sizes are checked before they are used.

        Raises:
            PlanError: the file is missing, or not JSON, or no plan, or of a newer schema, or was changed by hand without its
                digest (a plan's digest is what resumed runs and exported models are compared by).
        """
        (buckets, fallback, batch_sizes, certificate), digest = read(path)
        try:
            plan = cls(buckets, fallback=fallback, batch_sizes=batch_sizes, certificate=certificate)
        except PlanError as error:
            raise PlanError(f"ShapePlan.load: {os.fspath(path)}: {error}") from None
        check_digest(path, plan.digest, digest)
        return plan

    def _body(self) -> PlanBody:
        return PlanBody(self.buckets, self.fallback, self.batch_sizes, self.certificate)

    def _uncovered(self, where: str, height: int, width: int, boxes: int) -> BucketError:
        known = "; ".join(str(bucket) for bucket in self.shapes)
        holding = [bucket.max_boxes for bucket in self.shapes if bucket.covers(height, width)]
        if holding:
            return BucketError(
                f"{where}: got {boxes} boxes, but the buckets that hold {height}x{width} pixels have at most"
                f" {max(holding)} box slots (buckets: {known})."
                f" Plan with max_boxes={boxes} or more, or give PadToBucket an overflow policy."
            )
        return BucketError(
            f"{where}: got an image of {height}x{width} (height x width), larger than every bucket ({known})."
            " Resize it before padding (fixshape.detection.host_transform), or plan a bucket that covers it."
        )


def cover_all(sizes: Sizes, *, multiple_of: int = 32, max_boxes: int | None = None) -> ShapePlan:
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
        ShapeError: a size is not two or three whole numbers in range, or ``multiple_of`` or ``max_boxes`` is below 1.

    Example:
        >>> cover_all([(300, 400, 7), (410, 200, 2)]).buckets
        (Bucket(height=416, width=416, max_boxes=7),)
    """
    check_at_least("cover_all", "multiple_of", multiple_of, 1)
    height, width, boxes = as_rows("cover_all", sizes).max(axis=0).tolist()
    slots = max(boxes, 1) if max_boxes is None else max_boxes
    return ShapePlan([Bucket(-(-height // multiple_of) * multiple_of, -(-width // multiple_of) * multiple_of, slots)])


def _sorted_batch_sizes(
    given: Sequence[Bucket], ordered: Sequence[Bucket], fallback: Bucket | None, batch_sizes: Sequence[int] | None
) -> tuple[int, ...] | None:
    if batch_sizes is None:
        return None
    checked = [check_at_least("ShapePlan", f"batch_sizes[{index}]", size, 1) for index, size in enumerate(batch_sizes)]
    own = len(checked) == len(given) + 1 and fallback is not None
    if len(checked) != len(given) and not own:
        more = ", and one more for the fallback if it shall have its own" if fallback is not None else ""
        raise PlanError(f"ShapePlan: got {len(checked)} batch sizes for {len(given)} buckets, expected one of each{more}.")
    by_bucket: dict[Bucket, int] = {}
    for bucket, size in zip(given, checked, strict=False):
        if by_bucket.setdefault(bucket, size) != size:
            raise PlanError(f"ShapePlan: bucket {bucket} was given twice, with batch sizes {by_bucket[bucket]} and {size}.")
    return (*(by_bucket[bucket] for bucket in ordered), *checked[len(given) :])
