"""The losses of torch.nn.functional on rows, their modules among them.

A loss is computed for each entry, by torch's own function with ``reduction="none"``, and then reduced over the real ones.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fixshape.ops._rows import Rows, axes_of, data_of, wrap
from fixshape.ops._rows_ends import mean, sum, wide
from fixshape.ops._rows_error import Refusal
from fixshape.ops._rows_layers import cut
from fixshape.ops._rows_order import softmax
from fixshape.ops._rows_registry import NO_HANDLER, handles
from fixshape.ops._rows_select import at_rest, gather_along
from fixshape.ops._rows_through import elementwise, fitted, joined

#: Losses whose result has the shape of their operands broadcast against each other.
ELEMENTWISE = (
    F.l1_loss, F.mse_loss, F.smooth_l1_loss, F.huber_loss, F.binary_cross_entropy, F.binary_cross_entropy_with_logits,
    F.soft_margin_loss, F.poisson_nll_loss, F.hinge_embedding_loss, F.margin_ranking_loss,
)  # fmt: skip
#: Losses that take vectors in the last dimension of their first operands and give one number for each.
VECTORWISE = (
    F.cosine_embedding_loss, F.triplet_margin_loss, F.triplet_margin_with_distance_loss, F.multi_margin_loss,
    F.multilabel_margin_loss, F.multilabel_soft_margin_loss,
)  # fmt: skip


def bound(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name, with the reduction that the deprecated ones ask for."""
    given = dict(zip(_NAMES[func][: len(args)], args, strict=True)) | kwargs
    size_average, reduce = given.pop("size_average", None), given.pop("reduce", None)
    if size_average is not None or reduce is not None:
        given["reduction"] = "none" if reduce is False else "sum" if size_average is False else "mean"
    given.setdefault("reduction", "mean")
    return given


def reduced(result: Any, reduction: str) -> Any:
    """By the reduction's name."""
    if reduction == "none" or not isinstance(result, Rows):
        return result if reduction == "none" else (result.mean() if reduction == "mean" else result.sum())
    return mean(torch.mean, result) if reduction == "mean" else sum(torch.sum, result)


