"""What is the first thing to say about an audit: how many compiles a step, and from which lines? Torch-free."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from fixshape.audit._finding import Audit, Finding
from fixshape.audit._report import WARM_UP, Location

_LINES = 3
_STEPS_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Headline:
    """Compiles after the warm-up, and the lines that mending would save most of them.

    Args:
        compiles: of each step, in order.
        a_step: compiles a step after the warm-up; 0 where nothing was recorded after it.
        lines: up to three lines and the compiles a step that follow from each, most first.
    """

    compiles: tuple[int, ...]
    a_step: Fraction
    lines: tuple[tuple[Location, Fraction], ...]

    def __str__(self) -> str:
        """The sentence that a report begins with; it ends in a colon where lines follow."""
        steps, listed = len(self.compiles), _listed(self.compiles)
        if not steps:
            return "No step was recorded."
        if steps <= WARM_UP:
            return (
                f"{counted(sum(self.compiles), 'op compile')} in {counted(steps, 'step')}, all of the warm-up:"
                f" record {WARM_UP + 1} steps or more to see what compiles anew."
            )
        if not self.a_step:
            return f"No op compiles after the warm-up ({listed} in {steps} steps)."
        sentence = f"{counted(self.a_step, 'op compile')} a step after the warm-up ({listed})"
        if not self.lines:
            return f"{sentence}, none of which follows from a finding."
        places = ("", "one line", "two lines", "three lines")[len(self.lines)]
        return f"{sentence}, {number(sum(share for _, share in self.lines))} of them from {places}:"


def headline(audit: Audit) -> Headline:
    """Counts what an audit says first."""
    compiles = tuple(step.compiles for step in audit.report.steps)
    later = compiles[WARM_UP:]
    saved: Counter[Location] = Counter()
    for finding in audit.findings:
        place = finding.site or finding.caller
        if place and finding.compiles:
            saved[place] += finding.compiles
    lines = tuple((place, Fraction(many, len(later))) for place, many in saved.most_common(_LINES)) if later else ()
    return Headline(compiles, after_warm_up(compiles) or Fraction(0), lines)


def after_warm_up(compiles: Sequence[int]) -> Fraction | None:
    """Compiles a step from the third step on, ``None`` where there is no third step."""
    later = compiles[WARM_UP:]
    return Fraction(sum(later), len(later)) if later else None


def rate(finding: Finding, steps: int) -> str:
    """How often it happened, in words: by step where that is a whole number or it happened in each.

    Example:
        >>> finding = Finding(code="FS101", op="aten.nonzero.default", phase="forward", count=15, steps=5)
        >>> rate(finding, 5), rate(finding, 0)
        ('3 a step', '15 times')
    """
    if steps and finding.steps < steps:
        return f"{counted(finding.count, 'time')}, in {finding.steps} of {steps} steps"
    return f"{number(Fraction(finding.count, steps))} a step" if steps else counted(finding.count, "time")


def saving(finding: Finding, steps: int) -> Fraction:
    """Op compiles a step after the warm-up that follow from a finding."""
    return Fraction(finding.compiles, max(steps - WARM_UP, 1))


def number(value: Fraction | int) -> str:
    """A count for a reader, with one digit after the point where it is no whole number.

    Example:
        >>> number(1200), number(Fraction(61, 3))
        ('1,200', '20.3')
    """
    return f"{int(value):,}" if value == int(value) else f"{float(value):,.1f}"


def counted(many: Fraction | int, noun: str) -> str:
    """A number and its noun.

    Example:
        >>> counted(1, "step"), counted(3, "step")
        ('1 step', '3 steps')
    """
    return f"{number(many)} {noun}{'' if many == 1 else 's'}"


def _listed(compiles: tuple[int, ...]) -> str:
    shown = [str(value) for value in compiles[:_STEPS_SHOWN]]
    return ", ".join(shown) + (", ..." if len(compiles) > _STEPS_SHOWN else "")
