"""Which bucket, and which boxes stay when there are more of them than slots."""

from __future__ import annotations

import pytest
import torch

from fixshape.collate import PadToBucket
from fixshape.errors import BucketError, ShapeError, TargetError
from fixshape.plan import Bucket, ShapePlan
from tests.collate.samples import EVERYTHING, make_sample

LANDSCAPE, PORTRAIT = Bucket(20, 40, 4), Bucket(40, 20, 4)


def test_an_image_larger_than_every_bucket_is_named():
    message = (
        r"PadToBucket: the image of sample 1 \(image_id 7\) is 41x10 \(height x width\), larger than every bucket"
        r" \(20x40, 4 boxes; 40x20, 4 boxes\)\. Resize it before padding \(fixshape\.detection\.host_transform\), or plan"
    )
    with pytest.raises(BucketError, match=message):
        PadToBucket(ShapePlan([LANDSCAPE, PORTRAIT]))([make_sample(20, 20), make_sample(41, 10, image_id=7)])


def test_images_that_fit_alone_but_not_together_are_both_named():
    message = (
        r"no bucket holds all images of this batch: sample 1 is 40 high and sample 0 is 40 wide .*"
        r" Batch samples of one bucket together, or plan a bucket of at least 40x40\."
    )
    with pytest.raises(BucketError, match=message):
        PadToBucket(ShapePlan([LANDSCAPE, PORTRAIT]))([make_sample(20, 40), make_sample(40, 20)])


def test_too_many_boxes_say_which_image_how_many_and_the_policies():
    message = (
        r"PadToBucket: sample 1 \(image_id 31\) has 9 boxes, but the buckets that hold 20x30 pixels have at most 4 box slots\."
        r' Plan with max_boxes=9 or more, or choose a policy: overflow="sample" .*, overflow="largest" .*; both count'
    )
    with pytest.raises(BucketError, match=message):
        PadToBucket(LANDSCAPE)([make_sample(boxes=4), make_sample(boxes=9, image_id=31)])


def test_a_bucket_with_more_slots_is_taken_before_anything_is_dropped():
    plan = ShapePlan([Bucket(20, 40, 4), Bucket(20, 40, 8)])
    _, targets = PadToBucket(plan, overflow="largest")([make_sample(boxes=6)])
    assert targets["boxes"].shape[1] == 8 and targets["boxes_dropped"].tolist() == [0]
    _, targets = PadToBucket(plan, overflow="largest")([make_sample(boxes=20), make_sample(boxes=2)])
    assert targets["boxes"].shape[1] == 8 and targets["boxes_dropped"].tolist() == [12, 0]


def _carrying(bucket, *sample, **options):
    image, target = make_sample(*sample, **options)
    return image, {**target, "bucket": bucket}


def test_the_bucket_that_the_samples_carry_is_taken_and_not_the_smallest():
    plan = ShapePlan([LANDSCAPE, PORTRAIT], fallback=Bucket(64, 64, 9))
    for bucket, shape in enumerate([(20, 40, 4), (40, 20, 4), (64, 64, 9)]):
        images, targets = PadToBucket(plan)([_carrying(bucket, 20, 20), _carrying(torch.tensor(bucket), 5, 5)])
        assert (*images.shape[2:], targets["boxes"].shape[1]) == shape
        assert "bucket" not in targets


def test_without_one_the_fallback_is_taken_only_where_nothing_else_holds_the_batch():
    pad = PadToBucket(ShapePlan([LANDSCAPE, PORTRAIT], fallback=Bucket(64, 64, 9)))
    for samples, side in (
        ([make_sample(20, 40)], 40),
        ([make_sample(20, 40), make_sample(40, 20)], 64),
        ([make_sample(boxes=5)], 64),
    ):
        assert pad(samples)[0].shape[3] == side
    assert repr(pad).startswith("PadToBucket(20x40, 4 boxes; 40x20, 4 boxes; 64x64, 9 boxes; ")


def test_a_bucket_s_own_batch_size_is_what_a_short_batch_is_completed_to():
    plan = ShapePlan([Bucket(20, 40, 4), Bucket(40, 40, 4)], batch_sizes=[3, 2])
    assert len(PadToBucket(plan, batch_size=8)([make_sample(20, 40)])[0]) == 3
    assert len(PadToBucket(plan, batch_size=8)([make_sample(40, 40)])[0]) == 2
    assert len(PadToBucket(plan)([make_sample(40, 40)])[0]) == 1
    with pytest.raises(ShapeError, match=r"PadToBucket: got 3 samples, expected at most batch_size=2\."):
        PadToBucket(plan, batch_size=8)([make_sample(40, 40)] * 3)


