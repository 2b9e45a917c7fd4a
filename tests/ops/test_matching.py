"""The matchers against torchvision's own, on boxes that tie, that hit a bound exactly, or that have no area."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
import torchvision.ops as tv
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.fcos import FCOS

from fixshape.errors import DtypeError, ShapeError
from fixshape.ops import fcos_match, match

SEEDS = st.integers(0, 2**31)
DTYPES = st.sampled_from([torch.float32, torch.float64])
GARBAGE = (math.nan, math.inf, -math.inf, 0.0, 1e30)
STRIDES = (4, 8, 16)
TRUE = torch.tensor([True])


def draw(generator, *shape, dtype=torch.float32, side=12, step=1):
    """Boxes on whole steps of a small canvas: many equal overlaps, some equal boxes; without area where ``side`` is drawn 0."""
    corner = torch.randint(0, 20, (*shape, 2), generator=generator)
    return (torch.cat([corner, corner + torch.randint(0, side, (*shape, 2), generator=generator)], dim=-1) * step).to(dtype)


def poison(boxes, valid):
    garbage = (
        torch.tensor(GARBAGE if boxes.is_floating_point() else (-7, 10**9, 0), dtype=boxes.dtype)
        .repeat(boxes.numel())[: boxes.numel()]
        .reshape(boxes.shape)
    )
    return torch.where(valid[..., None], boxes, garbage)


def in_slots(matches, valid):
    """Indices into the real rows turned into slots; without real rows there are none."""
    return matches if not valid.any() else torch.where(matches < 0, matches, valid.nonzero()[:, 0][matches.clamp(min=0)])


def dynamic_match(boxes, anchors, valid, high, low, low_quality):
    """torchvision's matcher on the real rows of one image."""
    if not valid.any():
        return torch.full(anchors.shape[:1], -1)
    return in_slots(Matcher(high, low, low_quality)(tv.box_iou(boxes[valid], anchors)), valid)


def check(boxes, anchors, valid, high, low, low_quality, match=match):
    """Asserts that each image is answered as torchvision answers it."""
    got = match(
        poison(boxes, valid),
        anchors,
        valid_mask=valid,
        high_threshold=high,
        low_threshold=low,
        allow_low_quality_matches=low_quality,
    )
    assert got.dtype == torch.int64
    for image in range(len(boxes)):
        own = anchors if anchors.dim() == 2 else anchors[image]
        assert got[image].tolist() == dynamic_match(boxes[image], own, valid[image], high, low, low_quality).tolist()


@given(
    st.integers(1, 6),
    st.integers(1, 20),
    SEEDS,
    st.sampled_from([(0.5, 0.5), (0.7, 0.3), (0.5, 0.4), (1.0, 0.0), (0.0, 0.0), (1.0, 1.0)]),
    st.booleans(),
    st.booleans(),
    DTYPES,
)
def test_matches_are_those_of_torchvisions_matcher(slots, anchors, seed, thresholds, low_quality, shared, dtype):
    generator = torch.Generator().manual_seed(seed)
    boxes = draw(generator, 3, slots, dtype=dtype)
    anchors = draw(generator, *(() if shared else (3,)), anchors, dtype=dtype)
    valid = torch.rand(3, slots, generator=generator) < 0.7
    check(boxes, anchors, valid, *thresholds, low_quality)


@pytest.mark.parametrize("low_quality", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64])
def test_bit_for_bit_torchvision_on_uneven_numbers(dtype, low_quality):
    generator = torch.Generator().manual_seed(0)
    boxes, anchors = draw(generator, 2, 30, step=1.37, dtype=dtype), draw(generator, 900, step=1.13, dtype=dtype)
    valid = torch.rand(2, 30, generator=generator) < 0.8
    check(boxes, anchors, valid, 0.4, 0.2, low_quality)


