"""BucketBatchSampler: what an epoch is on every rank, for any plan and sizes; where it resumes; what it refuses."""

from __future__ import annotations

import json
import pickle
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fixshape
from fixshape.collate import BucketBatchSampler, BucketIndex
from fixshape.errors import BucketError, CheckpointError, DatasetError, FixshapeWarning, ShapeError
from fixshape.plan import Bucket, ShapePlan, resize_sizes
from tests.collate.sized import SIDE, SLOTS, a_size, assert_is_epoch, plans

# Tiny sets are what is tested here; that they are told of has a test of its own.
pytestmark = pytest.mark.filterwarnings("ignore:BucketBatchSampler. .* samples are in no batch")
some_sizes = st.builds(lambda sizes, times: sizes * times, st.lists(a_size, min_size=1, max_size=25), st.sampled_from([1, 4, 20]))
world_sizes = st.integers(1, 3) | st.sampled_from([1, 2, 8, 64])
PLAN = ShapePlan([Bucket(4, 8, 3), Bucket(8, 4, 3), Bucket(8, 8, 3), Bucket(12, 12, 5)])
SIZES = [(4, 8, 1)] * 5 + [(8, 3, 0)] * 6 + [(7, 7, 3)] * 7 + [(12, 9, 5)] * 4


def _ranks(plan, sizes, batch_size, world_size, kind=BucketBatchSampler, **options):
    return [kind(plan, sizes, batch_size, rank=rank, world_size=world_size, **options) for rank in range(world_size)]


@settings(deadline=None, max_examples=80)
@given(plans(), some_sizes, st.integers(1, 5), world_sizes, st.booleans(), st.integers(0, 2**70))
def test_an_epoch_is_what_it_promises_on_every_rank(plan, sizes, batch_size, world_size, drop_last, seed):
    samplers = _ranks(plan, sizes, batch_size, world_size, seed=seed, drop_last=drop_last)
    for _ in range(2):
        assert len({len(sampler) for sampler in samplers}) == 1
        counts = [(sampler.dropped, sampler.promoted, sampler.repeated) for sampler in samplers]
        epoch = samplers[0].epoch
        ranks = [list(sampler) for sampler in samplers]
        copy = BucketBatchSampler(plan, sizes, batch_size, rank=0, world_size=world_size, seed=seed, drop_last=drop_last)
        copy.set_epoch(epoch)
        assert len(copy) == len(ranks[0]) and counts[0] == (copy.dropped, copy.promoted, copy.repeated)
        assert_is_epoch(plan, sizes, [copy, *samplers[1:]], ranks)
        assert {sampler.epoch for sampler in samplers} == {epoch + 1}


class _RanksOverlap(BucketBatchSampler):
    """Wrong on purpose: every rank takes the first rank's samples."""

    def __init__(self, *arguments, rank, **options):
        super().__init__(*arguments, rank=0, **options)


class _RanksShuffleAlone(BucketBatchSampler):
    """Wrong on purpose: each rank has a permutation of its own."""

    def __init__(self, *arguments, rank, seed=0, **options):
        super().__init__(*arguments, rank=rank, seed=seed + rank, **options)


class _KeepsItsSmallBucket(BucketBatchSampler):
    """Wrong on purpose: a promoted sample says the smallest bucket that covers it, not its batch's."""

    def __iter__(self):
        for batch in super().__iter__():
            yield [BucketIndex(index, int(self._buckets[0, index])) for index in batch]


@pytest.mark.parametrize("broken", [_RanksOverlap, _RanksShuffleAlone, _KeepsItsSmallBucket])
def test_the_oracle_sees_a_broken_sampler(broken):
    sizes = SIZES * 3
    right = _ranks(PLAN, sizes, 2, 2)
    assert_is_epoch(PLAN, sizes, _ranks(PLAN, sizes, 2, 2), [list(sampler) for sampler in right])
    with pytest.raises((AssertionError, ValueError)):
        assert_is_epoch(PLAN, sizes, _ranks(PLAN, sizes, 2, 2), [list(sampler) for sampler in _ranks(PLAN, sizes, 2, 2, broken)])


