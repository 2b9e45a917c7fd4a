"""The values of a target, however they come (tensors, tv_tensors, arrays, lists), as plain tensors with one row per box.

Shapes: H, W pixels of the image, n boxes, K keypoints per box.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat

from fixshape._check import check_at_least, shown
from fixshape.errors import DtypeError, ShapeError, TargetError

OPTIONAL_ROWS = ("area", "iscrowd", "masks", "keypoints")
_DIMS = {"labels": 1, "area": 1, "iscrowd": 1, "masks": 3, "keypoints": 3}
_WANTED = {"labels": "[{n}]", "area": "[{n}]", "iscrowd": "[{n}]", "masks": "[{n}, H, W]", "keypoints": "[{n}, K, 3]"}


def plain(value: Tensor) -> Tensor:
    """The same storage as a plain tensor, cut off from autograd: no subclass reaches a batch."""
    return value.detach().as_subclass(Tensor)


def dtype_name(value: Tensor) -> str:
    """``float32``, not ``torch.float32``."""
    return str(value.dtype).removeprefix("torch.")


def whole_number(where: str, name: str, value: Any) -> int:
    """An int, or a tensor or an array that holds one."""
    number = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(number, list) and len(number) == 1:
        number = number[0]
    if isinstance(number, bool) or not isinstance(number, int):
        raise TargetError(f"{where}: {name} is {shown(value)}, expected a whole number.")
    return number


def pair_of_ints(where: str, name: str, value: Any) -> tuple[int, int]:
    """(height, width), each at least 1."""
    numbers = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(numbers, tuple | list) or len(numbers) != 2:
        raise TargetError(f"{where}: {name} is {shown(value)}, expected (height, width).")
    height, width = (check_at_least(where, name, number, 1) for number in numbers)
    return height, width


def row_values(where: str, target: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Tensor]:
    """``boxes`` and ``labels``, and of :data:`OPTIONAL_ROWS` what the target has, each with as many rows as there are boxes."""
    boxes, labels = target.get("boxes"), target.get("labels")
    if (boxes is None) != (labels is None):
        there, missing = ("labels", "boxes") if boxes is None else ("boxes", "labels")
        raise TargetError(f"{where}: the target has {there} but no {missing}, expected both; neither where there are no boxes.")
    rows = {"boxes": _boxes(where, boxes), "labels": _whole(where, "labels", () if labels is None else labels)}
    count = len(rows["boxes"])
    for key in OPTIONAL_ROWS:
        if target.get(key) is not None:
            value = _OPTIONAL[key](where, key, target[key])
            # An image without boxes often has an empty list here, whose shape says nothing.
            if count or value.numel() or value.ndim == _DIMS[key]:
                rows[key] = value
    for key, value in rows.items():
        if key != "boxes" and (value.ndim != _DIMS[key] or len(value) != count):
            raise TargetError(
                f"{where}: {key} has shape {tuple(value.shape)} for {count} boxes, expected {_WANTED[key].format(n=count)}:"
                " one entry per box, in the order of the boxes."
            )
    _check_masks(where, rows.get("masks"), size)
    _check_keypoints(where, rows.get("keypoints"))
    return rows


def _boxes(where: str, value: Any) -> Tensor:
    if value is None:
        return torch.zeros(0, 4)
    if isinstance(value, BoundingBoxes) and value.format != BoundingBoxFormat.XYXY:
        raise TargetError(
            f"{where}: boxes are {value.format.value}, expected XYXY."
            ' Convert them in the transform: torchvision.transforms.v2.ConvertBoundingBoxFormat("XYXY").'
        )
    boxes = _floating(where, "boxes", value)
    if boxes.ndim == 1 and boxes.numel() == 0:
        return boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ShapeError(f"{where}: boxes have shape {tuple(boxes.shape)}, expected [n, 4]: x1, y1, x2, y2 in pixels.")
    return boxes


def as_tensor(where: str, name: str, value: Any, way_out: str = ", expected a tensor, an array or a list of numbers.") -> Tensor:
    """A plain tensor of what a sample gives, or :class:`DtypeError` with ``way_out`` at its end."""
    try:
        return plain(torch.as_tensor(value))
    except (TypeError, ValueError, RuntimeError) as error:
        raise DtypeError(
            f"{where}: {name} is a {type(value).__name__} that does not make a tensor ({str(error).splitlines()[0]}){way_out}"
        ) from None


def _floating(where: str, name: str, value: Any) -> Tensor:
    tensor = as_tensor(where, name, value)
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _whole(where: str, name: str, value: Any) -> Tensor:
    tensor = as_tensor(where, name, value)
    flag = name == "iscrowd" and tensor.dtype == torch.bool
    if tensor.numel() and not flag and (tensor.dtype == torch.bool or tensor.is_floating_point() or tensor.is_complex()):
        raise DtypeError(f"{where}: {name} are {dtype_name(tensor)}, expected whole numbers (int64).")
    return tensor.long()


def _masks(where: str, name: str, value: Any) -> Tensor:
    tensor = as_tensor(where, name, value)
    if tensor.numel() and tensor.dtype not in (torch.bool, torch.uint8):
        raise DtypeError(f"{where}: {name} are {dtype_name(tensor)}, expected bool or uint8 [n, H, W].")
    return tensor.to(torch.uint8)


def _check_masks(where: str, masks: Tensor | None, size: tuple[int, int]) -> None:
    if masks is not None and len(masks) and tuple(masks.shape[1:]) != size:
        raise TargetError(
            f"{where}: masks are {masks.shape[1]}x{masks.shape[2]}, the image is {size[0]}x{size[1]} (height x width)."
            " Resize both in one transform (torchvision.transforms.v2 does with tv_tensors)."
        )


def _check_keypoints(where: str, keypoints: Tensor | None) -> None:
    if keypoints is not None and len(keypoints) and keypoints.shape[2] != 3:
        raise TargetError(f"{where}: keypoints have shape {tuple(keypoints.shape)}, expected [n, K, 3]: x, y, visibility.")


_OPTIONAL = {"area": _floating, "iscrowd": _whole, "masks": _masks, "keypoints": _floating}
