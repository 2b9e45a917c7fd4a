"""Cross entropy over the real part of a padded batch.

Shapes: ``N`` rows, ``C`` classes, ``d...`` further dimensions, none or more.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fixshape._check import check_shape
from fixshape.errors import DtypeError, ShapeError
from fixshape.ops._reductions import check_reduction, wide_dtype
from fixshape.ops._valid import check_bool


def masked_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    valid_mask: Tensor,
) -> Tensor:
    """``torch.nn.functional.cross_entropy`` for class indices, over the real targets.

    The mean divides as torch's does, by the weights of the targets that are real and not ignored; over none of them it is 0
    with gradient 0, where torch gives NaN. What the padding holds does not matter: logits may be NaN, targets any integer; its
    gradient is exactly 0. Class probabilities as target are not covered. A real target that is no class is torch's to report,
    which it does on the CPU.

    Args:
        input: [N, C, d...] logits, or [C].
        target: [N, d...] int64 class indices, or [] for an ``input`` of [C].
        weight: [C] weight of each class.
        ignore_index: real targets of this value count neither in the sum nor in the mean.
        reduction: ``"none"`` (padding gives 0), ``"mean"`` or ``"sum"``.
        label_smoothing: in [0, 1].
        valid_mask: bool, shape of ``target``, True = real.

    Returns:
        The shape of ``target`` for ``"none"``, else [].

    Raises:
        ShapeError: ``target``, ``valid_mask`` or ``weight`` does not fit ``input``, or ``reduction`` is none of the three.
        DtypeError: ``target`` is not int64, or ``valid_mask`` is not bool.

    Example:
        >>> import torch
        >>> logits, labels = torch.zeros(3, 4), torch.tensor([0, 3, -7])
        >>> masked_cross_entropy(logits, labels, valid_mask=torch.tensor([True, True, False]))
        tensor(1.3863)
    """
    where = "masked_cross_entropy"
    check_reduction(where, reduction)
    if input.dim() == 0:
        raise ShapeError(f"{where}: input has shape (), expected (C,) or (N, C, ...).")
    class_dim = min(1, input.dim() - 1)
    without_classes = (*input.shape[:class_dim], *input.shape[class_dim + 1 :])
    check_shape(where, "target", target.shape, without_classes, "It holds one class index per row of input.")
    if target.dtype != torch.int64:
        raise DtypeError(f"{where}: target has dtype {target.dtype}, expected class indices of torch.int64.")
    check_bool(where, "valid_mask", valid_mask)
    check_shape(where, "valid_mask", valid_mask.shape, target.shape, "It must have the shape of target.")
    if weight is not None:
        check_shape(where, "weight", weight.shape, (input.shape[class_dim],), "One weight per class.")

    input = torch.where(valid_mask.unsqueeze(class_dim), input, 0)
    # torch leaves ignored targets out of loss and gradient by itself, so padding becomes one of them.
    target = torch.where(valid_mask, target, ignore_index)
    loss = F.cross_entropy(input, target, weight, ignore_index=ignore_index, reduction="none", label_smoothing=label_smoothing)
    if reduction != "mean":
        return loss if reduction == "none" else loss.sum()
    # Not torch's own mean: it is 0/0 where nothing counts, and with weights and smoothing it selects by mask.
    counted = target != ignore_index
    if weight is None:
        divisor = counted.sum().clamp(min=1)
    else:
        weights = weight.gather(0, torch.where(counted, target, 0).reshape(-1)).reshape(target.shape)
        divisor = torch.where(counted.any(), torch.where(counted, weights, 0).sum(dtype=wide_dtype(weights)), 1)
    return (loss.sum(dtype=wide_dtype(loss)) / divisor).to(loss.dtype)
