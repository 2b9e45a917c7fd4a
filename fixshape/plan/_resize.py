"""The size that a detection model's own resize gives an image, as arithmetic on sizes: no image needed.

Shapes: N images, S scales.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fixshape._check import check_at_least
from fixshape.errors import ShapeError
from fixshape.plan._rows import Rows, Sizes, as_rows, has_boxes


def resized_size(
    height: int, width: int, min_size: int, max_size: int | None = None, *, fixed_size: tuple[int, int] | None = None
) -> tuple[int, int]:
    """The (height, width) that torchvision's detection transform resizes an image to.

    The rule of ``torchvision/models/detection/transform.py`` (``_resize_image_and_masks``) in eager mode, where the scale is a
    Python float. Under scripting or tracing torchvision takes a float32 scale, which gives one pixel less or more for some sizes.

    Args:
        height: of the image, in pixels.
        width: of the image, in pixels.
        min_size: what the shorter side becomes, in pixels, unless the longer one would pass ``max_size``.
        max_size: the most that the longer side may become, in pixels; ``None`` sets no limit.
        fixed_size: the (width, height) that every image becomes, as torchvision's own argument has it; the rest is then unused.

    Returns:
        The new (height, width) in pixels.

    Raises:
        ShapeError: a size is not a whole number of at least 1.

    Example:
        >>> resized_size(480, 640, 800, 1333)
        (800, 1066)
        >>> resized_size(200, 640, 800, 1333)
        (416, 1333)
        >>> resized_size(480, 640, 320, fixed_size=(320, 320))
        (320, 320)
    """
    for name, value in (("height", height), ("width", width), ("min_size", min_size)):
        check_at_least("resized_size", name, value, 1)
    if fixed_size is not None:
        return check_at_least("resized_size", "fixed_size[1]", fixed_size[1], 1), fixed_size[0]
    scale = min_size / min(height, width)
    if max_size is not None:
        scale = min(scale, check_at_least("resized_size", "max_size", max_size, 1) / max(height, width))
    return int(height * scale), int(width * scale)


def resize_sizes(
    sizes: Sizes,
    min_size: int | Sequence[int],
    max_size: int | None = None,
    *,
    fixed_size: tuple[int, int] | None = None,
) -> Rows:
    """What :func:`resized_size` gives for many images at once, and for each of several scales.

    A training that draws a scale per image needs buckets for whatever it may draw: give all its scales, and each image counts
    once at each of them.

    Args:
        sizes: [N, 2] or [N, 3] whole numbers, (height, width) or (height, width, boxes) per image, before the resize.
        min_size: what the shorter side becomes, in pixels, unless the longer one would pass ``max_size``; or S of them.
        max_size: the most that the longer side may become, in pixels; ``None`` sets no limit.
        fixed_size: the (width, height) that every image becomes, as torchvision's own argument has it; the rest is then unused.

    Returns:
        [N * S, 2] or [N * S, 3] int64, all scales of the first image first; the boxes are handed on. S is 1 for a single
        ``min_size`` and with ``fixed_size``.

    Raises:
        PlanError: there is no row.
        ShapeError: a row is no size (the message names the first one), a side would become 0 pixels, ``min_size`` is empty, or
            one of the others is not a whole number of at least 1.

    Example:
        >>> resize_sizes([(480, 640, 7), (200, 640, 0)], 800, 1333).tolist()
        [[800, 1066, 7], [416, 1333, 0]]
        >>> resize_sizes([(480, 640)], (480, 800), 1333).tolist()
        [[480, 640], [800, 1066]]
    """
    where = "resize_sizes"
    given = sizes if isinstance(sizes, np.ndarray) else list(sizes)  # an iterator is read once
    rows = as_rows(where, given)
    rows = rows if has_boxes(given) else rows[:, :2]
    if fixed_size is not None:
        width, height = (check_at_least(where, f"fixed_size[{index}]", fixed_size[index], 1) for index in (0, 1))
        rows[:, :2] = height, width
        return rows
    scales = list(min_size) if isinstance(min_size, Sequence) else [min_size]
    if not scales:
        raise ShapeError(f"{where}: min_size is {min_size!r}, expected a whole number of at least 1, or several.")
    shortest = np.array([check_at_least(where, "min_size", scale, 1) for scale in scales], np.int64)
    factor = shortest / rows[:, :2].min(1, keepdims=True)  # [N, S] float64, as a Python float is
    if max_size is not None:
        factor = np.minimum(factor, check_at_least(where, "max_size", max_size, 1) / rows[:, :2].max(1, keepdims=True))
    resized = np.repeat(rows[:, None], len(scales), axis=1)
    resized[..., :2] = rows[:, None, :2] * factor[..., None]
    resized = resized.reshape(-1, rows.shape[1])
    gone = np.flatnonzero((resized[:, :2] < 1).any(1))
    if len(gone):
        image, scale = divmod(int(gone[0]), len(scales))
        height, width = rows[image, :2]
        raise ShapeError(
            f"{where}: sizes[{image}] is {height}x{width} (height x width), which a resize to {scales[scale]}"
            f"{'' if max_size is None else f', at most {max_size},'} makes 0 pixels on one side. Leave the image out."
        )
    return resized
