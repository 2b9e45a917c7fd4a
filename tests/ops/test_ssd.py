from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection._utils import SSDMatcher

from fixshape.errors import DtypeError, ShapeError
from fixshape.ops import hard_negative_mining, ssd_match

SEEDS = st.integers(0, 2**31)


def dynamic_match(iou, valid, threshold):
    """torchvision's matcher on the real rows, its indices turned into slots."""
    if not valid.any():
        return torch.full(iou.shape[1:], -1)
    matches = SSDMatcher(threshold)(iou[valid])
    return torch.where(matches < 0, matches, valid.nonzero()[:, 0][matches.clamp(min=0)])


def dynamic_mining(loss, foreground, ratio):
    """Lines 306 to 318 of torchvision/models/detection/ssd.py in short."""
    negative_loss = loss.clone()
    negative_loss[foreground] = -float("inf")
    return negative_loss.sort(1, descending=True)[1].sort(1)[1] < ratio * foreground.sum(1, keepdim=True)


@given(st.integers(1, 6), st.integers(1, 12), SEEDS, st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_matches_are_those_of_torchvisions_matcher(slots, anchors, seed, threshold):
    generator = torch.Generator().manual_seed(seed)
    # Steps of 0.1 make ties and best anchors that several ground truths share.
    iou = torch.randint(0, 11, (3, slots, anchors), generator=generator) / 10
    valid = torch.rand(3, slots, generator=generator) < 0.7
    want = torch.stack([dynamic_match(iou[b], valid[b], threshold) for b in range(3)])
    assert torch.equal(ssd_match(iou, valid_mask=valid, threshold=threshold), want)
    poisoned = torch.where(valid[..., None], iou, torch.nan)
    assert torch.equal(ssd_match(poisoned, valid_mask=valid, threshold=threshold), want)


def test_the_last_valid_one_gets_an_anchor_that_several_want():
    iou = torch.tensor([[0.9, 0.1], [0.4, 0.3], [0.8, 0.7]])
    assert ssd_match(iou, valid_mask=torch.tensor([True, True, True]), threshold=0.5).tolist() == [2, 2]
    assert ssd_match(iou, valid_mask=torch.tensor([True, True, False]), threshold=0.5).tolist() == [1, -1]


def test_an_image_without_ground_truth_is_all_background():
    assert ssd_match(torch.ones(2, 3), valid_mask=torch.zeros(2, dtype=torch.bool), threshold=0.0).tolist() == [-1] * 3


def test_a_ground_truth_that_touches_nothing_takes_the_first_anchor_as_in_torchvision():
    iou = torch.zeros(1, 3)
    assert ssd_match(iou, valid_mask=torch.tensor([True]), threshold=0.5).tolist() == SSDMatcher(0.5)(iou).tolist() == [0, -1, -1]


def test_wrong_arguments_of_the_matcher_are_named():
    iou, valid = torch.zeros(2, 3), torch.ones(2, dtype=torch.bool)
    with pytest.raises(
        ShapeError, match=r"^ssd_match: iou has shape \(0, 3\), expected \(\.\.\., M, A\) with M and A at least 1\.$"
    ):
        ssd_match(iou[:0], valid_mask=valid[:0], threshold=0.5)
    with pytest.raises(
        ShapeError, match=r"^ssd_match: valid_mask has shape \(3,\), expected \(2,\)\. One entry per row of iou\.$"
    ):
        ssd_match(iou, valid_mask=torch.ones(3, dtype=torch.bool), threshold=0.5)
    with pytest.raises(ShapeError, match=r"^ssd_match: threshold is -1, expected a number in \[0, 1\]\.$"):
        ssd_match(iou, valid_mask=valid, threshold=-1)
    with pytest.raises(DtypeError, match=r"^ssd_match: valid_mask has dtype torch\.int64"):
        ssd_match(iou, valid_mask=valid.long(), threshold=0.5)


@given(st.integers(1, 4), st.integers(1, 30), SEEDS, st.floats(0, 1), st.sampled_from([3.0, 1.0, 2.5]))
def test_negatives_are_those_of_torchvision(images, anchors, seed, share, ratio):
    generator = torch.Generator().manual_seed(seed)
    loss = torch.rand(images, anchors, generator=generator)
    foreground = torch.rand(images, anchors, generator=generator) < share
    got = hard_negative_mining(loss.requires_grad_(), foreground, negative_ratio=ratio)
    assert torch.equal(got, dynamic_mining(loss.detach(), foreground, ratio))


def test_foreground_is_chosen_too_where_background_runs_out():
    """Upstream's quirk: the loss of such an anchor counts twice."""
    foreground = torch.tensor([[True, True, False, False]])
    assert hard_negative_mining(torch.rand(1, 4), foreground, negative_ratio=3).all()


def test_without_foreground_there_are_no_negatives():
    assert not hard_negative_mining(torch.rand(2, 9), torch.zeros(2, 9, dtype=torch.bool), negative_ratio=3).any()


def test_wrong_arguments_of_the_mining_are_named():
    with pytest.raises(ShapeError, match=r"^hard_negative_mining: loss has shape \(9,\), expected \(B, A\)\.$"):
        hard_negative_mining(torch.zeros(9), torch.zeros(9, dtype=torch.bool), negative_ratio=3)
    with pytest.raises(ShapeError, match=r"^hard_negative_mining: foreground has shape \(1, 8\), expected \(1, 9\)\. It must"):
        hard_negative_mining(torch.zeros(1, 9), torch.zeros(1, 8, dtype=torch.bool), negative_ratio=3)
    with pytest.raises(DtypeError, match=r"^hard_negative_mining: foreground has dtype torch\.int64, expected torch\.bool\."):
        hard_negative_mining(torch.zeros(1, 9), torch.zeros(1, 9, dtype=torch.int64), negative_ratio=3)
