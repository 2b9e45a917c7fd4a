"""The ground truth of each anchor, as torchvision's matchers assign it, over padded ground truth.

Shapes: ``M`` ground-truth slots, ``A`` anchors, ``L...`` leading dimensions (images). Boxes are XYXY.

Both matchers walk over the ground-truth slots and keep, for each anchor, the best so far. The walk has as many steps as there are
slots, which is fixed, and holds a handful of tensors of A numbers where the dynamic forms hold several of M x A (100 slots on the
268,569 anchors of a Faster R-CNN at 800 x 1344: 107 MB each and per image). It is as fast as the matrix where there are few slots
and faster where there are many, since a row stays in the cache. A graph compiler sees every step (torch_xla on two CPU cores, 100
slots: 9 s for ``match``, 25 s for ``fcos_match``, once).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fixshape._check import check_at_least, check_shape
from fixshape.errors import DtypeError, ShapeError
from fixshape.ops._box_iou import area_of, pairwise_iou
from fixshape.ops._valid import check_bool


def match(
    boxes: Tensor,
    anchors: Tensor,
    *,
    valid_mask: Tensor,
    high_threshold: float,
    low_threshold: float,
    allow_low_quality_matches: bool = False,
) -> Tensor:
    """The ground truth of each anchor by overlap: torchvision's ``Matcher`` over ``box_iou``.

    An anchor gets the ground truth it overlaps most, the first of those it overlaps equally, if by ``high_threshold`` or more.
    With ``allow_low_quality_matches`` an anchor also gets it, however little that overlap is, where no anchor overlaps *some*
    ground truth more than this one does. Bit for bit what torchvision gives for the real rows
    (torchvision/models/detection/_utils.py, ``Matcher``), with two of its quirks:

    * a real ground truth that touches no anchor overlaps all of them equally, by 0, so that ``allow_low_quality_matches`` leaves
      no background in its image;
    * a real box of no area on an anchor of no area overlaps it by NaN, which counts as more than any number.

    Padding never matches and changes nothing, whatever it holds. Where an image has no real ground truth, which torchvision
    refuses here and treats as background elsewhere, every anchor is background. Anchors have no mask: an anchor that is
    padding gets some answer, for the caller to replace, and must not be there at all with ``allow_low_quality_matches``, where it
    could be the best of a ground truth. No gradient passes.

    Args:
        boxes: [L..., M, 4] ground truth, XYXY; half precision is widened as torchvision widens it.
        anchors: [L..., A, 4], or [A, 4] for all images; XYXY, same unit.
        valid_mask: [L..., M] bool, True = real ground truth.
        high_threshold: least overlap of a match, in [0, 1].
        low_threshold: an overlap below is background; from here up to ``high_threshold`` the anchor is neither. In
            [0, ``high_threshold``].
        allow_low_quality_matches: whether each ground truth takes the anchors that overlap it most, True in an RPN and in
            RetinaNet.

    Returns:
        [L..., A] int64: an index into the M slots, -1 for background, or -2 for between the thresholds. Not for indexing as it
        is: clamp it at 0 first.

    Raises:
        ShapeError: the shapes do not fit each other, M or A is 0, or the thresholds are not
            0 <= ``low_threshold`` <= ``high_threshold`` <= 1.
        DtypeError: ``valid_mask`` is not bool.

    Example:
        >>> import torch
        >>> anchors = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 8.0], [0.0, 6.0, 4.0, 10.0], [0.0, 0.0, 4.0, 10.0]])
        >>> boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 9.0, 4.0, 10.0], [0.0, 0.0, 4.0, 10.0]])
        >>> valid = torch.tensor([True, True, False])
        >>> match(boxes, anchors, valid_mask=valid, high_threshold=0.7, low_threshold=0.45)
        tensor([ 0, -2, -1, -1])
        >>> match(boxes, anchors, valid_mask=valid, high_threshold=0.7, low_threshold=0.45, allow_low_quality_matches=True)
        tensor([ 0, -2,  1, -1])
    """
    _check_arguments("match", boxes, anchors, valid_mask)
    if not 0 <= low_threshold <= high_threshold <= 1:
        raise ShapeError(
            f"match: low_threshold is {low_threshold!r} and high_threshold is {high_threshold!r}, "
            "expected 0 <= low_threshold <= high_threshold <= 1."
        )
    corners, anchor_corners = _planes(boxes), _planes(anchors)
    area, anchor_area = area_of(corners), area_of(anchor_corners)

    shape = (*boxes.shape[:-2], anchors.shape[-2])
    best = torch.full(shape, -1.0, dtype=torch.float32, device=boxes.device)  # float64 overlaps widen it
    matches = torch.zeros(shape, dtype=torch.int64, device=boxes.device)
    takes = torch.zeros(shape, dtype=torch.bool, device=boxes.device)
    for slot in range(boxes.shape[-2]):
        row = slice(slot, slot + 1)
        valid = valid_mask[..., row]
        overlap = pairwise_iou(corners[..., row], area[..., row], anchor_corners, anchor_area).squeeze(-2)
        # -1 and not 0: a padded row must stay below a real one that touches nothing.
        overlap = torch.where(valid, overlap, -1)
        # The anchors that overlap this ground truth most are known here, before any other row: one pass is enough.
        if allow_low_quality_matches:
            takes = takes | ((overlap == overlap.amax(-1, keepdim=True)) & valid)
        # "Not better" is so put that a NaN is better than a number, once, as it is for torch.max.
        stays = (overlap <= best) | best.isnan()
        matches = torch.where(stays, matches, slot)
        best = torch.where(stays, best, overlap)

    # Three tests as in torchvision, since a NaN fails all of them.
    answer = torch.where(best < low_threshold, -1, matches)
    answer = torch.where((best >= low_threshold) & (best < high_threshold), -2, answer)
    return torch.where(takes, matches, answer)


def fcos_match(
    boxes: Tensor,
    anchors: Tensor,
    num_anchors_per_level: Sequence[int],
    *,
    valid_mask: Tensor,
    center_sampling_radius: float = 1.5,
) -> Tensor:
    """The ground truth of each anchor point, as torchvision's FCOS assigns it (Tian et al., 2019, arXiv 1904.01355).

    A point, the centre of an anchor whose width is the stride of its level, can get a ground truth that it is inside of, whose
    centre is less than ``center_sampling_radius`` strides away in x and in y, and whose farthest side is more than 4 and less
    than 8 strides away; the first level has no lower bound, the last no upper one. Of several it gets the smallest, and of those
    the first. Exactly as in torchvision (torchvision/models/detection/fcos.py, ``FCOS.compute_loss``) the smallest is that of
    the largest ``1e8 - area``, so that in float32 areas that differ by less than 8 may count as equal, and a box of 1e8 square
    pixels or more never matches.

    Padding never matches and changes nothing, whatever it holds; an image without real ground truth is all background. No
    gradient passes.

    Args:
        boxes: [L..., M, 4] ground truth, float32 or float64, XYXY, finite where valid.
        anchors: [L..., A, 4], or [A, 4] for all images; float32 or float64, XYXY, same unit; level after level.
        num_anchors_per_level: how many anchors each level has, at least 1; their sum is A.
        valid_mask: [L..., M] bool, True = real ground truth.
        center_sampling_radius: in strides, above 0.

    Returns:
        [L..., A] int64: an index into the M slots, or -1 for background. Not for indexing as it is: clamp it at 0 first.

    Raises:
        ShapeError: the shapes do not fit each other, M or A is 0, a level has no anchors, the levels do not add up to A, or
            ``center_sampling_radius`` is not above 0.
        DtypeError: ``valid_mask`` is not bool, or boxes or anchors are neither float32 nor float64.

    Example:
        >>> import torch
        >>> anchors = torch.tensor([[0.0, 0.0, 8.0, 8.0], [8.0, 0.0, 16.0, 8.0], [0.0, 0.0, 16.0, 16.0]])
        >>> boxes = torch.tensor([[0.0, 0.0, 16.0, 16.0], [0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 90.0, 90.0]])
        >>> fcos_match(boxes, anchors, [2, 1], valid_mask=torch.tensor([True, True, False]))
        tensor([ 1,  0, -1])
    """
    _check_arguments("fcos_match", boxes, anchors, valid_mask)
    for name, value in (("boxes", boxes), ("anchors", anchors)):
        if value.dtype not in (torch.float32, torch.float64):
            raise DtypeError(
                f"fcos_match: {name} has dtype {value.dtype}, expected torch.float32 or torch.float64, "
                f"as 1e8 - area has no room in less. Use {name}.float()."
            )
    levels = [check_at_least("fcos_match", "num_anchors_per_level", count, 1) for count in num_anchors_per_level]
    if sum(levels) != anchors.shape[-2]:
        raise ShapeError(
            f"fcos_match: num_anchors_per_level is {levels}, {sum(levels)} in all, expected the {anchors.shape[-2]} of anchors."
        )
    if not center_sampling_radius > 0:
        raise ShapeError(f"fcos_match: center_sampling_radius is {center_sampling_radius!r}, expected a number above 0.")

    corners, anchor_corners = _planes(boxes), _planes(anchors)
    # What stands for the area is 0 for padding, which never exceeds the 0 that every anchor starts with.
    smallness = torch.where(valid_mask, 1e8 - area_of(corners), 0)
    top_left, bottom_right = corners[..., :2, :], corners[..., 2:, :]
    centers = (top_left + bottom_right) / 2
    points = (anchor_corners[..., :2, :] + anchor_corners[..., 2:, :]) / 2
    strides = anchor_corners[..., 2, :] - anchor_corners[..., 0, :]
    reach = center_sampling_radius * strides
    lower_bound = torch.cat([torch.zeros_like(strides[..., : levels[0]]), strides[..., levels[0] :] * 4], dim=-1)
    upper_bound = torch.cat([strides[..., : -levels[-1]] * 8, torch.full_like(strides[..., -levels[-1] :], torch.inf)], dim=-1)

    best = smallness.new_zeros((*boxes.shape[:-2], anchors.shape[-2]))
    matches = torch.full_like(best, -1, dtype=torch.int64)
    for slot in range(boxes.shape[-2]):
        row = slice(slot, slot + 1)
        before, after = points - top_left[..., row], bottom_right[..., row] - points
        farthest = torch.maximum(before, after).amax(-2)
        better = smallness[..., row] > best
        better = better & ((points - centers[..., row]).abs().amax(-2) < reach)
        better = better & (torch.minimum(before, after).amin(-2) > 0)
        better = better & (farthest > lower_bound) & (farthest < upper_bound)
        matches = torch.where(better, slot, matches)
        best = torch.where(better, smallness[..., row], best)
    return torch.where(best < 1e-5, -1, matches)


def _planes(boxes: Tensor) -> Tensor:
    """[L..., N, 4] as [L..., 4, N] with an innermost stride of 1, without gradient."""
    return boxes.detach().mT.contiguous()


def _check_arguments(where: str, boxes: Tensor, anchors: Tensor, valid_mask: Tensor) -> None:
    check_shape(where, "boxes", boxes.shape, (*boxes.shape[:-2], "M", 4))
    leading = () if anchors.dim() == 2 else boxes.shape[:-2]
    check_shape(where, "anchors", anchors.shape, (*leading, "A", 4), "One set for all images, or one for each.")
    check_at_least(where, "M", boxes.shape[-2], 1)
    check_at_least(where, "A", anchors.shape[-2], 1)
    check_bool(where, "valid_mask", valid_mask)
    check_shape(where, "valid_mask", valid_mask.shape, boxes.shape[:-1], "One entry per box.")
