"""PadToBucket in a DataLoader: the same batch with and without workers, built in shared memory."""

from __future__ import annotations

import pytest
import torch
import torch.multiprocessing
from torch.utils.data import DataLoader

from fixshape.collate import PadToBucket
from fixshape.plan import Bucket
from tests.collate.samples import EVERYTHING, PadAndTell, Samples, make_sample

SAMPLES = Samples([make_sample(10 + n, 30 - n, n % 4, seed=n, keys=EVERYTHING, image_id=n) for n in range(7)])
PAD = PadAndTell(PadToBucket(Bucket(24, 32, 4), batch_size=3))


@pytest.fixture(params=sorted(torch.multiprocessing.get_all_sharing_strategies()))
def sharing_strategy(request):
    before = torch.multiprocessing.get_sharing_strategy()
    torch.multiprocessing.set_sharing_strategy(request.param)
    yield request.param
    torch.multiprocessing.set_sharing_strategy(before)


def _assert_worker_batches_equal(start_method: str) -> None:
    alone = list(DataLoader(SAMPLES, batch_size=3, collate_fn=PAD))
    options = {"num_workers": 2, "multiprocessing_context": start_method, "collate_fn": PAD}
    helped = list(DataLoader(SAMPLES, batch_size=3, **options))
    assert len(alone) == len(helped) == 3
    for (images, targets, shared), (worker_images, worker_targets, worker_shared) in zip(alone, helped, strict=True):
        assert torch.equal(images, worker_images)
        assert targets.keys() == worker_targets.keys()
        assert all(torch.equal(value, worker_targets[key]) for key, value in targets.items())
        assert not any(shared.values())
        assert all(worker_shared[key] for key in ("images", "boxes", "labels", *EVERYTHING))


def test_forked_workers_make_the_same_batches_in_shared_memory(sharing_strategy):
    _assert_worker_batches_equal("fork")


def test_spawned_workers_make_the_same_batches_in_shared_memory():
    _assert_worker_batches_equal("spawn")


def test_the_random_subset_follows_the_loader_s_seed():
    samples = Samples([make_sample(boxes=9, seed=n) for n in range(4)])
    pad = PadToBucket(Bucket(24, 32, 4), overflow="sample")

    def labels(seed: int) -> list[object]:
        generator = torch.Generator().manual_seed(seed)
        loader = DataLoader(samples, 2, num_workers=1, multiprocessing_context="fork", collate_fn=pad, generator=generator)
        return [targets["boxes"].tolist() for _, targets in loader]

    assert labels(0) == labels(0)
    assert labels(0) != labels(1)
