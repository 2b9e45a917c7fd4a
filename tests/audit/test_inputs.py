"""Shapes that a loader gives: key paths, counts per image, and what has no shape."""

from __future__ import annotations

from collections import UserDict, namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fixshape.audit import inputs

Pair = namedtuple("Pair", "rows labels")


@dataclass
class Sample:
    image: torch.Tensor
    name: str


def zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(shape)


@pytest.mark.parametrize(
    ("batch", "found"),
    [
        (zeros(2, 3), {"batch": {"f32[2, 3]": 1}}),
        (torch.tensor(3), {"batch": {"i64[]": 1}}),
        ([zeros(2, 3), torch.zeros(2, dtype=torch.int64)], {"[0]": {"f32[2, 3]": 1}, "[1]": {"i64[2]": 1}}),
        ([zeros(2, 3), zeros(2, 3)], {"[0]": {"f32[2, 3]": 1}, "[1]": {"f32[2, 3]": 1}}),
        ({"x": zeros(2), "y": {"z": zeros(1)}}, {"x": {"f32[2]": 1}, "y.z": {"f32[1]": 1}}),
        (UserDict(input_ids=zeros(2)), {"input_ids": {"f32[2]": 1}}),
        (Pair(zeros(2), zeros(1)), {"rows": {"f32[2]": 1}, "labels": {"f32[1]": 1}}),
        (Sample(zeros(2), "a.png"), {"image": {"f32[2]": 1}}),
        (np.zeros((2, 3), np.uint8), {"batch": {"uint8[2, 3]": 1}}),
        ({"name": "a", "id": zeros(2), "image_id": [zeros(1)], "path": b"p", "size": 3, "none": None, "call": print}, {}),
        ([{"image": zeros(3, 4, 5)}, {"image": zeros(3, 6, 5)}], {"[*].image": {"2 x f32[3, (4, 6), 5]": 1}}),
        ([], {}),
    ],
)  # fmt: skip
def test_paths(batch, found):
    assert inputs([batch]) == found


def test_a_detection_batch_is_told_by_the_counts_of_its_images():
    def batch(*boxes: int) -> tuple:
        images = tuple(zeros(3, 10 * count, 8) for count in boxes)
        targets = tuple({"boxes": zeros(count, 4), "labels": zeros(count), "image_id": 7, "file": "x"} for count in boxes)
        return images, targets

    assert inputs([batch(3, 7), batch(5, 5), batch(7, 3), batch(3, 7)]) == {
        "[0][*]": {"2 x f32[3, (30, 70), 8]": 2, "2 x f32[3, 50, 8]": 1, "2 x f32[3, (70, 30), 8]": 1},
        "[1][*].boxes": {"2 x f32[(3, 7), 4]": 2, "2 x f32[5, 4]": 1, "2 x f32[(7, 3), 4]": 1},
        "[1][*].labels": {"2 x f32[(3, 7)]": 2, "2 x f32[5]": 1, "2 x f32[(7, 3)]": 1},
    }  # fmt: skip


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4), min_size=1, max_size=6))
def test_two_batches_have_one_text_only_if_they_have_the_same_counts(counts):
    """The sum would mix up what compiles apart."""
    found = inputs([{"boxes": [torch.empty(count, 4) for count in batch]} for batch in counts])["boxes[*]"]
    assert len(found) == len({tuple(batch) for batch in counts})
    assert sum(found.values()) == len(counts)


def test_most_often_first():
    assert list(inputs([zeros(1), zeros(2), zeros(2)])["batch"]) == ["f32[2]", "f32[1]"]


def test_a_batch_that_holds_itself():
    batch: dict = {"x": zeros(2)}
    batch["more"] = batch
    assert inputs([batch])["x"] == {"f32[2]": 1}


def test_a_real_loader_with_workers():
    loader = torch.utils.data.DataLoader([(zeros(4), 1, "name")] * 9, 4, num_workers=2)
    assert inputs(loader) == {"[0]": {"f32[4, 4]": 2, "f32[1, 4]": 1}, "[1]": {"i64[4]": 2, "i64[1]": 1}}
