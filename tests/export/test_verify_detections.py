"""Detections are compared as sets: rounding may exchange equal scores, and nothing else passes."""

import numpy as np
import pytest

from fixshape.export._verify_detections import different_detections

TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


def found(**changes):
    """Two images of three slots, of which five are valid."""
    detections = {
        "boxes": np.arange(24, dtype=np.float32).reshape(2, 3, 4) * 10,
        "scores": np.array([[0.9, 0.5, 0.5], [0.8, 0.3, 0.0]], np.float32),
        "labels": np.array([[1, 2, 3], [1, 1, 0]]),
        "valid_mask": np.array([[True, True, True], [True, True, False]]),
        "masks": np.linspace(0, 1, 24, dtype=np.float32).reshape(2, 3, 1, 2, 2),
    }
    for name, (place, value) in changes.items():
        detections[name][place] = value
    return detections


def test_the_same_detections_differ_in_nothing():
    assert different_detections(found(), found(), **TOLERANCE) == ((), 0.0)


def test_rounding_is_let_pass_and_measured():
    told, largest = different_detections(found(boxes=((0, 1, 2), 60.005), scores=((0, 1), 0.50005)), found(), **TOLERANCE)
    assert told == ()
    assert largest == pytest.approx(0.005, rel=1e-2)


def test_equal_scores_may_change_places():
    order = [0, 2, 1]
    swapped = {name: np.stack((value[0][order], value[1])) for name, value in found().items()}
    assert different_detections(swapped, found(), **TOLERANCE) == ((), 0.0)


def test_what_stands_in_a_slot_that_is_not_valid_does_not_count():
    dirty = found(boxes=((1, 2), np.nan), scores=((1, 2), 7.0), labels=((1, 2), 9))
    assert different_detections(dirty, found(), **TOLERANCE) == ((), 0.0)


@pytest.mark.parametrize(
    "change", [{"boxes": ((0, 1, 2), 61.0)}, {"scores": ((0, 1), 0.51)}, {"labels": ((0, 1), 1)}, {"valid_mask": ((0, 1), False)}]
)
def test_another_detection_is_told_from_both_sides(change):
    (first, *rest), _ = different_detections(found(**change), found(), **TOLERANCE)
    assert first == (
        "image 0: torch finds and the file does not: slot 1, label 2, score 0.500000, box [40.00, 50.00, 60.00, 70.00]"
    )
    assert len(rest) == ("valid_mask" not in change)
    assert all("the file finds and torch does not: slot 1" in sentence for sentence in rest)


def test_one_more_detection_is_told():
    (told,), _ = different_detections(found(valid_mask=((1, 2), True)), found(), **TOLERANCE)
    assert told.startswith("image 1: the file finds and torch does not: slot 2, label 0")


def test_another_mask_of_the_same_detection_is_told():
    (told,), largest = different_detections(found(masks=((0, 1, 0, 0, 0), 0.7)), found(), **TOLERANCE)
    assert told.startswith("image 0: masks of the same detections differ by up to")
    assert largest > 0.4


def test_two_detections_do_not_share_a_partner():
    twice = found(boxes=((0, 2), [40, 50, 60, 70]), labels=((0, 2), 2))
    told, _ = different_detections(found(), twice, **TOLERANCE)
    assert [sentence.split(", ")[0] for sentence in told] == [
        "image 0: torch finds and the file does not: slot 2",
        "image 0: the file finds and torch does not: slot 2",
    ]


def test_five_are_told_and_the_rest_counted():
    other = found()
    other["labels"] += 1
    told, _ = different_detections(other, found(), **TOLERANCE)
    assert len(told) == 6
    assert told[-1] == "and 5 more"


def test_shapes_dtypes_and_names_come_first():
    assert different_detections({**found(), "scores": np.zeros((2, 4), np.float32)}, found(), **TOLERANCE) == (
        ("scores: it is float32 [2, 4], expected float32 [2, 3]",),
        None,
    )
    wrong = different_detections({**found(), "labels": found()["labels"].astype(np.int32)}, found(), **TOLERANCE)
    assert wrong == (("labels: it is int32 [2, 3], expected int64 [2, 3]",), None)
    less = {name: value for name, value in found().items() if name != "masks"}
    assert different_detections(less, found(), **TOLERANCE) == (("masks: it is missing",), None)