def test_other_box_slots_are_for_every_shape_of_the_plan():
    pad = PadToBucket(ShapePlan([LANDSCAPE, Bucket(20, 40, 7)], fallback=Bucket(64, 64, 9)), max_boxes=2)
    assert pad.plan.shapes == (Bucket(20, 40, 2), Bucket(64, 64, 2))


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (
            [_carrying(0, image_id=3), _carrying(1)],
            r"sample 0 \(image_id 3\) carries bucket 0, sample 1 1, expected one bucket in a batch\. Take batches from .* leave",
        ),
        ([_carrying(0), make_sample()], r"sample 0 carries bucket 0, sample 1 None, expected one bucket in a batch"),
        ([make_sample(), _carrying(1)], r"sample 0 carries bucket None, sample 1 1, expected one bucket in a batch"),
        (
            [_carrying(2)],
            r"sample 0 carries bucket 2, but the plan has shapes 0 to 1\. Give PadToBucket the plan that the sampler",
        ),
        ([_carrying(-1)], r"sample 0 carries bucket -1, but the plan has shapes 0 to 1"),
        (
            [_carrying(0, 20, 20), _carrying(0, 30, 20, image_id=8)],
            r"the image of sample 1 \(image_id 8\) is 30x20 \(height x width\), larger than the bucket that its batch was given"
            r" \(20x40, 4 boxes\)\. Give the sampler the sizes after the host resize",
        ),
        (
            [_carrying(1, boxes=6, height=20, width=20)],
            r"sample 0 has 6 boxes, but the bucket that its batch was given has 4 box slots\. Give .*\[N, 3\]; or choose",
        ),
    ],
)
def test_a_bucket_that_is_not_the_batch_s_is_refused(samples, message):
    with pytest.raises(BucketError, match=f"^PadToBucket: {message}"):
        PadToBucket(ShapePlan([LANDSCAPE, PORTRAIT]))(samples)


def test_a_bucket_that_is_no_number_is_refused():
    with pytest.raises(TargetError, match=r"sample 0: bucket is 'large', expected a whole number\."):
        PadToBucket(LANDSCAPE)([_carrying("large")])


def test_a_policy_cuts_boxes_to_the_bucket_that_is_carried():
    plan = ShapePlan([Bucket(20, 40, 4), Bucket(20, 40, 8)])
    _, targets = PadToBucket(plan, overflow="largest")([_carrying(0, boxes=6)])
    assert targets["boxes"].shape[1] == 4 and targets["boxes_dropped"].tolist() == [2]


def _sample_of_areas(*sides: float):
    boxes = torch.tensor([[1.0, 1.0, 1.0 + side, 2.0] for side in sides])
    return torch.rand(3, 20, 30), {
        "boxes": boxes,
        "labels": torch.arange(len(sides)),
        "area": list(map(float, range(len(sides)))),
    }


def test_largest_keeps_the_largest_areas_in_their_order_with_all_that_belongs_to_them():
    _, targets = PadToBucket((20, 30), max_boxes=3, overflow="largest")([_sample_of_areas(2, 9, 1, 8, 3)])
    assert targets["labels"].tolist() == [[1, 3, 4]]
    assert targets["area"].tolist() == [[1, 3, 4]]
    assert targets["boxes"][0, :, 2].tolist() == [10, 9, 4]
    assert targets["boxes_dropped"].tolist() == [2]


def test_of_equal_areas_the_earlier_stay():
    _, targets = PadToBucket((20, 30), max_boxes=20, overflow="largest")([_sample_of_areas(*[5] * 30, 9)])
    assert targets["labels"].tolist() == [[*range(19), 30]]


def test_sample_keeps_a_seeded_random_subset_in_order():
    pad = PadToBucket((20, 30), max_boxes=5, overflow="sample")
    seen = set()
    for seed in range(20):
        torch.manual_seed(seed)
        first = pad([_sample_of_areas(*[4] * 12)])[1]["labels"][0].tolist()
        torch.manual_seed(seed)
        assert pad([_sample_of_areas(*[4] * 12)])[1]["labels"][0].tolist() == first
        assert first == sorted(set(first)) and len(first) == 5
        seen.update(first)
    assert seen == set(range(12))


def test_sample_draws_nothing_when_all_boxes_fit():
    before = torch.get_rng_state()
    PadToBucket((20, 30), max_boxes=4, overflow="sample")([make_sample(boxes=4)])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("overflow", ["sample", "largest"])
def test_masks_and_keypoints_stay_with_their_boxes(overflow):
    sample = make_sample(boxes=6, keys=EVERYTHING)
    _, targets = PadToBucket((20, 30), max_boxes=3, overflow=overflow)([sample])
    kept = [sample[1]["boxes"].tolist().index(box) for box in targets["boxes"][0].tolist()]
    for key in EVERYTHING:
        assert torch.equal(targets[key][0], sample[1][key][kept]), key
