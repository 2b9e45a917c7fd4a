"""Masks in boxes against torchvision's ``project_masks_on_boxes``: its op to the bit, the matrices to rounding."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection.roi_heads import project_masks_on_boxes as upstream

from fixshape.errors import DtypeError, ShapeError
from fixshape.ops import _mask_projection, _roi_samples, project_masks_on_boxes

CANVAS = (37, 53)
FORMS = [_mask_projection._with_op, _mask_projection._with_matrices]


def draw_boxes(seed, count, low=-60.0, high=110.0, dtype=torch.float64):
    """Boxes a good part of which are partly or wholly outside, of a hundredth of a pixel to several canvases."""
    generator = torch.Generator().manual_seed(seed)
    side = 2 ** torch.empty(2, count, 2, dtype=dtype).uniform_(-6, 8, generator=generator)
    corner = torch.empty(2, count, 2, dtype=dtype).uniform_(low, high, generator=generator)
    return torch.cat([corner, corner + side], dim=-1)


def draw(seed, *, count=30, masks=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(2, masks, *CANVAS, generator=generator) < 0.5
    matches = torch.randint(0, masks, (2, count), generator=generator)
    return mask, draw_boxes(seed, count, dtype=dtype), matches, torch.rand(2, count, generator=generator) < 0.7


def reference(masks, boxes, matches, size, *, valid_mask):
    """torchvision's answer for the real boxes of each image, zeros for the others."""
    answer = boxes.new_zeros(*valid_mask.shape, size, size)
    for image, valid in enumerate(valid_mask):
        answer[image, valid] = upstream(masks[image], boxes[image, valid], matches[image, valid], size)
    return answer


def with_form(form, masks, boxes, matches, size):
    """A form by itself, without padding."""
    rows = (matches + masks.shape[1] * torch.arange(len(masks))[:, None]).flatten()
    return form(masks.flatten(0, 1), boxes.flatten(0, 1), rows, size).unflatten(0, matches.shape)


def check_matrices(masks, boxes, matches, size, form=_mask_projection._with_matrices):
    want = reference(masks, boxes, matches, size, valid_mask=torch.ones_like(matches, dtype=torch.bool))
    torch.testing.assert_close(with_form(form, masks, boxes, matches, size), want, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.float32])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_equals_torchvision_to_the_bit(dtype, kind, device):
    for seed in range(3):
        masks, boxes, matches, valid = (argument.to(device) for argument in draw(seed, dtype=dtype))
        want = reference(masks.to(kind), boxes, matches, 7, valid_mask=valid)
        got = project_masks_on_boxes(masks.to(kind), boxes, matches, 7, valid_mask=valid)
        assert got.dtype == dtype and torch.equal(got, want)


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.sampled_from([1, 2, 7, 28]))
def test_matrices_equal_torchvision(seed, size):
    masks, boxes, matches, _ = draw(seed)
    check_matrices(masks, boxes, matches, size)


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, CANVAS[0]), st.integers(1, CANVAS[1]))
def test_masks_end_where_their_image_ends(seed, height, width):
    """As torchvision's do, which has no canvas: the last pixel goes on for one pixel more, and then there is nothing."""
    masks, boxes, matches, valid = draw(seed)
    sizes = torch.tensor([[height, width], CANVAS])
    got = project_masks_on_boxes(masks, boxes, matches, 7, valid_mask=valid, image_sizes=sizes)
    for image, (h, w) in enumerate(sizes.tolist()):
        want = reference(masks[image : image + 1, :, :h, :w], *(part[image : image + 1] for part in (boxes, matches)), 7,
                         valid_mask=valid[image : image + 1])  # fmt: skip
        torch.testing.assert_close(got[image : image + 1], want, rtol=1e-9, atol=1e-11)


def test_a_canvas_is_not_its_image():
    """The oracle at work: without the sizes a box at the border of a small image gets other numbers."""
    masks = torch.ones(1, 1, 8, 8)
    masks[..., 5:] = 0
    boxes, matches, valid = torch.tensor([[[1.0, 1.0, 5.0, 5.0]]]), torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1) > 0
    sizes = torch.tensor([[8, 5]])
    inside = project_masks_on_boxes(masks, boxes, matches, 4, valid_mask=valid, image_sizes=sizes)
    assert (inside == 1).all()
    assert not torch.equal(inside, project_masks_on_boxes(masks, boxes, matches, 4, valid_mask=valid))


