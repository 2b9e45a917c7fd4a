"""Are the masks and the keypoints of a COCO annotation file what the format says? Asked once, before C code reads them.

Shapes: K keypoints per box, H, W pixels of an image.

What is checked: COCO's format, and that coordinates stay within one image side of the image. A rasteriser takes time and memory
for every pixel of an outline, so that a far point would be as good as an endless file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from fixshape._check import shown
from fixshape.errors import DatasetError

_NUMBER = (int, float)


def check_masks(where: str, content: dict[str, Any]) -> None:
    """Raises :class:`DatasetError` where an annotation that is no crowd has no mask of its image."""
    for row, segmentation, height, width in _values(content, "segmentation"):
        if not (_is_polygons(segmentation, height, width) or _is_runs(segmentation, height, width)):
            raise DatasetError(
                f"{where}: annotations[{row}]['segmentation'] is {shown(segmentation)}, expected polygons [[x, y, x, y, x, y,"
                f" ...], ...] on the image's {height}x{width} pixels (height x width), or their run lengths."
                " Correct it, or read the file without masks."
            )


def check_keypoints(where: str, content: dict[str, Any]) -> int:
    """K. Raises :class:`DatasetError` where the file has no one K, or an annotation that is no crowd has no K keypoints."""
    names = [category.get("keypoints") for category in content.get("categories") or () if isinstance(category, dict)]
    counts = {len(name) for name in names if isinstance(name, list)}
    if len(counts) != 1 or 0 in counts:
        raise DatasetError(
            f"{where}: its categories name {sorted(counts) or 'no'} keypoints, expected one number of them."
            " Give a person_keypoints_*.json, or read the file without keypoints."
        )
    (count,) = counts
    for row, keypoints, height, width in _values(content, "keypoints"):
        if not (
            isinstance(keypoints, list)
            and len(keypoints) == 3 * count
            and _near(keypoints[0::3] + keypoints[1::3], height, width)
            and all(visibility in (0, 1, 2) for visibility in keypoints[2::3])
        ):
            raise DatasetError(
                f"{where}: annotations[{row}]['keypoints'] is {shown(keypoints)}, expected [x, y, visibility, ...] of {count}"
                f" keypoints on the image's {height}x{width} pixels (height x width), with visibility 0, 1 or 2."
                " Correct it, or read the file without keypoints."
            )
    return count


def _values(content: dict[str, Any], key: str) -> Iterator[tuple[int, Any, int, int]]:
    """The row of each annotation that is no crowd, its value, and its image's height and width."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    for row, annotation in enumerate(content["annotations"]):
        if not annotation["iscrowd"]:
            yield row, annotation.get(key), *sizes[annotation["image_id"]]


def _near(coordinates: Iterable[Any], height: int, width: int) -> bool:
    side = max(height, width)
    return all(isinstance(number, _NUMBER) and -side <= number <= 2 * side for number in coordinates)  # NaN is not


def _is_polygons(value: Any, height: int, width: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(
            isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0 and _near(polygon, height, width)
            for polygon in value
        )
    )


def _is_runs(value: Any, height: int, width: int) -> bool:
    """Whether they are run lengths of exactly all pixels."""
    if not isinstance(value, dict) or value.get("size") != [height, width]:
        return False
    runs = value.get("counts")
    if isinstance(runs, str):
        runs = _unpacked(runs)
    return isinstance(runs, list) and all(isinstance(run, int) and run >= 0 for run in runs) and sum(runs) == height * width


def _unpacked(text: str) -> list[int] | None:
    """The numbers in COCO's text form, as ``rleFrString`` of pycocotools reads them, or ``None`` if it is not one.

    Six bits per character, from "0" on: five of the number, the lowest first, and one that says that more follow. From the fourth
    on a number is the difference to the one but one before.
    """
    runs: list[int] = []
    number = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 30:
            return None
        number |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            signed = number - (1 << shift) if bits & 16 else number
            runs.append(signed + (runs[-2] if len(runs) > 2 else 0))
            number = shift = 0
    return None if shift else runs
