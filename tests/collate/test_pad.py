"""PadToBucket as a whole: the batch it makes, for any samples, and what it refuses."""

from __future__ import annotations

import pickle
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fixshape.collate import PadToBucket
from fixshape.errors import FixshapeWarning, ShapeError, TargetError
from fixshape.plan import Bucket, ShapePlan
from tests.collate.samples import EVERYTHING, assert_is_padded, make_sample

HEIGHT, WIDTH, SLOTS = 24, 32, 4
BUCKET = Bucket(HEIGHT, WIDTH, SLOTS)

a_sample = st.builds(
    make_sample,
    height=st.integers(1, HEIGHT),
    width=st.integers(1, WIDTH),
    boxes=st.integers(0, SLOTS),
    seed=st.integers(0, 1000),
    keys=st.just(EVERYTHING),
)
some_samples = st.lists(a_sample, min_size=1, max_size=4)


@settings(deadline=None, max_examples=60)
@given(some_samples)
def test_a_batch_is_what_padding_each_tensor_by_itself_gives(samples):
    assert_is_padded(PadToBucket(BUCKET), samples, HEIGHT, WIDTH, SLOTS)


class _OneRowShort(PadToBucket):
    """Wrong on purpose: leaves the last row of the first image out."""

    def __call__(self, samples):
        images, targets = super().__call__(samples)
        images[0, :, int(targets["image_sizes"][0, 0]) - 1] = 0
        return images, targets


class _DirtyPadding(PadToBucket):
    """Wrong on purpose: leaves something in a padded box slot."""

    def __call__(self, samples):
        images, targets = super().__call__(samples)
        targets["boxes"][0, -1, 3] += 1
        return images, targets


@pytest.mark.parametrize("broken", [_OneRowShort, _DirtyPadding])
def test_the_oracle_sees_a_broken_implementation(broken):
    with pytest.raises(AssertionError):
        assert_is_padded(broken(BUCKET), [make_sample(boxes=1)], HEIGHT, WIDTH, SLOTS)


@settings(deadline=None, max_examples=40)
@given(some_samples)
def test_cutting_the_padding_off_gives_the_samples_back(samples):
    images, targets = PadToBucket(BUCKET)(samples)
    for row, (image, target) in enumerate(samples):
        height, width = targets["image_sizes"][row].tolist()
        valid = targets["valid_mask"][row]
        assert torch.equal(images[row, :, :height, :width], image)
        for key in ("boxes", "labels", "area", "iscrowd", "keypoints"):
            assert torch.equal(targets[key][row][valid], target[key])
        assert torch.equal(targets["masks"][row][valid][:, :height, :width], target["masks"])


@settings(deadline=None, max_examples=40)
@given(some_samples)
def test_all_padding_is_exactly_zero(samples):
    images, targets = PadToBucket(BUCKET, batch_size=5)(samples)
    for row, (height, width) in enumerate(targets["image_sizes"].tolist()):
        images[row, :, :height, :width] = 0
        targets["masks"][row, targets["valid_mask"][row], :height, :width] = 0
    assert not images.any() and not targets["masks"].any()
    for key in ("boxes", "labels", "area", "iscrowd", "keypoints"):
        assert not targets[key][~targets["valid_mask"]].any()


@settings(deadline=None, max_examples=40)
@given(some_samples, st.randoms())
def test_permuting_the_samples_permutes_the_rows_and_nothing_else(samples, random):
    order = list(range(len(samples)))
    random.shuffle(order)
    images, targets = PadToBucket(BUCKET)(samples)
    shuffled_images, shuffled_targets = PadToBucket(BUCKET)([samples[index] for index in order])
    assert torch.equal(shuffled_images, images[order])
    for key, value in targets.items():
        assert torch.equal(shuffled_targets[key], value[order]), key


