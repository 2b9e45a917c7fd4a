"""What is known of each step, and of a run as a whole. Torch-free."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from statistics import fmean, median

WARMUP_STEPS = 2
"""Steps in each (phase, bucket) in which compiles belong: forward and backward in the first, in the second what the optimiser's
first update changed."""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step of a watched loop.

    Attributes:
        index: from 1, over the whole run.
        phase: ``"train"`` where gradients are recorded when the batch is handed out, else ``"eval"``.
        shapes: the shapes of the batch, as text; equal text is the same bucket.
        in_warmup: whether it is one of the first two steps in its (phase, bucket).
        seconds: from the batch being handed out to the next one being asked for, without the loading of data.
        op_compiles: predicted by the recorder; ``None`` where it was not counting.
        graph_compiles: by the device's own count; ``None`` where it keeps none.
    """

    index: int
    phase: str
    shapes: str
    in_warmup: bool
    seconds: float
    op_compiles: int | None
    graph_compiles: int | None

    @property
    def is_counted(self) -> bool:
        """Whether compiles were counted in it, by the device or by the recorder."""
        return self.op_compiles is not None or self.graph_compiles is not None

    @property
    def compiles(self) -> int:
        """The device's own count where there is one, else the predicted one, else 0."""
        return self.graph_compiles if self.graph_compiles is not None else self.op_compiles or 0


@dataclass(frozen=True, slots=True)
class TrainSummary:
    """A run as it was: what :func:`fixshape.fit` returns.

    Attributes:
        steps: one record per step, evaluation steps left out.
        losses: the total loss of each step.
        real_pixels: pixels of images, over all batches that tell.
        total_pixels: pixels of canvases.
        real_slots: boxes.
        total_slots: box slots.
        boxes_dropped: by an overflow or invalid policy.
        peak_memory: in bytes, as the backend counts it.
        warmup_steps: steps before the first, of which nothing remains.
        warmup_compiles: what they compiled; ``None`` where it was not counted.
    """

    steps: tuple[StepRecord, ...]
    losses: tuple[float, ...]
    real_pixels: int
    total_pixels: int
    real_slots: int
    total_slots: int
    boxes_dropped: int
    peak_memory: int
    warmup_steps: int = 0
    warmup_compiles: int | None = None

    @property
    def shapes(self) -> dict[str, int]:
        """How many steps each shape was used in, the most used first."""
        return dict(Counter(record.shapes for record in self.steps).most_common())

    @property
    def quiet_after(self) -> int | None:
        """The step after which nothing compiled: 0 if nothing ever did.

        ``None`` where the run is not known to have come to rest: no step was counted, the last one compiled, or counting ended
        before nothing compiled any more. A bucket that was quiet when last counted is taken to have stayed so.
        """
        at_rest: dict[tuple[str, str], bool] = {}
        for record in self.steps:
            key = (record.phase, record.shapes)
            if record.is_counted:
                at_rest[key] = not record.compiles
            elif not at_rest.get(key, False):
                return None
        if not self.steps or self.steps[-1].compiles:
            return None
        return max((record.index for record in self.steps if record.compiles), default=0)

    def seconds_per_step(self) -> tuple[float | None, float | None]:
        """Seconds of a step before (mean) and after (median) the run was steady; ``None`` where there is no such step.

        Steps in which the recorder counted are left out of the second, since counting takes time; where all were counted, as
        under a guard, they are what there is. The first holds the warm-up steps as they were, and all steps where steps were
        counted and the run did not come to rest. Where none was counted, the warm-up is what parts the two.
        """
        quiet_after = self.quiet_after
        if quiet_after is None:
            quiet_after = len(self.steps) if any(record.is_counted for record in self.steps) else 0
        before = [record.seconds for record in self.steps if record.index <= quiet_after or record.in_warmup]
        after = [record for record in self.steps if not (record.index <= quiet_after or record.in_warmup)]
        uncounted = [record.seconds for record in after if record.op_compiles is None]
        steady = uncounted or [record.seconds for record in after]
        return fmean(before) if before else None, median(steady) if steady else None
