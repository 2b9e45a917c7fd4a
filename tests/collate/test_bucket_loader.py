"""make_loader with real workers: one shape per bucket, the same on every rank, and resumed at the batch the loop had not seen."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

import fixshape
from fixshape.collate import BucketBatchSampler, BucketLoader, PadPixelValues, PadToBucket, make_loader
from fixshape.detection import HostTransform
from fixshape.errors import BucketError, PlanError, ShapeError, TargetError
from fixshape.plan import Bucket, ShapePlan, resize_sizes
from tests.collate.sized import Sized

PLAN = ShapePlan([Bucket(4, 8, 3), Bucket(8, 4, 3), Bucket(8, 8, 3), Bucket(12, 12, 5)])
SIZES = [(4, 8, 1)] * 7 + [(8, 3, 0)] * 6 + [(7, 7, 3)] * 8 + [(12, 9, 5)] * 7
OPTIONS: dict[str, Any] = {"sizes": SIZES, "rank": 0, "world_size": 1}


def _loader(batch_size=2, **options) -> BucketLoader:
    return make_loader(Sized(SIZES), PLAN, batch_size, **{**OPTIONS, **options})


def _ids(batch) -> list[int]:
    images, targets = batch
    assert images[:, 0, 0, 0].tolist() == targets["image_id"].tolist()
    return targets["image_id"].tolist()


def _shape(batch) -> tuple[int, ...]:
    images, targets = batch
    return (*images.shape, targets["boxes"].shape[1])


@pytest.mark.parametrize(
    "workers",
    [
        {},
        {"num_workers": 2, "multiprocessing_context": "fork"},
        {"num_workers": 1, "multiprocessing_context": "spawn", "persistent_workers": True},
    ],
    ids=["here", "fork", "spawn"],
)
def test_there_are_as_many_batch_shapes_as_buckets_in_use(workers):
    loader = _loader(3, **workers)
    for epoch in range(2):
        expected = BucketBatchSampler(PLAN, SIZES, 3, rank=0, world_size=1)
        expected.set_epoch(epoch)
        batches = list(loader)
        assert [_ids(batch) for batch in batches] == [list(map(int, indices)) for indices in expected]
        used = {PLAN.shapes[bucket] for bucket in PLAN.assign(SIZES).tolist()}
        assert {_shape(batch) for batch in batches} == {(3, 1, one.height, one.width, one.max_boxes) for one in used}


class _Counted(Sized):
    """Knows how many of its samples were read, in this process."""

    read = 0

    def __getitem__(self, index):
        self.read += 1
        return super().__getitem__(index)


def test_the_state_names_the_first_batch_that_the_loop_was_not_given():
    expected = _loader()
    whole, following = ([_ids(batch) for batch in expected] for _ in range(2))
    loader = _loader(num_workers=2, prefetch_factor=4, multiprocessing_context="fork")
    seen = []
    for batch in loader:
        seen.append(_ids(batch))
        if len(seen) == 3:
            break
    state = loader.state_dict()
    assert (state["epoch"], state["step"]) == (0, 3)
    assert len(list(loader.batch_sampler)) > 0 and loader.state_dict() == state  # looking at what is to come counts nothing
    resumed = _loader(num_workers=2, multiprocessing_context="fork")
    resumed.load_state_dict(state)
    assert len(resumed) == len(whole)
    seen += [_ids(batch) for batch in resumed]
    assert seen == whole
    assert [_ids(batch) for batch in resumed] == following


def test_resuming_reads_nothing_of_what_was_seen():
    dataset = _Counted(SIZES)
    loader = make_loader(dataset, PLAN, 2, **OPTIONS)
    state = _loader().state_dict() | {"step": len(loader) - 1}
    loader.load_state_dict(state)
    assert len(list(loader)) == 1 and dataset.read == 2


def test_persistent_workers_that_were_left_early_begin_the_next_epoch_or_where_they_are_told():
    expected = _loader()
    epochs = [[_ids(batch) for batch in expected] for _ in range(3)]
    loader = _loader(num_workers=1, persistent_workers=True, prefetch_factor=4, multiprocessing_context="fork")
    for _ in loader:
        break
    state = loader.state_dict()
    assert [_ids(batch) for batch in loader] == epochs[1]
    loader.load_state_dict(state)
    assert [_ids(batch) for batch in loader] == epochs[0][1:]
    assert loader.state_dict()["epoch"] == 1
    loader.set_epoch(2)
    assert [_ids(batch) for batch in loader] == epochs[2]


@pytest.mark.parametrize("stop", [0, 1, 5, 11, 12, 13, 14])
def test_killed_and_resumed_at_any_step_each_sample_comes_once(stop):
    """The state is saved in the loop's body, as a checkpoint is; the last batch of an epoch leads to the next one."""
    loader = _loader(drop_last=False)
    assert len(loader) == 14 and loader.batch_sampler.repeated == 0
    seen, state = [], loader.state_dict()
    for batch in itertools.islice(loader, stop):
        seen += _ids(batch)
        state = loader.state_dict()
    resumed = _loader(drop_last=False, seed=99)
    resumed.load_state_dict(state)
    if stop < 14:
        seen += [index for batch in resumed for index in _ids(batch)]
    assert sorted(seen) == list(range(len(SIZES)))
    assert resumed.state_dict()["epoch"] == 1


