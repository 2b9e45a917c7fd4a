"""How fast a batch is made, against torchvision's own batching, F.pad and stack, and transformers' padding for DETR.

    python tools/bench/collate.py [--runs 31] [--epochs 8] [--threads N] [--cpu-time]

Eight images as torchvision's 800/1333 resize leaves common COCO sizes, to a canvas of 800x1344. All sides run in this one
process, in turns, with the same threads; the figure is the median of the ratios of neighbouring runs. torchvision pads the
images alone, its targets stay lists; transformers' padding also makes a pixel mask in int64, as PadPixelValues does.

"end to end" is the time per batch of a loop that takes batches from one DataLoader worker and reads the images once (a sum). Its
baseline hands over ordinary tensors, which the queue copies to shared memory; "shared" stacks into shared memory, as torch's
default_collate does. "two workers" is how many batches of 8x320x320 a second such a loop gets from two workers whose images are
in memory, and the processor time of a batch in all three processes: what the rate is where other work takes no cores.

Other work on the machine's cores makes torch's threads wait for each other: see --threads. It lengthens every time but that of
the processor: --cpu-time measures that in one process, waiting left out.
"""

from __future__ import annotations

import argparse
import gc
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from fixshape.collate import PadPixelValues, PadToBucket
from fixshape.plan import Bucket, resized_size

HEIGHT, WIDTH, SLOTS = 800, 1344, 100
ORIGINALS = [(480, 640), (427, 640), (426, 640), (480, 640), (375, 500), (360, 640), (425, 640), (333, 500)]
SMALL, SMALL_RATE = 320, 60  # pixels of a side; the batches a second to keep up with
Sample = tuple[Tensor, dict[str, Tensor]]
Collate = Callable[[Sequence[Sample]], Any]


def make_samples(dtype: torch.dtype, side: int | None = None) -> list[Sample]:
    """The eight images, each with 7 boxes (COCO's mean); squares of ``side`` pixels where it is given."""
    generator = torch.Generator().manual_seed(0)
    samples = []
    for original in ORIGINALS:
        height, width = (side, side) if side else resized_size(*original, min_size=800, max_size=1333)
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


def torchvision_batching(samples: Sequence[Sample]) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """What torchvision's detection models do with a list of images."""
    transform = GeneralizedRCNNTransform(800, 1333, [0.0], [1.0])
    return transform.batch_images([image for image, _ in samples], size_divisible=32), [target for _, target in samples]


def for_hugging_face(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """The same samples as transformers' image processors return them."""
    converted = []
    for image, target in samples:
        low, high = (target["boxes"] / torch.tensor(image.shape[:0:-1] * 2)).chunk(2, dim=1)
        boxes = torch.cat([(low + high) / 2, high - low], dim=1)
        converted.append({"pixel_values": image, "labels": {"class_labels": target["labels"], "boxes": boxes}})
    return converted


def detr_padding() -> Collate | None:
    """Padding each image and stacking as transformers' image processor does, or ``None`` where it cannot be imported."""
    try:
        from transformers.models.detr.image_processing_detr import DetrImageProcessor
    except ImportError as error:
        print(f"transformers' DETR padding is left out: {error}")
        return None
    processor = DetrImageProcessor()

    def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        images, masks, labels = [], [], []
        for sample in samples:
            annotation = {**sample["labels"], "boxes": sample["labels"]["boxes"].clone()}  # pad scales them in place
            image, mask, annotation = processor.pad(sample["pixel_values"], (HEIGHT, WIDTH), annotation=annotation)
            images.append(image)
            masks.append(mask)
            labels.append(annotation)
        return {"pixel_values": torch.stack(images), "pixel_mask": torch.stack(masks), "labels": labels}

    return collate


class InMemory(Dataset[Sample]):
    """The eight samples, over and over: what is timed is the batch and not the reading of images."""

    def __init__(self, samples: Sequence[Sample], batches: int) -> None:
        self.samples, self.batches = samples, batches

    def __len__(self) -> int:
        return self.batches * len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index % len(self.samples)]


