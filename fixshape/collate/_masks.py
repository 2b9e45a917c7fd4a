"""What is real in a padded batch of sequences: the mask that each library asks for, from the lengths.

Shapes: B sequences, T positions of the padded batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fixshape._check import check_at_least, check_shape


def valid_mask(lengths: Tensor, size: int) -> Tensor:
    """True where a position is real, False where it is padding.

    ``.long()`` of it is the ``attention_mask`` of transformers, 1 where real. It reads no value of ``lengths`` on the host.

    Args:
        lengths: [B] whole numbers, on any device.
        size: T.

    Returns:
        [B, T] bool, on the device of ``lengths``.

    Raises:
        ShapeError: ``lengths`` is not [B], or ``size`` is below 1.

    Example:
        >>> valid_mask(torch.tensor([2, 0]), 3).tolist()
        [[True, True, False], [False, False, False]]
    """
    check_shape("valid_mask", "lengths", lengths.shape, ("B",))
    check_at_least("valid_mask", "size", size, 1)
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def key_padding_mask(lengths: Tensor, size: int) -> Tensor:
    """The ``key_padding_mask`` of ``torch.nn.MultiheadAttention``, ``src_key_padding_mask`` of ``torch.nn.TransformerEncoder``.

    True where a position is PADDING, the opposite of :func:`valid_mask`. In a sequence of length 0, a filler for instance, the
    first position counts as real: torch.nn's attention over nothing is NaN, and so is then the gradient of every parameter. Take
    :func:`valid_mask` for means and losses.

    Args:
        lengths: [B] whole numbers, on any device.
        size: T.

    Returns:
        [B, T] bool, on the device of ``lengths``; no row is all True.

    Raises:
        ShapeError: ``lengths`` is not [B], or ``size`` is below 1.

    Example:
        >>> key_padding_mask(torch.tensor([2, 0]), 3).tolist()
        [[False, False, True], [False, True, True]]
    """
    check_shape("key_padding_mask", "lengths", lengths.shape, ("B",))
    return ~valid_mask(lengths.clamp(min=1), size)
