"""Make the batch: samples of any size in, tensors of one planned shape out."""

from fixshape.collate._pad import PadToBucket
from fixshape.collate._padding import PaddingCounts, padding_fractions

__all__ = ["PadToBucket", "PaddingCounts", "padding_fractions"]