@settings(deadline=None, max_examples=60)
@given(plans(), some_sizes, st.integers(1, 4), st.integers(1, 3), st.booleans(), st.data())
def test_any_resume_point_gives_the_same_rest_and_the_same_epochs_after_it(plan, sizes, batch_size, world_size, drop_last, data):
    options = {"rank": world_size - 1, "world_size": world_size, "drop_last": drop_last}
    sampler = BucketBatchSampler(plan, sizes, batch_size, seed=5, **options)
    sampler.set_epoch(data.draw(st.integers(0, 3)))
    states, batches = [sampler.state_dict()], []
    for batch in sampler:
        states.append(sampler.state_dict())
        batches.append(batch)
    following = list(sampler)
    at = data.draw(st.integers(0, len(batches)))
    resumed = BucketBatchSampler(plan, sizes, batch_size, seed=99, **options)
    resumed.load_state_dict(json.loads(json.dumps(states[at])))
    if at < len(batches):  # the state after the last batch is the next epoch's beginning
        assert list(resumed) == batches[at:]
    if batches:
        assert resumed.state_dict() == states[-1]
        assert list(resumed) == following


def test_the_state_is_the_same_on_every_rank_and_plain():
    states = []
    for sampler in _ranks(PLAN, SIZES, 2, 2, seed=7):
        iterator = iter(sampler)
        next(iterator), next(iterator)
        states.append(sampler.state_dict())
    assert states[0] == states[1] == json.loads(json.dumps(states[0]))
    assert {key: states[0][key] for key in ("seed", "epoch", "step", "plan", "batch_size", "world_size", "samples")} == {
        "seed": 7, "epoch": 0, "step": 2, "plan": PLAN.digest, "batch_size": 2, "world_size": 2, "samples": len(SIZES),
    }  # fmt: skip


