"""The random choice of positives and negatives that an R-CNN trains on, in fixed slots.

Shapes: ``N`` anchors or proposals, ``size`` slots, ``L...`` leading dimensions (images).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fixshape._check import check_at_least, check_shape
from fixshape.errors import DtypeError, ShapeError
from fixshape.ops._valid import check_bool, check_same_shape


class BalancedSample(NamedTuple):
    """What :func:`balanced_sample` chose."""

    indices: Tensor  #: [L..., size] int64, positives first, each sign by increasing key; 0 where there is none
    positive: Tensor  #: [L..., size] bool, True = a positive
    valid_mask: Tensor  #: [L..., size] bool, True = a chosen entry


def balanced_sample(
    labels: Tensor,
    size: int,
    positive_fraction: float,
    *,
    valid_mask: Tensor | None = None,
    keys: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> BalancedSample:
    """Torchvision's ``BalancedPositiveNegativeSampler`` with a fixed number of rows, for many images at once.

    Of each image it chooses ``int(size * positive_fraction)`` positives, or all where there are fewer, and fills up to ``size``
    with negatives, or takes all of them; each choice of that many is equally likely. The counts are exact; they are torchvision's
    (torchvision/models/detection/_utils.py).

    Each entry gets a random key, and the smallest keys of each sign are taken. The choice is not the one that
    torchvision makes from the same seed: that one draws as many random numbers as there are positives. With the same ``keys`` in
    its place it is. Which of several entries with equal keys is taken is not promised; random float32 keys collide now and
    then (some 2,100 of 268,569 do), which changes no count. No gradient passes.

    Args:
        labels: [L..., N] integers or floating point: 1 or more is positive, 0 negative, less is ignored; what is between 0 and 1,
            or NaN, is ignored too. Not the indices of a matcher, where 0 is an object.
        size: number of slots, at least 1.
        positive_fraction: the largest share of positives, in [0, 1].
        valid_mask: [L..., N] bool, True = real; None when all are. Padding is never chosen, and may hold anything.
        keys: [L..., N] floating point, finite where valid; drawn uniformly where None.
        generator: what the keys are drawn from, on the device of ``labels``; torch's default one where None. torch.compile takes
            no generator into a full graph: there, draw the keys before and give them.

    Returns:
        :class:`BalancedSample`: ``indices`` [L..., size] int64 into the N entries, 0 in slots that hold none; ``positive``
        [L..., size] bool; ``valid_mask`` [L..., size] bool. No positive stands after ``int(size * positive_fraction)`` slots.

    Raises:
        ShapeError: the shapes do not fit each other, N is 0, ``size`` is not a whole number of at least 1, ``positive_fraction``
            is outside [0, 1], or both ``keys`` and ``generator`` are given.
        DtypeError: ``valid_mask`` is not bool, or ``keys`` are not floating point.

    Example:
        >>> import torch
        >>> labels, keys = torch.tensor([0, 1, 0, -1, 1, 0]), torch.tensor([0.5, 0.6, 0.1, 0.0, 0.3, 0.2])
        >>> sample = balanced_sample(labels, 4, 0.25, keys=keys)
        >>> sample.indices, sample.positive
        (tensor([4, 2, 5, 0]), tensor([ True, False, False, False]))
    """
    _check_arguments(labels, size, positive_fraction, valid_mask, keys, generator)
    labels = labels.detach()
    if keys is None:
        keys = torch.rand(labels.shape, dtype=torch.float32, device=labels.device, generator=generator)
    keys = keys.detach()
    positive, negative = labels >= 1, labels == 0
    if valid_mask is not None:
        positive, negative = positive & valid_mask, negative & valid_mask

    quota = int(size * positive_fraction)
    positives = positive.sum(-1, keepdim=True).clamp(max=quota)
    negatives = torch.minimum(negative.sum(-1, keepdim=True), size - positives)
    # No entry has both signs, so that one key serves both choices and leaves them independent.
    first, second = _smallest(keys, positive, quota), _smallest(keys, negative, size)

    # The negatives move up to where the positives end: a gather, since each slot knows which entry it wants.
    slot = torch.arange(size, device=labels.device)
    is_positive, is_chosen = slot < positives, slot < positives + negatives
    source = torch.where(is_positive, slot, first.shape[-1] + slot - positives)
    candidates = torch.cat([first, second], dim=-1)
    indices = candidates.gather(-1, source.clamp(max=candidates.shape[-1] - 1))
    return BalancedSample(torch.where(is_chosen, indices, 0), is_positive, is_chosen)


def _smallest(keys: Tensor, wanted: Tensor, count: int) -> Tensor:
    """The positions of the ``count`` smallest keys among those ``wanted``, followed by others where there are fewer."""
    count = min(count, keys.shape[-1])
    return torch.where(wanted, keys, torch.inf).topk(count, dim=-1, largest=False)[1]


def _check_arguments(
    labels: Tensor,
    size: int,
    positive_fraction: float,
    valid_mask: Tensor | None,
    keys: Tensor | None,
    generator: torch.Generator | None,
) -> None:
    where = "balanced_sample"
    check_shape(where, "labels", labels.shape, (*labels.shape[:-1], "N"))
    check_at_least(where, "N", labels.shape[-1], 1)
    check_at_least(where, "size", size, 1)
    if not 0 <= positive_fraction <= 1:
        raise ShapeError(f"{where}: positive_fraction is {positive_fraction!r}, expected a number in [0, 1].")
    if valid_mask is not None:
        check_bool(where, "valid_mask", valid_mask)
        check_same_shape(where, "valid_mask", valid_mask, "labels", labels)
    if keys is not None:
        if generator is not None:
            raise ShapeError(f"{where}: both keys and generator are given, expected one: keys are what the generator draws.")
        if not keys.is_floating_point():
            raise DtypeError(f"{where}: keys has dtype {keys.dtype}, expected floating point. Use keys.double().")
        check_same_shape(where, "keys", keys, "labels", labels)
