"""RoI heads on rows of which some are padding: what in a head looks at more than one row?

Batch normalisation alone does. Convolutions, linear layers, activations and the other norms take each row by itself, so that
padding only costs time there.

Shapes: R rows, C channels.
"""

from __future__ import annotations

from typing import TypeGuard

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fixshape.errors import ModelError
from fixshape.ops import masked_batch_norm


def check_rows(name: str, module: nn.Module) -> None:
    """Raises :class:`ModelError` unless :func:`run_rows` knows every batch norm in ``module``, in training too.

    It knows torch's own BatchNorm1d, 2d and 3d, as they are or inside of an ``nn.Sequential`` that runs its parts in order.

    Args:
        name: what the module is called in the model, for the message.
        module: a RoI head or predictor.
    """
    if _is_chain(module):
        for part, child in module.named_children():
            check_rows(f"{name}.{part}", child)
    elif not _is_plain_norm(module) and any(isinstance(part, _BatchNorm) for part in module.modules()):
        raise _not_understood(f"to_static: {name}", module)


def run_rows(module: nn.Module, x: Tensor, valid_mask: Tensor) -> Tensor:
    """``module(x[valid_mask])`` in its rows of ``module(x)``: outputs, gradients and running statistics.

    The rows of padding must be zeros on the way in, and the gradient on the way out must be zero there: a convolution takes the
    gradient of its weights over all rows, and NaN times zero is NaN. What comes out in the padding is finite and has no meaning.

    A module without a batch norm that looks at the batch is called as it is. Else its chains are walked, and their batch norms
    replaced by :func:`fixshape.ops.masked_batch_norm` on their own parameters and buffers. Below two values per channel, where
    torch raises or does nothing, only ``num_batches_tracked`` moves.

    Args:
        module: a RoI head or predictor that :func:`check_rows` passed.
        x: [R, C, ...] floating point.
        valid_mask: [R] bool, True = real.

    Returns:
        [R, ...] as ``module(x)`` has it.

    Raises:
        ModelError: a batch norm that is not understood, or hooks on a batch norm or on a chain around it, which would not run.
    """
    if not any(_is_live(part) for part in module.modules()):
        return module(x)  # type: ignore[no-any-return]
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
        raise ModelError(
            f"run_rows: {type(module).__name__} has hooks, which would not run on padded rows. Remove them, hook the whole model"
            " instead, or switch the batch norm to evaluation."
        )
    if _is_plain_norm(module):
        return _norm_rows(module, x, valid_mask)
    if not _is_chain(module):
        raise _not_understood("run_rows: a part of the head", module)
    for child in module:
        x = run_rows(child, x, valid_mask)
    return x


def _norm_rows(norm: _BatchNorm, x: Tensor, valid_mask: Tensor) -> Tensor:
    """What ``norm`` does with the batch, over its real rows: torch's ``_BatchNorm.forward``, without its wait for the host."""
    norm._check_input_dim(x)  # type: ignore[no-untyped-call]
    mean, variance = (norm.running_mean, norm.running_var) if norm.track_running_stats else (None, None)
    momentum: float | Tensor = 0.0 if norm.momentum is None else norm.momentum
    if norm.training and norm.track_running_stats and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if norm.momentum is None and variance is not None:
            momentum = norm.num_batches_tracked.to(variance.dtype).reciprocal()
    return masked_batch_norm(
        x, mean, variance, norm.weight, norm.bias, training=True, momentum=momentum, eps=norm.eps, valid_mask=valid_mask
    )


def _is_chain(module: nn.Module) -> TypeGuard[nn.Sequential]:
    """Whether it runs its parts in order and does nothing else, as torchvision's subclasses of ``nn.Sequential`` do."""
    return type(module).forward is nn.Sequential.forward


def _is_plain_norm(module: nn.Module) -> TypeGuard[_BatchNorm]:
    """Whether it is a batch norm of torch's that stays on its device: ``SyncBatchNorm`` is not."""
    return type(module).forward is _BatchNorm.forward


def _is_live(module: nn.Module) -> bool:
    """Whether it is a batch norm that normalises by the batch at hand."""
    return isinstance(module, _BatchNorm) and (module.training or (module.running_mean is None and module.running_var is None))


def _not_understood(which: str, module: nn.Module) -> ModelError:
    """The error for a batch norm that cannot be told which rows are real."""
    kind = type(module).__name__
    if isinstance(module, _BatchNorm):
        what = f"{which} is a {kind}, which would count padded rows"
    else:
        what = f"{which} is a {kind} with a batch norm in it, which would count padded rows"
    return ModelError(
        f"{what}. Use nn.BatchNorm2d, directly or inside of an nn.Sequential that keeps its forward, or a norm that"
        " takes each row by itself: nn.GroupNorm, FrozenBatchNorm2d."
    )
