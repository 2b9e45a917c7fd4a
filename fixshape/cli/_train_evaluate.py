"""What does ``fixshape train`` measure beside the loss? COCO's average precision on images that are not trained on."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.data import DataLoader

from fixshape.cli._train_data import KEYS, Prepared
from fixshape.collate import PadToBucket
from fixshape.detection import CocoSamples, coco_ap, host_transform
from fixshape.plan import cover_all


def evaluation(arguments: argparse.Namespace, model: nn.Module, device: torch.device) -> Callable[[nn.Module], dict[str, float]]:
    """A function for ``fit(evaluate=)``: every image of the validation file once, all in one shape."""
    samples = CocoSamples(arguments.val_images, arguments.val_annotations)
    transform = host_transform(model)
    divisible = int(model.get_submodule("transform").size_divisible)  # type: ignore[arg-type]
    collate = PadToBucket(
        cover_all(transform.sizes(samples.sizes()), multiple_of=divisible), batch_size=arguments.batch_size, invalid="drop"
    )
    loader: DataLoader[object] = DataLoader(
        Prepared(samples, len(samples), transform, KEYS),
        arguments.batch_size,
        collate_fn=collate,
        num_workers=arguments.workers,
    )
    return lambda evaluated: coco_ap(evaluated, loader, arguments.val_annotations, device=device)
