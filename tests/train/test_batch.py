"""What the loop knows of a batch."""

from collections import OrderedDict, namedtuple

import pytest
import torch
from torch import ones, zeros

from fixshape.train._batch import shapes_of, tensors_of, to_device

Pair = namedtuple("Pair", "images targets")


def test_to_device_keeps_the_nest_and_moves_each_tensor():
    nest = Pair([ones(2), "text"], {"boxes": (ones(1), None), "id": 7, "deep": [Pair(ones(3), 1.5)]})
    moved = to_device(nest, torch.device("meta"))
    assert type(moved) is Pair and type(moved.targets["boxes"]) is tuple and type(moved.targets["deep"][0]) is Pair
    assert [tensor.device.type for tensor in tensors_of(moved)] == ["meta"] * 3
    assert moved.images[1] == "text" and moved.targets["id"] == 7 and moved.targets["deep"][0].targets == 1.5


def test_to_device_changes_neither_values_nor_the_batch_itself():
    batch = (ones(2), OrderedDict(boxes=zeros(1, 4)))
    moved = to_device(batch, torch.device("cpu"))
    assert torch.equal(moved[0], batch[0]) and torch.equal(moved[1]["boxes"], batch[1]["boxes"])
    assert moved[1] is not batch[1]


def test_tensors_of_goes_through_the_nest_in_order():
    nest = [ones(1), {"b": ones(2), "a": (ones(3), {"c": [ones(4)]})}, "text", None]
    assert [len(tensor) for tensor in tensors_of(nest)] == [1, 2, 3, 4]


IMAGE, BOXES = zeros(3, 8, 9), zeros(2, 4)


@pytest.mark.parametrize(
    ("batch", "text"),
    [
        ((zeros(4, 3, 8, 9), {"boxes": zeros(4, 5, 4), "labels": zeros(4, 5)}), "4x3x8x9, 5 boxes"),
        ([zeros(4, 3, 8, 9), {"boxes": zeros(4, 5, 4)}], "4x3x8x9, 5 boxes"),
        (Pair(zeros(1, 3, 8, 9), OrderedDict(boxes=zeros(1, 5, 4))), "1x3x8x9, 5 boxes"),
        (([IMAGE, zeros(3, 7, 5)], [{"boxes": BOXES}, {"image_id": 3}]), "3x8x9, 2 boxes; 3x7x5, 0 boxes"),
        (((IMAGE,), ({"boxes": [[0, 0, 1, 1]]},)), "3x8x9, 1 boxes"),
        (zeros(4, 3), "4x3"),
        ((zeros(4, 3), zeros(4)), "4x3; 4"),
        ({"x": zeros(2, 2), "y": [zeros(()), 1]}, "2x2; scalar"),
        ((zeros(2, 3), {"labels": zeros(2)}), "2x3; 2"),
        # Not what they look like at first: by all their tensors.
        ((zeros(2, 3), {"boxes": zeros(4)}), "2x3; 4"),
        ((zeros(2, 3), {"boxes": zeros(())}), "2x3; scalar"),
        (([IMAGE, "no tensor"], [{"boxes": BOXES}, {}]), "3x8x9; 2x4"),
        (([IMAGE, IMAGE], [{"boxes": BOXES}]), "3x8x9; 3x8x9; 2x4"),
        (([IMAGE], [{"boxes": zeros(())}]), "3x8x9; scalar"),
        (([IMAGE], [None]), "3x8x9"),
        (([IMAGE], [{"boxes": None}]), "3x8x9"),
        (([], []), "no tensor"),
        ("text", "no tensor"),
        (None, "no tensor"),
        (7, "no tensor"),
    ],
)
def test_shapes_of(batch, text):
    assert shapes_of(batch) == text


def test_shapes_of_is_the_same_for_other_values_and_other_for_other_shapes():
    def batch(boxes, fill):
        return torch.full((2, 3, 8, 8), fill), {"boxes": torch.full((2, boxes, 4), fill)}

    assert shapes_of(batch(5, 0.0)) == shapes_of(batch(5, 1.0)) != shapes_of(batch(6, 0.0))