def _train_until_killed(folder: Path, steps: int) -> None:
    loader = _loader(drop_last=False, num_workers=1, prefetch_factor=4, multiprocessing_context="fork")
    path = folder / "state.pt"
    if path.exists():
        loader.load_state_dict(torch.load(path))
    for count, batch in enumerate(loader, 1):
        with (folder / "seen.txt").open("a") as file:
            file.write("".join(f"{index}\n" for index in _ids(batch)))
        torch.save(loader.state_dict(), path)
        if count == steps:
            os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_was_killed_goes_on_in_another(tmp_path):
    context = multiprocessing.get_context("fork")
    for steps in (5, 4, 10**9):
        process = context.Process(target=_train_until_killed, args=(tmp_path, steps))
        process.start()
        process.join()
        assert process.exitcode == (0 if steps == 10**9 else -signal.SIGKILL)
    assert sorted(map(int, (tmp_path / "seen.txt").read_text().split())) == list(range(len(SIZES)))


def test_watch_and_tqdm_show_its_length():
    loader = _loader()
    bar = tqdm(loader, disable=False, file=tempfile.TemporaryFile("w+"))
    assert bar.total == len(loader) == len(list(bar)) > 0
    watched = fixshape.watch(loader, backend="cpu", progress=False)
    for _ in watched:
        pass
    assert len({record.shapes for record in watched.records}) == 4
    assert loader.state_dict()["epoch"] == 2
    assert isinstance(loader, DataLoader)


def test_ranks_pad_to_the_same_shape_where_one_has_small_samples_only():
    """A promoted batch: what one rank gets of it would fit a smaller bucket than what the other gets."""
    plan = ShapePlan([Bucket(4, 4, 1), Bucket(8, 8, 1)])
    sizes = [(4, 4, 0)] * 2 + [(8, 8, 0)] * 2
    promoted = 0
    for seed in range(20):
        ranks = [list(make_loader(Sized(sizes), plan, 2, sizes=sizes, rank=rank, world_size=2, seed=seed)) for rank in range(2)]
        for one, other in zip(*ranks, strict=True):
            assert _shape(one) == _shape(other) == (2, 1, 8, 8, 1)
            promoted += any((targets["image_sizes"] == 4).all() for _, targets in (one, other))
    assert promoted > 2


def _one_rank(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        loader = make_loader(Sized(SIZES), PLAN, 3, sizes=SIZES, drop_last=False)
        assert (loader.batch_sampler.rank, loader.batch_sampler.world_size) == (rank, 2)
        seen = []
        for batch in loader:
            shapes: list[Any] = [None, None]
            torch.distributed.all_gather_object(shapes, (_shape(batch), loader.state_dict()))
            assert shapes[0] == shapes[1]
            seen += _ids(batch)
        both: list[Any] = [None, None]
        torch.distributed.all_gather_object(both, seen)
        assert set(both[0] + both[1]) == set(range(len(SIZES)))
    finally:
        torch.distributed.destroy_process_group()


def test_two_processes_have_the_same_shape_at_every_step(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_one_rank, args=(rank, str(tmp_path))) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]


