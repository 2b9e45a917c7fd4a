"""Upsampling whose gradient torch_xla can compute on the device.

torch_xla lowers nearest and bilinear upsampling forwards, and takes their backward passes to the host: in a feature pyramid
once per level and step. Written as a choice of rows and columns both directions stay on the device.

Shapes: images [B, C, H, W].
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


@contextlib.contextmanager
def nearest_by_index() -> Iterator[None]:
    """Makes ``torch.nn.functional.interpolate`` choose rows and columns, in whoever calls it inside.

    For torchvision's own modules, which are the user's and stay as they are: the feature pyramid and the keypoint predictor. It
    touches ``mode="nearest"`` and ``mode="bilinear"`` with ``align_corners=False`` on images, and leaves other calls alone.
    Nearest gives the same bits in float32, and bilinear agrees to rounding.

    To be entered where the tensors are on XLA, and only there: elsewhere torch's own kernels are faster.

    Yields:
        None.
    """
    with _ByIndex():
        yield


class _ByIndex(TorchFunctionMode):
    """Answers the calls that :func:`nearest_by_index` names."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is F.interpolate:
            return _interpolate(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _interpolate(
    input: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """``torch.nn.functional.interpolate``, with its arguments."""
    resample = {"nearest": _nearest, "bilinear": _linear}.get(mode)
    if resample is None or input.dim() != 4 or align_corners or antialias or (size is None) == (scale_factor is None):
        return F.interpolate(input, size, scale_factor, mode, align_corners, recompute_scale_factor, antialias)
    sizes, factors = _per_axis(size), _per_axis(scale_factor)
    for dim, wanted, factor in zip((2, 3), sizes, factors, strict=True):
        length = input.shape[dim]
        count = int(wanted) if factor is None else int(length * factor)
        # The ratio of the lengths, or what the caller says it is; they differ where the new length was rounded down.
        ratio = length / count if factor is None or recompute_scale_factor else 1 / factor
        input = resample(input, dim, count, ratio)
    return input


def _per_axis(value: Any) -> tuple[Any, Any]:
    """One value for height and one for width."""
    return tuple(value) if isinstance(value, Sequence) else (value, value)


def _nearest(input: Tensor, dim: int, count: int, ratio: float) -> Tensor:
    """``count`` rows or columns of ``input``, by the float32 arithmetic of torch; whole numbers would be exact, and differ.

    torch's CPU kernel for contiguous float64 chooses another row still for 2 in 100 pairs of lengths, never where one is twice
    the other or one less than that, as in a pyramid.
    """
    step = torch.arange(count, device=input.device, dtype=torch.float32)
    index = (step * ratio).floor().to(torch.int64).clamp(max=input.shape[dim] - 1)
    return input.index_select(dim, index)


def _linear(input: Tensor, dim: int, count: int, ratio: float) -> Tensor:
    """``count`` rows or columns of ``input``, each between two neighbours; the border stands for what is beyond it."""
    wide = torch.promote_types(input.dtype, torch.float32)
    at = ((torch.arange(count, device=input.device, dtype=wide) + 0.5) * ratio - 0.5).clamp(min=0)
    low = at.floor().clamp(max=input.shape[dim] - 1)
    share = (at - low).reshape(-1, *(1,) * (input.dim() - 1 - dim))
    index = low.to(torch.int64)
    first = input.index_select(dim, index).to(wide)
    second = input.index_select(dim, (index + 1).clamp(max=input.shape[dim] - 1)).to(wide)
    return (first * (1 - share) + second * share).to(input.dtype)
