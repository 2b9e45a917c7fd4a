"""Are these the same detections, where rounding may have changed the order of some?

Two runtimes add in different orders, so that scores differ in their last digits. Two detections whose scores are that close may
then change places, which is no fault. What rounding can also do is decide for another box: at the last slot, at a score
threshold, at an overlap of just the threshold. That is told here; whether it was rounding, ``_verify_decisions`` finds out.

Shapes: ``N`` images, ``D`` slots of each, ``T`` valid slots of one that are expected, ``M`` that were got.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from fixshape.export._onnx_run import Array, Arrays

_MOST = 5
_PIXELS = 100  # times the tolerance, for boxes: their numbers are hundreds where scores are below 1
_NAMED = ("boxes", "scores", "labels", "valid_mask")


def different_detections(
    got: Mapping[str, Array], expected: Mapping[str, Array], *, rtol: float, atol: float
) -> tuple[tuple[str, ...], float | None]:
    """Where two sets of detections differ.

    Each image's detections are paired: the same label, and score and box within the tolerance. What else there is, masks or heat
    maps, is compared between partners. What stands in slots that are not valid does not count.

    Args:
        got: ``boxes`` [N, D, 4], ``scores`` [N, D], ``labels`` [N, D], ``valid_mask`` [N, D] and what else has [N, D] first.
        expected: the same.
        rtol: relative to the expected number.
        atol: of all numbers but boxes, which may be a hundred times as far apart.

    Returns:
        Sentences: of detections without a partner, and of partners with another mask; five at most and how many more. And the
        largest difference of a number between partners, ``None`` where shapes differ.
    """
    for name, value in expected.items():
        if name not in got:
            return (f"{name}: it is missing",), None
        mine = got[name]
        if mine.shape != value.shape or mine.dtype != value.dtype:
            said = f"{mine.dtype} {list(mine.shape)}, expected {value.dtype} {list(value.shape)}"
            return (f"{name}: it is {said}",), None
    told: list[str] = []
    largest = 0.0
    for image in range(len(expected["scores"])):
        ours, theirs = ({name: value[image] for name, value in each.items()} for each in (got, expected))
        pairs = _pair(ours, theirs, rtol, atol)
        told += [f"image {image}: {sentence}" for sentence in _alone(ours, theirs, pairs)]
        for name in expected.keys() - {"labels", "valid_mask"}:
            one, other = ours[name][pairs[:, 0]].astype(np.float64), theirs[name][pairs[:, 1]].astype(np.float64)
            largest = max(largest, float(np.abs(one - other).max(initial=0.0)))
            if name not in _NAMED and not np.allclose(one, other, rtol=rtol, atol=atol):
                told.append(f"image {image}: {name} of the same detections differ by up to {np.abs(one - other).max():.1e}")
    more = [f"and {len(told) - _MOST} more"] if len(told) > _MOST else []
    return (*told[:_MOST], *more), largest


def _pair(got: Arrays, expected: Arrays, rtol: float, atol: float) -> Array:
    """[pairs, 2] slots: of those that are alike, the nearest ones."""
    mine, theirs = np.flatnonzero(got["valid_mask"]), np.flatnonzero(expected["valid_mask"])
    alike = got["labels"][mine] == expected["labels"][theirs][:, None]  # [T, M]
    alike &= np.isclose(got["scores"][mine], expected["scores"][theirs][:, None], rtol=rtol, atol=atol)
    alike &= np.isclose(got["boxes"][mine], expected["boxes"][theirs][:, None], rtol=rtol, atol=_PIXELS * atol).all(-1)
    pairs = []
    for row, slot in enumerate(theirs):
        found = np.flatnonzero(alike[row])
        if len(found):
            nearest = found[np.abs(mine[found] - slot).argmin()]
            pairs.append((mine[nearest], slot))
            alike[:, nearest] = False
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _alone(got: Arrays, expected: Arrays, pairs: Array) -> Iterator[str]:
    """What has no partner on the other side."""
    for who, found, paired in (
        ("torch finds and the file does not", expected, pairs[:, 1]),
        ("the file finds and torch does not", got, pairs[:, 0]),
    ):
        for slot in np.setdiff1d(np.flatnonzero(found["valid_mask"]), paired):
            box = ", ".join(f"{side:.2f}" for side in found["boxes"][slot].tolist())
            score, label = float(found["scores"][slot]), int(found["labels"][slot])
            yield f"{who}: slot {slot}, label {label}, score {score:.6f}, box [{box}]"
