"""What a batch is to the loop: tensors in nested containers, with shapes that name its bucket."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """The batches of one optimiser step, as the loader gave them, and where the loader was then.

    Attributes:
        batches: one or more.
        place: ``loader.state_dict()`` after the last of them, where it is asked for: the loader may be ahead by now.
    """

    batches: tuple[Any, ...]
    place: Mapping[str, Any] | None = None


def to_device(batch: Any, device: torch.device) -> Any:
    """The same nest of lists, tuples (named ones too) and mappings, with its tensors on ``device``."""
    return map_tensors(lambda tensor: tensor.to(device, non_blocking=True), batch)


def map_tensors(function: Callable[[Tensor], Tensor], batch: Any) -> Any:
    """The same nest with ``function`` of each tensor in the tensor's place."""
    if isinstance(batch, Tensor):
        return function(batch)
    if isinstance(batch, Mapping):
        return {key: map_tensors(function, value) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(map_tensors(function, value) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(map_tensors(function, value) for value in batch)
    return batch


def tensors_of(batch: Any) -> Iterator[Tensor]:
    """Every tensor in a nest of lists, tuples and mappings, in order."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from tensors_of(value)
    elif isinstance(batch, list | tuple):
        for value in batch:
            yield from tensors_of(value)


def shapes_of(batch: Any) -> str:
    """A short text that is equal for batches of the same shapes: the bucket, as far as a loop can know it.

    A batch of :class:`fixshape.PadToBucket` is named by its images and box slots; a list batch by each of its images; anything
    else by all its tensors. Dtypes are not told apart, nor what else the targets hold.

    Example:
        >>> shapes_of((torch.zeros(4, 3, 320, 480), {"boxes": torch.zeros(4, 16, 4)}))
        '4x3x320x480, 16 boxes'
        >>> shapes_of(([torch.zeros(3, 8, 9), torch.zeros(3, 7, 5)], [{"boxes": torch.zeros(2, 4)}, {}]))
        '3x8x9, 2 boxes; 3x7x5, 0 boxes'
    """
    match batch:
        case Group(batches):
            texts = [shapes_of(one) for one in batches]
            alike = len(texts) > 1 and len(set(texts)) == 1
            return f"{len(texts)} of {texts[0]}" if alike else "; ".join(texts)
        case [Tensor() as images, {"boxes": Tensor(ndim=3) as boxes}]:
            return f"{_by(images)}, {boxes.shape[1]} boxes"
        case [[*images], [*targets]] if images and len(images) == len(targets) and all(map(_is_sample, images, targets)):
            return "; ".join(
                f"{_by(image)}, {len(target.get('boxes', ()))} boxes" for image, target in zip(images, targets, strict=True)
            )
        case _:
            return "; ".join(_by(tensor) for tensor in tensors_of(batch)) or "no tensor"


def _is_sample(image: Any, target: Any) -> bool:
    if not (isinstance(image, Tensor) and isinstance(target, Mapping)):
        return False
    boxes = target.get("boxes", ())
    return boxes.ndim == 2 if isinstance(boxes, Tensor) else isinstance(boxes, list | tuple)


def _by(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