@settings(deadline=None, max_examples=40)
@given(some_samples)
def test_a_padded_batch_goes_through_unchanged(samples):
    pad = PadToBucket(BUCKET)
    images, targets = pad(samples)
    rows = [
        {key: targets[key][row][targets["valid_mask"][row]] for key in ("boxes", "labels", *EVERYTHING)}
        for row in range(len(samples))
    ]
    again, targets_again = pad(list(zip(images, rows, strict=True)))
    assert torch.equal(again, images)
    for key in ("boxes", "labels", "valid_mask", *EVERYTHING):
        assert torch.equal(targets_again[key], targets[key]), key


@settings(deadline=None, max_examples=60)
@given(some_samples)
def test_a_batch_takes_the_smallest_bucket_of_the_plan_that_covers_all_its_samples(samples):
    plan = ShapePlan([Bucket(8, 8, 2), Bucket(16, 32, 2), Bucket(24, 16, 4), BUCKET])
    images, targets = PadToBucket(plan)(samples)
    height = max(image.shape[1] for image, _ in samples)
    width = max(image.shape[2] for image, _ in samples)
    boxes = max(len(target["labels"]) for _, target in samples)
    covering = [bucket for bucket in plan.buckets if bucket.covers(height, width, boxes)]
    smallest = min(covering, key=lambda bucket: (bucket.height * bucket.width, bucket.max_boxes))
    assert (*images.shape[2:], targets["boxes"].shape[1]) == (smallest.height, smallest.width, smallest.max_boxes)


def test_the_shapes_and_dtypes_of_the_batch_table():
    samples = [make_sample(keys=EVERYTHING, image_id=7), make_sample(10, 12, 1, seed=1, keys=EVERYTHING, image_id=9)]
    images, targets = PadToBucket(BUCKET)(samples)
    assert images.shape == (2, 3, HEIGHT, WIDTH) and images.is_contiguous()
    assert {key: (tuple(value.shape), value.dtype) for key, value in targets.items()} == {
        "boxes": ((2, SLOTS, 4), torch.float32),
        "labels": ((2, SLOTS), torch.int64),
        "valid_mask": ((2, SLOTS), torch.bool),
        "image_sizes": ((2, 2), torch.int64),
        "orig_sizes": ((2, 2), torch.int64),
        "image_valid": ((2,), torch.bool),
        "boxes_dropped": ((2,), torch.int64),
        "boxes_outside": ((2,), torch.int64),
        "image_id": ((2,), torch.int64),
        "area": ((2, SLOTS), torch.float32),
        "iscrowd": ((2, SLOTS), torch.int64),
        "masks": ((2, SLOTS, HEIGHT, WIDTH), torch.uint8),
        "keypoints": ((2, SLOTS, 5, 3), torch.float32),
    }
    assert targets["image_sizes"].tolist() == [[20, 30], [10, 12]]
    assert targets["valid_mask"].tolist() == [[True, True, False, False], [True, False, False, False]]
    assert targets["image_id"].tolist() == [7, 9]
    assert targets["image_valid"].all()


def test_a_short_list_is_completed_with_fillers():
    images, targets = PadToBucket(BUCKET, batch_size=3)([make_sample(image_id=7, keys=EVERYTHING)])
    assert images.shape[0] == 3 and not images[1:].any()
    assert targets["image_valid"].tolist() == [True, False, False]
    assert targets["image_id"].tolist() == [7, -1, -1]
    for key in ("image_sizes", "orig_sizes", "valid_mask", "boxes", "labels", "masks", "area", "boxes_dropped"):
        assert len(targets[key]) == 3 and not targets[key][1:].any(), key


def test_more_samples_than_the_batch_size_are_an_error():
    with pytest.raises(ShapeError, match=r"PadToBucket: got 2 samples, expected at most batch_size=1\."):
        PadToBucket(BUCKET, batch_size=1)([make_sample(), make_sample()])


def test_an_empty_batch_is_an_error():
    with pytest.raises(TargetError, match=r"got an empty batch, expected at least one sample\. Check the batch sampler\."):
        PadToBucket(BUCKET)([])


