"""Does an audit fail, and over what? ``--fail-on``, ``--max-compiles`` and ``--baseline``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from fixshape.audit._finding import Audit, Finding
from fixshape.audit._identity import identities
from fixshape.audit._report import WARM_UP
from fixshape.cli._audit_arguments import KINDS, UNKNOWN


def failures(audit: Audit, *, fail_on: Collection[str], max_compiles: int | None, baseline: Audit | None) -> list[str]:
    """Why an audit fails, a phrase for each reason; none where it does not."""
    reasons = []
    kinds = Counter(_kind(finding) for finding in _new(audit, baseline))
    unknown = set(audit.unknown) - set(baseline.unknown if baseline else ())
    if unknown:
        kinds[UNKNOWN] = len(unknown)
    failing = {kind: kinds[kind] for kind in (*KINDS, UNKNOWN) if kind in fail_on and kinds[kind]}
    if failing:
        listed = ", ".join(f"{number} {kind}" for kind, number in failing.items())
        reasons.append(f"{'new findings' if baseline else 'findings'}: {listed}")
    if max_compiles is not None:
        reasons += _too_many(audit, max_compiles, baseline)
    return reasons


def _new(audit: Audit, baseline: Audit | None) -> list[Finding]:
    known = set(identities(baseline.findings)) if baseline else set()
    return [finding for finding, name in zip(audit.findings, identities(audit.findings), strict=True) if name not in known]


def _kind(finding: Finding) -> str:
    return next((kind for kind, prefix in KINDS.items() if finding.code.startswith(prefix)), finding.code)


def _too_many(audit: Audit, limit: int, baseline: Audit | None) -> list[str]:
    later = _after_warm_up(audit)
    if not later:
        return [f"--max-compiles needs a step after the warm-up of {WARM_UP}, and there was none"]
    # What the baseline has is not new: its worst step is allowed.
    allowed = max([limit, *_after_warm_up(baseline)] if baseline else [limit])
    worst = max(later)
    if worst <= allowed:
        return []
    return [f"step {WARM_UP + later.index(worst) + 1} has {worst} op compiles, at most {allowed} are allowed"]


def _after_warm_up(audit: Audit) -> list[int]:
    return [step.compiles for step in audit.report.steps[WARM_UP:]]
