"""NMS against torchvision's own, on drawn boxes and on those that break the usual static forms."""

from __future__ import annotations

import pytest
import torch
import torchvision.ops as tv
from hypothesis import given
from hypothesis import strategies as st

from fixshape.errors import DtypeError, ShapeError
from fixshape.ops import nms
from fixshape.ops._box_iou import area_of, pairwise_iou
from fixshape.ops._nms import _round_down

THRESHOLDS = [0.3, 0.45, 0.5, 0.55, 0.6, 0.7]


def draw(seed, *shape, side=30, dtype=torch.float32):
    """Boxes on whole pixels of a small canvas: many overlaps, many that hit a threshold exactly, many equal scores."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 30, (*shape, 2), generator=generator)
    boxes = torch.cat([corner, corner + torch.randint(0, side, (*shape, 2), generator=generator)], dim=-1)
    return boxes.to(dtype), torch.randint(0, 20, shape, generator=generator).to(dtype) / 20


def dynamic_nms(boxes, scores, threshold, valid):
    """torchvision's indices for the real boxes of one set."""
    real = valid.nonzero()[:, 0]
    return real[tv.nms(boxes[real], scores[real], threshold)]


def check(boxes, scores, threshold, size, valid, nms=nms):
    """Asserts that each set of boxes is answered as torchvision answers it."""
    indices, kept = nms(boxes, scores, threshold, size=size, valid_mask=valid)
    assert indices.shape == kept.shape == (*scores.shape[:-1], size)
    assert (indices.dtype, kept.dtype) == (torch.int64, torch.bool)
    rows = zip(*(t.reshape(-1, *t.shape[scores.dim() - 1 :]) for t in (boxes, scores, valid, indices, kept)), strict=True)
    for row_boxes, row_scores, row_valid, row_indices, row_kept in rows:
        want = dynamic_nms(row_boxes, row_scores, threshold, row_valid)[:size].tolist()
        assert row_indices.tolist() == want + [0] * (size - len(want))
        assert row_kept.tolist() == [True] * len(want) + [False] * (size - len(want))


def staircase(n):
    """Each box suppresses the next one only, so that whether the last stays depends on every one before it."""
    left = 4.0 * torch.arange(n)
    boxes = torch.stack([left, torch.zeros(n), left + 10, torch.ones(n)], dim=-1)
    return boxes, 1 - torch.arange(n) / n


def round_limited_nms(rounds):
    """A common static form: strike out whatever a kept box hits, again and again. Right only for chains of ``rounds``."""

    def broken(boxes, scores, threshold, *, size, valid_mask):
        order = scores.argsort(dim=-1, descending=True, stable=True)
        corners = boxes[order].mT
        hits = (pairwise_iou(corners, area_of(corners), corners, area_of(corners)) > threshold).triu(1)
        keep = valid_mask[order]
        for _ in range(rounds):
            keep = valid_mask[order] & ~(hits & keep[:, None]).any(0)
        kept = order[keep]
        padded = torch.cat([kept, torch.zeros(size, dtype=torch.int64)])[:size]
        return padded, torch.arange(size) < len(kept)

    return broken


@given(st.integers(1, 40), st.integers(1, 45), st.integers(0, 2**31), st.sampled_from(THRESHOLDS), st.floats(0, 1))
def test_keeps_what_torchvision_keeps(n, size, seed, threshold, share):
    boxes, scores = draw(seed, n)
    check(boxes, scores, threshold, size, torch.rand(n, generator=torch.Generator().manual_seed(seed)) < share)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_many_sets_at_once_with_ties_in_score_and_overlap(threshold, dtype):
    boxes, scores = draw(3, 2, 20, 61, dtype=dtype)
    check(boxes, scores, threshold, 61, torch.rand(2, 20, 61) < 0.8)


