"""One fixed shape: what a bucket is, and what fits in it."""

from __future__ import annotations

from dataclasses import dataclass

from fixshape._check import check_at_least


@dataclass(frozen=True, order=True, slots=True)
class Bucket:
    """One fixed shape that a batch is padded to (Ascend says *gear*).

    Args:
        height: canvas height in pixels, at least 1.
        width: canvas width in pixels, at least 1.
        max_boxes: box slots per image, at least 1: a static loss needs a slot to mask.

    Raises:
        ShapeError: one of them is not a whole number of at least 1.

    Example:
        >>> bucket = Bucket(320, 480, max_boxes=16)
        >>> bucket.covers(300, 480, 5), bucket.covers(321, 480)
        (True, False)
        >>> str(bucket)
        '320x480, 16 boxes'
    """

    height: int
    width: int
    max_boxes: int

    def __post_init__(self) -> None:
        for name in ("height", "width", "max_boxes"):
            object.__setattr__(self, name, check_at_least("Bucket", name, getattr(self, name), 1))

    @property
    def area(self) -> int:
        """Pixels of the canvas."""
        return self.height * self.width

    def covers(self, height: int, width: int, boxes: int = 0) -> bool:
        """Whether an image of ``height`` x ``width`` pixels with ``boxes`` boxes fits."""
        return height <= self.height and width <= self.width and boxes <= self.max_boxes

    def __str__(self) -> str:
        return f"{self.height}x{self.width}, {self.max_boxes} boxes"
