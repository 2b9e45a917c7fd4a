"""How fast PadToBucket makes a batch, against padding each image with F.pad and stacking them.

    python tools/bench/collate.py [--runs 31] [--epochs 8] [--threads N]

Eight images as torchvision's 800/1333 resize leaves common COCO sizes, to a canvas of 800x1344. Both sides run in this one
process, in turns, with the same threads; the figure is the median of the ratios of neighbouring runs. "end to end" is the time
per batch of a loop that takes batches from one DataLoader worker and reads the images once (a sum). Its baseline hands over
ordinary tensors, which the queue copies to shared memory; "shared" stacks into shared memory, as torch's default_collate does.
Other work on the machine's cores makes torch's threads wait for each other: see --threads.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from fixshape.collate import PadToBucket
from fixshape.plan import Bucket, resized_size

HEIGHT, WIDTH, SLOTS = 800, 1344, 100
ORIGINALS = [(480, 640), (427, 640), (426, 640), (480, 640), (375, 500), (360, 640), (425, 640), (333, 500)]
Sample = tuple[Tensor, dict[str, Tensor]]
Collate = Callable[[Sequence[Sample]], Any]


def make_samples(dtype: torch.dtype) -> list[Sample]:
    """The eight images, each with 7 boxes (COCO's mean)."""
    generator = torch.Generator().manual_seed(0)
    samples = []
    for original in ORIGINALS:
        height, width = resized_size(*original, min_size=800, max_size=1333)
        image = torch.rand(3, height, width, generator=generator)
        low = torch.rand(7, 2, generator=generator) / 2
        boxes = torch.cat([low, low + 0.4], dim=1) * torch.tensor([width, height, width, height])
        target = {"boxes": boxes, "labels": torch.randint(1, 91, (7,), generator=generator)}
        samples.append((image if dtype.is_floating_point else image.mul(255).to(dtype), target))
    return samples


def pad_and_stack(samples: Sequence[Sample]) -> tuple[Tensor, dict[str, Tensor]]:
    """The baseline: every tensor padded by itself, then stacked."""
    images = torch.stack([F.pad(image, (0, WIDTH - image.shape[2], 0, HEIGHT - image.shape[1])) for image, _ in samples])
    return images, padded_targets(samples)


def pad_and_stack_shared(samples: Sequence[Sample]) -> tuple[Tensor, dict[str, Tensor]]:
    """The same, stacked into shared memory in a worker, as torch's default_collate stacks."""
    padded = [F.pad(image, (0, WIDTH - image.shape[2], 0, HEIGHT - image.shape[1])) for image, _ in samples]
    out = None
    if get_worker_info() is not None:
        storage = torch.UntypedStorage._new_shared(sum(image.numel() * image.itemsize for image in padded))
        out = torch.empty(0, dtype=padded[0].dtype).set_(storage).view(len(padded), *padded[0].shape)
    return torch.stack(padded, out=out), padded_targets(samples)


def padded_targets(samples: Sequence[Sample]) -> dict[str, Tensor]:
    targets = [target for _, target in samples]
    return {
        "boxes": torch.stack([F.pad(target["boxes"], (0, 0, 0, SLOTS - len(target["boxes"]))) for target in targets]),
        "labels": torch.stack([F.pad(target["labels"], (0, SLOTS - len(target["labels"]))) for target in targets]),
    }


class InMemory(Dataset[Sample]):
    """The eight samples, over and over: what is timed is the batch and not the reading of images."""

    def __init__(self, samples: Sequence[Sample], batches: int) -> None:
        self.samples, self.batches = samples, batches

    def __len__(self) -> int:
        return self.batches * len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index % len(self.samples)]


def in_one_process(collates: Sequence[Collate], samples: Sequence[Sample], runs: int) -> list[list[float]]:
    """Seconds of each collate, allocation and release included."""
    times: list[list[float]] = [[] for _ in collates]
    for run in range(runs + 3):  # the first three warm the allocator up
        for index in turns(len(collates), run):
            start = time.perf_counter()
            batch = collates[index](samples)
            del batch
            if run >= 3:
                times[index].append(time.perf_counter() - start)
    return times


def end_to_end(collates: Sequence[Collate], samples: Sequence[Sample], epochs: int, batches: int = 12) -> list[list[float]]:
    """Seconds per batch of each collate, received from one worker, over alternating epochs."""
    loaders = [
        DataLoader(InMemory(samples, batches), len(samples), num_workers=1, collate_fn=collate, persistent_workers=True)
        for collate in collates
    ]
    times: list[list[float]] = [[] for _ in collates]
    for epoch in range(epochs + 1):  # the first epoch starts the workers
        for index in turns(len(collates), epoch):
            start = time.perf_counter()
            for images, _ in loaders[index]:
                images.sum()
            if epoch:
                times[index].append((time.perf_counter() - start) / batches)
    return times


def turns(count: int, run: int) -> Iterator[int]:
    """Who goes first changes from run to run."""
    return iter(range(count) if run % 2 else reversed(range(count)))


def report(title: str, names: Sequence[str], times: Sequence[Sequence[float]], target: float | None = None) -> None:
    """One table: the median of each, and how many times as long as the first (PadToBucket) it takes."""
    print(title)
    for name, own in zip(names, times, strict=True):
        ratio = statistics.median(theirs / ours for theirs, ours in zip(own, times[0], strict=True))
        aim = f"  (aim: at least {target})" if target and name == "F.pad + stack" else ""
        print(f"  {name:<24}{statistics.median(own) * 1e3:9.2f} ms{ratio:8.2f}x{aim}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=31, help="timed runs of each side in one process")
    parser.add_argument("--epochs", type=int, default=8, help="timed epochs of each side with a worker")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch's threads in the main process")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} thread(s), 8 images to {HEIGHT}x{WIDTH}")
    pad = PadToBucket(Bucket(HEIGHT, WIDTH, SLOTS))
    for dtype, aims in ((torch.float32, (2.0, 1.3)), (torch.uint8, (None, None))):
        samples = make_samples(dtype)
        name = str(dtype).removeprefix("torch.")
        gc.disable()
        times = in_one_process([pad, pad_and_stack], samples, options.runs)
        gc.enable()
        report(f"{name}, one process, per batch", ["PadToBucket", "F.pad + stack"], times, aims[0])
        times = end_to_end([pad, pad_and_stack, pad_and_stack_shared], samples, options.epochs)
        names = ["PadToBucket", "F.pad + stack", "F.pad + stack, shared"]
        report(f"{name}, end to end with one worker, per batch", names, times, aims[1])


if __name__ == "__main__":
    main()
