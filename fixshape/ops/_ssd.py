"""What SSD's loss does between anchors and ground truth: matching, and the choice of hard negatives.

Shapes: ``B`` images, ``M`` ground-truth slots, ``A`` anchors, ``L...`` leading dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fixshape._check import check_shape
from fixshape.errors import ShapeError
from fixshape.ops._valid import check_bool, check_same_shape


def ssd_match(iou: Tensor, *, valid_mask: Tensor, threshold: float) -> Tensor:
    """The ground truth of each anchor, as torchvision's ``SSDMatcher`` assigns it (torchvision/models/detection/_utils.py).

    An anchor gets the ground truth it overlaps most, if by ``threshold`` or more. After that each real ground truth takes the
    anchor it overlaps most, however little. Where several take the same anchor, the last of them has it: torchvision writes them
    in order (on CUDA, whichever comes last; here the order holds on every device). An image without real ground truth
    is all background.

    Args:
        iou: [L..., M, A] overlaps, floating point; padding may hold anything.
        valid_mask: [L..., M] bool, True = real ground truth.
        threshold: least overlap of a match, in [0, 1].

    Returns:
        [L..., A] int64: an index into the M slots, or -1 for background. Not for indexing as it is: clamp it at 0 first.

    Raises:
        ShapeError: ``iou`` has no slot or no anchor, ``valid_mask`` does not fit it, or ``threshold`` is outside [0, 1].
        DtypeError: ``valid_mask`` is not bool.

    Example:
        >>> import torch
        >>> iou = torch.tensor([[0.6, 0.2, 0.1], [0.1, 0.3, 0.0], [0.9, 0.9, 0.9]])
        >>> ssd_match(iou, valid_mask=torch.tensor([True, True, False]), threshold=0.5)
        tensor([ 0,  1, -1])
    """
    if iou.dim() < 2 or 0 in iou.shape[-2:]:
        raise ShapeError(f"ssd_match: iou has shape {tuple(iou.shape)}, expected (..., M, A) with M and A at least 1.")
    check_bool("ssd_match", "valid_mask", valid_mask)
    check_shape("ssd_match", "valid_mask", valid_mask.shape, iou.shape[:-1], "One entry per row of iou.")
    if not 0 <= threshold <= 1:
        raise ShapeError(f"ssd_match: threshold is {threshold!r}, expected a number in [0, 1].")
    slots, anchors = iou.shape[-2:]

    iou = torch.where(valid_mask.unsqueeze(-1), iou.detach(), -1)
    best_overlap, matches = iou.max(-2)
    matches = torch.where(best_overlap < threshold, -1, matches)
    best_anchor = iou.max(-1, keepdim=True)[1]
    takes = (best_anchor == torch.arange(anchors, device=iou.device)) & valid_mask.unsqueeze(-1)
    taken_by = torch.where(takes, torch.arange(slots, device=iou.device).unsqueeze(-1), -1).amax(-2)
    return torch.where(taken_by >= 0, taken_by, matches)


def hard_negative_mining(loss: Tensor, foreground: Tensor, *, negative_ratio: float) -> Tensor:
    """The anchors that SSD counts as negatives: of each image the ``negative_ratio`` x foreground ones of highest loss.

    Line for line what torchvision does (``SSD.compute_loss`` in torchvision/models/detection/ssd.py), its quirk included: where
    an image has fewer background anchors than it asks for, foreground anchors come after them and are chosen too, so that their
    loss counts twice in ``loss[foreground].sum() + loss[negatives].sum()``. Keep the two sums apart; a union would differ.
    The order of equal losses is that of ``torch.sort``, which is not promised; it decides which of them get the gradient.

    Args:
        loss: [B, A] classification loss of each anchor. No gradient passes through the choice.
        foreground: [B, A] bool, True = matched to an object.
        negative_ratio: negatives per foreground anchor, 3 in SSD.

    Returns:
        [B, A] bool, True = chosen as negative. None are chosen in an image without foreground.

    Raises:
        ShapeError: ``loss`` is not [B, A], or ``foreground`` has another shape.
        DtypeError: ``foreground`` is not bool.

    Example:
        >>> import torch
        >>> loss = torch.tensor([[9.0, 1.0, 3.0, 2.0, 4.0]])
        >>> hard_negative_mining(loss, loss > 5, negative_ratio=2)
        tensor([[False, False,  True, False,  True]])
    """
    check_shape("hard_negative_mining", "loss", loss.shape, ("B", "A"))
    check_bool("hard_negative_mining", "foreground", foreground)
    check_same_shape("hard_negative_mining", "foreground", foreground, "loss", loss)
    candidates = torch.where(foreground, -torch.inf, loss.detach())
    order = candidates.sort(1, descending=True)[1]
    rank = order.sort(1)[1]
    return rank < negative_ratio * foreground.sum(1, keepdim=True)
