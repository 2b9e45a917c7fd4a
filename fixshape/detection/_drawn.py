"""A data set that needs no files: drawn shapes with exact boxes, masks, keypoints and labels.

Shapes: n boxes, H x W image, K keypoints per box.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from fixshape._check import check_at_least
from fixshape.errors import ShapeError

CLASSES = ("background", "rectangle", "ellipse", "triangle")
KEYPOINTS = ("top", "bottom", "left", "right")


class DrawnShapes(Dataset[tuple[Tensor, dict[str, Any]]]):
    """Rectangles, ellipses and triangles on a grainy ground: images of varying size with a varying number of boxes, or none.

    Made on the fly, the same for the same seed on every machine. A shape drawn later covers an earlier one; masks are what is
    still seen, boxes are exactly around the masks, and a shape of which fewer than 16 pixels are seen is not annotated. Keypoints
    are the outermost pixels of the whole shape, seen or covered, so that one may lie outside of its box. It is easy to learn, and
    says nothing on how a model does on photographs.

    Attributes:
        num_classes: with the background, which is class 0.
        num_keypoints: K, per box: top, bottom, left and right.

    Args:
        length: number of images.
        seed: of the whole set.
        max_boxes: the most shapes that are drawn on an image.
        sides: the smallest and largest height and width, in pixels.

    Raises:
        ShapeError: ``length``, ``max_boxes`` or a side is too small, or the sides are in the wrong order.

    Example:
        >>> image, target = DrawnShapes(4, seed=0)[1]
        >>> image.dtype, image.shape[0], sorted(target)
        (torch.float32, 3, ['area', 'boxes', 'image_id', 'iscrowd', 'keypoints', 'labels', 'masks'])
    """

    num_classes = len(CLASSES)
    num_keypoints = len(KEYPOINTS)

    def __init__(self, length: int = 256, *, seed: int = 0, max_boxes: int = 12, sides: tuple[int, int] = (160, 480)) -> None:
        self.length = check_at_least("DrawnShapes", "length", length, 1)
        self.max_boxes = check_at_least("DrawnShapes", "max_boxes", max_boxes, 0)
        check_at_least("DrawnShapes", "sides[0]", sides[0], 32)
        if sides[1] < sides[0]:
            raise ShapeError(f"DrawnShapes: sides is {sides}, expected (smallest, largest).")
        self.seed = seed
        self.sides = sides

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        """Image [3, H, W] float32 in [0, 1]; ``boxes`` [n, 4] XYXY pixels, ``labels`` [n], ``masks`` [n, H, W] uint8,
        ``keypoints`` [n, K, 3] (x, y in pixels; 2 where it is seen, 1 where a later shape covers it), ``area`` and ``iscrowd``
        [n], ``image_id``.
        """
        if not 0 <= index < self.length:
            raise IndexError(f"DrawnShapes: index {index} is outside of 0..{self.length - 1}")
        rng = np.random.default_rng((self.seed, index))
        height, width = self._size(rng)
        image = rng.uniform(0.3, 0.6, (3, 1, 1)) + rng.normal(0.0, 0.03, (3, height, width))
        owner = np.zeros((height, width), np.int64)  # which shape is seen at a pixel, from 1
        labels = rng.integers(1, self.num_classes, int(rng.integers(0, self.max_boxes + 1)))
        ends = np.zeros((len(labels), self.num_keypoints, 2), np.int64)
        for number, label in enumerate(labels, start=1):
            inside = _draw(rng, int(label), height, width)
            image[:, inside] = rng.choice([0.05, 0.95], (3, 1)) + rng.normal(0.0, 0.03, (3, int(inside.sum())))
            owner[inside] = number
            ends[number - 1] = _ends(inside)
        masks = owner[None] == np.arange(1, len(labels) + 1)[:, None, None]
        area = masks.sum((1, 2))
        seen = area >= 16
        return torch.from_numpy(image.clip(0, 1).astype(np.float32)), {
            "boxes": torch.from_numpy(_boxes(masks[seen])),
            "labels": torch.from_numpy(labels[seen]),
            "masks": torch.from_numpy(masks[seen].astype(np.uint8)),
            "keypoints": torch.from_numpy(_keypoints(ends, owner)[seen]),
            "area": torch.from_numpy(area[seen].astype(np.float32)),
            "iscrowd": torch.zeros(int(seen.sum()), dtype=torch.int64),
            "image_id": index,
        }

    def sizes(self) -> list[tuple[int, int, int]]:
        """(height, width, the most boxes it may have) of every image, without drawing it."""
        drawn = (self._size(np.random.default_rng((self.seed, index))) for index in range(self.length))
        return [(height, width, self.max_boxes) for height, width in drawn]

    def _size(self, rng: np.random.Generator) -> tuple[int, int]:
        height, width = rng.integers(self.sides[0], self.sides[1] + 1, 2)  # an image's first two random numbers
        return int(height), int(width)


def _draw(rng: np.random.Generator, label: int, height: int, width: int) -> NDArray[np.bool_]:
    """The pixels of one shape of a random place and size."""
    tall, wide = (rng.uniform(0.15, 0.5) * side for side in (height, width))
    top, left = rng.uniform(0, height - tall), rng.uniform(0, width - wide)
    # Pixel centres in the shape's own frame: 0 to 1 from its top to its bottom, and from its left to its right.
    y = ((np.arange(height) + 0.5 - top) / tall)[:, None]
    x = ((np.arange(width) + 0.5 - left) / wide)[None]
    if CLASSES[label] == "rectangle":
        return np.asarray((abs(y - 0.5) <= 0.5) & (abs(x - 0.5) <= 0.5))
    if CLASSES[label] == "ellipse":
        return np.asarray((y - 0.5) ** 2 + (x - 0.5) ** 2 <= 0.25)
    return np.asarray((y >= 0) & (y <= 1) & (abs(x - 0.5) <= y / 2))


def _ends(inside: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The (x, y) of the outermost pixels [K, 2] of a shape; of several in a row, or in a column, the middle one."""
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    top_and_bottom = [(_middle(inside[y]), y) for y in (rows[0], rows[-1])]
    left_and_right = [(x, _middle(inside[:, x])) for x in (columns[0], columns[-1])]
    return np.array(top_and_bottom + left_and_right, np.int64)


def _middle(line: NDArray[np.bool_]) -> int:
    pixels = np.flatnonzero(line)
    return int(pixels[len(pixels) // 2])


def _keypoints(ends: NDArray[np.int64], owner: NDArray[np.int64]) -> NDArray[np.float32]:
    """[n, K, 3] from pixels [n, K, 2]: their centres, and whether each is still its own shape's."""
    x, y = ends[..., 0], ends[..., 1]
    is_seen = owner[y, x] == np.arange(1, len(ends) + 1)[:, None]
    return np.stack((x + 0.5, y + 0.5, 1 + is_seen), axis=-1).astype(np.float32)


def _boxes(masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Boxes [n, 4] around masks [n, H, W], none of them empty: the right and bottom edges are those of the last pixel."""
    edges = []
    for axis in (2, 1):  # rows seen, then columns seen
        seen = np.asarray(masks.any(axis))
        edges.append((seen.argmax(1), seen.shape[1] - seen[:, ::-1].argmax(1)))
    (top, bottom), (left, right) = edges
    return np.stack((left, top, right, bottom), axis=1).astype(np.float32)