def test_the_comparison_fails_where_padding_overlaps_by_nothing_instead_of_minus_one():
    """The oracle at work: a padded row of zeros that counts as a box touches no anchor, and with it goes all background."""

    def broken(boxes, anchors, *, valid_mask, **options):
        zeroed = torch.where(valid_mask[..., None], boxes, 0)
        return match(zeroed, anchors, valid_mask=torch.ones_like(valid_mask), **options)

    boxes = torch.tensor([[[0.0, 0, 8, 8], [5, 5, 9, 9]]])
    anchors, valid = torch.tensor([[0.0, 0, 8, 7], [20, 20, 28, 28]]), torch.tensor([[True, False]])
    check(boxes, anchors, valid, 0.7, 0.3, True)
    with pytest.raises(AssertionError):
        check(boxes, anchors, valid, 0.7, 0.3, True, broken)


def test_a_real_box_that_touches_no_anchor_leaves_no_background_as_in_torchvision():
    boxes, anchors = torch.tensor([[0.0, 0, 8, 8], [50, 50, 60, 60]]), torch.tensor([[0.0, 0, 8, 8], [20, 20, 28, 28]])
    options = {"high_threshold": 0.7, "low_threshold": 0.3, "allow_low_quality_matches": True}
    assert Matcher(*options.values())(tv.box_iou(boxes, anchors)).tolist() == [0, 0]
    assert match(boxes, anchors, valid_mask=torch.tensor([True, True]), **options).tolist() == [0, 0]
    assert match(boxes, anchors, valid_mask=torch.tensor([True, False]), **options).tolist() == [0, -1]


@pytest.mark.parametrize("low_quality", [False, True])
def test_an_overlap_of_nan_counts_as_in_torchvision(low_quality):
    boxes = torch.tensor([[[0.0, 0, 8, 8], [3, 3, 3, 3], [4, 4, 4, 4], [0, 0, 9, 9]]])
    anchors = torch.tensor([[3.0, 3, 3, 3], [0, 0, 8, 8], [30, 30, 38, 38]])
    check(boxes, anchors, torch.ones(1, 4, dtype=torch.bool), 0.7, 0.3, low_quality)
    check(boxes, anchors, torch.tensor([[True, False, False, True]]), 0.7, 0.3, low_quality)


def test_the_first_of_equal_boxes_is_taken():
    boxes = torch.tensor([[0.0, 0, 8, 8]]).repeat(4, 1)
    valid = torch.tensor([False, True, True, True])
    assert match(boxes, boxes[:1], valid_mask=valid, high_threshold=0.5, low_threshold=0.5).tolist() == [1]


@pytest.mark.parametrize("low_quality", [False, True])
def test_an_image_without_ground_truth_is_all_background(low_quality):
    boxes = torch.tensor([[0.0, 0, 8, 8]])
    options = {"high_threshold": 0.0, "low_threshold": 0.0, "allow_low_quality_matches": low_quality}
    assert match(boxes, boxes.repeat(3, 1), valid_mask=~TRUE, **options).tolist() == [-1, -1, -1]
    assert fcos_match(boxes, boxes.repeat(3, 1), [3], valid_mask=~TRUE).tolist() == [-1, -1, -1]


def test_more_slots_take_no_larger_tensor():
    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, tuple | list) else (result,):
                self.numel = max(self.numel, tensor.numel())
            return result

    generator = torch.Generator().manual_seed(0)
    anchors = draw(generator, 500)
    for op in (
        lambda b, v: match(b, anchors, valid_mask=v, high_threshold=0.7, low_threshold=0.3, allow_low_quality_matches=True),
        lambda b, v: fcos_match(b, anchors, [500], valid_mask=v),
    ):
        with Largest() as largest:
            op(draw(generator, 100), torch.ones(100, dtype=torch.bool))
        assert largest.numel == 4 * 500


def points(dtype, side=64):
    """FCOS's anchors of a square canvas, [A, 4], and how many each level has."""
    levels = []
    for stride in STRIDES:
        at = torch.arange(0, side, stride, dtype=dtype)
        y, x = torch.meshgrid(at, at, indexing="ij")
        center = torch.stack([x, y], dim=-1).reshape(-1, 2)
        levels.append(torch.cat([center - stride / 2, center + stride / 2], dim=-1))
    return torch.cat(levels), [len(level) for level in levels]


