"""RoIAlign over the levels of a feature pyramid, with fixed shapes: which form of it for which device?

Shapes: ``B`` images, ``R`` box slots per image, ``C`` channels, ``ph, pw`` the output size, ``s`` the sampling ratio, ``Hl, Wl``
the feature size of level ``l``.

The dynamic form gathers the boxes of each level, of which there are as many as the content says. There are four ways around
it, each in a file of its own; each is the fastest known on some device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fixshape._check import check_at_least, check_shape
from fixshape.errors import DtypeError, ShapeError
from fixshape.ops._roi_bags import pool_bags
from fixshape.ops._roi_gather import pool_gather
from fixshape.ops._roi_levels import Grid, level_of
from fixshape.ops._roi_matrices import pool_matrices
from fixshape.ops._roi_torchvision import pool_torchvision
from fixshape.ops._valid import check_bool

_WHERE = "multiscale_roi_align"


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

    One form of it per kind of device, all of them equal to torchvision's:

    * CPU: bags of rows of all pixels (``embedding_bag``), in less time and about the memory of torchvision's own kernel.
    * CUDA, and ``torch.export``: torchvision's op, on all levels; values are torchvision's to the bit.
    * XLA: a gather of rows for each of the (2 s)^2 corners of a bin, and a scatter back; all of it lowers.
    * Any other, and XLA with ``sampling_ratio=-1``: two products of matrices per level. They need finite features:
      an infinite or NaN pixel reaches all boxes of its image but the padding.

    With ``sampling_ratio=-1`` a bin has as many samples as it is large; the CPU calls torchvision's op then.

    What it does not promise. Scales are not inferred from image sizes: torchvision does that from its first batch and keeps
    them. A box with either x2 < x1 or y2 < y1 is pooled from the finest level; torchvision leaves its level undefined.

    Args:
        features: one [B, C, Hl, Wl] tensor per level, from fine to coarse, floating point. Half precision is computed in float32.
        boxes: [B, R, 4] XYXY in pixels of the canvas, R at least 1. Computed in their own dtype, in float32 at least. They may
            lie outside the canvas; a box that is not finite gives zeros.
        output_size: (ph, pw), or one number for both.
        scales: feature pixels per canvas pixel of each level, say ``[1/4, 1/8, 1/16, 1/32]``.
        sampling_ratio: samples per bin along each axis, at least 1; or -1, the size of a bin in feature pixels rounded up.
        canonical_scale: side in canvas pixels of the square box that belongs to ``canonical_level``.
        canonical_level: level of such a box, counted as -log2(scale).
        valid_mask: [B, R] bool, True = real; None when all are. Padding gives zeros and no gradient, whatever it holds.

    Returns:
        [B, R, C, ph, pw] in the dtype of ``features[0]``.

    Raises:
        ShapeError: shapes do not fit each other; there is no feature or not one scale per feature; a size, the sampling ratio
            (but for -1) or the canonical scale is not a whole number of at least 1; scales are not positive, grow from first to
            last, or span more levels than there are features, in which case torchvision gives zeros for the boxes of the missing
            levels.
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
    check_shape(_WHERE, "boxes", boxes.shape, (features[0].shape[0], "R", 4), "One row of boxes per image of the features.")
    check_at_least(_WHERE, "R", boxes.shape[1], 1)
    if isinstance(output_size, int):
        output_size = (output_size, output_size)
    if len(output_size) != 2:
        raise ShapeError(f"{_WHERE}: output_size is {output_size}, expected (height, width) or one number for both.")
    height, width = output_size
    bins = check_at_least(_WHERE, "output height", height, 1), check_at_least(_WHERE, "output width", width, 1)
    if sampling_ratio != -1:  # as many samples as a bin is large
        check_at_least(_WHERE, "sampling_ratio", sampling_ratio, 1)
    check_at_least(_WHERE, "canonical_scale", canonical_scale, 1)

    boxes = boxes.detach().to(torch.promote_types(boxes.dtype, torch.float32))
    real = (boxes[..., 2:] - boxes[..., :2]).isfinite().all(-1)
    if valid_mask is not None:
        check_bool(_WHERE, "valid_mask", valid_mask)
        check_shape(_WHERE, "valid_mask", valid_mask.shape, boxes.shape[:-1], "One entry per box.")
        real = real & valid_mask
    # A box at the origin, of no level: garbage must not become an index, nor change the order of sums.
    boxes = boxes.masked_fill(~real.unsqueeze(-1), 0)
    level = level_of(boxes, levels, finest, canonical_scale, canonical_level).masked_fill(~real, -1)
    form = _form_for(boxes.device.type, sampling_ratio)
    return form(features, boxes, level, Grid(bins, sampling_ratio, tuple(scales)))


def _form_for(device: str, samples: int) -> Callable[[Sequence[Tensor], Tensor, Tensor, Grid], Tensor]:
    # An exported graph is for any batch, and bags are filled image by image; there are runtimes that know torchvision's op.
    if device == "cuda" or (device == "cpu" and (samples == -1 or torch.compiler.is_exporting())):
        return pool_torchvision
    if device == "cpu":
        return pool_bags
    return pool_gather if device == "xla" and samples != -1 else pool_matrices


def _check_pyramid(features: Sequence[Tensor], scales: Sequence[float]) -> tuple[int, int]:
    """The number of the finest level, and how many levels boxes can belong to."""
    check_at_least(_WHERE, "number of features", len(features), 1)
    for k, feature in enumerate(features):
        name = f"features[{k}]"
        expected = ("B", "C") if k == 0 else features[0].shape[:2]
        check_shape(_WHERE, name, feature.shape, (*expected, "H", "W"), "Features differ in height and width only.")
        if any(size < 1 for size in feature.shape):  # one by one: the least of them would tie the batch to another axis
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
