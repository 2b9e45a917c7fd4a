from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fixshape.ops import masked_binary_cross_entropy_with_logits, masked_sigmoid_focal_loss, masked_smooth_l1_loss

VALID = torch.tensor([True, True, False])


def test_a_weight_per_element_may_be_garbage_where_padded():
    logits = torch.tensor([[0.3, -1.0], [2.0, 0.1], [5.0, 5.0]], requires_grad=True)
    target = torch.tensor([[1.0, 0.0], [0.5, 1.0], [0.0, 0.0]])
    weight = torch.tensor([[1.0, 2.0], [0.5, 3.0], [float("nan"), float("inf")]])
    with torch.autograd.set_detect_anomaly(True):  # fails where a NaN is on the way, even if it is hidden later
        loss = masked_binary_cross_entropy_with_logits(logits, target, weight, pos_weight=weight, valid_mask=VALID)
        (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
    want = F.binary_cross_entropy_with_logits(logits[:2], target[:2], weight[:2], pos_weight=weight[:2])
    torch.testing.assert_close(loss, want)
    torch.testing.assert_close(gradient, torch.autograd.grad(want, logits)[0])


def test_ssd_sums_over_foreground_anchors():
    """The way SSD calls it: boxes [B, A, 4], a mask of foreground anchors."""
    predicted, wanted = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    foreground = torch.stack([VALID, ~VALID])
    got = masked_smooth_l1_loss(predicted, wanted, "sum", valid_mask=foreground)
    torch.testing.assert_close(got, F.smooth_l1_loss(predicted[foreground], wanted[foreground], reduction="sum"))


def test_arguments_of_torch_and_torchvision_are_checked_by_them():
    x = torch.zeros(3)
    with pytest.raises(RuntimeError, match="negative values for beta"):
        masked_smooth_l1_loss(x, x, beta=-1.0, valid_mask=VALID)
    with pytest.raises(ValueError, match="Invalid alpha value: 2"):
        masked_sigmoid_focal_loss(x, x, alpha=2, valid_mask=VALID)
