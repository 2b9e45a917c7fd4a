"""Which of the planned sizes a batch takes.

Shapes: D dimensions that are padded.
"""

from __future__ import annotations

from collections.abc import Sequence

from fixshape.errors import BucketError

Size = tuple[int, ...]


def choose_size(
    where: str, sizes: Sequence[Size], measured: Sequence[tuple[str, Size]], carried: Sequence[int | None] = ()
) -> int:
    """The index of the first of ``sizes`` that covers all of ``measured``, or of the one that all samples carry.

    Args:
        where: begins the messages.
        sizes: each [D], in the order in which they are tried.
        measured: a name for messages and the sizes [D], of each value.
        carried: for each sample the index that it carries, or ``None``.

    Raises:
        BucketError: none covers all (the message names a value that none covers, or the largest in each dimension); samples carry
            different indices, or one that is not there or does not cover them.
    """
    if any(index is not None for index in carried):
        return _carried(where, sizes, measured, carried)
    needed = tuple(max(numbers) for numbers in zip(*(size for _, size in measured), strict=True))
    for index, size in enumerate(sizes):
        if _covers(size, needed):
            return index
    known = ", ".join(map(_shown_size, sizes))
    for name, own in measured:
        if not any(_covers(size, own) for size in sizes):
            way_out = (
                "Cut it in the data set, or plan an end that covers it (fixshape.plan.plan_lengths)."
                if len(own) == 1
                else "Resize it in the data set, or plan a size that covers it."
            )
            raise BucketError(f"{where}: {name} has size {_shown_size(own)}, larger than every planned one ({known}). {way_out}")
    largest = dict.fromkeys(max(measured, key=lambda row: row[1][dim]) for dim in range(len(needed)))
    both = " and ".join(f"{name} has size {_shown_size(own)}" for name, own in largest)
    raise BucketError(
        f"{where}: {both}, and no planned size ({known}) covers all of this batch."
        f" Batch samples of one size together, or plan one of at least {_shown_size(needed)}."
    )


def _carried(where: str, sizes: Sequence[Size], measured: Sequence[tuple[str, Size]], carried: Sequence[int | None]) -> int:
    """The one index that all samples carry, if it covers them."""
    index = carried[0]
    for position, other in enumerate(carried):
        if other != index:
            raise BucketError(
                f"{where}: sample 0 carries bucket {index}, sample {position} {other}, expected one bucket in a batch."
                " Take batches from fixshape.BucketBatchSampler (fixshape.make_loader wires it), or leave bucket out."
            )
    assert index is not None
    if not 0 <= index < len(sizes):
        raise BucketError(
            f"{where}: the samples carry bucket {index}, but the plan has shapes 0 to {len(sizes) - 1}."
            " Collate with the plan that the sampler has."
        )
    for name, own in measured:
        if not _covers(sizes[index], own):
            raise BucketError(
                f"{where}: {name} has size {_shown_size(own)}, larger than the bucket that its batch was given"
                f" ({_shown_size(sizes[index])}). Give the sampler the sizes after every resize."
            )
    return index


def _covers(size: Size, needed: Size) -> bool:
    return all(end >= number for end, number in zip(size, needed, strict=True))


def _shown_size(size: Size) -> str:
    return "x".join(map(str, size))
