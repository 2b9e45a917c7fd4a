"""Sampler, data set and collate wired: a DataLoader whose batches have one planned shape each, and that knows how far it came."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch.utils.data import DataLoader, Dataset

from fixshape.collate._bucket_index import BucketIndex
from fixshape.collate._bucket_sampler import BucketBatchSampler, Sizes
from fixshape.collate._dataset_sizes import dataset_sizes
from fixshape.collate._epoch import Ints
from fixshape.collate._pad import PadToBucket
from fixshape.errors import PlanError, ShapeError, TargetError
from fixshape.plan import ShapePlan

_TAKEN = {
    "batch_size": "it is the third argument",
    "sampler": "the batches are the bucket sampler's",
    "batch_sampler": "the batches are the bucket sampler's",
    "shuffle": "every epoch is shuffled, by seed=",
    "collate_fn": "give it as collate=",
}


class BucketLoader(DataLoader[Any]):
    """A ``torch.utils.data.DataLoader`` over a :class:`BucketBatchSampler`, its ``batch_sampler``. Made by :func:`make_loader`.

    It counts the batches that the loop was given, not those that workers have made ahead; what another wrapper around it takes
    ahead counts as given. ``len`` is of the whole epoch, also
    where it was resumed in its middle.
    """

    batch_sampler: BucketBatchSampler

    def __init__(self, dataset: Any, sampler: BucketBatchSampler, collate: Callable[[Any], Any], **options: Any) -> None:
        super().__init__(dataset, batch_sampler=sampler, collate_fn=collate, **options)
        sampler._drawn_ahead = True

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        return self.batch_sampler._progress.counted(super().__iter__)

    def one_of_each(self) -> Iterator[Any]:
        """The first batch of each bucket that the epoch has, the largest bucket first: for ``fixshape.fit(warm_up=...)``.

        They are made in this process, and the loop comes no further by it.
        """
        first: dict[int, list[BucketIndex]] = {}
        for indices in self.batch_sampler._rest():
            first.setdefault(indices[0].bucket, indices)
        for bucket in sorted(first, reverse=True):
            yield self.collate_fn([self.dataset[index] for index in first[bucket]])

    def set_epoch(self, epoch: int) -> None:
        """:meth:`BucketBatchSampler.set_epoch`."""
        self.batch_sampler.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """:meth:`BucketBatchSampler.state_dict`: names the first batch that the loop has not been given."""
        return self.batch_sampler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """:meth:`BucketBatchSampler.load_state_dict`: the next iteration begins there."""
        self.batch_sampler.load_state_dict(state)


class _WithBucket(Dataset[Any]):
    """Samples of another data set, transformed at the scale that was drawn, each with its batch's bucket."""

    def __init__(self, samples: Any, transform: Callable[..., Any] | None) -> None:
        self.samples = samples
        self.transform = transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: BucketIndex) -> Any:
        return self._finish(index, self.samples[int(index)])

    def __getitems__(self, indices: Sequence[BucketIndex]) -> list[Any]:
        together = getattr(self.samples, "__getitems__", None)
        if together is None:
            return [self[index] for index in indices]
        return [self._finish(*pair) for pair in zip(indices, together([int(index) for index in indices]), strict=True)]

    def _finish(self, index: BucketIndex, sample: Any) -> Any:
        if self.transform is not None:
            scale = {} if index.min_size is None else {"min_size": index.min_size}
            sample = self.transform(*(sample if isinstance(sample, tuple | list) else (sample,)), **scale)
        match sample:
            case Mapping():
                return {**sample, "bucket": index.bucket}
            case [image, Mapping() as target]:
                return image, {**target, "bucket": index.bucket}
        raise TargetError(
            f"make_loader: sample {int(index)} is {_described(sample)}, expected (image, target dict), or a dict."
            " Wrap a torchvision data set with torchvision.datasets.wrap_dataset_for_transforms_v2."
        )


