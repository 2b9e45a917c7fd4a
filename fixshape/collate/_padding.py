"""How much of a batch is padding.

Shapes: B images in the batch, C channels, H, W pixels of the canvas, M box slots.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor


class PaddingCounts(NamedTuple):
    """Real and total pixels and box slots: counts, so that sums over batches are exact.

    Example:
        >>> first, second = PaddingCounts(75, 100, 3, 10), PaddingCounts(50, 100, 2, 10)
        >>> both = PaddingCounts(*map(sum, zip(first, second)))
        >>> both.pixels, both.slots
        (0.375, 0.75)
    """

    real_pixels: int
    total_pixels: int
    real_slots: int
    total_slots: int

    @property
    def pixels(self) -> float:
        """The fraction of pixels that is padding; 0 for no pixels."""
        return 1 - self.real_pixels / self.total_pixels if self.total_pixels else 0.0

    @property
    def slots(self) -> float:
        """The fraction of box slots that is padding; 0 for no slots."""
        return 1 - self.real_slots / self.total_slots if self.total_slots else 0.0


def padding_fractions(images: Tensor, targets: Mapping[str, Tensor]) -> PaddingCounts:
    """Counts the padding of a batch of :class:`PadToBucket`, fillers included.

    Reads values: on a device it waits for them, so it belongs on the host's batch.

    Args:
        images: [B, C, H, W].
        targets: with ``image_sizes`` [B, 2] and ``valid_mask`` [B, M].

    Returns:
        :class:`PaddingCounts`; pixels are counted once, whatever C is.

    Example:
        >>> import torch
        >>> targets = {"image_sizes": torch.tensor([[8, 10], [4, 5]]), "valid_mask": torch.tensor([[True, True], [True, False]])}
        >>> counts = padding_fractions(torch.zeros(2, 3, 10, 10), targets)
        >>> counts
        PaddingCounts(real_pixels=100, total_pixels=200, real_slots=3, total_slots=4)
        >>> counts.pixels, counts.slots
        (0.5, 0.25)
    """
    batch, _, height, width = images.shape
    valid = targets["valid_mask"]
    real_pixels = int(targets["image_sizes"].prod(1).sum())
    return PaddingCounts(real_pixels, batch * height * width, int(valid.sum()), valid.numel())
