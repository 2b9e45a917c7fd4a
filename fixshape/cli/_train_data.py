"""Which samples ``fixshape train`` trains on, and how they become batches."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional

from fixshape.collate import BucketBatchSampler, PadToBucket, make_loader
from fixshape.detection import CocoSamples, DrawnShapes, host_transform, to_static
from fixshape.plan import ShapePlan, cover_all, plan_buckets

KEYS = ("boxes", "labels", "area", "iscrowd", "image_id")
_Transform = Callable[[Any, dict[str, Any]], tuple[Tensor, dict[str, Any]]]


class Prepared(Dataset[tuple[Tensor, dict[str, Any]]]):
    """Samples of another data set, transformed, with the keys that the model has a use for."""

    def __init__(
        self, samples: Dataset[tuple[Any, dict[str, Any]]], length: int, transform: _Transform, keys: Sequence[str]
    ) -> None:
        self._samples = samples
        self._length = length
        self._transform = transform
        self._keys = keys

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        image, target = self._samples[index]
        target = {key: value for key, value in target.items() if key in self._keys}
        if "keypoints" in self._keys:  # of persons; a drawn shape stands for one
            target["labels"] = torch.ones_like(torch.as_tensor(target["labels"]))
        return self._transform(image, target)


def load(arguments: argparse.Namespace, model: nn.Module) -> tuple[DataLoader[Any], ShapePlan | None]:
    """The loader, and the plan that its batches are padded to (``None`` for ``--dynamic``)."""
    samples: CocoSamples | DrawnShapes
    masks, keypoints = "mask" in arguments.model, "keypoint" in arguments.model
    keys = (*KEYS, *(["masks"] if masks else []), *(["keypoints"] if keypoints else []))
    if arguments.data == "coco":
        samples = CocoSamples(arguments.images, arguments.annotations, masks=masks, keypoints=keypoints)
    else:
        samples = DrawnShapes(seed=arguments.seed)
    options: dict[str, Any] = {"num_workers": arguments.workers, "persistent_workers": arguments.workers > 0}
    sizes = samples.sizes()
    if arguments.dynamic:  # in the order of a run with one bucket
        order = BucketBatchSampler(cover_all(sizes), sizes, arguments.batch_size, seed=arguments.seed)
        prepared = Prepared(samples, len(samples), _as_tensor, keys)
        return DataLoader(prepared, batch_sampler=order, collate_fn=_as_lists, **options), None
    transform = host_transform(model)
    fitted = transform.sizes(sizes)
    plan = _plan(arguments, fitted, int(model.get_submodule("transform").size_divisible))  # type: ignore[arg-type]
    # As torchvision's training reference: boxes of no width or height are left out; here they are counted.
    collate = PadToBucket(plan, num_classes=to_static(model).num_classes, invalid="drop")
    prepared = Prepared(samples, len(samples), transform, keys)
    return make_loader(prepared, plan, arguments.batch_size, sizes=fitted, seed=arguments.seed, collate=collate, **options), plan


def _plan(arguments: argparse.Namespace, sizes: NDArray[np.int64], multiple_of: int) -> ShapePlan:
    if arguments.plan:
        return ShapePlan.load(arguments.plan)
    if arguments.buckets == 1:
        return cover_all(sizes, multiple_of=multiple_of)
    return plan_buckets(sizes, arguments.buckets, multiple_of=multiple_of)


def _as_tensor(image: Any, target: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    """What torchvision's own model asks for: a float image of its own size, and tensors."""
    pixels = functional.to_dtype(functional.to_image(image), torch.float32, scale=True).as_subclass(Tensor)
    return pixels, {key: torch.as_tensor(value) for key, value in target.items()}


def _as_lists(samples: Sequence[tuple[Tensor, dict[str, Any]]]) -> tuple[list[Tensor], list[dict[str, Any]]]:
    """The collate function of torchvision's training reference: nothing is padded."""
    images, targets = zip(*samples, strict=True)
    return list(images), list(targets)
