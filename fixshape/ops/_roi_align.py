"""RoIAlign over the levels of a feature pyramid, with fixed shapes.

Shapes: ``B`` images, ``R`` box slots per image, ``C`` channels, ``ph, pw`` the output size, ``s`` the sampling ratio, ``Hl, Wl``
the feature size of level ``l``; in the private part ``N = B R`` boxes in a row, ``T`` pixels of all levels of one image,
``S = 2 s`` entries of a bin along one axis.

The dynamic form gathers the boxes of each level, of which there are as many as the content says. Here all pixels of all levels
and images are the rows of one table, and a bin is a weighted sum of (2 s)^2 rows of it: which level a box belongs to is then no
more than an offset of its row numbers. Bilinear weights are a product of one for y and one for x, so that all geometry is done
per axis, on few numbers, and only the last product has the full size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fixshape._check import check_at_least, check_shape
from fixshape.errors import DtypeError, ShapeError
from fixshape.ops._valid import check_bool

_WHERE = "multiscale_roi_align"
_CHUNK_BYTES = 2**26  # of row numbers and weights at a time; each chunk more costs one more gradient of the whole table
_LEVEL_EPS = 1e-6  # LevelMapper's: a box of just the canonical scale belongs to its own level despite rounding


def multiscale_roi_align(
    features: Sequence[Tensor],
    boxes: Tensor,
    output_size: int | tuple[int, int],
    *,
    scales: Sequence[float],
    sampling_ratio: int = 2,
    canonical_scale: int = 224,
    canonical_level: int = 4,
    valid_mask: Tensor | None = None,
) -> Tensor:
    """``torchvision.ops.MultiScaleRoIAlign`` with a fixed number of boxes per image.

    It is RoIAlign (He et al., 2017, "Mask R-CNN") as torchvision's detection models use it, ``aligned=False``, on the level that
    equation 1 of Lin et al., 2017, "Feature Pyramid Networks", gives each box: the rules of torchvision/ops/poolers.py:68
    (``LevelMapper``) and of torchvision/csrc/ops/cpu/roi_align_common.h for samples at and beyond the border. Values and
    gradients agree with torchvision's to rounding (1e-9 in float64), not to the bit. As there, the gradient goes to the features
    only, and only once.

    What it does not promise. ``sampling_ratio=-1`` is refused: its number of samples depends on the boxes. Scales are not
    inferred from image sizes: torchvision does that from its first batch and keeps them. A box with either x2 < x1
    or y2 < y1 is pooled from the finest level; torchvision leaves its level undefined. It is written for the CPU, as
    ``embedding_bag``, which torch_xla does not lower: there it falls back to the host.

    Args:
        features: one [B, C, Hl, Wl] tensor per level, from fine to coarse, floating point. Half precision is computed in float32.
        boxes: [B, R, 4] XYXY in pixels of the canvas, R at least 1. Computed in their own dtype, in float32 at least. They may
            lie outside the canvas; a box that is not finite gives zeros.
        output_size: (ph, pw), or one number for both.
        scales: feature pixels per canvas pixel of each level, say ``[1/4, 1/8, 1/16, 1/32]``.
        sampling_ratio: samples per bin along each axis, at least 1.
        canonical_scale: side in canvas pixels of the square box that belongs to ``canonical_level``.
        canonical_level: level of such a box, counted as -log2(scale).
        valid_mask: [B, R] bool, True = real; None when all are. Padding gives zeros and no gradient, whatever it holds.

    Returns:
        [B, R, C, ph, pw] in the dtype of ``features[0]``; channels are innermost in memory.

    Raises:
        ShapeError: shapes do not fit each other; there is no feature or not one scale per feature; a size, the sampling ratio
            or the canonical scale is not a whole number of at least 1; scales are not positive, grow from first to last, or span
            more levels than there are features, in which case torchvision gives zeros for the boxes of the missing levels.
        DtypeError: a feature is not floating point, or ``valid_mask`` is not bool.

    Example:
        >>> import torch
        >>> pyramid = [torch.ones(1, 2, 16, 16), 3 * torch.ones(1, 2, 8, 8)]
        >>> boxes = torch.tensor([[[0.0, 0.0, 16.0, 16.0], [0.0, 0.0, 64.0, 64.0], [0.0, 0.0, 0.0, 0.0]]])
        >>> valid_mask = torch.tensor([[True, True, False]])
        >>> pooled = multiscale_roi_align(
        ...     pyramid, boxes, 2, scales=[1 / 4, 1 / 8], canonical_scale=32, canonical_level=3, valid_mask=valid_mask
        ... )
        >>> pooled.shape, pooled[0, :, 0, 0, 0]
        (torch.Size([1, 3, 2, 2, 2]), tensor([1., 3., 0.]))
    """
    finest, levels = _check_pyramid(features, scales)
    batch, channels = features[0].shape[:2]
    check_shape(_WHERE, "boxes", boxes.shape, (batch, "R", 4), "One row of boxes per image of the features.")
    slots = check_at_least(_WHERE, "R", boxes.shape[1], 1)
    if isinstance(output_size, int):
        output_size = (output_size, output_size)
    if len(output_size) != 2:
        raise ShapeError(f"{_WHERE}: output_size is {output_size}, expected (height, width) or one number for both.")
    height, width = output_size
    bins = check_at_least(_WHERE, "output height", height, 1), check_at_least(_WHERE, "output width", width, 1)
    if sampling_ratio == -1:
        raise ShapeError(
            f"{_WHERE}: sampling_ratio is -1, expected a whole number of at least 1. Its number of samples depends on the boxes;"
            " the detection models use 2."
        )
    check_at_least(_WHERE, "sampling_ratio", sampling_ratio, 1)
    check_at_least(_WHERE, "canonical_scale", canonical_scale, 1)
    if valid_mask is not None:
        check_bool(_WHERE, "valid_mask", valid_mask)
        check_shape(_WHERE, "valid_mask", valid_mask.shape, boxes.shape[:-1], "One entry per box.")
        # A box at the origin; what it pools is dropped below. Row numbers that hung on garbage would change the order of sums.
        boxes = boxes.masked_fill(~valid_mask.unsqueeze(-1), 0)

    # Flattened before they are joined, a level is transposed by the very copy that joins it.
    table = torch.cat([feature.flatten(2).mT for feature in features], dim=1).flatten(0, 1)
    table = table.to(torch.promote_types(table.dtype, torch.float32))
    boxes = boxes.detach().to(torch.promote_types(boxes.dtype, torch.float32)).flatten(0, 1)
    level = _level_of(boxes, canonical_scale, canonical_level) - finest
    place = _place_of(level, features, scales, levels)
    x1, y1, x2, y2 = (boxes * place.scale.unsqueeze(-1)).unbind(-1)
    rows = _axis(y1, y2, bins[0], sampling_ratio, place.height)
    columns = _axis(x1, x2, bins[1], sampling_ratio, place.width)

    pixels = table.shape[0] // batch
    image = torch.arange(batch, device=boxes.device, dtype=torch.int32).repeat_interleave(slots, output_size=batch * slots)
    first = image * pixels + place.first
    row_starts = first[:, None, None] + rows.pixel * place.width[:, None, None]
    pooled = _sum_bins(table, row_starts, rows.weight, columns)
    pooled = pooled.reshape(batch, slots, *bins, channels)
    if valid_mask is not None:
        # Not a weight of 0: that would let NaN through, in either direction.
        pooled = pooled.masked_fill(~valid_mask[..., None, None, None], 0)
    return pooled.movedim(-1, 2).to(features[0].dtype)


class _Place(NamedTuple):
    """Where the level of each box lies in the table."""

    scale: Tensor  #: [N] floating point
    height: Tensor  #: [N] int32, as all below
    width: Tensor
    first: Tensor  #: row number of the level's first pixel in an image


class _Entries(NamedTuple):
    """What each bin takes along one axis; samples outside the feature map weigh 0."""

    pixel: Tensor  #: [N, bins, S] int32
    weight: Tensor  #: [N, bins, S] floating point


def _check_pyramid(features: Sequence[Tensor], scales: Sequence[float]) -> tuple[int, int]:
    """The number of the finest level, and how many levels boxes can belong to."""
    check_at_least(_WHERE, "number of features", len(features), 1)
    for k, feature in enumerate(features):
        name = f"features[{k}]"
        expected = ("B", "C") if k == 0 else features[0].shape[:2]
        check_shape(_WHERE, name, feature.shape, (*expected, "H", "W"), "Features differ in height and width only.")
        check_at_least(_WHERE, f"smallest size of {name}", min(feature.shape), 1)
        if not feature.is_floating_point():
            raise DtypeError(f"{_WHERE}: {name} has dtype {feature.dtype}, expected a floating point one. Use {name}.float().")
    if len(scales) != len(features) or not all(0 < scale < math.inf for scale in scales):
        raise ShapeError(f"{_WHERE}: scales is {list(scales)}, expected {len(features)} positive numbers, one per feature.")
    finest, coarsest = int(-math.log2(scales[0])), int(-math.log2(scales[-1]))
    levels = coarsest - finest + 1
    if not 1 <= levels <= len(features):
        raise ShapeError(
            f"{_WHERE}: scales is {list(scales)}: levels {finest} to {coarsest}, expected 1 to {len(features)} of them, from fine"
            " to coarse. Give a feature for each level between the first and the last."
        )
    return finest, levels


def _level_of(boxes: Tensor, canonical_scale: int, canonical_level: int) -> Tensor:
    """The level of each box [N, 4], not rounded down yet: ``>=`` a whole number says the same. -inf for a box of no area."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    side = ((x2 - x1) * (y2 - y1)).sqrt()
    return canonical_level + torch.log2(side / canonical_scale) + _LEVEL_EPS


