"""One sample: what is no sample, labels out of range, boxes that cannot be trained on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fixshape.collate import PadToBucket
from fixshape.errors import DtypeError, ShapeError, TargetError
from fixshape.plan import Bucket
from tests.collate.samples import EVERYTHING, make_sample

PAD = PadToBucket(Bucket(24, 32, 4))
IMAGE = make_sample()[0]


@pytest.mark.parametrize(
    ("sample", "error", "message"),
    [
        (IMAGE, TargetError, r"sample 1 is a Tensor, expected a pair \(image, target\)\."),
        ((IMAGE,), TargetError, r"sample 1 is a tuple of 1, expected a pair \(image, target\)\."),
        (
            (IMAGE, []),
            TargetError,
            r"sample 1: the target is a list, expected a dict with boxes and labels\. Wrap .*wrap_dataset_for_transforms_v2",
        ),
        ((np.zeros((3, 5, 5)), {}), DtypeError, r"sample 1: the image is a ndarray, expected a tensor \[C, H, W\]\. Convert it"),
        (
            (IMAGE[0], {}),
            ShapeError,
            r"sample 1: the image has shape \(20, 30\), expected \[C, H, W\] .* A gray image is \[1, H, W\]",
        ),
        ((IMAGE[:, :0], {"image_id": 8}), ShapeError, r"sample 1 \(image_id 8\): the image has shape \(3, 0, 30\)"),
    ],
)
def test_what_is_no_sample_is_named_by_its_place(sample, error, message):
    with pytest.raises(error, match=f"^PadToBucket: {message}"):
        PAD([make_sample(), sample])


@pytest.mark.parametrize(
    ("num_classes", "label", "message"),
    [
        (10, 10, r"the label of box 1 is 10, expected 0 to 9 \(num_classes=10\)\. Map the data set's category ids"),
        (10, -1, r"the label of box 1 is -1, expected 0 to 9 \(num_classes=10\)\."),
        (None, -1, r"the label of box 1 is -1, expected 0 or more\."),
    ],
)
def test_a_label_out_of_range_is_named(num_classes, label, message):
    image, target = make_sample(image_id=5)
    target["labels"][1] = label
    with pytest.raises(TargetError, match=rf"^PadToBucket: sample 0 \(image_id 5\): {message}"):
        PadToBucket((24, 32), max_boxes=4, num_classes=num_classes)([(image, target)])


def test_without_num_classes_any_label_from_0_is_right():
    image, target = make_sample()
    target["labels"] = torch.tensor([0, 90_000])
    assert PAD([(image, target)])[1]["labels"].tolist() == [[0, 90_000, 0, 0]]


DEGENERATE = [[5.0, 5.0, 5.0, 9.0], [5.0, 5.0, 9.0, 5.0], [9.0, 5.0, 5.0, 9.0]]
NOT_FINITE = [[float("nan"), 5.0, 9.0, 9.0], [5.0, 5.0, float("inf"), 9.0], [-float("inf"), 5.0, 9.0, 9.0]]


@pytest.mark.parametrize(
    ("box", "fault"), [(box, "has no area") for box in DEGENERATE] + [(box, "is not finite") for box in NOT_FINITE]
)
def test_a_box_that_cannot_be_trained_on_is_named(box, fault):
    image, target = make_sample(boxes=3, image_id=12)
    target["boxes"][2] = torch.tensor(box)
    message = rf"sample 1 \(image_id 12\): box 2 {fault}: \[.*\], expected finite \[x1, y1, x2, y2\].* invalid=\"drop\""
    with pytest.raises(TargetError, match=message):
        PAD([make_sample(), (image, target)])


def test_dropped_boxes_take_all_that_belongs_to_them_along_and_are_counted():
    image, target = make_sample(boxes=9, keys=EVERYTHING)
    target["boxes"][[0, 2, 3, 4, 6, 8]] = torch.tensor(DEGENERATE + NOT_FINITE)
    whole, clean = make_sample(boxes=2, seed=1, keys=EVERYTHING)
    _, targets = PadToBucket((24, 32), max_boxes=4, invalid="drop")([(image, target), (whole, clean)])
    assert targets["boxes_dropped"].tolist() == [6, 0]
    assert targets["valid_mask"].sum(1).tolist() == [3, 2]
    for key in ("boxes", "labels", "area", "iscrowd", "keypoints"):
        assert torch.equal(targets[key][0, :3], target[key][[1, 5, 7]]), key
    assert torch.equal(targets["masks"][0, :3, :20, :30], target["masks"][[1, 5, 7]])
    assert not targets["boxes_outside"].any()


def test_invalid_boxes_go_before_the_overflow_policy_chooses():
    image, target = make_sample(boxes=4)
    target["boxes"] = torch.tensor([[1.0, 1, 2, 2], [1, 1, float("inf"), 9], [1, 1, 4, 4], [1, 1, 3, 3]])
    _, targets = PadToBucket((24, 32), max_boxes=2, invalid="drop", overflow="largest")([(image, target)])
    assert targets["boxes"][0, :, 2].tolist() == [4, 3]
    assert targets["boxes_dropped"].tolist() == [2]
