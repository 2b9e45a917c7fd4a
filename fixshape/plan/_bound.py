"""How little could any plan cost? A price for each cell, raised until no choice of K shapes is cheaper than a proven number.

Shapes: ``C`` cells, ``S`` candidates, ``K`` shapes to choose.

This is the Lagrangian dual of the p-median problem (Cornuejols, Fisher, Nemhauser 1977): for *any* prices, the sum of the prices
and of what the K shapes save that save most against them is at most the cost of every plan. Prices are whole numbers, so the
bound is exact and the same on every machine; subgradient steps only decide how good it becomes.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from fixshape.plan._problem import Ints, Problem

_BITS = 60
_FINEST = 16
_ONE = 1024  # of the direction, which is a whole number too
_PATIENCE = 15  # steps without a better bound before they become shorter
_NOTABLE = 17  # a bound that is better by less than 2 ** -17 of itself is no better


class Dual:
    """Prices of the cells, and the bound that they prove for plans of at most ``k`` shapes.

    Attributes:
        bound: no such plan costs less than this, or than the least ``best`` that :meth:`ascend` was given; in pixels.
    """

    def __init__(self, problem: Problem, chosen: Ints, k: int) -> None:
        most = (1 << _BITS) // (len(problem.cells) * (k + 1))  # of a price, so that no sum of them overflows
        self._shift = max(0, min(most.bit_length() - problem.never.bit_length() - 1, _FINEST))  # bits after a price's point
        self._cost = problem.cost << self._shift
        self._k = k
        self._lowest = self._cost.min(axis=1)
        # A rare cell that forces a large shape pays for much more than itself.
        self._highest = min(problem.never << self._shift, most)
        self.bound = 0
        # What a good plan costs is nearly the right price where that plan is the best.
        self._prices = self._best_prices = np.minimum(self._cost[:, chosen].min(axis=1), self._highest)
        self._live = np.arange(len(problem.shapes))  # candidates that a cheaper plan than the known one may have
        self._best_value = 0
        self._direction = np.zeros_like(self._prices)
        self._length, self._waited = 1.0, 0

    def ascend(self, best: int) -> Ints:
        """Takes one step, as long as the distance to ``best`` (pixels of a known plan) asks for.

        Args:
            best: pixels of a known plan.

        Returns:
            [K] the candidates that save most against the prices: good to start a search from.
        """
        saved = np.minimum(self._cost - self._prices[:, None], 0)
        savings = saved.sum(axis=0)
        chosen: Ints = savings.argsort(kind="stable")[: self._k]
        value = int(self._prices.sum()) + int(savings[chosen].sum())
        self._waited += 1
        if value > self._best_value:
            if value - self._best_value > value >> _NOTABLE:
                self._waited = 0
            self._best_value, self._best_prices = value, self._prices
            self.bound = max(self.bound, -(-value >> self._shift))  # whole pixels: what is above n is n + 1
        if self._waited > _PATIENCE:
            self._length, self._waited, self._prices = self._length * 0.7, 0, self._best_prices
            self._direction = np.zeros_like(self._prices)
        # A cell that none of the chosen saves on pays too little, one that several save on too much.
        self._direction = self._direction * 5 // 8 + (1 - (saved[:, chosen] < 0).sum(axis=1)) * _ONE
        squares = math.fsum((self._direction.astype(np.float64) ** 2).tolist())
        if squares:
            step = self._length * ((best << self._shift) - value) * _ONE / squares
            moved = np.rint(np.clip(step * self._direction, -self._highest, self._highest)).astype(np.int64)
            self._prices = np.clip(self._prices + moved, self._lowest, self._highest)
        picked: Ints = self._live[chosen]
        self._leave_out(value + savings - savings[chosen[-1]] < best << self._shift, chosen)
        return picked

    def _leave_out(self, useful: npt.NDArray[np.bool_], chosen: Ints) -> None:
        """Forgets candidates that no cheaper plan has, once they are many: the bound grows, and steps become quicker."""
        useful[chosen] = True
        if useful.sum() < 0.8 * len(useful):
            self._live, self._cost = self._live[useful], self._cost[:, useful]
