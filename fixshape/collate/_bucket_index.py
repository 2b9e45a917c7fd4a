"""What a sampler tells the data set beside the index: the bucket of the batch, and the scale that was drawn."""

from __future__ import annotations


class BucketIndex(int):
    """A sample's index that knows the batch it is for: an int wherever an int is wanted. Can be pickled.

    Args:
        index: of the sample in the data set.
        bucket: of its batch, an index into ``plan.shapes``; a promoted sample has its batch's, not the smallest that covers it.
        min_size: what the shorter side is to become, in pixels, where the sampler draws a scale.
        repeated: whether it completes a batch, and the epoch has this sample elsewhere.

    Example:
        >>> index = BucketIndex(7, bucket=2, min_size=640)
        >>> index, list(range(100, 110))[index], index.bucket
        (BucketIndex(7, bucket=2, min_size=640), 107, 2)
    """

    bucket: int
    min_size: int | None
    repeated: bool

    def __new__(cls, index: int, bucket: int, min_size: int | None = None, repeated: bool = False) -> BucketIndex:
        made = super().__new__(cls, index)
        made.bucket = bucket
        made.min_size = min_size
        made.repeated = repeated
        return made

    def __getnewargs__(self) -> tuple[int, int, int | None, bool]:  # type: ignore[override]
        return int(self), self.bucket, self.min_size, self.repeated

    def __repr__(self) -> str:
        scale = "" if self.min_size is None else f", min_size={self.min_size}"
        return f"BucketIndex({int(self)}, bucket={self.bucket}{scale}{', repeated=True' if self.repeated else ''})"
