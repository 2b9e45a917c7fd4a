"""Masks stored in their boxes: means over cells, of a size that the image has no say in."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import roi_align

from fixshape.collate import PadToBucket
from fixshape.errors import ShapeError, TargetError
from fixshape.plan import Bucket
from tests.collate.samples import EVERYTHING, make_sample

SIZE = 6
BUCKET = Bucket(24, 32, 4)
PAD = PadToBucket(BUCKET, mask_size=SIZE)


def by_whole_masks(target):
    """The oracle: RoIAlign of the grown boxes on whole masks."""
    boxes = target["boxes"].float() + torch.tensor([-1.0, -1.0, 1.0, 1.0])
    rois = torch.cat([torch.arange(len(boxes))[:, None], boxes], dim=1)
    return roi_align((target["masks"] > 0)[:, None].float(), rois, SIZE, 1.0, -1)[:, 0] * 255


@pytest.mark.filterwarnings("ignore:PadToBucket.*reach outside")
@settings(deadline=None, max_examples=60)
@given(st.integers(1, 24), st.integers(1, 32), st.integers(0, 4), st.integers(0, 1000), st.floats(-60, 60), st.floats(0.2, 3))
def test_the_means_are_those_of_the_whole_masks_wherever_the_boxes_lie(height, width, boxes, seed, shift, scale):
    image, target = make_sample(height, width, boxes, seed=seed, keys=["masks"])
    target["masks"] %= 2
    target["boxes"] = target["boxes"] * scale + shift
    _, targets = PadToBucket(BUCKET, mask_size=SIZE, invalid="drop")([(image, target)])
    assert targets["box_masks"].shape == (1, 4, SIZE, SIZE) and targets["box_masks"].dtype == torch.uint8
    assert not targets["box_masks"][0, boxes:].any()
    got = targets["box_masks"][0, :boxes].float()
    torch.testing.assert_close(got, by_whole_masks(target), rtol=0, atol=0.51)


def test_the_oracle_sees_a_shift_of_half_a_pixel():
    image, target = make_sample(keys=["masks"])
    target["masks"] %= 2
    _, targets = PAD([(image, target)])
    target["boxes"] = target["boxes"] + 0.5
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(targets["box_masks"][0, :2].float(), by_whole_masks(target), rtol=0, atol=0.51)


def test_a_full_mask_is_255_inside_and_falls_to_0_beyond_its_box():
    image, target = make_sample(24, 32, 1)
    target["boxes"] = torch.tensor([[8.0, 4.0, 24.0, 20.0]])
    target["masks"] = torch.zeros(1, 24, 32, dtype=torch.bool)
    target["masks"][0, 4:20, 8:24] = True
    _, targets = PadToBucket(BUCKET, mask_size=18)([(image, target)])  # cells of a pixel, from a pixel before the box on
    line = [128] + [255] * 15 + [128, 0]  # half of the first cell: a pixel is a point that is interpolated from, as in RoIAlign
    assert targets["box_masks"][0, 0, 9].tolist() == targets["box_masks"][0, 0, :, 9].tolist() == line


def test_masks_are_replaced_and_nothing_else_changes():
    samples = [make_sample(keys=EVERYTHING, image_id=3), make_sample(10, 12, 0, keys=EVERYTHING, image_id=4)]
    images, targets = PadToBucket(BUCKET, batch_size=3)(samples)
    cropped_images, cropped = PadToBucket(BUCKET, batch_size=3, mask_size=SIZE)(samples)
    assert torch.equal(images, cropped_images)
    assert targets.keys() - cropped.keys() == {"masks"} and cropped.keys() - targets.keys() == {"box_masks"}
    assert all(torch.equal(value, cropped[key]) for key, value in targets.items() if key != "masks")
    assert cropped["box_masks"].shape == (3, 4, SIZE, SIZE)
    assert cropped["box_masks"][0, :2].any() and not cropped["box_masks"][1:].any()


def test_a_batch_without_any_box_has_its_box_masks_too():
    _, targets = PAD([make_sample(boxes=0, keys=EVERYTHING)])
    assert targets["box_masks"].shape == (1, 4, SIZE, SIZE) and targets["box_masks"].dtype == torch.uint8
    _, targets = PAD([make_sample(boxes=0), make_sample(keys=["masks"])])
    assert targets["box_masks"].shape == (2, 4, SIZE, SIZE)


def test_without_masks_there_are_no_box_masks():
    assert {"masks", "box_masks"}.isdisjoint(PAD([make_sample()])[1])


def test_boxes_that_are_cut_take_their_masks_along():
    image, target = make_sample(boxes=6, keys=["masks"])
    pad = PadToBucket(BUCKET, mask_size=SIZE, overflow="largest")
    _, targets = pad([(image, target)])
    kept = [target["boxes"].tolist().index(box) for box in targets["boxes"][0].tolist()]
    _, alone = pad([(image, {key: value[kept] for key, value in target.items()})])
    assert torch.equal(targets["box_masks"], alone["box_masks"])


def test_a_box_of_a_billion_pixels_takes_no_time():
    image, target = make_sample(boxes=1, keys=["masks"])
    target["boxes"] = torch.tensor([[0.0, 0.0, 1e9, 1e9]])
    with pytest.warns(UserWarning, match="reach outside"):
        _, targets = PadToBucket(BUCKET, mask_size=SIZE)([(image, target)])
    assert not targets["box_masks"][0, 0, 1:].any()


def test_masks_that_one_sample_lacks_are_named_as_the_samples_name_them():
    with pytest.raises(TargetError, match=r"sample 0 has 2 boxes but no masks, which sample 1 has\. Give masks for every image"):
        PAD([make_sample(), make_sample(keys=["masks"])])


def test_a_mask_size_of_nothing_is_named():
    with pytest.raises(ShapeError, match=r"^PadToBucket: mask_size is 0, expected a whole number of at least 1\."):
        PadToBucket(BUCKET, mask_size=0)
