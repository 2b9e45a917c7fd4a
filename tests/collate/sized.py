"""Data sets of given sizes, plans for them, and what an epoch has to be: shared by the sampler's and the loader's tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import Dataset

from fixshape.collate import BucketBatchSampler, BucketIndex
from fixshape.plan import Bucket, ShapePlan

SIDE, SLOTS = 12, 5
Batches = list[list[BucketIndex]]


class Sized(Dataset[tuple[Tensor, dict[str, Any]]]):
    """Images of given sizes, filled with their index, which is their ``image_id`` too; a spawned worker can import it."""

    def __init__(self, sizes: Sequence[Sequence[int]]) -> None:
        self.sizes = [tuple(map(int, size)) for size in sizes]

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        assert type(index) is int
        height, width, boxes = self.sizes[index]
        corners = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(boxes, 4)
        target = {"boxes": corners, "labels": [1] * boxes, "image_id": index}
        return torch.full((1, height, width), float(index)), target


a_bucket = st.builds(Bucket, st.integers(1, SIDE), st.integers(1, SIDE), st.integers(1, SLOTS))
a_size = st.tuples(st.integers(1, SIDE), st.integers(1, SIDE), st.integers(0, SLOTS))


@st.composite
def plans(draw: st.DrawFn) -> ShapePlan:
    """Some buckets, one that covers everything, which may be the fallback, and at times batch sizes of their own."""
    buckets = draw(st.lists(a_bucket, min_size=1, max_size=5, unique=True))
    everything = Bucket(SIDE, SIDE, SLOTS)
    as_fallback = draw(st.booleans())
    if not as_fallback:
        buckets = [*{*buckets, everything}]
    rows = st.lists(st.integers(1, 4), min_size=len(buckets), max_size=len(buckets))
    return ShapePlan(buckets, fallback=everything if as_fallback else None, batch_sizes=draw(st.none() | rows))


def assert_is_epoch(
    plan: ShapePlan, sizes: Sequence[Sequence[int]], samplers: Sequence[BucketBatchSampler], ranks: Sequence[Batches]
) -> None:
    """``ranks``, the batches of one epoch on each rank, are what the sampler promises."""
    first = samplers[0]
    own = plan.assign(sizes).tolist() if len(sizes) else []
    steps = list(zip(*ranks, strict=True))
    assert len(steps) == len(ranks[0])
    seen: Counter[int] = Counter()
    placed: dict[int, int] = {}
    repeated = 0
    for step in steps:
        (bucket,) = {index.bucket for batch in step for index in batch}
        for batch in step:
            assert len(batch) == plan.batch_size(bucket, first.batch_size)
        for index in (index for batch in step for index in batch):
            assert plan.shapes[bucket].covers(*sizes[index])
            if bucket != own[index]:
                assert bucket > own[index] and bucket in own and bucket < len(plan.buckets)
            repeated += index.repeated
            if not index.repeated:
                seen[int(index)] += 1
                placed[int(index)] = bucket
    for step in steps:
        assert all(placed.get(int(index)) == index.bucket for batch in step for index in batch if index.repeated)
    assert set(seen.values()) <= {1}
    left = [index for index in range(len(sizes)) if index not in seen]
    assert len(left) == first.dropped and repeated == first.repeated
    assert sum(bucket != own[index] for index, bucket in placed.items()) == first.promoted
    if first.drop_last:
        assert repeated == 0
        left_over = Counter(own[index] for index in left)
        whole = {bucket: plan.batch_size(bucket, first.batch_size) * len(ranks) for bucket in left_over}
        # What is left of a bucket is no whole batch, beside what was promoted to it from smaller ones and left there.
        assert len(left) <= sum(plan.batch_size(bucket, first.batch_size) * len(ranks) - 1 for bucket in set(own))
        smallest = min(left_over, default=0)
        assert left_over[smallest] < whole.get(smallest, 1) or smallest not in whole
    else:
        assert not left
