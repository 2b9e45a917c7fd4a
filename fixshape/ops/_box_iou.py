"""Intersection over union of every pair of two padded sets of boxes.

Shapes: ``N`` and ``M`` box slots, ``L...`` leading dimensions. Boxes are XYXY.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fixshape._check import check_shape
from fixshape.ops._valid import check_bool


def box_iou(boxes1: Tensor, boxes2: Tensor, *, valid_mask1: Tensor | None = None, valid_mask2: Tensor | None = None) -> Tensor:
    """``torchvision.ops.box_iou`` with -1 for every pair that padding takes part in.

    Valid pairs have torchvision's number bit for bit, half precision included, which is widened where torchvision widens it
    (torchvision/ops/boxes.py, ``_box_inter_union``). Padding gives -1 and not 0, since matchers look for rows and columns whose
    best overlap *is* 0. A pair of real boxes of no area is 0/0 = NaN, as in torchvision.

    Args:
        boxes1: [L..., N, 4] boxes, XYXY.
        boxes2: [L..., M, 4] boxes, XYXY, same unit; the leading dimensions are broadcast.
        valid_mask1: [L..., N] bool, True = real; None when all are.
        valid_mask2: [L..., M] bool, True = real; None when all are.

    Returns:
        [L..., N, M], float32 or float64; in [0, 1], or -1.

    Raises:
        ShapeError: boxes do not end in 4 coordinates, or a mask does not have the shape of its boxes.
        DtypeError: a mask is not bool.

    Example:
        >>> import torch
        >>> boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [1.0, 0.0, 3.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
        >>> box_iou(boxes[:1], boxes, valid_mask2=torch.tensor([True, True, False]))
        tensor([[ 1.0000,  0.3333, -1.0000]])
    """
    boxes1 = _replace_padding("boxes1", boxes1, valid_mask1)
    boxes2 = _replace_padding("boxes2", boxes2, valid_mask2)
    corners1, corners2 = boxes1.mT.contiguous(), boxes2.mT.contiguous()
    iou = pairwise_iou(corners1, area_of(corners1), corners2, area_of(corners2))
    if valid_mask1 is not None:
        iou = torch.where(valid_mask1.unsqueeze(-1), iou, -1)
    return iou if valid_mask2 is None else torch.where(valid_mask2.unsqueeze(-2), iou, -1)


def pairwise_iou(corners1: Tensor, area1: Tensor, corners2: Tensor, area2: Tensor) -> Tensor:
    """The IoU of every pair, unmasked: [L..., 4, N] and [L..., N], [L..., 4, M] and [L..., M] give [L..., N, M].

    Coordinates come in planes, so that the innermost stride is 1: some three times faster on a CPU than [..., N, M, 2].
    """
    top_left = torch.maximum(corners1[..., :2, :, None], corners2[..., :2, None, :])
    bottom_right = torch.minimum(corners1[..., 2:, :, None], corners2[..., 2:, None, :])
    width, height = _widen(bottom_right - top_left).clamp(min=0).unbind(-3)
    intersection = width * height
    return intersection / (area1.unsqueeze(-1) + area2.unsqueeze(-2) - intersection)


def area_of(corners: Tensor) -> Tensor:
    """The area of each box: [L..., 4, N] gives [L..., N], widened to float32 (or int32) at least."""
    x1, y1, x2, y2 = _widen(corners).unbind(-2)
    return (x2 - x1) * (y2 - y1)


def _widen(x: Tensor) -> Tensor:
    if x.is_floating_point():
        return x.float() if x.element_size() < 4 else x
    return x.int() if x.element_size() < 4 else x


def _replace_padding(name: str, boxes: Tensor, valid_mask: Tensor | None) -> Tensor:
    """Boxes with the unit square in the padding: its area keeps 0/0, and so NaN gradients, away."""
    check_shape("box_iou", name, boxes.shape, (*boxes.shape[:-2], name.replace("boxes", "N"), 4))
    if valid_mask is None:
        return boxes
    mask_name = name.replace("boxes", "valid_mask")
    check_bool("box_iou", mask_name, valid_mask)
    check_shape("box_iou", mask_name, valid_mask.shape, boxes.shape[:-1], f"One entry per box of {name}.")
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack(
        [
            torch.where(valid_mask, x1, 0),
            torch.where(valid_mask, y1, 0),
            torch.where(valid_mask, x2, 1),
            torch.where(valid_mask, y2, 1),
        ],
        dim=-1,
    )
