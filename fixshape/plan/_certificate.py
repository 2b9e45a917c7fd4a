"""How much a plan pads, and how much less any plan could: the two numbers and their sentence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal

from fixshape._check import check_at_least
from fixshape.errors import PlanError


@dataclass(frozen=True, slots=True)
class Certificate:
    """The padding of a plan over the sizes it was made for, and a proven bound on that of every plan with as many buckets.

    It says nothing of other sizes, and a bound that is lower than the waste does not say that a better plan exists.

    Args:
        waste: padded pixels / pixels of the samples - 1, every sample in the smallest bucket that covers it.
        lower_bound: no plan with ``buckets`` buckets (of this alignment, under this cap) wastes less.
        buckets: how many buckets the plan has.

    Raises:
        PlanError: a number is not finite or negative, or ``lower_bound`` is above ``waste``.

    Example:
        >>> print(Certificate(waste=0.03261, lower_bound=0.03259, buckets=8))
        3.26 % padding; no plan with 8 buckets has less than 3.25 %
    """

    waste: float
    lower_bound: float
    buckets: int

    def __post_init__(self) -> None:
        check_at_least("Certificate", "buckets", self.buckets, 1)
        if not (0 <= self.lower_bound <= self.waste and math.isfinite(self.waste)):
            raise PlanError(
                f"Certificate: waste is {self.waste!r} and lower_bound is {self.lower_bound!r}, expected finite numbers with"
                " 0 <= lower_bound <= waste."
            )

    def __str__(self) -> str:
        # The bound is rounded down: a claim that is rounded up may be false.
        bound = (Decimal(self.lower_bound) * 100).quantize(Decimal("0.01"), rounding=ROUND_FLOOR)
        plural = "bucket" if self.buckets == 1 else "buckets"
        return f"{self.waste * 100:.2f} % padding; no plan with {self.buckets} {plural} has less than {bound} %"