def make_loader(
    dataset: Any,
    plan: ShapePlan,
    batch_size: int,
    *,
    sizes: Sizes | None = None,
    transform: Callable[..., Any] | None = None,
    seed: int = 0,
    rank: int | None = None,
    world_size: int | None = None,
    drop_last: bool = True,
    scales: Sequence[int] | None = None,
    max_size: int | None = None,
    collate: Callable[[list[Any]], Any] | None = None,
    **loader_options: Any,
) -> BucketLoader:
    """A shuffled training loader with as many batch shapes as the plan has buckets, for all ranks alike.

    A :class:`BucketBatchSampler` chooses the batches, each sample's target is given its bucket, and :class:`fixshape.PadToBucket`
    pads to that. Use it as any DataLoader; epochs advance by themselves. ``state_dict`` and ``load_state_dict`` resume in the
    middle of an epoch, whatever workers had made ahead; random numbers that transforms draw are not restored.

    Args:
        dataset: map-style, of pairs ``(image, target dict)``. It is indexed with plain ints.
        plan: a :class:`~fixshape.plan.ShapePlan`.
        batch_size: B, on one rank, where the plan has no batch sizes of its own.
        sizes: [N, 2] or [N, 3], (height, width[, boxes]) of every sample, as :class:`BucketBatchSampler` has it. ``None``: read
            by :func:`fixshape.collate.dataset_sizes`, and resized as ``transform.sizes`` says, where it has that method.
        transform: ``transform(image, target) -> (image, target)``, called in the workers before the batch is made, such as
            :func:`fixshape.detection.host_transform`. With ``scales`` it is called with ``min_size=`` and has to heed it.
        seed: of the permutations, the same on every rank.
        rank: as :class:`BucketBatchSampler` has it; and so are ``world_size`` and ``drop_last``.
        world_size: how many ranks there are.
        drop_last: whether incomplete batches are dropped, or completed with repeated samples.
        scales: what the shorter side may become; one is drawn per sample and epoch. ``sizes`` are then those before the resize.
        max_size: the most that the longer side may become with ``scales``: what the transform has.
        collate: a collate function that heeds ``target["bucket"]``. ``None``: ``PadToBucket(plan)``.
        **loader_options: of ``torch.utils.data.DataLoader``: ``num_workers``, ``pin_memory``, ``persistent_workers``, ...

    Returns:
        A :class:`BucketLoader`; its ``batch_sampler`` says how many samples are dropped, promoted and repeated.

    Raises:
        ShapeError: there are not as many sizes as samples; an option is one that the loader sets itself; ``scales`` come without
            a transform; ``sizes`` are not given and cannot be known.
        PlanError: ``collate`` is a PadToBucket of another plan.
        TargetError: while iterating: a sample is no pair of an image and a dict.
        FixshapeError: whatever :class:`BucketBatchSampler` raises.

    Example:
        >>> import torch
        >>> from fixshape.plan import Bucket
        >>> plan = ShapePlan([Bucket(32, 64, 4), Bucket(64, 64, 4)])
        >>> sizes = [(30, 60), (50, 40), (32, 50), (64, 64)]
        >>> dataset = [(torch.rand(3, height, width), {}) for height, width in sizes]
        >>> loader = make_loader(dataset, plan, 2, sizes=sizes)
        >>> sorted(tuple(images.shape) for images, targets in loader)
        [(2, 3, 32, 64), (2, 3, 64, 64)]
    """
    for option, instead in _TAKEN.items():
        if option in loader_options:
            raise ShapeError(f"make_loader: got {option}={loader_options[option]!r}: {instead}. Leave {option} out.")
    if not loader_options.get("in_order", True):
        raise ShapeError("make_loader: got in_order=False, but ranks share a bucket, and runs resume, by the batches' order.")
    if scales is not None and transform is None:
        raise ShapeError(
            "make_loader: got scales without a transform, expected one that resizes to the scale drawn:"
            " transform(image, target, min_size=...), as fixshape.detection.host_transform(model) does."
        )
    own = getattr(collate, "plan", None)
    if isinstance(own, ShapePlan) and own.shapes != plan.shapes:
        raise PlanError(
            "make_loader: collate has another plan than the sampler, so that their buckets have other numbers."
            " Give both the same: make_loader(dataset, collate.plan, ...)."
        )
    if sizes is None:
        given = dataset_sizes(dataset, num_workers=loader_options.get("num_workers", 0))
        sizes = given if transform is None or scales is not None else _resized(given, transform)
    sampler = BucketBatchSampler(
        plan,
        sizes,
        batch_size,
        seed=seed,
        rank=rank,
        world_size=world_size,
        drop_last=drop_last,
        scales=scales,
        max_size=max_size,
    )
    samples = sampler.state_dict()["samples"]
    if samples != len(dataset):
        raise ShapeError(
            f"make_loader: got {samples} sizes for {len(dataset)} samples, expected one row for each, in their order."
        )
    return BucketLoader(_WithBucket(dataset, transform), sampler, collate or PadToBucket(plan), **loader_options)


def _resized(sizes: Ints, transform: Callable[..., Any]) -> Ints:
    """What the transform makes of the data set's sizes, if it can tell without the images."""
    resize = getattr(transform, "sizes", None)
    resized: Ints | None = None if resize is None else resize(sizes)
    if resized is None or len(resized) != len(sizes):
        raise ShapeError(
            "make_loader: what the transform makes of an image's size is not known"
            f"{'' if resized is None else ', for it draws one of several scales by itself'}."
            " Give sizes=, after the resize; or scales= and max_size=, so that the sampler draws them."
        )
    return resized


def _described(sample: Any) -> str:
    return f"a {type(sample).__name__}" + (f" of {len(sample)}" if isinstance(sample, tuple | list) else "")
