"""What a vendor's tool would refuse, or would do in silence: one rule that is broken, and the way out."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule of a target that a command, a plan or a graph breaks.

    Args:
        rule: its short name, ``"B1"``, as the validator of the target numbers its rules.
        code: what the tool itself would print, ``"E10018"``; ``None`` where it prints none.
        message: what was got and what is expected.
        why: the reason, in whole sentences.
        way_out: what to write instead; the whole corrected command where there is one.
        level: ``"error"``: the tool fails or the result is wrong; ``"warning"``: it goes on in a way that is seldom meant;
            ``"advice"``: it works, and costs more than it need.
        doubtful: sources disagree, or versions of the tool do, so that a run on the device should decide.
    """

    rule: str
    code: str | None
    message: str
    why: str
    way_out: str
    level: Literal["error", "warning", "advice"] = "error"
    doubtful: bool = False


def has_errors(violations: Iterable[Violation]) -> bool:
    """Whether one of them is an error, and not just a warning or advice."""
    return any(violation.level == "error" for violation in violations)


def as_text(violations: Iterable[Violation]) -> str:
    """One paragraph for each, in their order; the way out stands on a line of its own.

    Args:
        violations: of one target or of several.

    Returns:
        Text without a newline at the end; empty where nothing is broken.

    Example:
        >>> print(as_text([Violation("P1", "E10035", "1 gear, expected 2", "One gear is a fixed shape.", "--input_shape=x:1,3")]))
        error E10035 (P1): 1 gear, expected 2
            One gear is a fixed shape.
            instead: --input_shape=x:1,3
    """
    return "\n".join(_paragraph(violation) for violation in violations)


def _paragraph(violation: Violation) -> str:
    code = f" {violation.code}" if violation.code else ""
    doubt = ", to be checked on the device" if violation.doubtful else ""
    lines = [f"{violation.level}{code} ({violation.rule}{doubt}): {violation.message}"]
    lines += textwrap.wrap(violation.why, 116, initial_indent="    ", subsequent_indent="    ")
    if violation.way_out:  # never wrapped: it is there to be copied
        lines.append(f"    instead: {violation.way_out}")
    return "\n".join(lines)