@given(st.integers(1, 60), st.integers(1, 9), st.sampled_from([0.0, 1e-13, 1e-9, 1e-3]), st.floats(-3, 3))
def test_matrices_equal_torchvision_where_a_sample_more_begins(samples, size, excess, corner):
    """Bins of just over a whole number of pixels, where most samples touch a pixel."""
    generator = torch.Generator().manual_seed(samples)
    side = size * samples + excess
    boxes = torch.tensor([corner, corner, corner + side, corner + side], dtype=torch.float64).expand(1, 1, 4)
    masks = torch.rand(1, 1, *CANVAS, generator=generator, dtype=torch.float64)
    check_matrices(masks, boxes, torch.zeros(1, 1, dtype=torch.int64), size)


def test_matrices_equal_torchvision_at_samples_on_the_border():
    """One pixel outside still counts, anything more is zero; whole and half pixels all around the canvas."""
    left = torch.arange(-6, 60, 0.5, dtype=torch.float64).expand(2, -1)
    masks, *_ = draw(5)
    for side in (1.0, 2.0, 4.0, 8.0):
        boxes = torch.stack([left, left, left + side, left + side], dim=-1)
        check_matrices(masks, boxes, torch.zeros(left.shape, dtype=torch.int64), 2)


@pytest.mark.parametrize("canvas", [(1, 1), (1, 9), (2, 3)])
def test_matrices_equal_torchvision_on_canvases_of_few_pixels(canvas):
    check_matrices(torch.ones(2, 1, *canvas), draw_boxes(6, 50, -3, 4), torch.zeros(2, 50, dtype=torch.int64), 3)


def test_matrices_in_float32_agree_with_torchvision():
    masks, boxes, matches, valid = draw(7, dtype=torch.float32)
    want = reference(masks, boxes, matches, 28, valid_mask=torch.ones_like(valid))
    got = with_form(_mask_projection._with_matrices, masks, boxes, matches, 28)
    torch.testing.assert_close(got, want, rtol=0, atol=2e-3)
    assert (got - want).abs().mean() < 1e-5


def test_the_comparison_fails_with_fewer_samples_than_can_touch(monkeypatch):
    """The oracle at work."""
    monkeypatch.setattr(_roi_samples, "_MOST_TOUCHING", 2)
    masks, boxes, matches, _ = draw(0)
    with pytest.raises(AssertionError):
        check_matrices(masks, boxes, matches, 7)


@pytest.mark.parametrize("form", FORMS)
def test_chunks_change_nothing(form, monkeypatch):
    masks, boxes, matches, _ = draw(8)
    whole = with_form(form, masks, boxes, matches, 3)
    for budget in (3 * 8 * 37 * 53, 70_000, 1):
        monkeypatch.setattr(_mask_projection, "_CHUNK_BYTES", budget)
        torch.testing.assert_close(with_form(form, masks, boxes, matches, 3), whole, rtol=0, atol=1e-15)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), -1e30, 20.0])
def test_padding_gives_zeros_whatever_it_holds(form, garbage, monkeypatch):
    monkeypatch.setattr(_mask_projection, "_with_op", form)
    masks, boxes, matches, valid = draw(9)
    masks, matches = masks.double(), matches.clamp(min=1)
    want = project_masks_on_boxes(masks, boxes, matches, 5, valid_mask=valid)
    masks[:, 0] = garbage  # a padded slot, and the one that padding is sent to
    boxes = boxes.masked_fill(~valid[..., None], garbage)
    for match in (-(10**9), -1, 0, 3, 10**9):
        got = project_masks_on_boxes(masks, boxes, matches.masked_fill(~valid, match), 5, valid_mask=valid)
        assert torch.equal(got, want) and (got[~valid] == 0).all() and got.any()


@pytest.mark.parametrize("match", [-1, 4])
def test_a_match_that_is_none_gives_zeros(match):
    masks, boxes, matches, valid = draw(10)
    got = project_masks_on_boxes(masks, boxes, torch.full_like(matches, match), 5, valid_mask=valid | True)
    assert (got == 0).all()


@pytest.mark.parametrize("form", FORMS)
def test_boxes_that_are_not_finite_give_zeros(form, monkeypatch):
    monkeypatch.setattr(_mask_projection, "_with_op", form)
    nan, inf = float("nan"), float("inf")
    boxes = torch.tensor([[[nan, 0, 9, 9], [0, 0, inf, 9], [-inf, 0, inf, 9], [-1.5e308, 0, 1.5e308, 9]]], dtype=torch.float64)
    matches, valid = torch.zeros(1, 4, dtype=torch.int64), torch.ones(1, 4, dtype=torch.bool)
    assert (project_masks_on_boxes(torch.ones(1, 1, 9, 9), boxes, matches, 3, valid_mask=valid) == 0).all()