def dynamic_fcos_match(boxes, anchors, levels, valid, radius):
    """What torchvision's FCOS hands to the loss of its head for the real rows of one image."""
    model = SimpleNamespace(center_sampling_radius=radius, head=SimpleNamespace(compute_loss=lambda t, h, a, matches: matches))
    (matches,) = FCOS.compute_loss(model, [{"boxes": boxes[valid]}], {}, [anchors], levels)
    return in_slots(matches, valid)


def check_fcos(boxes, anchors, levels, valid, radius=1.5, match=fcos_match):
    got = match(poison(boxes, valid), anchors, levels, valid_mask=valid, center_sampling_radius=radius)
    assert got.dtype == torch.int64
    for image in range(len(boxes)):
        own = anchors if anchors.dim() == 2 else anchors[image]
        assert got[image].tolist() == dynamic_fcos_match(boxes[image], own, levels, valid[image], radius).tolist()


@given(st.integers(1, 6), SEEDS, st.sampled_from([0.5, 1.5, 4]), st.sampled_from([1, 2, 3.3]), DTYPES)
def test_matches_are_those_of_torchvisions_fcos(slots, seed, radius, step, dtype):
    generator = torch.Generator().manual_seed(seed)
    boxes = draw(generator, 2, slots, side=24, step=step, dtype=dtype)
    check_fcos(boxes, *points(dtype), torch.rand(2, slots, generator=generator) < 0.7, radius)


@pytest.mark.parametrize("dtypes", [(torch.float32, torch.float64), (torch.float64, torch.float32)])
def test_boxes_and_anchors_of_two_dtypes_are_computed_as_in_torchvision(dtypes):
    generator = torch.Generator().manual_seed(0)
    anchors, levels = points(dtypes[1])
    check_fcos(draw(generator, 2, 20, step=1.37, dtype=dtypes[0]), anchors, levels, torch.ones(2, 20, dtype=torch.bool))


def test_each_image_may_have_its_own_anchors():
    generator = torch.Generator().manual_seed(0)
    anchors, levels = points(torch.float32)
    boxes, valid = draw(generator, 2, 9, side=24), torch.rand(2, 9, generator=generator) < 0.7
    check_fcos(boxes, torch.stack([anchors, anchors + 3]), levels, valid)


@given(SEEDS)
def test_one_level_has_no_bounds(seed):
    boxes = draw(torch.Generator().manual_seed(seed), 1, 5, side=40, step=2)
    anchors, levels = points(torch.float32)
    check_fcos(boxes, anchors[: levels[0]], levels[:1], torch.ones(1, 5, dtype=torch.bool))


def test_areas_that_float32_cannot_tell_apart_are_equal():
    """1e8 - 105 and 1e8 - 103 are one float32, so that the first box wins although it is the larger; in float64 it does not."""
    boxes = torch.tensor([[[-7.0, -3, 8, 4], [-7.0, -3, 7.714285714285714, 4]]], dtype=torch.float64)
    anchors = torch.tensor([[-4.0, -4, 4, 4]], dtype=torch.float64)
    everything = torch.ones(1, 2, dtype=torch.bool)
    check_fcos(boxes, anchors, [1], everything)
    check_fcos(boxes.float(), anchors.float(), [1], everything)
    assert fcos_match(boxes, anchors, [1], valid_mask=everything).item() == 1
    assert fcos_match(boxes.float(), anchors.float(), [1], valid_mask=everything).item() == 0


def test_a_box_of_more_than_1e8_square_pixels_matches_nothing():
    boxes, anchors = torch.tensor([[[0.0, 0, 20000, 20000]]]), torch.tensor([[9990.0, 9990, 10010, 10010]])
    check_fcos(boxes, anchors, [1], torch.ones(1, 1, dtype=torch.bool))
    assert fcos_match(boxes[0], anchors, [1], valid_mask=TRUE).tolist() == [-1]


@pytest.mark.parametrize("swap", ["radius", "levels"])
def test_the_comparison_fails_for_another_radius_or_other_levels(swap):
    """The oracle at work."""

    def broken(boxes, anchors, levels, *, valid_mask, center_sampling_radius):
        if swap == "radius":
            return fcos_match(boxes, anchors, levels, valid_mask=valid_mask, center_sampling_radius=100)
        return fcos_match(boxes, anchors, [sum(levels)], valid_mask=valid_mask, center_sampling_radius=center_sampling_radius)

    boxes, valid = draw(torch.Generator().manual_seed(3), 1, 6, side=24, step=2), torch.ones(1, 6, dtype=torch.bool)
    check_fcos(boxes, *points(torch.float32), valid)
    with pytest.raises(AssertionError):
        check_fcos(boxes, *points(torch.float32), valid, match=broken)