def _place_of(level: Tensor, features: Sequence[Tensor], scales: Sequence[float], levels: int) -> _Place:
    """Looks up what belongs to the level [N] of each box, counted from the first feature.

    By comparison, not from a tensor of constants: that would be a copy from host to device at each call. A level that is NaN or
    below the first is the first, one beyond the last the last.
    """
    heights, widths = zip(*(feature.shape[-2:] for feature in features), strict=True)
    firsts = [sum(h * w for h, w in zip(heights[:k], widths[:k], strict=True)) for k in range(levels)]
    whole = torch.zeros_like(level, dtype=torch.int32)
    fields = []
    for like, values in ((level, scales), (whole, heights), (whole, widths), (whole, firsts)):
        field = torch.full_like(like, values[0])
        for k in range(1, levels):
            field = field.masked_fill(level >= k, values[k])
        fields.append(field)
    return _Place(*fields)


def _axis(start: Tensor, end: Tensor, bins: int, samples: int, size: Tensor) -> _Entries:
    """The entries of boxes from ``start`` to ``end`` [N], in feature pixels, on maps of ``size`` [N]."""
    bin_size = ((end - start).clamp(min=1) / bins)[:, None, None]
    bin_number = torch.arange(bins, device=start.device, dtype=start.dtype)[:, None]
    sample = torch.arange(samples, device=start.device, dtype=start.dtype) + 0.5
    # In the order of torchvision, or a sample on the border could round to its other side.
    at = start[:, None, None] + bin_number * bin_size + sample * bin_size / samples
    limit = size[:, None, None]
    inside = (at >= -1) & (at <= limit)
    at = torch.where(inside, at, 0).clamp(min=0).minimum(limit - 1)  # NaN must go before it becomes an index
    low = at.floor()
    fraction = at - low
    share = inside.to(start.dtype) / samples
    low_index = low.to(torch.int32)
    return _Entries(
        torch.cat([low_index, (low_index + 1).minimum(limit - 1)], dim=-1),
        torch.cat([(1 - fraction) * share, fraction * share], dim=-1),
    )


