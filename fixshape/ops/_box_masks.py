"""What should a mask head predict, from masks that are stored as the contents of their boxes?

Shapes: ``B`` images, ``M`` mask slots and ``P`` box slots per image, ``S`` the side of a stored mask, ``size`` the side of the
answer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fixshape._check import check_at_least, check_shape
from fixshape.errors import DtypeError
from fixshape.ops._mask_projection import project_masks_on_boxes
from fixshape.ops._valid import check_bool

_WHERE = "project_box_masks_on_boxes"
_MARGIN = 1  # pixels that a stored mask goes beyond its box on each side, as in fixshape/collate/_box_masks.py
_RING = 1  # cells of zeros around it: RoIAlign takes the border's value for samples up to a cell outside


def project_box_masks_on_boxes(
    box_masks: Tensor, gt_boxes: Tensor, boxes: Tensor, matches: Tensor, size: int, *, valid_mask: Tensor
) -> Tensor:
    """:func:`project_masks_on_boxes` from the masks of ``PadToBucket(..., mask_size=S)``, which do not grow with the image.

    Each box is carried over to the cells of its object's stored mask, and RoIAlign samples it there. No gradient passes.

    What it does not promise: equality with torchvision. A stored mask is smoothed to its cells. Measured against
    :func:`project_masks_on_boxes`: the differences of the single numbers of 28x28 targets, which are 0 to 1, and how many of the
    numbers lie on the other side of one half. 1,023 objects of 104 COCO photographs and 318 drawn shapes, images resized to 800
    pixels, boxes with corners moved by a tenth of the object's sides (standard deviation) that still overlap it by half:

    ====  ======  ========  =============  ======  ========  =============
    ..    photographs                      drawn shapes
    ----  -------------------------------  -------------------------------
    S     mean    largest   other side     mean    largest   other side
    ====  ======  ========  =============  ======  ========  =============
    28    0.019   0.57      0.7 %          0.015   0.47      0.5 %
    56    0.006   0.39      0.2 %          0.004   0.22      0.1 %
    112   0.003   0.40      0.1 %          0.001   0.12      0.05 %
    ====  ======  ========  =============  ======  ========  =============

    The largest ones are at thin parts and at edges. With 100 objects on a canvas of 800x1344 the masks of an image take 108 MB,
    and 0.3 MB with S=56. Time grows with the area of a box over that of its object, so it is for boxes that overlap theirs.

    Args:
        box_masks: [B, M, S, S] uint8, 255ths: ``targets["box_masks"]``. Padding may hold anything.
        gt_boxes: [B, M, 4] floating point, XYXY in pixels of the canvas: the boxes that the masks were stored with. Padding may
            hold anything.
        boxes: [B, P, 4] floating point, XYXY in pixels of the canvas, finite where valid. Half precision is computed in float32.
        matches: [B, P] integers: the object of each box. A box whose match is not in [0, M) gives 0.
        size: height and width of the answer, at least 1.
        valid_mask: [B, P] bool, True = real. Padding gives 0, whatever its boxes and matches hold.

    Returns:
        [B, P, size, size] in the dtype of ``boxes``, float32 at least; 0 to 1.

    Raises:
        ShapeError: shapes do not fit each other; M, P, S or ``size`` is not at least 1.
        DtypeError: ``box_masks`` are not uint8, ``boxes`` or ``gt_boxes`` not floating point, ``matches`` not integers, or
            ``valid_mask`` is not bool.

    Example:
        >>> import torch
        >>> box_masks = torch.full((1, 1, 8, 8), 255, dtype=torch.uint8)
        >>> gt_boxes = torch.tensor([[[11.0, 11.0, 17.0, 17.0]]])  # with its margin from 10 to 18: a cell is a pixel
        >>> boxes = torch.tensor([[[12.0, 14.0, 16.0, 22.0], [0.0, 0.0, 0.0, 0.0]]])
        >>> matches, valid_mask = torch.zeros(1, 2, dtype=torch.int64), torch.tensor([[True, False]])
        >>> project_box_masks_on_boxes(box_masks, gt_boxes, boxes, matches, 2, valid_mask=valid_mask)
        tensor([[[[1., 1.],
                  [0., 0.]],
        <BLANKLINE>
                 [[0., 0.],
                  [0., 0.]]]])
    """
    _check_arguments(box_masks, gt_boxes, boxes, matches, size, valid_mask)
    dtype = torch.promote_types(torch.promote_types(boxes.dtype, gt_boxes.dtype), torch.float32)
    boxes, gt_boxes = boxes.detach().to(dtype), gt_boxes.detach().to(dtype)
    # What is out of range is computed with another object's box, and dropped by the projection.
    row = matches.clamp(0, box_masks.shape[1] - 1).long()
    matched = gt_boxes.take_along_dim(row.unsqueeze(-1), dim=1)
    low, high = matched[..., :2] - _MARGIN, matched[..., 2:] + _MARGIN
    cell = (high - low) / box_masks.shape[-1]
    # RoIAlign counts from the centre of the first cell, and takes a box to be a pixel at least.
    first = _RING - 0.5
    start = boxes[..., :2]
    end = torch.maximum(boxes[..., 2:], start + 1)
    in_cells = torch.cat([(start - low) / cell + first, (end - low) / cell + first], dim=-1)
    projected = project_masks_on_boxes(F.pad(box_masks, (_RING,) * 4), in_cells, matches, size, valid_mask=valid_mask)
    return projected / 255


def _check_arguments(box_masks: Tensor, gt_boxes: Tensor, boxes: Tensor, matches: Tensor, size: int, valid_mask: Tensor) -> None:
    check_at_least(_WHERE, "size", size, 1)
    check_shape(_WHERE, "box_masks", box_masks.shape, ("B", "M", "S", "S"))
    check_shape(_WHERE, "box_masks", box_masks.shape, (*box_masks.shape[:3], box_masks.shape[2]), "They are square.")
    check_at_least(_WHERE, "smallest size of box_masks", min(box_masks.shape), 1)
    check_shape(_WHERE, "gt_boxes", gt_boxes.shape, (*box_masks.shape[:2], 4), "One box per mask.")
    check_shape(_WHERE, "boxes", boxes.shape, (len(box_masks), "P", 4), "One row of boxes per image of the masks.")
    check_at_least(_WHERE, "P", boxes.shape[1], 1)
    check_shape(_WHERE, "matches", matches.shape, boxes.shape[:-1], "One entry per box.")
    check_bool(_WHERE, "valid_mask", valid_mask)
    check_shape(_WHERE, "valid_mask", valid_mask.shape, boxes.shape[:-1], "One entry per box.")
    if box_masks.dtype != torch.uint8:
        raise DtypeError(
            f"{_WHERE}: box_masks has dtype {box_masks.dtype}, expected torch.uint8: 255ths, of PadToBucket(..., mask_size=S)."
        )
    for name, value in (("boxes", boxes), ("gt_boxes", gt_boxes)):
        if not value.is_floating_point():
            raise DtypeError(f"{_WHERE}: {name} has dtype {value.dtype}, expected a floating point one. Use {name}.float().")
    if matches.dtype == torch.bool or matches.is_floating_point():
        raise DtypeError(f"{_WHERE}: matches has dtype {matches.dtype}, expected integers. Use matches.long().")