@handles(*ELEMENTWISE)
def elementwise_loss(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Operands of rows and plain ones meet as in elementwise code."""
    given = bound(func, args, kwargs)
    reduction = given.pop("reduction")
    weight = given.get("weight")
    if weight is not None and reduction == "mean" and func in (F.mse_loss, F.l1_loss):
        # These two divide by the sum of the weights (torch/nn/functional.py).
        return reduced(elementwise_loss(func, **given, reduction="none"), "sum") / reduced(weight, "sum")
    operands = [value for value in given.values() if isinstance(value, (Rows, Tensor))]
    axes = joined(operands)
    inputs = {name: fitted(value, axes, operands) for name, value in given.items()}
    return reduced(wrap(func(**inputs, reduction="none"), axes), reduction)


@handles(F.l1_loss, source=True)
def l1_loss(func: Any, *args: Any, **kwargs: Any) -> Any:
    """With the weight, which torch 2.15 does not hand on to modes (torch/nn/functional.py): it is in the caller's frame."""
    frame = None if torch.compiler.is_compiling() else sys._getframe(1)
    while frame is not None and frame.f_code is not F.l1_loss.__code__:
        frame = frame.f_back
    weight = None if frame is None else frame.f_locals.get("weight")
    if weight is not None:
        kwargs = {**kwargs, "weight": weight}
    given = (*args, *kwargs.values())
    return elementwise_loss(func, *args, **kwargs) if any(isinstance(v, Rows) for v in given) else func(*args, **kwargs)


@handles(F.gaussian_nll_loss)
def gaussian_nll_loss(func: Any, *args: Any, **kwargs: Any) -> Any:
    """By its formula: torch's own looks at the variance on the host."""
    given = bound(func, args, kwargs)
    input, target, variance = given["input"], given["target"], given["var"]
    if isinstance(variance, (int, float)):
        variance = elementwise(torch.full_like, input, variance)
    elif len(axes_of(variance)) == len(axes_of(input)) - 1:
        variance = wrap(data_of(variance).unsqueeze(-1), (*axes_of(variance), None))
    eps = given.get("eps", 1e-6)
    # The bound has no gradient of its own: what is below it keeps its gradient, as upstream.
    floor = variance.detach().clamp(min=eps) - variance.detach()
    variance = variance + floor
    loss = 0.5 * ((input - target) ** 2 / variance + variance.log())
    if given.get("full"):
        loss = loss + 0.9189385332046727
    return reduced(loss, given["reduction"])


@handles(F.kl_div)
def kl_div(func: Any, *args: Any, **kwargs: Any) -> Any:
    """``batchmean`` divides by the number of rows."""
    given = bound(func, args, kwargs)
    reduction = given.pop("reduction")
    result = elementwise_loss(func, **given, reduction="none")
    if reduction != "batchmean":
        return reduced(result, reduction)
    axis = axes_of(given["input"])[0]
    return reduced(result, "sum") / (data_of(given["input"]).shape[0] if axis is None else axis.count)


@handles(*VECTORWISE)
def vectorwise_loss(func: Any, *args: Any, **kwargs: Any) -> Any:
    """One number for each row; the vectors themselves are of an ordinary dimension."""
    given = bound(func, args, kwargs)
    reduction = given.pop("reduction")
    operands = [value for name, value in given.items() if isinstance(value, (Rows, Tensor)) and name != "weight"]
    ndim = max(data_of(value).dim() for value in operands)
    vectors = [value for value in operands if data_of(value).dim() == ndim]
    axes = joined(vectors)
    if axes[-1] is not None:
        raise Refusal("the vectors of the loss are along the dimension of the selected rows", NO_HANDLER)
    joined(
        [
            *(wrap(data_of(value)[..., 0], axes_of(value)[:-1]) for value in vectors),
            *(v for v in operands if all(v is not vector for vector in vectors)),
        ]
    )
    inputs = {
        name: at_rest(value) if not data_of(value).is_floating_point() else data_of(value) if isinstance(value, Rows) else value
        for name, value in given.items()
        if isinstance(value, (Rows, Tensor))
    }
    result = func(**(given | inputs), reduction="none")
    return reduced(cut(result, axes[: result.dim()]), reduction)


@handles(F.cross_entropy)
def cross_entropy(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Classes in dimension 1, or 0 of a vector; the mean is weighted, and over what is not ignored, as torch's."""
    given = bound(func, args, kwargs)
    reduction, weight, target = given.pop("reduction"), given.get("weight"), given["target"]
    result = _by_class(func, given, given["input"], target)
    if reduction != "mean":
        return reduced(result, reduction)
    if data_of(target).is_floating_point():
        return reduced(result, "mean")
    counts = _weights(target, weight, given.get("ignore_index", -100), result)
    dtype = data_of(result).dtype
    return (sum(torch.sum, result, dtype=wide(dtype)) / sum(torch.sum, counts, dtype=wide(dtype))).to(dtype)


@handles(F.nll_loss)
def nll_loss(func: Any, *args: Any, **kwargs: Any) -> Any:
    """As the cross entropy, of logarithms of probabilities."""
    return cross_entropy(func, *args, **kwargs)


@handles(F.ctc_loss)
def ctc_loss(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Of selected samples, ``log_probs[:, mask]``; torch looks at their lengths on the host."""
    given = bound(func, args, kwargs)
    reduction, axis = given.pop("reduction"), axes_of(given["log_probs"])[1]
    of_samples = [given[name] for name in ("targets", "input_lengths", "target_lengths")]
    if axis is None or not all(isinstance(x, Rows) and x._axes[0] is axis and not any(x._axes[1:]) for x in of_samples):
        raise Refusal("log_probs, targets and lengths are not of the same samples", "Select all of them with the same mask.")
    inputs = {name: data_of(value) for name, value in given.items()}
    steps = inputs["log_probs"].shape[0]
    inputs["input_lengths"] = torch.where(axis.any, inputs["input_lengths"], steps)
    losses = cut(func(**inputs, reduction="none"), (axis,))
    if reduction == "mean":
        losses = losses / wrap(inputs["target_lengths"].clamp(min=1).to(losses.dtype), (axis,))
    return reduced(losses, reduction)


def _by_class(func: Any, given: dict[str, Any], input: Any, target: Any) -> Any:
    """The loss of each row."""
    axes = list(axes_of(input))
    classes = 1 if len(axes) > 1 else 0
    if axes[classes] is not None:
        return _by_row(func, given, input, target)
    of_probabilities = data_of(target).is_floating_point()
    rest = axes[:classes] + axes[classes + 1 :]
    if tuple(axes_of(target)) != tuple(axes if of_probabilities else rest):
        raise Refusal("the rows of input and target are not of the same selection", "Select both with the same mask.")
    labels = data_of(target) if of_probabilities else at_rest(target)
    return cut(func(**(given | {"input": data_of(input), "target": labels}), reduction="none"), rest)


def _by_row(func: Any, given: dict[str, Any], input: Any, target: Any) -> Any:
    """The loss where the classes are the rows themselves: which of them is the right one."""
    plain = given.get("weight") is None and not given.get("label_smoothing")
    if not plain or len(axes_of(input)) != 2 or data_of(target).is_floating_point():
        raise Refusal(
            "the classes of the loss are along the dimension of the selected rows", "Bring them to dimension 1: logits.mT[mask]."
        )
    scores = softmax(torch.log_softmax, input, 1) if func is F.cross_entropy else input
    right = wrap(data_of(target).unsqueeze(1), (*axes_of(target), None))
    ignored = elementwise(torch.eq, target, given.get("ignore_index", -100))
    right = elementwise(torch.where, wrap(data_of(ignored).unsqueeze(1), (*axes_of(target), None)), 0, right)
    picked = gather_along(torch.gather, scores, 1, right)
    picked = wrap(data_of(picked).squeeze(1), axes_of(picked)[:1])
    return elementwise(torch.where, ignored, 0.0, elementwise(torch.neg, picked))


def _weights(target: Any, weight: Tensor | None, ignore_index: int, like: Any) -> Any:
    """What each entry counts in the mean."""
    labels = at_rest(target)
    counts = labels != ignore_index
    dtype = data_of(like).dtype
    if weight is None:
        return wrap(counts.to(dtype), axes_of(target))
    return wrap(torch.where(counts, weight[torch.where(counts, labels, 0)], 0), axes_of(target))


_LOSSES = (*ELEMENTWISE, *VECTORWISE, F.gaussian_nll_loss, F.kl_div, F.cross_entropy, F.nll_loss, F.ctc_loss)
#: The arguments of each loss, in order.
_NAMES = {loss: tuple(inspect.signature(loss).parameters) for loss in _LOSSES}
