"""What is known of each step, and of a run as a whole. Torch-free."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from fixshape.train import _verdict

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
        graph_compiles: by the device's own count, where that is of graphs (XLA); else ``None``.
        native_op_compiles: by the device's own count, where that is of operators (a dry run on an NPU); else ``None``.
    """

    index: int
    phase: str
    shapes: str
    in_warmup: bool
    seconds: float
    op_compiles: int | None
    graph_compiles: int | None
    native_op_compiles: int | None = None

    @property
    def is_counted(self) -> bool:
        """Whether compiles were counted in it, by the device or by the recorder."""
        return any(count is not None for count in (self.graph_compiles, self.native_op_compiles, self.op_compiles))

    @property
    def compiles(self) -> int:
        """The device's own count where there is one, else the predicted one, else 0."""
        counts = (self.graph_compiles, self.native_op_compiles, self.op_compiles)
        return next((count for count in counts if count is not None), 0)


@dataclass(frozen=True, slots=True)
class TrainSummary:
    """A run as it was: what :func:`fixshape.fit` returns.

    Attributes:
        steps: one record per step, evaluation steps left out.
        losses: the total loss of each step, over several batches their mean; empty in a dry run, which has no values.
        real_pixels: pixels of images, over all batches that tell.
        total_pixels: pixels of canvases.
        real_slots: boxes.
        total_slots: box slots.
        boxes_dropped: by an overflow or invalid policy.
        peak_memory: in bytes, as the backend counts it.
        warmup_steps: steps before the first, of which nothing remains.
        warmup_compiles: what they compiled; ``None`` where it was not counted.
        resumed_at: steps that an earlier process had made before the first here; ``index`` of a record begins at 1 all the same.
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
    resumed_at: int = 0

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
        return _verdict.quiet_after(self.steps)

    def seconds_per_step(self) -> tuple[float | None, float | None]:
        """Seconds of a step before (mean) and after (median) the run was steady; ``None`` where there is no such step.

        Steps in which the recorder counted are left out of the second, since counting takes time; where all were counted, as
        under a guard, they are what there is. The first holds the warm-up steps as they were, and all steps where steps were
        counted and the run did not come to rest. Where none was counted, the warm-up is what parts the two.
        """
        return _verdict.seconds_per_step(self.steps)