@pytest.mark.parametrize(
    ("name", "op"),
    [
        ("match", lambda b, a, v: match(b, a, valid_mask=v, high_threshold=0.5, low_threshold=0.5)),
        ("fcos_match", lambda b, a, v: fcos_match(b, a, [3], valid_mask=v)),
    ],
)
def test_wrong_arguments_of_both_are_named(name, op):
    boxes, anchors, valid = torch.zeros(2, 5, 4), torch.zeros(3, 4), torch.ones(2, 5, dtype=torch.bool)
    with pytest.raises(ShapeError, match=rf"^{name}: boxes has shape \(2, 5, 5\), expected \(2, M, 4\)\.$"):
        op(torch.zeros(2, 5, 5), anchors, valid)
    with pytest.raises(ShapeError, match=rf"^{name}: anchors has shape \(4, 3, 4\), expected \(2, A, 4\)\. One set for all"):
        op(boxes, torch.zeros(4, 3, 4), valid)
    with pytest.raises(ShapeError, match=rf"^{name}: anchors has shape \(3, 5\), expected \(A, 4\)\. One set for all"):
        op(boxes, torch.zeros(3, 5), valid)
    with pytest.raises(ShapeError, match=rf"^{name}: M is 0, expected a whole number of at least 1\.$"):
        op(boxes[:, :0], anchors, valid[:, :0])
    with pytest.raises(ShapeError, match=rf"^{name}: A is 0, expected a whole number of at least 1\.$"):
        op(boxes, anchors[:0], valid)
    with pytest.raises(ShapeError, match=rf"^{name}: valid_mask has shape \(2, 4\), expected \(2, 5\)\. One entry per box\.$"):
        op(boxes, anchors, valid[:, :4])
    with pytest.raises(DtypeError, match=rf"^{name}: valid_mask has dtype torch\.int64, expected torch\.bool\."):
        op(boxes, anchors, valid.long())


@pytest.mark.parametrize("thresholds", [(0.5, 0.6), (1.1, 0.5), (0.5, -0.1), (math.nan, 0.5)])
def test_wrong_thresholds_are_named(thresholds):
    high, low = thresholds
    expected = (
        rf"^match: low_threshold is {low} and high_threshold is {high}, expected 0 <= low_threshold <= high_threshold <= 1\.$"
    )
    with pytest.raises(ShapeError, match=expected):
        match(torch.zeros(1, 4), torch.zeros(3, 4), valid_mask=TRUE, high_threshold=high, low_threshold=low)


def test_wrong_arguments_of_fcos_are_named():
    boxes, anchors = torch.zeros(1, 4), torch.zeros(3, 4)
    with pytest.raises(
        ShapeError, match=r"^fcos_match: num_anchors_per_level is \[2, 2\], 4 in all, expected the 3 of anchors\.$"
    ):
        fcos_match(boxes, anchors, [2, 2], valid_mask=TRUE)
    with pytest.raises(ShapeError, match=r"^fcos_match: num_anchors_per_level is 0, expected a whole number of at least 1\.$"):
        fcos_match(boxes, anchors, [3, 0], valid_mask=TRUE)
    with pytest.raises(ShapeError, match=r"^fcos_match: center_sampling_radius is 0, expected a number above 0\.$"):
        fcos_match(boxes, anchors, [3], valid_mask=TRUE, center_sampling_radius=0)
    with pytest.raises(DtypeError, match=r"^fcos_match: boxes has dtype torch\.float16, expected .* Use boxes\.float\(\)\.$"):
        fcos_match(boxes.half(), anchors, [3], valid_mask=TRUE)
    with pytest.raises(DtypeError, match=r"^fcos_match: anchors has dtype torch\.int64, expected .* Use anchors\.float\(\)\.$"):
        fcos_match(boxes, anchors.long(), [3], valid_mask=TRUE)
