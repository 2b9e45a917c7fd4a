"""What losses do people write? A hundred, from the literature, in the style in which they are written.

This file holds the register and the seeded makers of inputs; the losses are in ``own_losses_*.py``, by field. Each is plain
code that knows nothing of static shapes: it selects rows by a mask and goes on with what it got. Its docstring names the paper.

Shapes: ``B`` images or sentences, ``A`` anchors or places, ``C`` classes, ``D`` features, ``N`` rows of any other kind.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

KINDS = ("random", "empty", "full", "single")
_BAD = (float("nan"), float("inf"), -float("inf"))

Inputs = tuple[tuple[Any, ...], tuple[Any, ...]]  # what is predicted, and has a gradient, and what is given


class Case:
    """Draws the inputs of a loss: masks of one kind, numbers of one seed, all in float64."""

    def __init__(self, kind: str, seed: int = 0) -> None:
        self.kind = kind
        self.generator = torch.Generator().manual_seed(seed)

    def mask(self, *shape: int, density: float = 0.4) -> Tensor:
        """A mask of the case's kind; a random one has both values."""
        if self.kind in ("empty", "full"):
            return torch.full(shape, self.kind == "full")
        mask = torch.zeros(shape, dtype=torch.bool).flatten()
        order = torch.randperm(mask.numel(), generator=self.generator)
        mask[order[: 1 if self.kind == "single" else max(2, round(density * mask.numel()))]] = True
        return mask.reshape(shape)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=self.generator, dtype=torch.float64)

    def unit(self, *shape: int) -> Tensor:
        return torch.nn.functional.normalize(self.normal(*shape), dim=-1)

    def whole(self, high: int, *shape: int) -> Tensor:
        return torch.randint(0, high, shape, generator=self.generator)

    def classes(self, mask: Tensor, count: int, other: int) -> Tensor:
        """Classes 1 to ``count`` - 1 where the mask is, ``other`` elsewhere."""
        return torch.where(mask, 1 + self.whole(count - 1, *mask.shape), other)

    def boxes(self, *shape: int) -> Tensor:
        corner = self.uniform(*shape, 2, high=60.0)
        return torch.cat([corner, corner + self.uniform(*shape, 2, low=5.0, high=40.0)], dim=-1)


def spoiled(x: Tensor, mask: Tensor) -> Tensor:
    """``x`` with NaN and both infinities in turn in the rows that the mask leaves out."""
    rows = (~mask).reshape(mask.shape + (1,) * (x.dim() - mask.dim())).expand_as(x)
    bad = torch.tensor(_BAD, dtype=x.dtype).repeat(x.numel() // 3 + 1)[: x.numel()].reshape(x.shape)
    return torch.where(rows, bad, x)


@dataclasses.dataclass(frozen=True)
class OwnLoss:
    """A loss, what it is called with, and the kinds of mask for which its plain form has a value."""

    function: Callable[..., Any]
    make: Callable[[Case], Inputs]
    kinds: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.function.__name__


@dataclasses.dataclass(frozen=True)
class Refused:
    """A loss that cannot be followed, most for asking Python about a count; the line, and the loss that says the same without."""

    function: Callable[..., Any]
    make: Callable[[Case], Inputs]
    line: str
    rewritten: str

    @property
    def name(self) -> str:
        return self.function.__name__


OWN_LOSSES: list[OwnLoss] = []
REFUSED: list[Refused] = []


def own_loss(make: Callable[[Case], Inputs], kinds: Sequence[str] = KINDS) -> Callable[[Any], Any]:
    """Registers a loss; ``kinds`` without "empty" where plain code raises for want of rows, as the maximum of nothing does."""

    def register(function: Any) -> Any:
        OWN_LOSSES.append(OwnLoss(function, make, tuple(kinds)))
        return function

    return register


def refused(make: Callable[[Case], Inputs], *, line: str, rewritten: str) -> Callable[[Any], Any]:
    """Registers a loss that cannot be followed, whose line that holds ``line`` an error must name."""

    def register(function: Any) -> Any:
        REFUSED.append(Refused(function, make, line, rewritten))
        return function

    return register


SOME = ("random", "full", "single")  # all but the empty mask
