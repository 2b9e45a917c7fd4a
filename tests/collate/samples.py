"""Samples to pad, and the plainest way of padding them, to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from fixshape.collate import PadToBucket

Sample = tuple[Tensor, dict[str, Any]]
EVERYTHING = ("area", "iscrowd", "masks", "keypoints")


def make_sample(
    height: int = 20,
    width: int = 30,
    boxes: int = 2,
    *,
    seed: int = 0,
    channels: int = 3,
    dtype: torch.dtype = torch.float32,
    box_dtype: torch.dtype = torch.float32,
    keys: Sequence[str] = (),
    image_id: int | None = None,
) -> Sample:
    """An image without zeros, so that padding shows, and boxes inside it with all the rows of ``keys``."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(channels, height, width, generator=generator) + 0.5
    low = torch.rand(boxes, 2, generator=generator, dtype=box_dtype) / 2
    corners = torch.cat([low, low + 0.4], dim=1) * torch.tensor([width, height, width, height])
    every = {
        "area": (corners[:, 2:] - corners[:, :2]).prod(1),
        "iscrowd": torch.arange(boxes) % 2,
        "masks": torch.randint(1, 3, (boxes, height, width), generator=generator, dtype=torch.uint8),
        "keypoints": torch.rand(boxes, 5, 3, generator=generator) + 1,
    }
    target: dict[str, Any] = {"boxes": corners, "labels": torch.randint(1, 10, (boxes,), generator=generator)}
    target |= {key: every[key] for key in keys}
    if image_id is not None:
        target["image_id"] = image_id
    return (image if dtype.is_floating_point else image * 100).to(dtype), target


def plainly_padded(samples: Sequence[Sample], height: int, width: int, slots: int) -> dict[str, Tensor]:
    """The oracle: each tensor padded by itself with F.pad, then stacked."""

    def stack(values: Sequence[Tensor], *ends: int) -> Tensor:
        padded = []
        for value in values:
            pad = [amount for end, size in zip(reversed(ends), reversed(value.shape), strict=False) for amount in (0, end - size)]
            padded.append(F.pad(value, pad))
        return torch.stack(padded)

    targets = [target for _, target in samples]
    batch = {
        "images": stack([image for image, _ in samples], height, width),
        "boxes": stack([target["boxes"] for target in targets], slots, 4),
        "labels": stack([target["labels"] for target in targets], slots),
        "valid_mask": stack([torch.ones(len(target["labels"]), dtype=torch.bool) for target in targets], slots),
    }
    ends = {"area": (slots,), "iscrowd": (slots,), "masks": (slots, height, width), "keypoints": (slots, 5, 3)}
    for key in EVERYTHING:
        if key in targets[0]:
            batch[key] = stack([target[key] for target in targets], *ends[key])
    return batch


def assert_is_padded(pad: PadToBucket, samples: Sequence[Sample], height: int, width: int, slots: int) -> None:
    """The batch of ``pad`` is the oracle's, bit for bit."""
    images, targets = pad(samples)
    got = {"images": images, **targets}
    for key, wanted in plainly_padded(samples, height, width, slots).items():
        assert got[key].dtype == wanted.dtype, key
        assert torch.equal(got[key], wanted), key


class Samples(Dataset[Sample]):
    """A data set that a spawned worker can import."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


class PadAndTell:
    """Pads, and says in the batch which of its tensors lay in shared memory before they were sent."""

    def __init__(self, pad: PadToBucket) -> None:
        self.pad = pad

    def __call__(self, samples: Sequence[Sample]) -> tuple[Tensor, dict[str, Tensor], dict[str, bool]]:
        images, targets = self.pad(samples)
        shared = {"images": images.is_shared()} | {key: value.is_shared() for key, value in targets.items()}
        return images, targets, shared
