from __future__ import annotations

import pytest
import torch
import torchvision.ops as tv

from fixshape.errors import DtypeError, ShapeError
from fixshape.ops import box_iou


def random_boxes(*shape, dtype=torch.float32):
    corner = torch.rand(*shape, 2, generator=torch.Generator().manual_seed(sum(shape))) * 60
    return torch.cat([corner, corner + 1 + corner.flip(-1)], dim=-1).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32])
def test_bit_for_bit_torchvision(dtype):
    first, second = random_boxes(11, dtype=dtype), random_boxes(7, dtype=dtype)
    torch.testing.assert_close(box_iou(first, second), tv.box_iou(first, second), rtol=0, atol=0)


def test_leading_dimensions_are_broadcast():
    first, second = random_boxes(2, 3, 5), random_boxes(7)
    want = torch.stack([torch.stack([tv.box_iou(boxes, second) for boxes in image]) for image in first])
    torch.testing.assert_close(box_iou(first, second), want, rtol=0, atol=0)


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 0.0, -5.0])
def test_padding_on_either_side_gives_minus_one_whatever_it_holds(garbage):
    first, second = random_boxes(2, 4), random_boxes(2, 6)
    valid1, valid2 = torch.rand(2, 4) < 0.5, torch.rand(2, 6) < 0.5
    real = valid1[..., :, None] & valid2[..., None, :]
    want = torch.where(real, torch.stack([tv.box_iou(a, b) for a, b in zip(first, second, strict=True)]), -1)
    first[~valid1], second[~valid2] = garbage, garbage
    got = box_iou(first, second, valid_mask1=valid1, valid_mask2=valid2)
    torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_gradients_of_padding_are_zero_and_the_others_torchvisions():
    first, second = random_boxes(4, dtype=torch.float64), random_boxes(6, dtype=torch.float64)
    valid = torch.tensor([True, False, True, False])
    poisoned = torch.where(valid[:, None], first, torch.nan).requires_grad_()
    second[0, 2:] = second[0, :2]  # no area: 0/0 with padding of no area
    with torch.autograd.set_detect_anomaly(True):
        torch.where(valid[:, None], box_iou(poisoned, second, valid_mask1=valid), 0).sum().backward()
    first.requires_grad_()
    tv.box_iou(first[valid], second).sum().backward()
    torch.testing.assert_close(poisoned.grad, first.grad)


def test_real_boxes_of_no_area_give_nan_as_in_torchvision():
    point = torch.zeros(1, 4)
    assert box_iou(point, point).isnan() and tv.box_iou(point, point).isnan()


def test_wrong_arguments_are_named():
    boxes = torch.zeros(3, 4)
    with pytest.raises(ShapeError, match=r"^box_iou: boxes2 has shape \(3, 5\), expected \(N2, 4\)\.$"):
        box_iou(boxes, torch.zeros(3, 5))
    with pytest.raises(
        ShapeError, match=r"^box_iou: valid_mask1 has shape \(2,\), expected \(3,\)\. One entry per box of boxes1\.$"
    ):
        box_iou(boxes, boxes, valid_mask1=torch.ones(2, dtype=torch.bool))
    with pytest.raises(DtypeError, match=r"^box_iou: valid_mask2 has dtype torch\.uint8, expected torch\.bool\."):
        box_iou(boxes, boxes, valid_mask2=torch.ones(3, dtype=torch.uint8))
