"""What should a mask head predict: which part of its object's mask lies in a box?

Shapes: ``B`` images, ``M`` mask slots and ``P`` box slots per image, ``H, W`` the canvas, ``size`` the side of the answer; in the
private part ``K = B M`` masks and ``N = B P`` boxes in a row.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import roi_align

from fixshape._check import check_at_least, check_shape
from fixshape.errors import DtypeError
from fixshape.ops._roi_matrices import without_autocast
from fixshape.ops._roi_samples import weights
from fixshape.ops._roi_torchvision import OUTSIDE
from fixshape.ops._valid import check_bool

_WHERE = "project_masks_on_boxes"
_CHUNK_BYTES = 2**26  # of masks as floating point numbers, and of what is computed from them, at a time


def project_masks_on_boxes(
    masks: Tensor, boxes: Tensor, matches: Tensor, size: int, *, valid_mask: Tensor, image_sizes: Tensor | None = None
) -> Tensor:
    """``project_masks_on_boxes`` of torchvision's detection models with a fixed number of masks and boxes per image.

    It is RoIAlign of each box on the mask of its object, with as many samples as the box is large:
    torchvision/models/detection/roi_heads.py. There a mask ends where its image ends: samples up to one pixel behind the border
    count as on it, and those beyond as 0. On a canvas that takes ``image_sizes``; without them masks end with the canvas.

    It multiplies by two matrices of averaged bilinear weights, which agrees to rounding (1e-9 in float64). Only without
    ``image_sizes``, on the CPU and on CUDA, it calls torchvision's op, whose answer it then has to the bit. Autocast changes
    nothing. No gradient passes.

    Boxes may lie outside the image and be larger than it. Torchvision's op takes time for each sample, so for the area of a
    box; the matrices do not.

    What it does not promise: the op's time for boxes of a million pixels. Clip them to the canvas, as the models do.

    Args:
        masks: [B, M, H, W] bool, integers or floating point, of the canvas. Padding may hold anything.
        boxes: [B, P, 4] floating point, XYXY in pixels of the canvas; one that is not finite gives 0. Half precision is
            computed in float32.
        matches: [B, P] integers: the mask of each box. A box whose match is not in [0, M) gives 0.
        size: height and width of the answer, at least 1.
        valid_mask: [B, P] bool, True = real. Padding gives 0, whatever its boxes and matches hold.
        image_sizes: [B, 2] integers, (h, w) of each image at the top left of the canvas; ``None``: all of it.

    Returns:
        [B, P, size, size] in the dtype of ``boxes``, float32 at least.

    Raises:
        ShapeError: shapes do not fit each other; M, P, H, W or ``size`` is not at least 1.
        DtypeError: ``boxes`` are not floating point, ``matches`` not integers, or ``valid_mask`` is not bool.

    Example:
        >>> import torch
        >>> masks = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
        >>> masks[..., :4] = True
        >>> boxes = torch.tensor([[[1.0, 0.0, 5.0, 8.0], [0.0, 0.0, 0.0, 0.0]]])
        >>> valid_mask = torch.tensor([[True, False]])
        >>> project_masks_on_boxes(masks, boxes, torch.zeros(1, 2, dtype=torch.int64), 2, valid_mask=valid_mask)
        tensor([[[[1.0000, 0.2500],
                  [1.0000, 0.2500]],
        <BLANKLINE>
                 [[0.0000, 0.0000],
                  [0.0000, 0.0000]]]])
    """
    count = _check_arguments(masks, boxes, matches, size, valid_mask)
    if image_sizes is not None:
        check_shape(_WHERE, "image_sizes", image_sizes.shape, (masks.shape[0], 2), "One (height, width) per image.")
    boxes, masks = boxes.detach(), masks.detach()
    boxes = boxes.to(torch.promote_types(boxes.dtype, torch.float32))
    finite = (boxes[..., 2:] - boxes[..., :2]).isfinite().all(-1)
    valid_mask = valid_mask & finite & (matches >= 0) & (matches < count)
    boxes = boxes.masked_fill(~valid_mask.unsqueeze(-1), OUTSIDE).flatten(0, 1)
    first = count * torch.arange(len(masks), device=masks.device).unsqueeze(-1)
    rows = torch.where(valid_mask, first + matches, 0).flatten()
    if image_sizes is None and boxes.device.type in ("cpu", "cuda"):
        projected = _with_op(masks.flatten(0, 1), boxes, rows, size)
    else:
        limits = None if image_sizes is None else image_sizes[:, None].expand(*valid_mask.shape, 2).flatten(0, 1)
        projected = _with_matrices(masks.flatten(0, 1), boxes, rows, size, limits)
    # Padding may point at a mask of NaN, and 0 * NaN is NaN.
    return projected.reshape(*valid_mask.shape, size, size).masked_fill(~valid_mask[..., None, None], 0)


def _with_op(masks: Tensor, boxes: Tensor, rows: Tensor, size: int) -> Tensor:
    """[N, size, size] of the masks [K, H, W] that ``rows`` [N] name, by torchvision's op, which wants masks of numbers.

    As many masks at a time as the budget holds; all boxes take part each time, those of other masks as boxes outside.
    """
    chunk = max(1, _CHUNK_BYTES // (masks[0].numel() * boxes.element_size()))
    projected = boxes.new_zeros(len(boxes), size, size)
    for begin in range(0, len(masks), chunk):
        some = masks[begin : begin + chunk].unsqueeze(1).to(boxes.dtype)
        here = (rows >= begin) & (rows < begin + chunk)
        row = torch.where(here, rows - begin, 0).to(boxes.dtype)
        rois = torch.cat([row[:, None], boxes.masked_fill(~here[:, None], OUTSIDE)], dim=1)
        projected = torch.where(here[:, None, None], roi_align(some, rois, size, sampling_ratio=-1).squeeze(1), projected)
    return projected


def _with_matrices(masks: Tensor, boxes: Tensor, rows: Tensor, size: int, limits: Tensor | None = None) -> Tensor:
    """The same by products of matrices, on masks that end at ``limits`` [N, 2], as many boxes at a time as the budget holds."""
    height, width = masks.shape[1:]
    numbers = height * width + 4 * 4 * size * (height + width)  # a mask, and what the weights are computed from
    chunk = max(1, _CHUNK_BYTES // (numbers * boxes.element_size()))
    projected = []
    for begin in range(0, len(boxes), chunk):
        here = slice(begin, begin + chunk)
        x1, y1, x2, y2 = boxes[here].unbind(-1)
        last_row, last_column = (None, None) if limits is None else limits[here].unbind(-1)
        some = masks.index_select(0, rows[here]).to(boxes.dtype)
        with without_autocast(boxes.device.type):
            down, across = weights(y1, y2, size, -1, height, last_row), weights(x1, x2, size, -1, width, last_column)
            projected.append(down @ some @ across.mT)
    return torch.cat(projected)


def _check_arguments(masks: Tensor, boxes: Tensor, matches: Tensor, size: int, valid_mask: Tensor) -> int:
    """The number of masks per image."""
    check_shape(_WHERE, "masks", masks.shape, ("B", "M", "H", "W"))
    check_at_least(_WHERE, "smallest size of masks", min(masks.shape), 1)
    check_shape(_WHERE, "boxes", boxes.shape, (masks.shape[0], "P", 4), "One row of boxes per image of the masks.")
    check_at_least(_WHERE, "P", boxes.shape[1], 1)
    check_shape(_WHERE, "matches", matches.shape, boxes.shape[:-1], "One entry per box.")
    check_bool(_WHERE, "valid_mask", valid_mask)
    check_shape(_WHERE, "valid_mask", valid_mask.shape, boxes.shape[:-1], "One entry per box.")
    check_at_least(_WHERE, "size", size, 1)
    if not boxes.is_floating_point():
        raise DtypeError(f"{_WHERE}: boxes has dtype {boxes.dtype}, expected a floating point one. Use boxes.float().")
    if matches.dtype == torch.bool or matches.is_floating_point():
        raise DtypeError(f"{_WHERE}: matches has dtype {matches.dtype}, expected integers. Use matches.long().")
    return masks.shape[1]
