"""Is a run steady, since when, and how long does a step take? Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fixshape.train._records import StepRecord

MOST_NAMED = 3
"""Steps that a verdict names one by one."""


def quiet_after(records: Sequence[StepRecord]) -> int | None:
    """The step after which nothing compiled: 0 if nothing ever did; ``None`` where the run is not known to have come to rest."""
    at_rest: dict[tuple[str, str], bool] = {}
    for record in records:
        key = (record.phase, record.shapes)
        if record.is_counted:
            at_rest[key] = not record.compiles
        elif not at_rest.get(key, False):
            return None
    if not records or records[-1].compiles:
        return None
    return max((record.index for record in records if record.compiles), default=0)


def seconds_per_step(records: Sequence[StepRecord]) -> tuple[float | None, float | None]:
    """Seconds of a step before (mean) and after (median) the run was steady; ``None`` where there is no such step."""
    steady = steady_steps(records)
    after = {record.index for record in steady}
    before = [record.seconds for record in records if record.index not in after]
    uncounted = [record.seconds for record in steady if record.op_compiles is None]
    chosen = uncounted or [record.seconds for record in steady]
    return fmean(before) if before else None, median(chosen) if chosen else None


def steady_steps(records: Sequence[StepRecord]) -> list[StepRecord]:
    """Those after the last compile and in no warm-up; where nothing was counted, those in no warm-up."""
    last = quiet_after(records)
    if last is None:
        last = records[-1].index if any(record.is_counted for record in records) else 0
    return [record for record in records if record.index > last and not record.in_warmup]


def verdict(records: Sequence[StepRecord], *, warmed_up: float = 0.0, is_timed: bool = True) -> str:
    """A run in one line, such as ``steady since step 3; warm-up 41 s; 0.21 s a step``.

    Args:
        records: of a run; where it has training steps, these are judged and the others are not.
        warmed_up: seconds of a warm-up before the first step.
        is_timed: whether seconds are those of a device.
    """
    judged = [record for record in records if record.phase == "train"] or records
    if not judged:
        return "no step yet"
    parts = [_steadiness(judged), _drift(judged)]
    parts += _times(judged, warmed_up) if is_timed else ["a dry run: its seconds are no device's"]
    return "; ".join(part for part in parts if part)


def _steadiness(records: Sequence[StepRecord]) -> str:
    last = quiet_after(records)
    if last is not None:
        return f"steady since step {next(record.index for record in records if record.index > last)}"
    counted = [record for record in records if record.is_counted]
    if not counted:
        return "not known to be steady, as compiles were not counted (predict=True counts them)"
    compiling = sum(bool(record.compiles) for record in counted)
    if records[-1].compiles:
        return f"not steady: {compiling} of {_steps(len(counted))} compiled, the last one too"
    return (
        f"not known to be steady: {compiling} of {len(counted)} counted steps compiled, {len(records) - len(counted)} not counted"
    )


def _drift(records: Sequence[StepRecord]) -> str:
    late = [record.index for record in records if record.compiles and not record.in_warmup]
    if not late:
        return ""
    more = f" and {len(late) - MOST_NAMED} more" if len(late) > MOST_NAMED else ""
    return f"compiled after the warm-up in step{'s' * (len(late) > 1)} {', '.join(map(str, late[:MOST_NAMED]))}{more}"


def _times(records: Sequence[StepRecord], warmed_up: float) -> list[str]:
    # A step in the warm-up that was counted and compiled nothing took no longer than any other.
    slow = [record.seconds for record in records if record.in_warmup and (record.compiles or not record.is_counted)]
    parts = [f"warm-up {_seconds(warmed_up + sum(slow))}"] if slow or warmed_up else []
    before, after = seconds_per_step(records)
    if after is not None:
        counting = all(record.op_compiles is not None for record in steady_steps(records))
        parts.append(f"{_seconds(after)} a step{', counting included' if counting else ''}")
    elif before is not None:
        parts.append(f"{_seconds(before)} a step on average")
    return parts


def _steps(number: int) -> str:
    return f"{number} step{'s' * (number != 1)}"


def _seconds(seconds: float) -> str:
    """Two digits, in the unit that fits.

    Example:
        >>> [_seconds(value) for value in (0.00021, 0.0994, 0.214, 41.3, 99.7, 330, 8000)]
        ['0.21 ms', '99 ms', '0.21 s', '41 s', '1.7 min', '5.5 min', '2.2 h']
    """
    for least, size, unit in ((5970, 3600, "h"), (99.5, 60, "min"), (0.0995, 1, "s")):
        if seconds >= least:
            return f"{seconds / size:.2g} {unit}"
    return f"{1e3 * seconds:.2g} ms"
