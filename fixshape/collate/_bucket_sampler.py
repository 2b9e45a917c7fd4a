"""Batches of one bucket each: shuffled, alike on all ranks, and resumable at any step.

Shapes: N samples, S scales, B samples of one batch on one rank.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from fixshape._check import check_at_least, shown
from fixshape.backend._ranks import rank_and_world_size
from fixshape.collate._bucket_index import BucketIndex
from fixshape.collate._epoch import Epoch, Ints, order_epoch
from fixshape.collate._progress import Progress
from fixshape.errors import BucketError, CheckpointError, DatasetError, FixshapeWarning, ShapeError
from fixshape.plan import ShapePlan, resize_sizes

Sizes = Iterable[Sequence[int]] | NDArray[np.integer[Any]]

_VERSION = 1
_MOST_NAMED = 3  # buckets in a warning
_NAME = "BucketBatchSampler"
_SAID = {
    "plan": "its plan is",
    "batch_size": "its batch size is",
    "world_size": "its number of ranks is",
    "samples": "its number of samples is",
    "sizes": "the digest of its sizes and scales is",
    "drop_last": "its drop_last is",
}


class BucketBatchSampler(Sampler[list[BucketIndex]]):
    """A ``batch_sampler`` whose batches have one bucket each, which is the same on every rank at the same step.

    An epoch is a permutation that follows from ``seed`` and the epoch's number alone: nothing is said between ranks, and a
    resumed run goes on at any step at once. Every sample comes exactly once, but for these:

    * What is left over in a bucket, less than a whole batch on every rank, is promoted: each sample to the cheapest larger bucket
      that holds it and has samples of its own. The fallback takes in no promoted sample, and is used by those only that nothing
      else holds.
    * Where nothing holds it, it is dropped (``drop_last=True``; ``dropped`` says how many): other samples in each epoch, but all
      of a bucket in every epoch where they are fewer than one batch on every rank.
    * Or the batch is completed (``drop_last=False``; ``repeated`` says by how many) with samples of its own bucket that the epoch
      has elsewhere: the first in the epoch's order, from the bucket's whole batches where it has any. They are marked
      (:attr:`BucketIndex.repeated`). Training batches are never short: an evaluation that must see each sample once leaves the
      marked ones out.

    The samples are handed out as :class:`BucketIndex`, which carry their batch's bucket. :class:`fixshape.PadToBucket` has to be
    told of it (``target["bucket"]``), or a promoted batch may be padded to less on one rank than on another;
    :func:`fixshape.make_loader` sees to that. An iteration that was left early does not go on: the next one is a new epoch,
    unless :meth:`load_state_dict` was called.

    Args:
        plan: a :class:`~fixshape.plan.ShapePlan`. Where it has batch sizes of its own, a batch has as many samples as it says.
        sizes: [N, 2] or [N, 3] whole numbers, (height, width) or (height, width, boxes) per sample in the data set's order;
            pixels after the host resize, or before it where ``scales`` are given. Leave the boxes out where PadToBucket has an
            overflow policy.
        batch_size: B, on one rank.
        seed: of all permutations, the same on every rank; 0 or more.
        rank: of this process. ``None``: as ``torch.distributed`` says if it is initialised, else 0.
        world_size: how many ranks there are. ``None``: likewise, else 1.
        drop_last: whether samples that do not fill a batch are dropped, or batches completed with repeated ones.
        scales: what the shorter side may become, in pixels: one is drawn per sample and epoch, from which its bucket follows, and
            handed out as :attr:`BucketIndex.min_size`. ``None``: nothing is drawn.
        max_size: the most that the longer side may become, where ``scales`` are given. ``None``: no limit.

    Attributes:
        dropped: samples that the epoch leaves out; here and below the epoch that runs, or else the next.
        promoted: samples that the epoch pads to a larger bucket than they need.
        repeated: samples that the epoch has a second time, or more.

    Warns:
        FixshapeWarning: the samples of a bucket are too few for a batch and would be dropped in every epoch.

    Raises:
        DatasetError: there are no sizes.
        BucketError: the plan does not cover a sample, at one of the scales.
        ShapeError: an argument is not one of the above.

    Example:
        >>> from fixshape.plan import Bucket
        >>> plan = ShapePlan([Bucket(32, 64, 4), Bucket(64, 64, 4)])
        >>> sampler = BucketBatchSampler(plan, [(32, 60), (64, 40), (30, 50), (60, 60), (31, 64)], batch_size=2)
        >>> [(batch[0].bucket, sorted(map(int, batch))) for batch in sampler]
        [(1, [1, 3]), (0, [0, 2])]
        >>> len(sampler), sampler.dropped, sampler.state_dict()["epoch"]
        (2, 1, 1)
    """

    def __init__(
        self,
        plan: ShapePlan,
        sizes: Sizes,
        batch_size: int,
        *,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        drop_last: bool = True,
        scales: Sequence[int] | None = None,
        max_size: int | None = None,
    ) -> None:
        self.plan = plan
        self.batch_size = check_at_least(_NAME, "batch_size", batch_size, 1)
        self.seed = check_at_least(_NAME, "seed", seed, 0)
        self.rank, self.world_size = _rank_and_world_size(rank, world_size)
        self.drop_last = drop_last
        self.scales = None if scales is None else tuple(check_at_least(_NAME, "scales", scale, 1) for scale in scales)
        self._sizes, self._buckets = _at_scales(plan, sizes, self.scales, max_size)
        self._digest = _digest(self._sizes, self.scales)
        self._rows = [plan.batch_size(index, self.batch_size) for index in range(len(plan.shapes))]
        self._progress = Progress()
        self._cached: tuple[tuple[int, int], Epoch] | None = None
        self._drawn_ahead = False
        if drop_last:
            self._warn_of_unused()

    @property
    def epoch(self) -> int:
        """The number of the epoch that runs, or else of the next."""
        return self._progress.start[0]

    @property
    def dropped(self) -> int:
        """Samples that the epoch leaves out."""
        return self._epoch(self.epoch).dropped

    @property
    def promoted(self) -> int:
        """Samples that the epoch pads to a larger bucket than they need."""
        return self._epoch(self.epoch).promoted

    @property
    def repeated(self) -> int:
        """Samples that the epoch has a second time, or more."""
        return self._epoch(self.epoch).repeated

    def __len__(self) -> int:
        """The steps of the whole epoch that runs, or else of the next: they may differ, as tails and drawn scales do."""
        return len(self._epoch(self.epoch).steps)

    def __iter__(self) -> Iterator[list[BucketIndex]]:
        # A DataLoader with workers draws batches long before the loop gets them: make_loader's counts them itself.
        return self._rest() if self._drawn_ahead else self._progress.counted(self._rest)

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the next iteration; epochs advance without it. One that was resumed in its middle stays there.

        Args:
            epoch: its number, from 0.

        Raises:
            ShapeError: it is not a whole number of at least 0.
        """
        coming, step = self._progress.coming
        check_at_least(_NAME, "epoch", epoch, 0)
        self._progress.move(epoch, step if epoch == coming else 0)

    def state_dict(self) -> dict[str, Any]:
        """Where the loop is: plain values, the same on every rank.

        Returns:
            ``seed``, ``epoch``, ``step`` (batches handed out in this epoch), and what they are only good for: the plan's digest,
            the batch size, the number of ranks and of samples, a digest of sizes and scales, and ``drop_last``.
        """
        epoch, step = self._progress.reached
        if step and step == len(self._epoch(epoch).steps):
            epoch, step = epoch + 1, 0
        return {"version": _VERSION, "seed": self.seed, "epoch": epoch, "step": step, **self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The next iteration begins with the first batch that the saved run had not handed out. No data is read for that.

        ``seed`` is taken over. The random numbers that transforms draw are no part of it.

        Args:
            state: of :meth:`state_dict`, of any rank.

        Raises:
            CheckpointError: it is no such state, or that of a run with another plan, batch size, number of ranks or samples,
                other sizes or another ``drop_last``: its steps would be other samples here. The sampler is left as it was.
        """
        here = self._identity()
        wanted = ("seed", "epoch", "step")
        if not isinstance(state, Mapping) or state.get("version") != _VERSION or not {*wanted, *here} <= set(state):
            raise CheckpointError(f"{_NAME}.load_state_dict: got {shown(state)}, expected what state_dict returned.")
        differing = [f"{_SAID[key]} {shown(state[key])}, here {value!r}" for key, value in here.items() if state[key] != value]
        if differing:
            raise CheckpointError(
                f"{_NAME}.load_state_dict: the state is of another run: {'; '.join(differing)}. Its steps would be other samples"
                " here. Resume with what it was saved with, or begin an epoch anew: set_epoch(n)."
            )
        for key in wanted:
            if type(state[key]) is not int or state[key] < 0:
                raise CheckpointError(f"{_NAME}.load_state_dict: {key} is {shown(state[key])}, expected a whole number from 0.")
        seed, epoch, step = (state[key] for key in wanted)
        steps = len(self._order(seed, epoch).steps)
        if step > steps:
            raise CheckpointError(
                f"{_NAME}.load_state_dict: step is {step}, but epoch {epoch} has {steps}: the state was changed."
            )
        self.seed = seed
        self._progress.move(*((epoch + 1, 0) if step and step == steps else (epoch, step)))

    def _rest(self) -> Iterator[list[BucketIndex]]:
        """The batches of this rank that are not handed out yet; counts nothing."""
        number, begin = self._progress.start
        epoch = self._epoch(number)
        for step in epoch.steps[begin:]:
            rows = self._rows[step.bucket]
            real = len(step.samples) - step.repeats
            mine = range(self.rank * rows, (self.rank + 1) * rows)
            yield [self._index(int(step.samples[row]), step.bucket, epoch, repeated=row >= real) for row in mine]

    def _index(self, sample: int, bucket: int, epoch: Epoch, *, repeated: bool) -> BucketIndex:
        min_size = None if self.scales is None else self.scales[epoch.scale[sample]]
        return BucketIndex(sample, bucket, min_size, repeated)

    def _epoch(self, number: int) -> Epoch:
        return self._order(self.seed, number)

    def _warn_of_unused(self) -> None:
        """Warns of samples that no epoch has, as a user would learn from a worse model only."""
        steps = self._epoch(0).steps
        used = np.concatenate([step.samples for step in steps] or [np.zeros(0, np.int64)])
        own = self._buckets[self._epoch(0).scale, np.arange(self._sizes.shape[1])]
        never = np.setdiff1d(own, own[used])
        if len(never):
            samples = np.isin(own, never).sum()
            names = "; ".join(str(self.plan.shapes[index]) for index in never[:_MOST_NAMED])
            warnings.warn(
                f"{_NAME}: {samples} of {len(own)} samples are in no batch: of {names}"
                f"{' and others' if len(never) > _MOST_NAMED else ''} there are fewer than a batch (batch_size"
                f" {self.batch_size} on {self.world_size} ranks), and nothing larger takes them in. Complete batches with"
                " drop_last=False, take a smaller batch, or plan fewer buckets.",
                FixshapeWarning,
                stacklevel=3,
            )

    def _order(self, seed: int, number: int) -> Epoch:
        """The epoch's order; the last one is kept."""
        if self._cached is None or self._cached[0] != (seed, number):
            group = [rows * self.world_size for rows in self._rows]
            made = order_epoch(seed, number, self.plan, self._sizes, self._buckets, group, drop_last=self.drop_last)
            self._cached = ((seed, number), made)
        return self._cached[1]

    def _identity(self) -> dict[str, Any]:
        """All that an epoch's order follows from, beside the seed and the epoch's number."""
        return {
            "plan": self.plan.digest,
            "batch_size": self.batch_size,
            "world_size": self.world_size,
            "samples": self._sizes.shape[1],
            "sizes": self._digest,
            "drop_last": self.drop_last,
        }


def _rank_and_world_size(rank: int | None, world_size: int | None) -> tuple[int, int]:
    here = rank_and_world_size()
    rank = here[0] if rank is None else rank
    world_size = here[1] if world_size is None else world_size
    check_at_least(_NAME, "world_size", world_size, 1)
    check_at_least(_NAME, "rank", rank, 0)
    if rank >= world_size:
        raise ShapeError(f"{_NAME}: rank is {rank}, expected 0 to {world_size - 1}: world_size is {world_size}. Give both.")
    return int(rank), int(world_size)


def _at_scales(plan: ShapePlan, sizes: Sizes, scales: Sequence[int] | None, max_size: int | None) -> tuple[Ints, Ints]:
    """[S, N, 2 or 3], the sizes at each scale, and [S, N], their buckets."""
    given = sizes if isinstance(sizes, np.ndarray) else list(sizes)
    if len(given) == 0:
        raise DatasetError(f"{_NAME}: got no sizes, expected (height, width[, boxes]) for each sample of the data set.")
    if scales is None:
        if max_size is not None:
            raise ShapeError(f"{_NAME}: max_size is {max_size} without scales. Give scales= too, or sizes after the resize.")
        buckets = plan.assign(given)  # also checks that they are whole numbers
        return np.array(given, np.int64)[None], buckets[None]
    if not scales:
        raise ShapeError(f"{_NAME}: scales is empty, expected at least one size of the shorter side, or None.")
    at_scales = [resize_sizes(given, scale, max_size) for scale in scales]
    at_each = []
    for scale, resized in zip(scales, at_scales, strict=True):
        try:
            at_each.append(plan.assign(resized))
        except BucketError as error:
            raise BucketError(f"{_NAME}: at scale {scale}: {error}") from None
    return np.stack(at_scales), np.stack(at_each)


def _digest(sizes: Ints, scales: Sequence[int] | None) -> str:
    described = repr((sizes.shape, scales)).encode()
    return hashlib.sha256(described + sizes.astype("<i8").tobytes()).hexdigest()[:16]
