"""The size that a detection model's own resize gives an image, as arithmetic on ints: no image needed."""

from __future__ import annotations

from fixshape._check import check_at_least


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
