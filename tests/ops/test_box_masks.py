"""Mask targets from masks stored in their boxes: how far they are from those of the masks themselves, and never further."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import box_iou, clip_boxes_to_image

from fixshape import ops
from fixshape.collate import PadToBucket
from fixshape.detection import CocoSamples, DrawnShapes, HostTransform
from fixshape.errors import DtypeError, ShapeError

SIZE = 28
# Largest and mean difference of the numbers of a target, which are 0 to 1, and how many lie on the other side of one half.
BOUNDS = {28: (0.6, 0.022, 0.010), 56: (0.3, 0.008, 0.004), 112: (0.2, 0.004, 0.002)}


def proposals(boxes, height, width, generator):
    """[n, 4] boxes of which each corner is moved, and whether they overlap their own by half or more, as a mask head's do."""
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    moved = clip_boxes_to_image(boxes + 0.1 * sides * torch.randn(boxes.shape, generator=generator), (height, width))
    return moved, box_iou(boxes, moved).diagonal() >= 0.5


def differences(samples, indices, mask_size):
    """[N, 28, 28] target by the masks, and by the stored masks, of all proposals of some samples resized to 800 pixels."""
    transform = HostTransform([800], 1333, None, training=False)
    generator = torch.Generator().manual_seed(0)
    wanted, got = [], []
    for index in indices:
        image, target = transform(*samples[index])
        count = len(target["boxes"])
        if count == 0:
            continue
        height, width = image.shape[1:]
        full, stored = (
            PadToBucket((height, width), max_boxes=count, mask_size=size)([(image, target)])[1] for size in (None, mask_size)
        )
        boxes, valid_mask = proposals(target["boxes"], height, width, generator)
        arguments = boxes[None], torch.arange(count)[None], SIZE
        options = {"valid_mask": valid_mask[None]}
        wanted.append(ops.project_masks_on_boxes(full["masks"], *arguments, **options)[0, valid_mask])
        projected = ops.project_box_masks_on_boxes(stored["box_masks"], stored["boxes"], *arguments, **options)
        got.append(projected[0, valid_mask])
    return torch.cat(wanted), torch.cat(got)


def figures(wanted, got):
    """Largest and mean difference, and how many numbers lie on the other side of one half."""
    off = (wanted - got).abs()
    return float(off.max()), float(off.mean()), float(((wanted >= 0.5) != (got >= 0.5)).float().mean())


@pytest.fixture(scope="module")
def drawn():
    return DrawnShapes(12, seed=11), range(12)


@pytest.fixture(scope="module")
def photographs(data_folder):
    folder = data_folder / "coco_permissive"
    return CocoSamples(folder / "images", folder / "instances.json", masks=True), range(0, 104, 13)


@pytest.mark.parametrize("mask_size", BOUNDS)
@pytest.mark.parametrize("data", ["drawn", "photographs"])
def test_targets_are_those_of_the_masks_within_bounds(request, data, mask_size):
    wanted, got = differences(*request.getfixturevalue(data), mask_size)
    assert len(wanted) > 50 and 0.2 < wanted.mean() < 0.8
    assert all(figure <= bound for figure, bound in zip(figures(wanted, got), BOUNDS[mask_size], strict=True))


@pytest.mark.parametrize("margin", [0, 2])
def test_the_bounds_are_missed_if_writer_and_reader_disagree_by_a_pixel(drawn, monkeypatch, margin):
    monkeypatch.setattr(ops._box_masks, "_MARGIN", margin)
    largest, mean, flipped = figures(*differences(*drawn, 56))
    assert largest > BOUNDS[56][0] and mean > BOUNDS[56][1] and flipped > BOUNDS[56][2]


def arguments(dtype=torch.float64):
    """Two images of three stored masks and four boxes, the last of each padding."""
    generator = torch.Generator().manual_seed(0)
    box_masks = torch.randint(0, 256, (2, 3, 10, 10), generator=generator, dtype=torch.uint8)
    low = torch.rand(2, 3, 2, generator=generator, dtype=dtype) * 50
    gt_boxes = torch.cat([low, low + 10 + torch.rand(2, 3, 2, generator=generator, dtype=dtype) * 30], dim=-1)
    matches = torch.tensor([[0, 2, 1, 0], [1, 1, 0, 0]])
    boxes = gt_boxes.take_along_dim(matches[..., None], dim=1) + torch.randn(2, 4, 4, generator=generator, dtype=dtype)
    valid_mask = torch.tensor([[True, True, True, False]]).expand(2, 4)
    return box_masks, gt_boxes, boxes, matches, valid_mask


def project(box_masks, gt_boxes, boxes, matches, valid_mask, size=7):
    return ops.project_box_masks_on_boxes(box_masks, gt_boxes, boxes, matches, size, valid_mask=valid_mask)