def test_nothing_valid_gives_zeros():
    masks, boxes, matches, valid = draw(11)
    assert (project_masks_on_boxes(masks, boxes, matches, 5, valid_mask=valid & False) == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_boxes_are_computed_in_float32(dtype):
    masks, boxes, matches, valid = draw(12, dtype=torch.float32)
    got = project_masks_on_boxes(masks, boxes.clamp(-100, 100).to(dtype), matches, 5, valid_mask=valid)
    want = project_masks_on_boxes(masks, boxes.clamp(-100, 100).to(dtype).float(), matches, 5, valid_mask=valid)
    assert got.dtype == torch.float32 and torch.equal(got, want)


@pytest.mark.parametrize("form", FORMS)
def test_autocast_changes_nothing(form):
    masks, boxes, matches, _ = draw(14, dtype=torch.float32)
    want = with_form(form, masks, boxes, matches, 5)
    with torch.autocast("cpu"):
        assert torch.equal(with_form(form, masks, boxes, matches, 5), want)


def test_no_gradient_passes():
    masks, boxes, matches, valid = draw(13)
    masks = masks.double().requires_grad_()
    assert not project_masks_on_boxes(masks, boxes.requires_grad_(), matches, 5, valid_mask=valid).requires_grad


@pytest.mark.xla
def test_xla_has_the_numbers_of_torchvision_from_one_graph_whatever_the_content():
    import torch_xla
    import torch_xla.debug.metrics as metrics

    compiles = []
    for seed in range(3):
        masks, boxes, matches, valid = draw(seed)
        want = reference(masks, boxes, matches, 7, valid_mask=valid)
        masks, boxes, matches, valid = (argument.to(torch_xla.device()) for argument in (masks, boxes, matches, valid))
        torch_xla.sync()
        metrics.clear_all()
        got = project_masks_on_boxes(masks, boxes, matches, 7, valid_mask=valid)
        torch_xla.sync()
        compiles.append((metrics.metric_data("CompileTime") or [0])[0])
        assert not [name for name in metrics.counter_names() if name.startswith("aten::")]
        torch.testing.assert_close(got.cpu(), want, rtol=1e-9, atol=1e-11)
    assert compiles == [1, 0, 0]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"masks": torch.zeros(3, 9, 9)}, r"masks has shape \(3, 9, 9\), expected \(B, M, H, W\)\.$"),
        ({"masks": torch.zeros(1, 0, 9, 9)}, r"smallest size of masks is 0, expected a whole number of at least 1\.$"),
        ({"boxes": torch.zeros(2, 2, 4)}, r"boxes has shape \(2, 2, 4\), expected \(1, P, 4\)\. One row of boxes per image of"),
        ({"boxes": torch.zeros(1, 0, 4)}, r"P is 0, expected a whole number of at least 1\.$"),
        ({"matches": torch.zeros(1, 3).long()}, r"matches has shape \(1, 3\), expected \(1, 2\)\. One entry per box\.$"),
        ({"valid_mask": torch.ones(1, 3) > 0}, r"valid_mask has shape \(1, 3\), expected \(1, 2\)\. One entry per box\.$"),
        ({"image_sizes": torch.ones(2, 2)}, r"image_sizes has shape \(2, 2\), expected \(1, 2\)\. One \(height, width\) per"),
        ({"size": 0}, r"size is 0, expected a whole number of at least 1\.$"),
    ],
)
def test_wrong_shapes_and_sizes_are_named(changed, message):
    with pytest.raises(ShapeError, match=f"^project_masks_on_boxes: {message}"):
        call(**changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"boxes": torch.zeros(1, 2, 4).long()},
            r"boxes has dtype torch\.int64, expected a floating point one\. Use boxes\.float",
        ),
        ({"matches": torch.zeros(1, 2)}, r"matches has dtype torch\.float32, expected integers\. Use matches\.long\(\)\.$"),
        ({"matches": torch.zeros(1, 2) > 0}, r"matches has dtype torch\.bool, expected integers\."),
        ({"valid_mask": torch.ones(1, 2)}, r"valid_mask has dtype torch\.float32, expected torch\.bool\."),
    ],
)
def test_wrong_dtypes_are_named(changed, message):
    with pytest.raises(DtypeError, match=f"^project_masks_on_boxes: {message}"):
        call(**changed)


def call(**changed):
    given = {
        "masks": torch.zeros(1, 3, 9, 9),
        "boxes": torch.zeros(1, 2, 4),
        "matches": torch.zeros(1, 2, dtype=torch.int64),
        "size": 3,
        "valid_mask": torch.ones(1, 2, dtype=torch.bool),
    }
    given.update(changed)
    arguments = [given.pop(name) for name in ("masks", "boxes", "matches", "size")]
    return project_masks_on_boxes(*arguments, **given)
