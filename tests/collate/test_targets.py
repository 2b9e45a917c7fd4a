"""Entries that some samples have and others have not, and entries that do not fit together."""

from __future__ import annotations

import pytest
import torch

from fixshape.collate import PadToBucket
from fixshape.errors import TargetError
from fixshape.plan import Bucket
from tests.collate.samples import EVERYTHING, make_sample

PAD = PadToBucket(Bucket(24, 32, 4))


@pytest.mark.parametrize("key", EVERYTHING)
def test_an_entry_that_only_an_image_without_boxes_lacks_is_zero_there(key):
    _, targets = PAD([make_sample(boxes=0), make_sample(keys=[key])])
    assert targets[key][0].eq(0).all() and targets[key][1].any()


@pytest.mark.parametrize("key", EVERYTHING)
def test_an_entry_that_an_image_with_boxes_lacks_is_an_error_that_names_both(key):
    message = (
        rf"PadToBucket: sample 0 \(image_id 4\) has 3 boxes but no {key}, which sample 1 \(image_id 5\) has\."
        rf" Give {key} for every image that has boxes, or for none\."
    )
    with pytest.raises(TargetError, match=message):
        PAD([make_sample(boxes=3, image_id=4), make_sample(keys=[key], image_id=5)])


def test_an_image_id_that_an_image_with_boxes_lacks_is_an_error():
    with pytest.raises(TargetError, match=r"sample 1 has 2 boxes but no image_id, which sample 0 \(image_id 4\) has\."):
        PAD([make_sample(image_id=4), make_sample()])


def test_an_entry_that_no_sample_has_is_not_in_the_batch():
    _, targets = PAD([make_sample(keys=["area"])])
    assert set(targets).isdisjoint({"image_id", "iscrowd", "masks", "keypoints"})


def test_different_keypoint_counts_name_both_samples():
    samples = [make_sample(boxes=0, keys=["keypoints"]), make_sample(keys=["keypoints"]), make_sample(keys=["keypoints"])]
    samples[0][1]["keypoints"] = torch.zeros(0, 17, 3)  # without boxes its K says nothing
    _, targets = PAD(samples)
    assert targets["keypoints"].shape == (3, 4, 5, 3)
    assert PAD([samples[0], make_sample(boxes=0, keys=["keypoints"])])[1]["keypoints"].shape == (2, 4, 17, 3)
    samples[2][1]["keypoints"] = torch.ones(2, 17, 3)
    with pytest.raises(TargetError, match=r"sample 1 has 5 keypoints per box, sample 2 has 17, expected one count in a batch\."):
        PAD(samples)


def test_padded_masks_keep_their_place_on_the_canvas():
    image, target = make_sample(10, 12, 1, keys=["masks"])
    target["masks"] = torch.zeros(1, 10, 12, dtype=torch.uint8)
    target["masks"][0, 9, 11] = 1
    _, targets = PAD([(image, target)])
    assert targets["masks"].nonzero().tolist() == [[0, 0, 9, 11]]
