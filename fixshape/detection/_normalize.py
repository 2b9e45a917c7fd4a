"""Normalisation on the device, with padding that is zero after it.

Shapes: B images, C channels, H x W canvas.
"""

from __future__ import annotations

import torch
from torch import Tensor


def normalize(images: Tensor, image_sizes: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Subtracts the mean, divides by the deviation, and makes all that lies outside of an image zero.

    torchvision normalises each image and pads after it (``transform.py``, ``normalize`` and ``batch_images``); padding that was
    zero before would not be zero after.

    Args:
        images: [B, C, H, W], uint8 (read as x/255) or floating in [0, 1].
        image_sizes: [B, 2] int64, (h, w) of each image on the canvas; (0, 0) for a filler.
        mean: [C], in the dtype that the images shall have.
        std: [C].

    Returns:
        [B, C, H, W] in the dtype of ``mean``; padding is 0 whatever stood there, NaN included.
    """
    if images.dtype == torch.uint8:
        images = images.to(mean.dtype) / 255
    height = torch.arange(images.shape[2], device=images.device) < image_sizes[:, :1]
    width = torch.arange(images.shape[3], device=images.device) < image_sizes[:, 1:]
    outside = ~(height[:, :, None] & width[:, None, :])[:, None]
    # In place on the difference: three fresh batches would cost more in page faults than their arithmetic.
    return (images - mean[:, None, None]).div_(std[:, None, None]).masked_fill_(outside, 0)