def test_the_order_follows_from_seed_and_epoch_alone():
    def order(seed, epoch):
        sampler = BucketBatchSampler(PLAN, SIZES * 4, 3, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    orders = {str(order(seed, epoch)) for seed in (0, 1, 2**32, 2**32 + 1) for epoch in range(3)}
    assert len(orders) == 12
    assert order(1, 2) == order(1, 2)


def test_the_order_is_that_of_every_version():
    """A run resumes after numpy, torch or fixshape were updated: change this only together with the state's version."""
    sampler = BucketBatchSampler(PLAN, SIZES, 3, seed=3)
    sampler.set_epoch(2)
    assert [list(map(int, batch)) for batch in sampler] == PINNED


PINNED = [[10, 9, 5], [6, 7, 8], [4, 3, 2], [19, 21, 18], [17, 13, 15], [14, 12, 11], [16, 0, 1]]


def test_which_samples_come_first_and_which_are_dropped_changes():
    sampler = BucketBatchSampler(PLAN, SIZES, 4)
    first, dropped = set(), set()
    for _ in range(60):
        batches = [list(map(int, batch)) for batch in sampler]
        first.add(batches[0][0])
        dropped |= set(range(len(SIZES))) - {index for batch in batches for index in batch}
    assert len(first) > len(SIZES) // 2
    assert dropped >= {index for index, size in enumerate(SIZES) if size == (12, 9, 5)}  # those that fit nowhere else


def test_a_tail_goes_to_the_cheapest_larger_bucket_that_holds_it_and_is_in_use():
    plan = ShapePlan([Bucket(4, 4, 2), Bucket(4, 6, 2), Bucket(6, 6, 1), Bucket(8, 8, 2), Bucket(9, 9, 2)])
    sizes = [(4, 4, 2)] * 5 + [(6, 6, 0)] * 4 + [(8, 8, 2)] * 3 + [(9, 9, 2)] * 4
    sampler = BucketBatchSampler(plan, sizes, 4)
    assert (sampler.promoted, sampler.dropped) == (1, 0)
    (promoted,) = (batch for batch in sampler if min(batch) < 5 and batch[0].bucket)
    # Not 4x6, which no sample needs, nor 6x6, which has one box slot, nor 9x9, which is dearer.
    assert {index.bucket for index in promoted} == {3}
    assert sorted(promoted)[1:] == [9, 10, 11]


def test_those_that_have_somewhere_to_go_are_what_is_left_over():
    plan = ShapePlan([Bucket(4, 4, 9), Bucket(8, 8, 1)])
    sizes = [(4, 4, 9)] * 8 + [(4, 4, 0)] + [(8, 8, 1)] * 3
    sampler = BucketBatchSampler(plan, sizes, 4)
    for _ in range(5):
        assert sampler.dropped == 0 and sampler.promoted == 1
        batches = [sorted(map(int, batch)) for batch in sampler]
        assert [8, 9, 10, 11] in batches


def test_a_bucket_that_has_to_be_completed_anyhow_keeps_its_own():
    plan = ShapePlan([Bucket(4, 4, 9), Bucket(8, 8, 1)])
    sizes = [(4, 4, 9)] * 5 + [(4, 4, 0)] + [(8, 8, 1)] * 4
    sampler = BucketBatchSampler(plan, sizes, 4, drop_last=False)
    assert (len(sampler), sampler.promoted, sampler.repeated) == (3, 0, 2)


def test_the_fallback_takes_in_nothing():
    plan = ShapePlan([Bucket(4, 4, 2)], fallback=Bucket(8, 8, 2))
    sampler = BucketBatchSampler(plan, [(4, 4)] * 5 + [(8, 8)] * 3, 4)
    assert sampler.dropped == 1 + 3 and sampler.promoted == 0
    assert {batch[0].bucket for batch in BucketBatchSampler(plan, [(4, 4)] * 5 + [(8, 8)] * 4, 4)} == {0, 1}


def test_batches_are_completed_with_samples_of_the_same_bucket_that_are_marked():
    plan = ShapePlan([Bucket(4, 8, 1), Bucket(8, 4, 1)])
    sampler = BucketBatchSampler(plan, [(4, 8)] * 6 + [(8, 4)], 4, drop_last=False)
    assert (len(sampler), sampler.dropped, sampler.repeated) == (3, 0, 2 + 3)
    batches = list(sampler)
    (whole,) = ([*map(int, batch)] for batch in batches if batch[0] < 6 and not any(index.repeated for index in batch))
    (completed,) = (batch for batch in batches if batch[0] < 6 and any(index.repeated for index in batch))
    assert [index.repeated for index in completed] == [False, False, True, True]
    assert set(map(int, completed[2:])) <= set(whole)
    assert [batch for batch in batches if batch[0] == 6] == [[6, 6, 6, 6]]


@pytest.mark.parametrize("world_size", [1, 2, 64])
def test_one_image_is_dropped_or_repeated_on_all_ranks(world_size):
    for sampler in _ranks(PLAN, [(3, 3, 1)], 4, world_size):
        assert (len(sampler), list(sampler), sampler.dropped) == (0, [], 1)
    for sampler in _ranks(PLAN, [(3, 3, 1)], 4, world_size, drop_last=False):
        assert list(sampler) == [[0] * 4] and sampler.repeated == 4 * world_size - 1


def test_a_promoted_tail_has_the_batch_size_of_the_bucket_it_goes_to():
    plan = ShapePlan([Bucket(4, 4, 1), Bucket(8, 8, 1)], batch_sizes=[6, 2])
    batches = list(BucketBatchSampler(plan, [(4, 4)] * 8 + [(8, 8)] * 2, 99))
    assert sorted((batch[0].bucket, len(batch)) for batch in batches) == [(0, 6), (1, 2), (1, 2)]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.integers(8, 30), st.integers(8, 30), st.integers(0, SLOTS)), min_size=1, max_size=40),
    st.lists(st.integers(4, SIDE), min_size=1, max_size=4, unique=True),
    st.integers(1, 3),
    st.integers(1, 3),
    st.booleans(),
)
def test_a_drawn_scale_decides_the_bucket_and_is_handed_out(sizes, scales, batch_size, world_size, drop_last):
    plan = ShapePlan([Bucket(6, 10, SLOTS), Bucket(10, 6, SLOTS), Bucket(16, 16, SLOTS)])
    options = {"scales": scales, "max_size": 16, "drop_last": drop_last}
    samplers = _ranks(plan, sizes, batch_size, world_size, **options)
    for _ in range(2):
        head = _ranks(plan, sizes, batch_size, world_size, **options)
        for sampler in head:
            sampler.set_epoch(samplers[0].epoch)
        ranks = [list(sampler) for sampler in samplers]
        indices = [index for batches in ranks for batch in batches for index in batch]
        drawn = {int(index): index.min_size for index in indices}
        assert all(index.min_size == drawn[int(index)] and index.min_size in scales for index in indices)
        resized = [resize_sizes([size], drawn.get(n, scales[0]), 16)[0].tolist() for n, size in enumerate(sizes)]
        for index in indices:
            assert plan.shapes[index.bucket].covers(*resized[index])
        if not drop_last:
            assert {*drawn} == set(range(len(sizes)))
            assert_is_epoch(plan, resized, head, ranks)


def test_all_scales_are_drawn_about_equally_and_anew_in_each_epoch():
    sampler = BucketBatchSampler(ShapePlan([Bucket(40, 40, 1)]), [(20, 20)] * 3000, 1, scales=[10, 20, 30, 40])
    epochs = [sorted((index, index.min_size) for (index,) in sampler) for _ in range(2)]
    counts = [sum(scale == wanted for _, scale in epochs[0]) for wanted in (10, 20, 30, 40)]
    assert min(counts) > 650 and epochs[0] != epochs[1]