def test_height_and_width_take_max_boxes():
    images, targets = PadToBucket((HEIGHT, WIDTH), max_boxes=7)([make_sample()])
    assert images.shape[2:] == (HEIGHT, WIDTH) and targets["boxes"].shape[1] == 7
    with pytest.raises(ShapeError, match=r"\(24, 32\) says nothing of box slots\. Give max_boxes=, or a Bucket or a ShapePlan\."):
        PadToBucket((HEIGHT, WIDTH))


def test_max_boxes_replaces_the_slots_of_every_bucket():
    pad = PadToBucket(ShapePlan([Bucket(8, 8, 2), BUCKET]), max_boxes=9)
    assert [bucket.max_boxes for bucket in pad.plan.buckets] == [9, 9]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overflow": "cut"}, r"overflow is 'cut', expected one of 'error', 'sample', 'largest'\."),
        ({"invalid": "keep"}, r"invalid is 'keep', expected one of 'error', 'drop'\."),
        ({"batch_size": 0}, r"batch_size is 0, expected a whole number of at least 1\."),
        ({"num_classes": 0}, r"num_classes is 0, expected a whole number of at least 1\."),
        ({"max_boxes": 0}, r"max_boxes is 0, expected a whole number of at least 1\."),
        ({"plan": 320}, r"plan is 320, expected a ShapePlan, a Bucket or \(height, width\)\."),
    ],
)
def test_a_wrong_argument_is_named(options, message):
    with pytest.raises(ShapeError, match=f"^PadToBucket: {message}"):
        PadToBucket(**{"plan": BUCKET, **options})


def test_boxes_outside_their_image_are_kept_counted_and_warned_of_once():
    inside, outside = make_sample(image_id=41), make_sample(boxes=3, image_id=42)
    outside[1]["boxes"][:2] = torch.tensor([[-2.0, 1.0, 9.0, 9.0], [3.0, 3.0, 9.0, 20.5]])
    pad = PadToBucket(BUCKET)
    with pytest.warns(
        FixshapeWarning, match=r"sample 1 \(image_id 42\) has 2 box\(es\) that reach outside the image \(20x30"
    ) as seen:
        _, targets = pad([inside, outside])
        assert torch.equal(pad([inside, outside])[1]["boxes"], targets["boxes"])
    assert len(seen) == 1
    assert seen[0].filename == __file__
    assert targets["boxes_outside"].tolist() == [0, 2]
    assert torch.equal(targets["boxes"][1, :3], outside[1]["boxes"])


def test_the_rounding_of_a_resize_is_not_a_box_outside():
    image, target = make_sample(boxes=1)
    target["boxes"] = torch.tensor([[0.0, 0.0, 30.0, 20.0]]) * 1.0001
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, targets = PadToBucket(BUCKET)([(image, target)])
    assert targets["boxes_outside"].tolist() == [0]


def test_the_caller_s_tensors_are_left_alone():
    sample = make_sample(boxes=3, keys=EVERYTHING)
    before = pickle.dumps(sample)
    images, targets = PadToBucket((20, 30), max_boxes=3)([sample])
    images.zero_()
    for value in targets.values():
        value.zero_()
    assert pickle.dumps(sample) == before


def test_a_pickled_copy_makes_the_same_batch():
    pad = PadToBucket(ShapePlan([Bucket(8, 8, 2), BUCKET]), batch_size=3, num_classes=10, overflow="largest", invalid="drop")
    copy = pickle.loads(pickle.dumps(pad))
    assert repr(copy) == repr(pad)
    assert repr(pad) == (
        "PadToBucket(8x8, 2 boxes; 24x32, 4 boxes; batch_size=3, num_classes=10, overflow='largest', invalid='drop',"
        " mask_size=None)"
    )
    samples = [make_sample(boxes=6), make_sample()]
    images, targets = pad(samples)
    copied_images, copied_targets = copy(samples)
    assert torch.equal(images, copied_images)
    assert targets.keys() == copied_targets.keys()
    assert all(torch.equal(value, copied_targets[key]) for key, value in targets.items())
