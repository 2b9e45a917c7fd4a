"""The one branch on a count that is followed: the one in torchvision's box losses."""

from __future__ import annotations

import sys

import torch
import torchvision

#: Losses with the line ``loss.mean() if loss.numel() > 0 else 0.0 * loss.sum()`` (torchvision/ops/giou_loss.py and its
#: siblings): they take the first branch, in which the mean over nothing is then 0, as the second one is.
_ZERO_OF_NOTHING = [
    getattr(torchvision.ops, name).__code__
    for name in ("generalized_box_iou_loss", "distance_box_iou_loss", "complete_box_iou_loss")
]


def zero_of_nothing() -> bool:
    """Whether the innermost caller outside of these modules is one of those losses; never where torch.compile traces."""
    if torch.compiler.is_compiling():
        return False
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(("fixshape.ops._rows", "torch.")):
        frame = frame.f_back
    return frame.f_code in _ZERO_OF_NOTHING