def test_an_iteration_that_was_left_early_is_followed_by_the_next_epoch_but_can_be_resumed():
    sampler = BucketBatchSampler(PLAN, SIZES, 3)
    epochs = [list(sampler), list(sampler)]
    again = BucketBatchSampler(PLAN, SIZES, 3)
    for _ in again:
        break
    state = again.state_dict()
    assert (state["epoch"], state["step"]) == (0, 1)
    assert again.epoch == 1 and list(again) == epochs[1]
    again.load_state_dict(state)
    assert again.epoch == 0 and list(again) == epochs[0][1:]
    assert list(again) == epochs[1]


def test_set_epoch_begins_an_epoch_anew_and_leaves_a_resumed_one_alone():
    sampler = BucketBatchSampler(PLAN, SIZES, 3)
    epochs = [list(sampler) for _ in range(3)]
    sampler.set_epoch(1)
    assert list(sampler) == epochs[1]
    iterator = iter(sampler)
    next(iterator)
    state = sampler.state_dict()
    resumed = BucketBatchSampler(PLAN, SIZES, 3)
    resumed.load_state_dict(state)
    resumed.set_epoch(2)  # as loops do at the top of every epoch
    assert list(resumed) == epochs[2][1:]
    resumed.load_state_dict(state)
    resumed.set_epoch(0)
    assert list(resumed) == epochs[0]


def test_length_and_counts_are_those_of_the_epoch_that_runs_or_else_of_the_next():
    sizes, options = [(10, 20), (20, 10), (12, 19)] * 9, {"scales": [8, 10, 14, 20], "drop_last": True}
    plan = ShapePlan([Bucket(10, 20, 1), Bucket(20, 10, 1), Bucket(20, 40, 1), Bucket(40, 20, 1)], batch_sizes=[4, 4, 2, 2])
    reference = BucketBatchSampler(plan, sizes, 99, **options)
    lengths = []
    for epoch in range(8):
        reference.set_epoch(epoch)
        lengths.append((len(list(reference)), epoch))
    assert len({length for length, _ in lengths}) > 1
    sampler = BucketBatchSampler(plan, sizes, 99, **options)
    for length, epoch in lengths:
        assert (len(sampler), sampler.epoch) == (length, epoch)
        for _ in sampler:
            assert (len(sampler), sampler.epoch) == (length, epoch)
            if epoch % 2:
                break


STATE = BucketBatchSampler(PLAN, SIZES, 2, rank=0, world_size=2).state_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"plan": ShapePlan([Bucket(12, 12, 5)])}, rf"its plan is '{PLAN.digest}', here '[0-9a-f]+'"),
        ({"batch_size": 3}, r"its batch size is 2, here 3"),
        ({"world_size": 4}, r"its number of ranks is 2, here 4"),
        ({"sizes": SIZES[:-1]}, r"its number of samples is 22, here 21; the digest of its sizes and scales is '.*', here '.*'"),
        ({"sizes": SIZES[::-1]}, r"run: the digest of its sizes and scales is '.*', here '.*'"),
        ({"scales": [8, 12], "max_size": 12}, r"run: the digest of its sizes and scales is '.*', here '.*'"),
        ({"drop_last": False}, r"its drop_last is True, here False"),
    ],
)
def test_a_state_of_another_run_is_refused(change, message):
    arguments = {"plan": PLAN, "sizes": SIZES, "batch_size": 2, "rank": 0, "world_size": 2} | change
    sampler = BucketBatchSampler(**arguments)
    before = sampler.state_dict()
    text = (
        rf"^BucketBatchSampler\.load_state_dict: the state is of another run: .*{message.removeprefix('run: ')}.*\. Its steps"
        r" would be other samples here\. Resume with what it was saved with, or begin an epoch anew: set_epoch\(n\)\.$"
    )
    with pytest.raises(CheckpointError, match=text):
        sampler.load_state_dict(STATE)
    assert sampler.state_dict() == before


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, r"got \{\}, expected what state_dict returned"),
        ([1, 2], r"got \[1, 2\], expected what state_dict returned"),
        (STATE | {"version": 2}, r"got \{'version': 2.*\.\.\., expected what state_dict returned"),
        ({key: value for key, value in STATE.items() if key != "step"}, r"got \{.*, expected what state_dict returned"),
        (STATE | {"step": -1}, r"step is -1, expected a whole number from 0"),
        (STATE | {"epoch": 1.5}, r"epoch is 1\.5, expected a whole number from 0"),
        (STATE | {"seed": True}, r"seed is True, expected a whole number from 0"),
        (STATE | {"step": 10**9}, r"step is 1000000000, but epoch 0 has \d+: the state was changed"),
    ],
)
def test_what_is_no_state_is_refused(state, message):
    sampler = BucketBatchSampler(PLAN, SIZES, 2, rank=0, world_size=2)
    with pytest.raises(CheckpointError, match=rf"^BucketBatchSampler\.load_state_dict: {message}"):
        sampler.load_state_dict(state)
    assert sampler.state_dict() == STATE


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sizes": []}, DatasetError, r"got no sizes, expected \(height, width\[, boxes\]\) for each sample"),
        ({"sizes": [(4, 8), (40, 8)]}, BucketError, r"sample 1: got an image of 40x8"),
        ({"sizes": [(4, 8), (4, 8)], "scales": [4, 16]}, BucketError, r"BucketBatchSampler: at scale 16: .*sample 0: .* 16x32"),
        ({"sizes": [(4.0, 8.0)]}, ShapeError, r"expected .*whole numbers"),
        ({"batch_size": 0}, ShapeError, r"BucketBatchSampler: batch_size is 0, expected a whole number of at least 1"),
        ({"seed": -1}, ShapeError, r"BucketBatchSampler: seed is -1, expected a whole number of at least 0"),
        ({"rank": 1}, ShapeError, r"BucketBatchSampler: rank is 1, expected 0 to 0: world_size is 1\. Give both"),
        ({"rank": 0, "world_size": 0}, ShapeError, r"BucketBatchSampler: world_size is 0"),
        ({"scales": []}, ShapeError, r"BucketBatchSampler: scales is empty, expected at least one size"),
        ({"scales": [0]}, ShapeError, r"BucketBatchSampler: scales is 0, expected a whole number of at least 1"),
        ({"max_size": 8}, ShapeError, r"BucketBatchSampler: max_size is 8 without scales\. Give scales= too"),
    ],
)
def test_what_is_no_argument_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        BucketBatchSampler(**{"plan": PLAN, "sizes": SIZES, "batch_size": 2, **options})


