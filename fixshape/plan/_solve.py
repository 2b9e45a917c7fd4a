"""Which K shapes cost least? A search from several starts, and a bound that says when to stop.

Shapes: ``C`` cells, ``S`` candidates, ``K`` chosen ones.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from fixshape.plan._bound import Dual
from fixshape.plan._problem import Ints, Problem
from fixshape.plan._swap import add_greedily, fewest, improve

_STEPS = 600  # of the dual at most
_WORK = 1 << 28  # entries of the cost matrix that its steps may read in all
_SEARCHED = frozenset((0, 10, 20, 40, 60, 80, 100, 140, 200, 300, 400, 500))  # steps whose choice a search starts from
_RANDOM_STARTS = 4


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """Candidates of a problem that cover all its cells, what they cost, and what any K of them cost at least (in pixels)."""

    chosen: Ints
    total: int
    bound: int


def solve(problem: Problem, k: int) -> Solution:
    """The best choice found of at most ``k`` candidates; ``k`` is no less than the fewest that cover all cells.

    Deterministic: whole numbers, a fixed seed, and of equal choices the first found.
    """
    cover = fewest(problem)
    best, total = improve(problem, add_greedily(problem, cover, k))
    tried = {best.tobytes()}

    def search(start: Ints) -> None:
        nonlocal best, total
        start = np.sort(start)
        if start.tobytes() not in tried:
            tried.add(start.tobytes())
            found, cost = improve(problem, start)
            if cost < total:
                best, total = found, cost

    dual = Dual(problem, best, k)
    for step in range(min(_STEPS, _WORK // problem.cost.size)):
        chosen = dual.ascend(total)
        if dual.bound >= total:
            break
        if step in _SEARCHED:
            search(chosen)
    draw = random.Random(0).random  # of all that draws numbers, this is promised to stay the same
    for _ in range(_RANDOM_STARTS):
        if dual.bound >= total:
            break
        picks = np.array([int(draw() * len(problem.shapes)) for _ in range(k - len(cover))], np.int64)
        search(np.append(cover, picks))
    return Solution(best, total, min(dual.bound, total))
