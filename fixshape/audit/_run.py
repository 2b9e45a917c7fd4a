"""What does this step function do, over a few batches? The recording loop for those who have no script."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, TypeVar

from fixshape._check import check_at_least, shown
from fixshape.audit._recorder import OpRecorder
from fixshape.audit._report import AuditReport
from fixshape.errors import ShapeError

_Batch = TypeVar("_Batch")


def run(step_fn: Callable[[_Batch], Any], batches: Iterable[_Batch], *, steps: int = 5) -> AuditReport:
    """Records a training step over the first batches of a loader.

    Each call of ``step_fn`` is one step: forward, backward and optimiser, as the training loop has them. What the loader does
    to make a batch is not recorded. Two steps are the warm-up: what compiles from the third on is drift, so that fewer than 3
    steps show none. Errors of ``step_fn`` and of ``batches`` pass through.

    Args:
        step_fn: does one step with one batch; what it returns is dropped.
        batches: a data loader, or any other iterable; read from its beginning, once, and no further than needed.
        steps: how many steps to record at most, at least 1; fewer where ``batches`` ends before.

    Returns:
        The recording, one entry of ``steps`` for each call of ``step_fn``.

    Raises:
        ShapeError: ``steps`` is no whole number of at least 1, or ``batches`` gives nothing.

    Example:
        >>> import torch
        >>> from fixshape.audit import run
        >>> model = torch.nn.Linear(4, 1)
        >>> report = run(lambda rows: model(rows).sum().backward(), [torch.ones(rows, 4) for rows in (2, 2, 2, 3)])
        >>> [step.compiles for step in report.steps]
        [5, 2, 0, 4]
    """
    steps = check_at_least("run", "steps", steps, 1)
    recorder = OpRecorder()
    for batch in islice(batches, steps):
        with recorder:
            step_fn(batch)
        recorder.step()
    report = recorder.report()
    if not report.steps:
        raise ShapeError(
            f"run: batches, {shown(batches)}, gave no batch, expected at least one. An iterator can be read once only."
        )
    return report