class _Resize:
    """A transform that heeds the scale it is given, as a detection model's does."""

    def __call__(self, image, target, *, min_size=None):
        ((height, width),) = resize_sizes([image.shape[1:]], min_size or 8, 16).tolist()
        return image[:, :1, :1].expand(-1, height, width), {**target, "min_size": min_size}

    def sizes(self, sizes):
        return resize_sizes(sizes, 8, 16)


ORIGINALS = [(20, 30, 1), (30, 20, 2), (40, 41, 0), (16, 60, 3)] * 6
SCALED = ShapePlan([Bucket(8, 16, 3), Bucket(16, 8, 3), Bucket(16, 16, 3)])


@pytest.mark.parametrize("workers", [0, 1])
def test_the_scale_that_is_drawn_is_the_scale_of_the_transform(workers):
    options = {"scales": [4, 6, 8, 12, 16], "max_size": 16, "rank": 0, "world_size": 1, "drop_last": False}
    context = {"multiprocessing_context": "fork"} if workers else {}
    loader = make_loader(
        Sized(ORIGINALS), SCALED, 2, sizes=ORIGINALS, transform=_Resize(), num_workers=workers, **context, **options
    )
    sampler = BucketBatchSampler(SCALED, ORIGINALS, 2, **options)
    sizes = set()
    for (images, targets), indices in zip(loader, sampler, strict=True):
        wanted = [resize_sizes([ORIGINALS[index][:2]], index.min_size, 16)[0].tolist() for index in indices]
        assert targets["image_sizes"].tolist() == wanted
        bucket = SCALED.shapes[indices[0].bucket]
        assert images.shape[2:] == (bucket.height, bucket.width)
        sizes |= set(map(tuple, wanted))
    assert len(sizes) > 6


def test_a_detection_model_s_transform_takes_the_scale():
    options = {"scales": range(16, 33, 4), "max_size": 48, "transform": HostTransform([24], 48, None), "rank": 0, "world_size": 1}
    everything = resize_sizes(ORIGINALS, options["scales"], 48)
    plan = ShapePlan([Bucket(16, 32, 3), Bucket(32, 24, 3), Bucket(*everything.max(0).tolist())])
    loader = make_loader(Sized(ORIGINALS), plan, 2, drop_last=False, **options)
    seen = {}
    for images, targets in loader:
        assert tuple(images.shape[2:]) in {(bucket.height, bucket.width) for bucket in plan.buckets}
        seen |= dict(zip(targets["image_id"].tolist(), targets["image_sizes"].tolist(), strict=True))
        assert all(targets["orig_sizes"][row].tolist() == list(ORIGINALS[n][:2]) for row, n in enumerate(targets["image_id"]))
    assert len(seen) == len(ORIGINALS) and len(set(map(tuple, seen.values()))) > 8


def test_sizes_are_read_where_they_are_not_given():
    sizes = [(4, 8, 1), (8, 3, 2)] * 4
    for loader in (
        make_loader(Sized(sizes), PLAN, 2, rank=0, world_size=1),
        make_loader(Sized(sizes), PLAN, 2, rank=0, world_size=1, sizes=sizes),
    ):
        assert {_shape(batch) for batch in loader} == {(2, 1, 4, 8, 3), (2, 1, 8, 4, 3)}
    resized = make_loader(Sized(ORIGINALS), SCALED, 2, transform=_Resize(), rank=0, world_size=1)
    assert {_shape(batch)[2:4] for batch in resized} == {(8, 16), (16, 8)}
    drawn = make_loader(Sized(ORIGINALS), SCALED, 2, transform=_Resize(), scales=[4, 8], max_size=16, rank=0, world_size=1)
    assert len(list(drawn)) == len(drawn)


def test_a_data_set_that_reads_many_samples_at_once_still_does():
    asked = []

    class Together(Sized):
        def __getitems__(self, indices):
            assert all(type(index) is int for index in indices)
            asked.append(indices)
            return [self[index] for index in indices]

    dataset = Together(SIZES)
    batches = list(make_loader(dataset, PLAN, 2, **OPTIONS))
    assert asked == [_ids(batch) for batch in batches]


