"""Losses of one number per element, over the real part of a padded batch.

Each takes torch's (or torchvision's) arguments in their order, and ``valid_mask``. Each gives the number that the dynamic form
``loss(input[valid_mask], target[valid_mask])`` gives, value and gradient, with one difference: the mean over no real element
is 0 with gradient 0, where torch gives NaN. What the padding holds does not matter, NaN and inf included; its gradient is
exactly 0. Torch's deprecated ``size_average`` and ``reduce`` are left out.

Shapes: ``S...`` the dimensions that ``valid_mask`` covers, ``T...`` the dimensions after them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from fixshape.ops._reductions import check_reduction, reduce_loss
from fixshape.ops._valid import broadcast_valid, check_same_shape


def masked_l1_loss(input: Tensor, target: Tensor, reduction: str = "mean", *, valid_mask: Tensor) -> Tensor:
    """``torch.nn.functional.l1_loss`` over the real elements; the mean over none of them is 0.

    Args:
        input: [S..., T...] floating point.
        target: [S..., T...]; unlike torch's it is not broadcast.
        reduction: ``"none"`` (padding gives 0), ``"mean"`` (over real elements, T... counted) or ``"sum"``.
        valid_mask: [S...] bool, True = real.

    Returns:
        [S..., T...] for ``"none"``, else [].

    Raises:
        ShapeError: ``target`` or ``valid_mask`` does not fit ``input``, or ``reduction`` is none of the three.
        DtypeError: ``valid_mask`` is not bool.

    Example:
        >>> import torch
        >>> masked_l1_loss(torch.tensor([1.0, 9.0]), torch.zeros(2), valid_mask=torch.tensor([True, False]))
        tensor(1.)
    """
    input, target, valid = _prepare("masked_l1_loss", input, target, reduction, valid_mask)
    return reduce_loss(F.l1_loss(input, target, reduction="none"), valid, reduction)


def masked_mse_loss(input: Tensor, target: Tensor, reduction: str = "mean", *, valid_mask: Tensor) -> Tensor:
    """``torch.nn.functional.mse_loss`` over the real elements; the mean over none of them is 0.

    Args:
        input: [S..., T...] floating point.
        target: [S..., T...]; unlike torch's it is not broadcast.
        reduction: ``"none"`` (padding gives 0), ``"mean"`` (over real elements, T... counted) or ``"sum"``.
        valid_mask: [S...] bool, True = real.

    Returns:
        [S..., T...] for ``"none"``, else [].

    Raises:
        ShapeError: ``target`` or ``valid_mask`` does not fit ``input``, or ``reduction`` is none of the three.
        DtypeError: ``valid_mask`` is not bool.

    Example:
        >>> import torch
        >>> masked_mse_loss(torch.tensor([3.0, 9.0]), torch.zeros(2), valid_mask=torch.tensor([True, False]))
        tensor(9.)
    """
    input, target, valid = _prepare("masked_mse_loss", input, target, reduction, valid_mask)
    return reduce_loss(F.mse_loss(input, target, reduction="none"), valid, reduction)


def masked_smooth_l1_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", beta: float = 1.0, *, valid_mask: Tensor
) -> Tensor:
    """``torch.nn.functional.smooth_l1_loss`` over the real elements; the mean over none of them is 0.

    torchvision's SSD takes ``"sum"`` and divides by the number of foreground anchors of the batch itself
    (torchvision/models/detection/ssd.py, ``compute_loss``).

    Args:
        input: [S..., T...] floating point.
        target: [S..., T...]; unlike torch's it is not broadcast.
        reduction: ``"none"`` (padding gives 0), ``"mean"`` (over real elements, T... counted) or ``"sum"``.
        beta: where the square turns into a line, in the unit of ``input``; not negative.
        valid_mask: [S...] bool, True = real.

    Returns:
        [S..., T...] for ``"none"``, else [].

    Raises:
        ShapeError: ``target`` or ``valid_mask`` does not fit ``input``, or ``reduction`` is none of the three.
        DtypeError: ``valid_mask`` is not bool.
        RuntimeError: ``beta`` is negative (torch's own).

    Example:
        >>> import torch
        >>> masked_smooth_l1_loss(torch.tensor([3.0, 9.0]), torch.zeros(2), "sum", valid_mask=torch.tensor([True, False]))
        tensor(2.5000)
    """
    input, target, valid = _prepare("masked_smooth_l1_loss", input, target, reduction, valid_mask)
    return reduce_loss(F.smooth_l1_loss(input, target, reduction="none", beta=beta), valid, reduction)


def masked_binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
    *,
    valid_mask: Tensor,
) -> Tensor:
    """``torch.nn.functional.binary_cross_entropy_with_logits`` over the real elements; the mean over none of them is 0.

    Args:
        input: [S..., T...] logits.
        target: [S..., T...] of the dtype of ``input``, between 0 and 1 where real.
        weight: factor of each element, any shape that broadcasts to that of ``input``. As in torch it does not change what the
            mean is divided by.
        reduction: ``"none"`` (padding gives 0), ``"mean"`` (over real elements, T... counted) or ``"sum"``.
        pos_weight: factor of the positive part, any shape that broadcasts to that of ``input``.
        valid_mask: [S...] bool, True = real.

    Returns:
        [S..., T...] for ``"none"``, else [].

    Raises:
        ShapeError: ``target`` or ``valid_mask`` does not fit ``input``, or ``reduction`` is none of the three.
        DtypeError: ``valid_mask`` is not bool.

    Example:
        >>> import torch
        >>> logits, valid = torch.tensor([0.0, float("inf")]), torch.tensor([True, False])
        >>> masked_binary_cross_entropy_with_logits(logits, torch.ones(2), valid_mask=valid)
        tensor(0.6931)
    """
    where = "masked_binary_cross_entropy_with_logits"
    input, target, valid = _prepare(where, input, target, reduction, valid_mask)
    # A weight per element is padded as the input is, and 0 * NaN in the backward pass would reach the gradient.
    weight = None if weight is None else torch.where(valid, weight, 0)
    pos_weight = None if pos_weight is None else torch.where(valid, pos_weight, 0)
    loss = F.binary_cross_entropy_with_logits(input, target, weight, reduction="none", pos_weight=pos_weight)
    return reduce_loss(loss, valid, reduction)


def masked_sigmoid_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    alpha: float = 0.25,
    gamma: float = 2,
    reduction: str = "none",
    *,
    valid_mask: Tensor,
) -> Tensor:
    """``torchvision.ops.sigmoid_focal_loss`` over the real elements; the mean over none of them is 0.

    It is torchvision's own function on inputs whose padding was replaced (torchvision/ops/focal_loss.py; Lin et al.,
    "Focal Loss for Dense Object Detection", 2017).

    Args:
        inputs: [S..., T...] logits.
        targets: [S..., T...] of the dtype of ``inputs``: 0 for the negative class, 1 for the positive one.
        alpha: weight of the positive class, in [0, 1], or -1 for no weighting.
        gamma: exponent that turns down easy elements.
        reduction: ``"none"`` (padding gives 0), ``"mean"`` (over real elements, T... counted) or ``"sum"``.
        valid_mask: [S...] bool, True = real.

    Returns:
        [S..., T...] for ``"none"``, else [].

    Raises:
        ShapeError: ``targets`` or ``valid_mask`` does not fit ``inputs``, or ``reduction`` is none of the three.
        DtypeError: ``valid_mask`` is not bool.
        ValueError: ``alpha`` is neither in [0, 1] nor -1 (torchvision's own).

    Example:
        >>> import torch
        >>> logits, valid = torch.tensor([0.0, float("nan")]), torch.tensor([True, False])
        >>> masked_sigmoid_focal_loss(logits, torch.ones(2), valid_mask=valid)
        tensor([0.0433, 0.0000])
    """
    inputs, targets, valid = _prepare(
        "masked_sigmoid_focal_loss", inputs, targets, reduction, valid_mask, names=("inputs", "targets")
    )
    loss: Tensor = sigmoid_focal_loss(inputs, targets, alpha=alpha, gamma=gamma, reduction="none")
    return reduce_loss(loss, valid, reduction)


def _prepare(
    where: str,
    input: Tensor,
    target: Tensor,
    reduction: str,
    valid_mask: Tensor,
    names: tuple[str, str] = ("input", "target"),
) -> tuple[Tensor, Tensor, Tensor]:
    """Checks the arguments and puts 0 into the padding, where every loss of this module is finite and smooth."""
    check_reduction(where, reduction)
    check_same_shape(where, names[1], target, names[0], input)
    valid = broadcast_valid(where, valid_mask, input)
    return torch.where(valid, input, 0), torch.where(valid, target, 0), valid