def test_the_grown_box_itself_gives_the_stored_mask_back():
    box_masks, gt_boxes, _, _, _ = arguments()
    margin = torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=gt_boxes.dtype)
    same, every = torch.arange(3).expand(2, 3), torch.ones(2, 3, dtype=torch.bool)
    got = project(box_masks, gt_boxes, gt_boxes + margin, same, every, size=10)
    torch.testing.assert_close(got, box_masks / torch.tensor(255.0, dtype=torch.float64), rtol=0, atol=1e-9)


def test_what_lies_outside_of_the_stored_mask_is_zero():
    box_masks, gt_boxes, _, _, _ = arguments()
    beside = gt_boxes + (gt_boxes[..., 2:] - gt_boxes[..., :2] + 9).repeat(1, 1, 2)
    same, every = torch.arange(3).expand(2, 3), torch.ones(2, 3, dtype=torch.bool)
    for boxes in (beside, 2 * gt_boxes - beside):
        assert not project(box_masks | 1, gt_boxes, boxes, same, every).any()


@pytest.mark.parametrize("garbage", [torch.nan, torch.inf, -torch.inf, 1e30])
def test_padding_reaches_no_result(garbage):
    box_masks, gt_boxes, boxes, matches, valid_mask = arguments()
    unused = torch.tensor([[False, False, False], [False, False, True]])
    want = project(box_masks, gt_boxes, boxes, matches, valid_mask)
    assert want[:, :3].any() and not want[:, 3].any()
    poisoned = project(
        box_masks.masked_fill(unused[..., None, None], 200),
        gt_boxes.masked_fill(unused[..., None], garbage),
        boxes.masked_fill(~valid_mask[..., None], garbage),
        matches.masked_fill(~valid_mask, 2),
        valid_mask,
    )
    assert torch.equal(poisoned, want)


@pytest.mark.parametrize("outside", [-1, 3, 1 << 40])
def test_a_match_out_of_range_gives_zero(outside):
    box_masks, gt_boxes, boxes, matches, valid_mask = arguments()
    got = project(box_masks, gt_boxes, boxes, torch.full_like(matches, outside), valid_mask)
    assert not got.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    box_masks, gt_boxes, boxes, matches, valid_mask = arguments(dtype)
    got = project(box_masks, gt_boxes, boxes, matches, valid_mask)
    assert got.dtype == torch.float32
    assert torch.equal(got, project(box_masks, gt_boxes.float(), boxes.float(), matches, valid_mask))


def test_no_gradient_passes():
    box_masks, gt_boxes, boxes, matches, valid_mask = arguments()
    assert not project(box_masks, gt_boxes.requires_grad_(), boxes.requires_grad_(), matches, valid_mask).requires_grad


@pytest.mark.parametrize(
    ("position", "change", "error", "text"),
    [
        (0, lambda a: a[0], ShapeError, r"box_masks has shape \(3, 10, 10\), expected \(B, M, S, S\)\."),
        (
            0,
            lambda a: a[..., :9],
            ShapeError,
            r"box_masks has shape \(2, 3, 10, 9\), expected \(2, 3, 10, 10\)\. They are square",
        ),
        (0, lambda a: a[:, :0], ShapeError, r"smallest size of box_masks is 0, expected a whole number of at least 1\."),
        (0, lambda a: a.float(), DtypeError, r"box_masks has dtype torch.float32, expected torch.uint8: 255ths, of PadToBucket"),
        (1, lambda a: a[:, :2], ShapeError, r"gt_boxes has shape \(2, 2, 4\), expected \(2, 3, 4\)\. One box per mask\."),
        (1, lambda a: a.long(), DtypeError, r"gt_boxes has dtype torch.int64, expected a floating point one"),
        (2, lambda a: a[:1], ShapeError, r"boxes has shape \(1, 4, 4\), expected \(2, P, 4\)\. One row of boxes per image"),
        (2, lambda a: a[:, :0], ShapeError, r"P is 0, expected a whole number of at least 1\."),
        (
            2,
            lambda a: a.long(),
            DtypeError,
            r"boxes has dtype torch.int64, expected a floating point one\. Use boxes.float\(\)\.",
        ),
        (3, lambda a: a[:, 1:], ShapeError, r"matches has shape \(2, 3\), expected \(2, 4\)\. One entry per box\."),
        (3, lambda a: a.float(), DtypeError, r"matches has dtype torch.float32, expected integers\. Use matches.long\(\)\."),
        (4, lambda a: a[:, 1:], ShapeError, r"valid_mask has shape \(2, 3\), expected \(2, 4\)\. One entry per box\."),
        (4, lambda a: a.long(), DtypeError, r"valid_mask has dtype torch.int64, expected torch.bool"),
    ],
)
def test_a_wrong_argument_is_named(position, change, error, text):
    given = list(arguments())
    given[position] = change(given[position])
    with pytest.raises(error, match=f"^project_box_masks_on_boxes: {text}"):
        project(*given)


def test_a_size_of_nothing_is_named():
    with pytest.raises(ShapeError, match=r"^project_box_masks_on_boxes: size is 0, expected a whole number of at least 1\."):
        project(*arguments(), size=0)
