"""torchvision's box coder for any leading dimensions, without the small tensors that it sends to the device at each call.

Shapes: ... any leading dimensions. Boxes are XYXY in pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor


def encode(boxes: Tensor, anchors: Tensor, weights: tuple[float, float, float, float]) -> Tensor:
    """What a regression has to give for ``anchors`` to become ``boxes``.

    The arithmetic of ``torchvision/models/detection/_utils.py`` (``encode_boxes``), each operand in its own dtype as there:
    float32 boxes against float64 anchors give that function's own numbers. Rows of no width or height give infinities: the
    caller replaces them before.

    Args:
        boxes: [..., 4].
        anchors: [..., 4], broadcast against ``boxes``.
        weights: of x, y, width, height.

    Returns:
        [..., 4] in the promoted dtype.
    """
    anchor_widths, anchor_heights, anchor_x, anchor_y = _centres(anchors)
    widths, heights, x, y = _centres(boxes)
    return torch.stack(
        (
            weights[0] * (x - anchor_x) / anchor_widths,
            weights[1] * (y - anchor_y) / anchor_heights,
            weights[2] * torch.log(widths / anchor_widths),
            weights[3] * torch.log(heights / anchor_heights),
        ),
        dim=-1,
    )


def decode(codes: Tensor, anchors: Tensor, weights: tuple[float, float, float, float], clip: float) -> Tensor:
    """The boxes that a regression means: the inverse of :func:`encode`.

    The arithmetic of ``torchvision/models/detection/_utils.py`` (``BoxCoder.decode_single``).

    Args:
        codes: [..., 4].
        anchors: [..., 4], broadcast against ``codes``.
        weights: of x, y, width, height.
        clip: the most that the logarithm of a growth in width or height may be (``BoxCoder.bbox_xform_clip``).

    Returns:
        [..., 4] in the dtype of ``codes``.
    """
    widths, heights, x, y = _centres(anchors.to(codes.dtype))
    dx, dy, dw, dh = (code / weight for code, weight in zip(codes.unbind(-1), weights, strict=True))
    x, y = dx * widths + x, dy * heights + y
    half_width = 0.5 * (torch.exp(dw.clamp(max=clip)) * widths)
    half_height = 0.5 * (torch.exp(dh.clamp(max=clip)) * heights)
    return torch.stack((x - half_width, y - half_height, x + half_width, y + half_height), dim=-1)


def encode_linear(anchors: Tensor, boxes: Tensor) -> Tensor:
    """The distances from the centres of ``anchors`` to the four sides of ``boxes``, in sizes of the anchor, which FCOS regresses.

    The arithmetic of ``torchvision/models/detection/_utils.py`` (``BoxLinearCoder.encode``), with its order of arguments.

    Args:
        anchors: [..., 4].
        boxes: [..., 4], broadcast against ``anchors``.

    Returns:
        [..., 4]: left, top, right, bottom; negative where the centre is outside.
    """
    x, y, sizes = _linear(anchors)
    left, top, right, bottom = boxes.unbind(-1)
    return torch.stack((x - left, y - top, right - x, bottom - y), dim=-1) / sizes


def decode_linear(codes: Tensor, anchors: Tensor) -> Tensor:
    """The boxes that FCOS's distances mean: the inverse of :func:`encode_linear`.

    The arithmetic of ``torchvision/models/detection/_utils.py`` (``BoxLinearCoder.decode``).

    Args:
        codes: [..., 4].
        anchors: [..., 4], broadcast against ``codes``.

    Returns:
        [..., 4] in the dtype of ``codes``.
    """
    x, y, sizes = _linear(anchors.to(codes.dtype))
    left, top, right, bottom = (codes * sizes).unbind(-1)
    return torch.stack((x - left, y - top, x + right, y + bottom), dim=-1)


def clip_to_images(boxes: Tensor, image_sizes: Tensor) -> Tensor:
    """Boxes [B, ..., 4] cut to their image, whose (h, w) are ``image_sizes`` [B, 2]: ``torchvision.ops.clip_boxes_to_image``."""
    limits = image_sizes.flip(1).repeat(1, 2).to(boxes.dtype)  # [B, 4]: w, h, w, h
    limits = limits.reshape(-1, *(1,) * (boxes.dim() - 2), 4)
    return torch.minimum(boxes.clamp(min=0), limits)


def _linear(anchors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    left, top, right, bottom = anchors.unbind(-1)
    widths, heights = right - left, bottom - top
    return 0.5 * (left + right), 0.5 * (top + bottom), torch.stack((widths, heights, widths, heights), dim=-1)


def _centres(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    left, top, right, bottom = boxes.unbind(-1)
    widths, heights = right - left, bottom - top
    return widths, heights, left + 0.5 * widths, top + 0.5 * heights
