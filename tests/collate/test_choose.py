"""Which bucket, and which boxes stay when there are more of them than slots."""

from __future__ import annotations

import pytest
import torch

from fixshape.collate import PadToBucket
from fixshape.errors import BucketError
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