def in_one_process(
    collates: Sequence[Collate], samples: Sequence[Any], runs: int, clock: Callable[[], float]
) -> list[list[float]]:
    """Seconds of each collate, allocation and release included."""
    times: list[list[float]] = [[] for _ in collates]
    for run in range(runs + 3):  # the first three warm the allocator up
        for index in turns(len(collates), run):
            start = clock()
            batch = collates[index](samples)
            del batch
            if run >= 3:
                times[index].append(clock() - start)
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


def with_two_workers(dtype: torch.dtype, epochs: int, batches: int = 120) -> tuple[list[float], float]:
    """Batches a second that a loop gets, over several epochs, and the processor seconds of a batch in all processes."""
    samples = make_samples(dtype, SMALL)
    loader = DataLoader(
        InMemory(samples, batches), len(samples), num_workers=2, collate_fn=PadToBucket(Bucket(SMALL, SMALL, SLOTS))
    )
    rates, before = [], processor_seconds()
    for _ in range(epochs):
        received = iter(loader)
        next(received)[0].sum()  # the workers have started
        start = time.perf_counter()
        for images, _ in received:
            images.sum()
        rates.append((batches - 1) / (time.perf_counter() - start))
        del received
    return rates, (processor_seconds() - before) / (epochs * batches)


def processor_seconds() -> float:
    """Of this process and of its workers that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(process.ru_utime + process.ru_stime for process in used)


def turns(count: int, run: int) -> Iterator[int]:
    """Who goes first changes from run to run."""
    return iter(range(count) if run % 2 else reversed(range(count)))


def report(title: str, names: Sequence[str], times: Sequence[Sequence[float]], target: float | None = None) -> None:
    """One table: the median of each, and how many times as long as the first, which is ours, it takes."""
    print(title)
    for name, own in zip(names, times, strict=True):
        ratio = statistics.median(theirs / ours for theirs, ours in zip(own, times[0], strict=True))
        aim = f"  (aim: at least {target})" if target and name == "F.pad + stack" else ""
        print(f"  {name:<28}{statistics.median(own) * 1e3:9.2f} ms{ratio:8.2f}x{aim}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=31, help="timed runs of each side in one process")
    parser.add_argument("--epochs", type=int, default=8, help="timed epochs of each side with a worker")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch's threads in the main process")
    parser.add_argument("--cpu-time", action="store_true", help="processor time in place of wall time, in one process")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock, how = (time.process_time, "one process, processor time") if options.cpu_time else (time.perf_counter, "one process")
    print(f"torch {torch.__version__}, {options.threads} thread(s), 8 images to {HEIGHT}x{WIDTH}")
    pad, pad_pixels, detr = PadToBucket(Bucket(HEIGHT, WIDTH, SLOTS)), PadPixelValues((HEIGHT, WIDTH)), detr_padding()
    for dtype, aims in ((torch.float32, (2.0, 1.3)), (torch.uint8, (None, None))):
        samples = make_samples(dtype)
        name = str(dtype).removeprefix("torch.")
        gc.disable()
        times = in_one_process([pad, pad_and_stack, torchvision_batching], samples, options.runs, clock)
        report(f"{name}, {how}, per batch", ["PadToBucket", "F.pad + stack", "torchvision's batch_images"], times, aims[0])
        if detr is not None:
            times = in_one_process([pad_pixels, detr], for_hugging_face(samples), options.runs, clock)
            report(f"{name}, {how}, Hugging Face's format", ["PadPixelValues", "transformers' DETR padding"], times)
        gc.enable()
        times = end_to_end([pad, pad_and_stack, pad_and_stack_shared], samples, options.epochs)
        names = ["PadToBucket", "F.pad + stack", "F.pad + stack, shared"]
        report(f"{name}, end to end with one worker, per batch", names, times, aims[1])
        rates, seconds = with_two_workers(dtype, options.epochs)
        print(f"{name}, two workers, batches of 8x{SMALL}x{SMALL} a second (aim: at least {SMALL_RATE})")
        print(f"  PadToBucket: {statistics.median(rates):.0f} (median of {len(rates)} epochs, least {min(rates):.0f})", end=", ")
        print(f"processor time {seconds * 1e3:.1f} ms a batch, {SMALL_RATE * seconds:.2f} cores at {SMALL_RATE} batches a second")


if __name__ == "__main__":
    main()