@pytest.mark.parametrize("n", [2, 7, 8, 9, 16, 100, 257])
def test_a_chain_through_all_boxes(n):
    boxes, scores = staircase(n)
    check(boxes, scores, 0.4, n, torch.ones(n, dtype=torch.bool))
    assert nms(boxes, scores, 0.4, size=n).indices[: (n + 1) // 2].tolist() == list(range(0, n, 2))


def test_a_chain_that_dead_boxes_and_shuffled_rows_run_through():
    boxes, scores = staircase(150)
    shuffled = torch.randperm(150, generator=torch.Generator().manual_seed(0))
    valid = torch.arange(150) % 11 != 3
    check(boxes[shuffled], scores[shuffled], 0.4, 150, valid[shuffled])


def test_the_comparison_fails_for_two_fixed_rounds():
    """The oracle at work: a form that is exact for short chains only does not pass it."""
    boxes, scores = staircase(9)
    everything = torch.ones(9, dtype=torch.bool)
    check(boxes, scores, 0.4, 9, everything, round_limited_nms(9))
    with pytest.raises(AssertionError):
        check(boxes, scores, 0.4, 9, everything, round_limited_nms(2))


@pytest.mark.parametrize(("threshold", "inside"), [(0.3, 3), (0.45, 9), (0.5, 5), (0.55, 11), (0.6, 6), (0.7, 7)])
def test_an_overlap_of_exactly_the_threshold(threshold, inside):
    """A box inside another overlaps by the ratio of their areas: the float32 next to the threshold, above it or below."""
    whole = 10 if inside / 10 == threshold else 20
    boxes = torch.tensor([[0.0, 0.0, whole, 1.0], [0.0, 0.0, inside, 1.0]])
    assert tv.box_iou(boxes[:1], boxes[1:]).item() == torch.tensor(threshold).item()
    check(boxes, torch.tensor([0.9, 0.8]), threshold, 2, torch.tensor([True, True]))


@given(st.floats(allow_nan=False, allow_infinity=False, width=64, min_value=-2, max_value=2))
def test_thresholds_are_rounded_down_to_float32(threshold):
    down = _round_down(threshold, torch.float32)
    assert _round_down(threshold, torch.float64) == threshold
    if abs(threshold) > 1e-30:
        assert torch.tensor(down, dtype=torch.float32).item() == down <= threshold
        up = torch.nextafter(torch.tensor(down), torch.tensor(torch.inf)).item()
        assert up > threshold


@pytest.mark.parametrize("threshold", [-0.1, 0.0, 1.0, 1.5, float("inf")])
def test_thresholds_that_drop_everything_or_nothing(threshold):
    boxes, scores = draw(5, 30)
    check(boxes, scores, threshold, 30, torch.ones(30, dtype=torch.bool))


def test_boxes_of_no_area_drop_nobody_as_in_torchvision():
    check(torch.ones(9, 4), torch.rand(9), 0.5, 9, torch.ones(9, dtype=torch.bool))


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_padding_may_hold_anything(garbage):
    boxes, scores = draw(7, 3, 21)
    valid = torch.rand(3, 21, generator=torch.Generator().manual_seed(1)) < 0.6
    clean = nms(boxes, scores, 0.5, size=21, valid_mask=valid)
    poisoned = nms(
        boxes.masked_fill(~valid[..., None], garbage), scores.masked_fill(~valid, garbage), 0.5, size=21, valid_mask=valid
    )
    assert torch.equal(poisoned.indices, clean.indices) and torch.equal(poisoned.valid_mask, clean.valid_mask)


def test_scores_of_minus_infinity_are_scores():
    boxes, scores = draw(8, 12, side=4)
    scores[::2] = -torch.inf
    check(boxes, scores, 0.5, 12, torch.arange(12) % 3 != 0)


def test_nothing_valid_keeps_nothing():
    boxes, scores = draw(9, 2, 10)
    indices, kept = nms(boxes, scores, 0.5, size=4, valid_mask=torch.zeros(2, 10, dtype=torch.bool))
    assert (indices == 0).all() and not kept.any()


def test_half_precision_is_computed_in_float32():
    boxes, scores = draw(10, 40)
    half = nms(boxes.half(), scores.half(), 0.5, size=40)
    assert torch.equal(half.indices, nms(boxes, scores.half(), 0.5, size=40).indices)


def test_no_gradient_passes():
    boxes, scores = draw(11, 6)
    result = nms(boxes.requires_grad_(), scores.requires_grad_(), 0.5, size=6)
    assert not result.indices.requires_grad and not result.valid_mask.requires_grad


def test_wrong_arguments_are_named():
    boxes, scores = torch.zeros(3, 4), torch.zeros(3)
    with pytest.raises(ShapeError, match=r"^nms: boxes has shape \(3, 5\), expected \(N, 4\)\.$"):
        nms(torch.zeros(3, 5), scores, 0.5, size=3)
    with pytest.raises(ShapeError, match=r"^nms: N is 0, expected a whole number of at least 1\.$"):
        nms(boxes[:0], scores[:0], 0.5, size=3)
    with pytest.raises(ShapeError, match=r"^nms: scores has shape \(2,\), expected \(3,\)\. One score per box\.$"):
        nms(boxes, scores[:2], 0.5, size=3)
    with pytest.raises(ShapeError, match=r"^nms: size is 0, expected a whole number of at least 1\.$"):
        nms(boxes, scores, 0.5, size=0)
    with pytest.raises(ShapeError, match=r"^nms: valid_mask has shape \(2,\), expected \(3,\)\. One entry per box\.$"):
        nms(boxes, scores, 0.5, size=3, valid_mask=torch.ones(2, dtype=torch.bool))
    with pytest.raises(DtypeError, match=r"^nms: valid_mask has dtype torch\.int64, expected torch\.bool\."):
        nms(boxes, scores, 0.5, size=3, valid_mask=torch.ones(3, dtype=torch.int64))
