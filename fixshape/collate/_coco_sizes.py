"""How large are the images of a COCO annotation file, and how many boxes have they? One pass, in bounded memory.

Shapes: N images, A annotations.
"""

from __future__ import annotations

import os
from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fixshape._check import shown
from fixshape.collate._json_stream import JsonStream
from fixshape.collate._size_checks import MOST_ROWS, is_side, no_image, not_a_size
from fixshape.errors import DatasetError

_ID_LIMIT = 1 << 63


def coco_sizes(path: str | os.PathLike[str]) -> NDArray[np.int64]:
    """The size and the number of boxes of every image of a COCO annotation file.

    The file is read as a stream: what stays in memory is five numbers per image and one per annotation. Segmentations, and all
    else that no size needs, are passed over and not checked. No image is opened.

    Crowd annotations are not counted, as torchvision's training reference leaves them out. A bare
    ``torchvision.datasets.CocoDetection`` keeps them: :func:`dataset_sizes` counts what its samples have.

    Args:
        path: the JSON file (``instances_*.json``, ``person_keypoints_*.json``).

    Returns:
        [N, 3] int64, (height, width, boxes) in pixels, before any resize, ordered by image id: the order of
        ``torchvision.datasets.CocoDetection`` and of :class:`fixshape.detection.CocoSamples`.

    Raises:
        DatasetError: the file is missing, or not JSON, or not COCO; an image has no size or its id twice; an annotation is of
            an image that the file does not list; or there is no image.

    Example:
        >>> import json, pathlib, tempfile
        >>> content = {
        ...     "images": [{"id": 7, "file_name": "a.jpg", "height": 480, "width": 640}],
        ...     "annotations": [{"id": 1, "image_id": 7, "iscrowd": 0}, {"id": 2, "image_id": 7, "iscrowd": 1}],
        ... }
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "instances.json")
        ...     _ = path.write_text(json.dumps(content))
        ...     coco_sizes(path).tolist()
        [[480, 640, 1]]
    """
    where = f"coco_sizes: {os.fspath(path)}"
    try:
        with open(path, "rb") as file:
            return read_coco(where, JsonStream(file))
    except OSError as error:
        raise DatasetError(f"{where}: the annotation file cannot be read ({error.strerror}). Give its path.") from None


def read_coco(where: str, stream: JsonStream) -> NDArray[np.int64]:
    """:func:`coco_sizes` of a file that is open; ``where`` begins the messages."""
    images = annotations = None
    try:
        if stream.next_character() != "{":
            raise DatasetError(f"{where}: not COCO: expected an object with images and annotations. Give an instances_*.json.")
        for key in stream.members():
            if key in ("images", "annotations"):
                if (images if key == "images" else annotations) is not None:
                    raise DatasetError(f"{where}: not COCO: it has {key!r} twice.")
                if stream.next_character() != "[":
                    raise DatasetError(f"{where}: not COCO: {key!r} is {shown(stream.value())}, expected a list.")
            if key == "images":
                images = _images(where, stream)
            elif key == "annotations":
                annotations = _annotations(where, stream)
            else:
                stream.skip()
        stream.finish()
    except DatasetError:
        raise
    except ValueError as error:
        raise DatasetError(f"{where}: not JSON ({error}). Give a COCO annotation file.") from None
    for key, found in (("images", images), ("annotations", annotations)):
        if found is None:
            raise DatasetError(f"{where}: not COCO: there is no list {key!r} in it. Give an instances_*.json.")
    assert images is not None and annotations is not None
    return _joined(where, images, annotations)


def _images(where: str, stream: JsonStream) -> NDArray[np.int64]:
    """[N, 3] id, height, width."""
    found = array("q")
    for row, image in enumerate(stream.elements()):
        number = _id(where, f"images[{row}]['id']", image, "id")
        size = (image.get("height"), image.get("width"))
        if not (is_side(size[0]) and is_side(size[1])):
            raise not_a_size(where, f"image {shown(image.get('file_name'))} (images[{row}], id {number})", size)
        found.extend((number, *size))
        if row >= MOST_ROWS:
            raise DatasetError(f"{where}: it lists more than {MOST_ROWS:,} images.")
    return np.array(found, np.int64).reshape(-1, 3)


def _annotations(where: str, stream: JsonStream) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """[A] image ids, and [A] whether it is a crowd."""
    found, crowds = array("q"), array("b")
    for row, annotation in enumerate(stream.elements()):
        found.append(_id(where, f"annotations[{row}]['image_id']", annotation, "image_id"))
        crowd = annotation.get("iscrowd", 0)  # many tools leave it out where there are none
        if crowd not in (0, 1):
            raise DatasetError(f"{where}: not COCO: annotations[{row}]['iscrowd'] is {shown(crowd)}, expected 0 or 1.")
        crowds.append(int(crowd))
    return np.array(found, np.int64), np.array(crowds, np.bool_)


def _id(where: str, name: str, entry: Any, key: str) -> int:
    value = entry.get(key) if isinstance(entry, dict) else None
    if type(value) is not int or not -_ID_LIMIT <= value < _ID_LIMIT:
        raise DatasetError(
            f"{where}: not COCO: {name} is {shown(value if isinstance(entry, dict) else entry)}, expected a whole number."
        )
    return value


def _joined(where: str, images: NDArray[np.int64], annotations: tuple[NDArray[np.int64], NDArray[np.bool_]]) -> NDArray[np.int64]:
    """[N, 3] height, width, boxes, by image id."""
    if len(images) == 0:
        raise no_image(where)
    order = np.argsort(images[:, 0], kind="stable")
    images = images[order]
    again = np.flatnonzero(images[1:, 0] == images[:-1, 0])
    if len(again):
        raise DatasetError(
            f"{where}: not COCO: images[{order[again[0] + 1]}] has the id {images[again[0], 0]} of images[{order[again[0]]}]."
        )
    of, crowd = annotations
    at = np.minimum(np.searchsorted(images[:, 0], of), len(images) - 1)
    unknown = np.flatnonzero(images[at, 0] != of)
    if len(unknown):
        raise DatasetError(f"{where}: annotations[{unknown[0]}] is of image {of[unknown[0]]}, which the file does not list.")
    boxes = np.bincount(at[~crowd], minlength=len(images))
    return np.column_stack([images[:, 1:], boxes])