def test_a_sample_that_is_a_dict_carries_its_bucket_too():
    dataset = [{"pixel_values": torch.ones(3, height, width)} for height, width, _ in SIZES]
    loader = make_loader(dataset, PLAN, 2, sizes=[size[:2] for size in SIZES], collate=PadPixelValues(PLAN), rank=0, world_size=1)
    shapes = {tuple(batch["pixel_values"].shape[2:]) for batch in loader}
    assert shapes == {(bucket.height, bucket.width) for bucket in PLAN.shapes}


def test_an_image_that_is_not_what_its_size_said_is_named():
    wrong = [(4, 8, 1)] * len(SIZES)
    with pytest.raises(BucketError, match=r"larger than the bucket that its batch was given \(4x8, 3 boxes\)\. Give the sampler"):
        list(make_loader(Sized(SIZES), PLAN, 2, sizes=wrong, rank=0, world_size=1))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"shuffle": True}, ShapeError, r"got shuffle=True: every epoch is shuffled, by seed=\. Leave shuffle out\."),
        ({"collate_fn": list}, ShapeError, r"got collate_fn=<class 'list'>: give it as collate=\."),
        ({"sampler": None}, ShapeError, r"got sampler=None: the batches are the bucket sampler's\."),
        ({"batch_sampler": 3}, ShapeError, r"got batch_sampler=3: the batches are the bucket sampler's\."),
        (
            {"in_order": False},
            ShapeError,
            r"got in_order=False, but ranks share a bucket, and runs resume, by the batches' order",
        ),
        ({"scales": [4]}, ShapeError, r"got scales without a transform, expected one that resizes .*min_size=\.\.\.\)"),
        (
            {"collate": PadToBucket((12, 12), max_boxes=5)},
            PlanError,
            r"collate has another plan .* make_loader\(dataset, collate",
        ),
        ({"sizes": SIZES[1:]}, ShapeError, r"got 27 sizes for 28 samples, expected one row for each, in their order\."),
        (
            {"sizes": None, "transform": lambda *pair: pair},
            ShapeError,
            r"what the transform makes of .* is not known\. Give sizes=",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(options, error, message):
    with pytest.raises(error, match=rf"^make_loader: {message}"):
        _loader(**options)


def test_a_transform_that_draws_scales_by_itself_is_refused():
    transform = _Resize()
    transform.sizes = lambda sizes: resize_sizes(sizes, [4, 8], 16)
    with pytest.raises(
        ShapeError, match=r"is not known, for it draws one of several scales by itself\. .* scales= and max_size="
    ):
        make_loader(Sized(ORIGINALS), SCALED, 2, transform=transform)


@pytest.mark.parametrize(
    ("sample", "got"),
    [(torch.ones(1, 4, 4), "a Tensor"), ((torch.ones(1, 4, 4), []), "a tuple of 2"), ((1, 2, 3), "a tuple of 3")],
)
def test_a_sample_that_can_carry_no_bucket_is_named(sample, got):
    loader = make_loader([sample], PLAN, 1, sizes=[(4, 4)], rank=0, world_size=1)
    text = rf"^make_loader: sample 0 is {got}, expected \(image, target dict\), or a dict\. Wrap .*wrap_dataset_for_transforms_v2"
    with pytest.raises(TargetError, match=text):
        list(loader)


def test_it_is_a_top_level_name():
    assert fixshape.make_loader is make_loader


def test_one_of_each_is_a_batch_of_every_bucket_and_moves_nothing():
    loader = _loader(3, num_workers=1)
    before = loader.state_dict()
    first = [_shape(batch) for batch in loader.one_of_each()]
    assert first == [(3, 1, one.height, one.width, one.max_boxes) for one in reversed(PLAN.buckets)]
    assert loader.state_dict() == before
    expected = [_ids(batch) for batch in _loader(3)]
    assert [_ids(batch) for batch in loader] == expected
    assert all(_ids(batch) in expected for batch in _loader(3).one_of_each())
