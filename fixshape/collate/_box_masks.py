"""A mask in a small square: what is in its box, at the same cost for every image size.

Shapes: n boxes, H, W pixels of the image, S the side of the squares.

A square covers its box and one pixel more on each side, where a box is not exactly around its mask and where bilinear sampling
still sees it. Its numbers are the means of the mask over its cells, in 255ths; fixshape/ops/_box_masks.py reads them.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torchvision.ops import roi_align

from fixshape.collate._sample import Sample

_MARGIN = 1  # pixels, as there


def with_box_masks(sample: Sample, size: int) -> Sample:
    """The sample with ``box_masks`` [n, S, S] uint8 instead of ``masks`` [n, H, W], if it has them."""
    rows = dict(sample.rows)
    masks = rows.pop("masks", None)
    if masks is None:
        return sample
    squares = [_square(mask, box, size) for mask, box in zip(masks, sample.boxes.float(), strict=True)]
    rows["box_masks"] = torch.stack(squares) if squares else torch.zeros(0, size, size, dtype=torch.uint8)
    return replace(sample, rows=rows)


def _square(mask: Tensor, box: Tensor, size: int) -> Tensor:
    """The means of ``mask`` [H, W] over the cells of the grown ``box`` [4]: [S, S] uint8."""
    region = torch.cat([box[:2] - _MARGIN, box[2:] + _MARGIN])
    # Only what the region's samples can see is made floating point: a mask of the whole image would cost more than the rest.
    left, top, right, bottom = region.tolist()
    x, y = (min(max(int(low) - 1, 0), side - 1) for low, side in zip((left, top), (mask.shape[1], mask.shape[0]), strict=True))
    seen = mask[y : max(int(bottom) + 3, y + 1), x : max(int(right) + 3, x + 1)].ne(0)
    region = region - torch.tensor([x, y, x, y])
    # As many samples as the region has pixels; but one per cell where nearly all of it lies outside of the image.
    samples = -1 if max(right - left, bottom - top) < 2 * sum(mask.shape) else 1
    means: Tensor = roi_align(seen[None, None].float(), [region[None]], size, sampling_ratio=samples)
    return means[0, 0].mul(255).round().to(torch.uint8)