def _sum_bins(table: Tensor, row_starts: Tensor, row_weight: Tensor, columns: _Entries) -> Tensor:
    """The bins [N, ph, pw, C]: sums of rows of the ``table``, in chunks of boxes that keep the row numbers within the budget.

    ``row_starts`` and ``row_weight`` [N, ph, S] are of the first pixel of a map's row; ``columns`` has [N, pw, S].
    """
    count, height, entries = row_starts.shape
    width = columns.pixel.shape[1]
    bytes_per_box = height * width * entries**2 * (row_starts.element_size() + table.element_size())
    chunk = max(1, _CHUNK_BYTES // bytes_per_box)
    row_weight, column_weight = row_weight.to(table.dtype), columns.weight.to(table.dtype)
    pooled = []
    for begin in range(0, count, chunk):
        here = slice(begin, begin + chunk)
        index = row_starts[here, :, None, :, None] + columns.pixel[here, None, :, None, :]
        weight = row_weight[here, :, None, :, None] * column_weight[here, None, :, None, :]
        bag = F.embedding_bag(index.reshape(-1, entries**2), table, mode="sum", per_sample_weights=weight.reshape(-1, entries**2))
        pooled.append(bag)
    # Joining a single one would copy it.
    whole = pooled[0] if len(pooled) == 1 else torch.cat(pooled)
    return whole.reshape(count, height, width, -1)
