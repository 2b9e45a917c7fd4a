"""Batch normalisation over the real rows of a padded tensor.

Shapes: ``R`` rows, ``C`` channels, ``T...`` the dimensions after them; in the private part ``T`` is their product.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fixshape._check import check_shape
from fixshape.errors import DtypeError, ShapeError
from fixshape.ops._valid import check_bool

_WHERE = "masked_batch_norm"


def masked_batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float | Tensor = 0.1,
    eps: float = 1e-5,
    *,
    valid_mask: Tensor,
) -> Tensor:
    """``torch.nn.functional.batch_norm`` over the real rows (Ioffe and Szegedy, 2015, arXiv 1502.03167).

    Output, gradients and running statistics are those of ``batch_norm(input[valid_mask], ...)``; padding gives 0. What the
    padding holds does not matter, NaN and inf included, and its gradient is exactly 0.

    Training with a single value per channel, one row without T..., is an error in torch, and so is what it would make of the
    running variance. Here no error can depend on the number of rows: such a row becomes ``bias``, with gradient 0, and the
    running statistics stay as they are. They do so without any row as well, which torch allows.

    In training a gradient can be taken once, not a gradient of the gradient.

    Args:
        input: [R, C, T...] floating point. Half precision is computed in float32.
        running_mean: [C] floating point, or None; in training updated in place with the mean of the batch.
        running_var: [C] floating point, or None; in training updated in place with the unbiased variance of the batch.
        weight: [C], or None for 1.
        bias: [C], or None for 0.
        training: whether to normalise with the mean and biased variance of the batch, or else with the running ones.
        momentum: share of the batch in the new running statistics; a tensor [] where it changes from call to call.
        eps: what is added to the variance.
        valid_mask: [R] bool, True = real.

    Returns:
        [R, C, T...] in the dtype of ``input``, 0 in the padding.

    Raises:
        ShapeError: ``input`` has fewer than two dimensions, an argument does not fit it, or running statistics are missing:
            one without the other, or both where not ``training``.
        DtypeError: ``valid_mask`` is not bool, or ``input`` is not floating point.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0], [3.0], [float("nan")]])
        >>> running_mean, running_var = torch.zeros(1), torch.ones(1)
        >>> valid_mask = torch.tensor([True, True, False])
        >>> masked_batch_norm(x, running_mean, running_var, training=True, valid_mask=valid_mask)
        tensor([[-1.0000],
                [ 1.0000],
                [ 0.0000]])
        >>> running_mean, running_var
        (tensor([0.2000]), tensor([1.1000]))
    """
    _check_arguments(input, running_mean, running_var, weight, bias, training, valid_mask)
    wide = torch.promote_types(input.dtype, torch.float32)
    rows = input.to(wide).flatten(2) if input.dim() > 2 else input.to(wide).unsqueeze(2)
    weight, bias = (None if p is None else p.to(wide) for p in (weight, bias))
    if running_mean is not None and running_var is not None and not training:
        normalized = _normalize_with(rows, running_mean.to(wide), running_var.to(wide), weight, bias, valid_mask, eps)
    else:
        count = valid_mask.sum() * rows.shape[2]
        normalized, mean, variance = _Normalize.apply(rows, weight, bias, valid_mask, count, eps)
        if running_mean is not None and running_var is not None:
            unbiased = variance * (count.to(wide) / (count - 1).clamp(min=1))
            _update(running_mean, mean, momentum, count > 1)
            _update(running_var, unbiased, momentum, count > 1)
    return normalized.reshape(input.shape).to(input.dtype)


def _normalize_with(
    rows: Tensor, mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, valid: Tensor, eps: float
) -> Tensor:
    """The rows [R, C, T] normalised with given statistics [C].

    Not torch's function, whose backward pass in evaluation torch_xla 2.9 refuses (``mean`` has no elements there).
    """
    is_real = valid[:, None, None]
    scale = (variance + eps).rsqrt()
    if weight is not None:
        scale = scale * weight
    normalized = (torch.where(is_real, rows, 0) - mean[:, None]) * scale[:, None]
    if bias is not None:
        normalized = normalized + bias[:, None]
    return torch.where(is_real, normalized, 0)


class _Normalize(torch.autograd.Function):
    """The normalised rows [R, C, T], with mean and biased variance [C] of the batch.

    By hand for the sake of memory: on a CPU a fresh tensor of full size costs more than all the arithmetic in one that is
    there, and this makes one in each direction. Padding takes part in the arithmetic, where it reaches no other row, and is
    dropped from each [R, C] of sums and from the result.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, valid: Tensor, count: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        number = count.clamp(min=1).to(x.dtype)
        mean = _sum_real(x, valid) / number
        work = x - mean[:, None]
        # The second pass is around the mean: a sum of squares of x would cancel where the mean is large.
        variance = _sum_real(work.square_(), valid) / number
        inverse = (variance + eps).rsqrt()
        scale = inverse if weight is None else inverse * weight
        torch.sub(x, mean[:, None], out=work).mul_(scale[:, None])
        if bias is not None:
            work.add_(bias[:, None])
        work.masked_fill_(~valid[:, None, None], 0)
        ctx.save_for_backward(x, weight, valid, number, mean, inverse)
        ctx.mark_non_differentiable(mean, variance)
        return work, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, valid, number, mean, inverse = ctx.saved_tensors
        gradient = gradients[0]
        work = x - mean[:, None]
        along = _sum_real(work.mul_(gradient), valid) * inverse
        total = _sum_real(gradient, valid)
        scale = inverse if weight is None else inverse * weight
        torch.sub(x, mean[:, None], out=work).mul_((-scale * inverse * along / number)[:, None])
        work.addcmul_(gradient, scale[:, None]).sub_((scale * total / number)[:, None])
        work.masked_fill_(~valid[:, None, None], 0)
        return (
            work,
            along if ctx.needs_input_grad[1] else None,
            total if ctx.needs_input_grad[2] else None,
            None,
            None,
            None,
        )


def _sum_real(rows: Tensor, valid: Tensor) -> Tensor:
    """The sum [C] of rows [R, C, T] over the real ones."""
    return torch.where(valid[:, None], rows.sum(2), 0).sum(0)


@torch.no_grad()
def _update(running: Tensor, batch: Tensor, momentum: float | Tensor, counts: Tensor) -> None:
    """Moves ``running`` towards ``batch`` by ``momentum``, where the batch counts."""
    moved = (1 - momentum) * running + momentum * batch
    running.copy_(torch.where(counts, moved, running))


def _check_arguments(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    valid_mask: Tensor,
) -> None:
    if input.dim() < 2:
        check_shape(_WHERE, "input", input.shape, ("R", "C", "..."))
    if not input.is_floating_point():
        raise DtypeError(f"{_WHERE}: input has dtype {input.dtype}, expected floating point. Use input.float().")
    check_bool(_WHERE, "valid_mask", valid_mask)
    check_shape(_WHERE, "valid_mask", valid_mask.shape, input.shape[:1], "One entry per row of the input.")
    if (running_mean is None) != (running_var is None) or (running_mean is None and not training):
        raise ShapeError(
            f"{_WHERE}: running_mean and running_var must both be given, or both be None with training=True;"
            f" got {_kind(running_mean)} and {_kind(running_var)} with training={training}."
        )
    named = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    for name, value in named.items():
        if value is not None:
            check_shape(_WHERE, name, value.shape, input.shape[1:2], "One entry per channel of the input.")


def _kind(value: Tensor | None) -> str:
    return "None" if value is None else "a tensor"