def test_sizes_may_be_an_array_or_come_one_by_one():
    given = [list(BucketBatchSampler(PLAN, sizes, 2)) for sizes in (SIZES, np.array(SIZES, np.int16), iter(SIZES))]
    assert given[0] == given[1] == given[2]


def test_an_index_is_an_int_that_survives_pickling():
    index = BucketIndex(3, bucket=1, min_size=480, repeated=True)
    copy = pickle.loads(pickle.dumps(index))
    assert copy == 3 and type(copy) is BucketIndex and (copy.bucket, copy.min_size, copy.repeated) == (1, 480, True)
    assert repr(copy) == repr(index) == "BucketIndex(3, bucket=1, min_size=480, repeated=True)"
    assert "abcd"[index] == "d" and {3: "x"}[index] == "x"


def test_real_sizes_lose_little_to_whole_batches(data_folder):
    sizes = resize_sizes(json.loads((data_folder / "coco_shapes.json").read_text()), 800, 1333)
    shapes = [(800, 1088), (800, 1216), (800, 1344), (1344, 800), (1088, 800), (1216, 800), (672, 1344), (800, 800)]
    plan = ShapePlan([Bucket(*shape, 63) for shape in shapes])
    areas = np.array([bucket.area for bucket in plan.shapes])
    alone = areas[plan.assign(sizes)].sum()
    sampler = BucketBatchSampler(plan, sizes, 8, drop_last=False)
    assert sampler.promoted <= 40 and sampler.repeated <= 16
    padded = sum(areas[batch[0].bucket] * len(batch) for batch in sampler)
    assert 1 <= padded / alone < 1.004


def test_it_is_a_top_level_name():
    assert fixshape.BucketBatchSampler is BucketBatchSampler


def test_samples_that_no_epoch_has_are_told():
    sizes = [(8, 8, 1)] * 4 + [(12, 4, 1)] * 3
    plan = ShapePlan([Bucket(8, 8, 2), Bucket(12, 4, 2)])
    expected = (
        r"^BucketBatchSampler: 3 of 7 samples are in no batch: of 12x4, 2 boxes there are fewer than a batch \(batch_size 2 on 2"
        r" ranks\), and nothing larger takes them in\. Complete batches with drop_last=False, take a smaller batch, or plan fewer"
        r" buckets\.$"
    )
    with pytest.warns(FixshapeWarning, match=expected) as caught:
        BucketBatchSampler(plan, sizes, 2, rank=0, world_size=2)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert BucketBatchSampler(plan, sizes, 1, rank=0, world_size=2).dropped == 1, "another one in each epoch"
        BucketBatchSampler(plan, sizes, 2, rank=0, world_size=2, drop_last=False)
