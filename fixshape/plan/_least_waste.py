"""Which K shapes pad least, and how sure is that? Shapes: ``K`` buckets."""

from __future__ import annotations

from fixshape.errors import PlanError
from fixshape.plan._certificate import Certificate
from fixshape.plan._coarse import coarsen, shrink
from fixshape.plan._demand import Demand
from fixshape.plan._problem import MOST_ENTRIES, Ints, count_candidates, make_problem
from fixshape.plan._solve import solve
from fixshape.plan._swap import fewest


class LeastWaste:
    """Plans for one demand, of any number of buckets.

    Attributes:
        fewest: no fewer buckets cover all samples under the cap.
        most: with so many buckets each distinct size has its own.
    """

    def __init__(self, where: str, demand: Demand) -> None:
        self._where, self._demand = where, demand
        upward = downward = demand.cells, demand.counts
        if len(demand.cells) * count_candidates(demand.cells) > MOST_ENTRIES:
            upward, downward = coarsen(demand.cells, demand.counts, MOST_ENTRIES)
        if (upward[0].prod(axis=1) > demand.most_pixels).any():
            raise self._too_close()
        self._above = make_problem(where, *upward, demand.most_pixels)
        self._below = self._above if downward is upward else make_problem(where, *downward, demand.most_pixels)
        self.fewest = len(fewest(self._above))
        self.most = len(demand.cells)
        if self.fewest > len(fewest(self._below)):
            raise self._too_close()  # the truth lies between the two

    def plan(self, k: int) -> tuple[Ints, Certificate]:
        """The shapes [K, 2] of the best plan found with at most ``k`` buckets, and its certificate.

        Raises:
            PlanError: so few buckets cannot cover all samples.
        """
        if k >= self.most:
            return self._demand.cells, self.floor()
        if k < self.fewest:
            raise PlanError(
                f"{self._where}: {k} bucket{'s' * (k > 1)} of at most {self._demand.most_pixels:,} pixels cannot cover all"
                f" samples, {self.fewest} can. Ask for {self.fewest} or more, or raise the cap."
            )
        found = solve(self._above, k)
        below = found if self._below is self._above else solve(self._below, k)
        shapes, total = shrink(self._demand.cells, self._demand.counts, self._above.shapes[found.chosen])
        return shapes, self._demand.certificate(total, below.bound * self._below.unit, len(shapes))

    def floor(self) -> Certificate:
        """What rounding alone costs: a bucket for each distinct size."""
        total = int((self._demand.cells.prod(axis=1) * self._demand.counts).sum())
        return self._demand.certificate(total, total, self.most)

    def _too_close(self) -> PlanError:
        return PlanError(
            f"{self._where}: {len(self._demand.cells):,} distinct sizes are too many to plan for so close to a cap of"
            f" {self._demand.most_pixels:,} pixels. Raise multiple_of or the cap."
        )
