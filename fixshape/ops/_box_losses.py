"""IoU losses of box pairs over the real part of a padded batch.

They are torchvision's numbers, which the installed functions reach through boolean indexing (torchvision/ops/_utils.py,
``_loss_inter_union``). Half precision is computed in float32, as there. Boxes are XYXY with positive width and height where real.

Shapes: ``S...`` any dimensions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fixshape._check import check_shape
from fixshape.ops._reductions import check_reduction, reduce_loss
from fixshape.ops._valid import check_bool, check_same_shape


def masked_generalized_box_iou_loss(
    boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7, *, valid_mask: Tensor
) -> Tensor:
    """``torchvision.ops.generalized_box_iou_loss`` over the real pairs (Rezatofighi et al., 2019, arXiv 1902.09630).

    What the padding holds does not matter, NaN and inf included; its gradient is exactly 0. The mean over no real pair is 0, as
    in torchvision.

    Args:
        boxes1: [S..., 4] boxes, XYXY.
        boxes2: [S..., 4] boxes, XYXY, paired with ``boxes1``.
        reduction: ``"none"`` (padding gives 0), ``"mean"`` (over real pairs) or ``"sum"``.
        eps: keeps the divisions away from 0.
        valid_mask: [S...] bool, True = real.

    Returns:
        [S...] for ``"none"``, else []; float32 or float64.

    Raises:
        ShapeError: the boxes are not pairs of 4 coordinates, ``valid_mask`` does not fit them, or ``reduction`` is none of the
            three.
        DtypeError: ``valid_mask`` is not bool.

    Example:
        >>> import torch
        >>> a, b = torch.tensor([[0.0, 0.0, 2.0, 2.0]] * 2), torch.tensor([[1.0, 0.0, 3.0, 2.0]] * 2)
        >>> masked_generalized_box_iou_loss(a, b, valid_mask=torch.tensor([True, False]))
        tensor([0.6667, 0.0000])
    """
    box1, box2 = _prepare("masked_generalized_box_iou_loss", boxes1, boxes2, reduction, valid_mask)
    intersection, union = _intersection_and_union(box1, box2)
    width, height = _enclosing_size(box1, box2)
    area = width * height
    loss = 1 - (intersection / (union + eps) - (area - union) / (area + eps))
    return reduce_loss(loss, valid_mask, reduction)


def masked_distance_box_iou_loss(
    boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7, *, valid_mask: Tensor
) -> Tensor:
    """``torchvision.ops.distance_box_iou_loss`` over the real pairs (Zheng et al., 2020, arXiv 1911.08287).

    What the padding holds does not matter, NaN and inf included; its gradient is exactly 0. The mean over no real pair is 0, as
    in torchvision.

    Args:
        boxes1: [S..., 4] boxes, XYXY.
        boxes2: [S..., 4] boxes, XYXY, paired with ``boxes1``.
        reduction: ``"none"`` (padding gives 0), ``"mean"`` (over real pairs) or ``"sum"``.
        eps: keeps the divisions away from 0.
        valid_mask: [S...] bool, True = real.

    Returns:
        [S...] for ``"none"``, else []; float32 or float64.

    Raises:
        ShapeError: the boxes are not pairs of 4 coordinates, ``valid_mask`` does not fit them, or ``reduction`` is none of the
            three.
        DtypeError: ``valid_mask`` is not bool.

    Example:
        >>> import torch
        >>> a, b = torch.tensor([[0.0, 0.0, 2.0, 2.0]] * 2), torch.tensor([[1.0, 0.0, 3.0, 2.0]] * 2)
        >>> masked_distance_box_iou_loss(a, b, valid_mask=torch.tensor([True, False]))
        tensor([0.7436, 0.0000])
    """
    box1, box2 = _prepare("masked_distance_box_iou_loss", boxes1, boxes2, reduction, valid_mask)
    return reduce_loss(_distance_loss_and_iou(box1, box2, eps)[0], valid_mask, reduction)


def masked_complete_box_iou_loss(
    boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7, *, valid_mask: Tensor
) -> Tensor:
    """``torchvision.ops.complete_box_iou_loss`` over the real pairs (Zheng et al., 2020, arXiv 1911.08287).

    What the padding holds does not matter, NaN and inf included; its gradient is exactly 0. The mean over no real pair is 0, as
    in torchvision. As the paper asks for, the weight of the aspect-ratio term counts as a constant in the backward pass.

    Args:
        boxes1: [S..., 4] boxes, XYXY.
        boxes2: [S..., 4] boxes, XYXY, paired with ``boxes1``.
        reduction: ``"none"`` (padding gives 0), ``"mean"`` (over real pairs) or ``"sum"``.
        eps: keeps the weight of the aspect-ratio term away from 0/0. As in torchvision the distance term keeps 1e-7 whatever is
            given here.
        valid_mask: [S...] bool, True = real.

    Returns:
        [S...] for ``"none"``, else []; float32 or float64.

    Raises:
        ShapeError: the boxes are not pairs of 4 coordinates, ``valid_mask`` does not fit them, or ``reduction`` is none of the
            three.
        DtypeError: ``valid_mask`` is not bool.

    Example:
        >>> import torch
        >>> a, b = torch.tensor([[0.0, 0.0, 2.0, 2.0]] * 2), torch.tensor([[1.0, 0.0, 3.0, 2.0]] * 2)
        >>> masked_complete_box_iou_loss(a, b, valid_mask=torch.tensor([True, False]))
        tensor([0.7436, 0.0000])
    """
    box1, box2 = _prepare("masked_complete_box_iou_loss", boxes1, boxes2, reduction, valid_mask)
    distance_loss, iou = _distance_loss_and_iou(box1, box2, 1e-7)
    angles = [torch.atan((x2 - x1) / (y2 - y1)) for x1, y1, x2, y2 in (box2, box1)]
    aspect = (4 / math.pi**2) * torch.pow(angles[0] - angles[1], 2)
    with torch.no_grad():
        alpha = aspect / (1 - iou + aspect + eps)
    return reduce_loss(distance_loss + alpha * aspect, valid_mask, reduction)


_Box = tuple[Tensor, Tensor, Tensor, Tensor]


def _prepare(where: str, boxes1: Tensor, boxes2: Tensor, reduction: str, valid_mask: Tensor) -> tuple[_Box, _Box]:
    """Checks the arguments; gives the coordinates with the unit square in the padding, where every loss here is smooth."""
    check_reduction(where, reduction)
    check_shape(where, "boxes1", boxes1.shape, (*boxes1.shape[:-1], 4))
    check_same_shape(where, "boxes2", boxes2, "boxes1", boxes1)
    check_bool(where, "valid_mask", valid_mask)
    check_shape(where, "valid_mask", valid_mask.shape, boxes1.shape[:-1], "One entry per pair of boxes.")
    return _coordinates(boxes1, valid_mask), _coordinates(boxes2, valid_mask)


def _coordinates(boxes: Tensor, valid: Tensor) -> _Box:
    x1, y1, x2, y2 = (boxes if boxes.dtype in (torch.float32, torch.float64) else boxes.float()).unbind(-1)
    return torch.where(valid, x1, 0), torch.where(valid, y1, 0), torch.where(valid, x2, 1), torch.where(valid, y2, 1)


def _intersection_and_union(box1: _Box, box2: _Box) -> tuple[Tensor, Tensor]:
    x1, y1 = torch.max(box1[0], box2[0]), torch.max(box1[1], box2[1])
    x2, y2 = torch.min(box1[2], box2[2]), torch.min(box1[3], box2[3])
    intersection = torch.where((y2 > y1) & (x2 > x1), (x2 - x1) * (y2 - y1), 0)
    area1, area2 = ((box[2] - box[0]) * (box[3] - box[1]) for box in (box1, box2))
    return intersection, area1 + area2 - intersection


def _enclosing_size(box1: _Box, box2: _Box) -> tuple[Tensor, Tensor]:
    width = torch.max(box1[2], box2[2]) - torch.min(box1[0], box2[0])
    height = torch.max(box1[3], box2[3]) - torch.min(box1[1], box2[1])
    return width, height


def _distance_loss_and_iou(box1: _Box, box2: _Box, eps: float) -> tuple[Tensor, Tensor]:
    intersection, union = _intersection_and_union(box1, box2)
    iou = intersection / (union + eps)
    width, height = _enclosing_size(box1, box2)
    diagonal = width**2 + height**2 + eps
    centre1, centre2 = (((box[2] + box[0]) / 2, (box[3] + box[1]) / 2) for box in (box1, box2))
    distance = (centre1[0] - centre2[0]) ** 2 + (centre1[1] - centre2[1]) ** 2
    return 1 - iou + distance / diagonal, iou
