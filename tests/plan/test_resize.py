"""The resize rule against torchvision's own transform, on every size of 5,000 real images."""

import json
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from fixshape.errors import PlanError, ShapeError
from fixshape.plan import resize_sizes, resized_size


@cache
def _by_torchvision(height: int, width: int, min_size: int, max_size: int) -> tuple[int, int]:
    transform = GeneralizedRCNNTransform(min_size, max_size, [0.0], [1.0])
    # One row or column is enough to learn the size, but interpolate takes it from the image: a tensor without memory serves.
    image, _ = transform.resize(torch.empty(1, height, width, device="meta"), None)
    return tuple(image.shape[-2:])


@pytest.mark.parametrize(("min_size", "max_size"), [(800, 1333), (480, 1333), (320, 640)])
def test_equals_torchvision_on_real_sizes(data_folder, min_size, max_size):
    sizes = {(row[0], row[1]) for row in json.loads((data_folder / "coco_shapes.json").read_text())}
    assert len(sizes) == 603
    different = [size for size in sizes if resized_size(*size, min_size, max_size) != _by_torchvision(*size, min_size, max_size)]
    assert different == []


def test_fixed_size_is_width_first_as_in_torchvision():
    transform = GeneralizedRCNNTransform(300, 500, [0.0], [1.0], fixed_size=(300, 500))
    image, _ = transform.resize(torch.empty(1, 40, 60), None)
    assert tuple(image.shape[-2:]) == resized_size(40, 60, 300, fixed_size=(300, 500)) == (500, 300)


def test_no_limit_on_the_longer_side():
    assert resized_size(100, 1000, 200) == (200, 2000)


@pytest.mark.parametrize(("arguments", "name"), [((0, 5, 3), "height"), ((5, 2.5, 3), "width"), ((5, 5, -1), "min_size")])
def test_refuses_what_is_no_size(arguments, name):
    with pytest.raises(ShapeError, match=rf"resized_size: {name} is .*, expected a whole number of at least 1"):
        resized_size(*arguments)


SCALES = tuple(range(480, 801, 32))


@pytest.fixture(scope="module")
def real_sizes(data_folder):
    """[603, 2], every distinct one."""
    return np.array(sorted({(row[0], row[1]) for row in json.loads((data_folder / "coco_shapes.json").read_text())}))


@pytest.mark.parametrize(("min_size", "max_size"), [(800, 1333), (320, 640)])
def test_all_at_once_equals_torchvision_on_real_sizes(real_sizes, min_size, max_size):
    assert len(real_sizes) == 603
    found = resize_sizes(real_sizes, min_size, max_size)
    expected = np.array([_by_torchvision(*size, min_size, max_size) for size in real_sizes.tolist()])
    assert found.dtype == np.int64 and found.shape == expected.shape
    assert (found != expected).any(1).sum() == 0


def test_several_scales_equal_torchvision_on_real_sizes(real_sizes):
    found = resize_sizes(real_sizes, SCALES, 1333).reshape(603, len(SCALES), 2)
    for index, size in enumerate(real_sizes.tolist()):
        scale = index % len(SCALES)
        assert tuple(found[index, scale]) == _by_torchvision(*size, SCALES[scale], 1333)


def test_the_comparison_with_torchvision_can_tell_another_rule(real_sizes):
    """A scale in float32, as torchvision has it under scripting."""
    narrow = real_sizes.astype(np.float32)
    scale = np.minimum(np.float32(800) / narrow.min(1), np.float32(1333) / narrow.max(1))
    assert ((narrow * scale[:, None]).astype(np.int64) != resize_sizes(real_sizes, 800, 1333)).any(1).sum() == 40


def test_all_at_once_hands_boxes_on_and_takes_torchvisions_fixed_size():
    transform = GeneralizedRCNNTransform(300, 500, [0.0], [1.0], fixed_size=(300, 500))
    image, _ = transform.resize(torch.empty(1, 40, 60), None)
    assert resize_sizes([(40, 60, 7), (1, 9, 0)], 300, fixed_size=(300, 500)).tolist() == [
        [*image.shape[-2:], 7],
        [*image.shape[-2:], 0],
    ]
    assert resize_sizes(iter([(480, 640, 3)]), [240, 480]).tolist() == [[240, 320, 3], [480, 640, 3]]


@given(
    st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 5000), st.integers(0, 99)), min_size=1, max_size=20),
    st.lists(st.integers(1, 2000), min_size=1, max_size=3),
    st.none() | st.integers(1, 3000),
)
def test_all_at_once_is_one_by_one(sizes, scales, max_size):
    expected = [(*resized_size(height, width, scale, max_size), boxes) for height, width, boxes in sizes for scale in scales]
    if min(min(row[:2]) for row in expected) < 1:
        with pytest.raises(ShapeError, match="makes 0 pixels on one side"):
            resize_sizes(sizes, scales, max_size)
    else:
        before = np.array(sizes)
        assert resize_sizes(before, scales, max_size).tolist() == [list(row) for row in expected]
        assert before.tolist() == [list(size) for size in sizes]  # the caller's array is untouched


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (([(5, 6), (0, 6)], 8), ShapeError, r"resize_sizes: row 1 is \(0, 6\), expected \(height, width\)"),
        (([(5, 6, 1), (5, 6)], 8), ShapeError, r"resize_sizes: row 1 is \(5, 6\)"),
        (([(5, 6.5)], 8), ShapeError, r"resize_sizes: row 0 is \(5, 6.5\)"),
        (([], 8), PlanError, "resize_sizes: got no sizes"),
        (([(5, 6)], 0), ShapeError, "resize_sizes: min_size is 0, expected a whole number of at least 1"),
        (([(5, 6)], (8, 2.5)), ShapeError, "resize_sizes: min_size is 2.5, expected a whole number of at least 1"),
        (([(5, 6)], ()), ShapeError, r"resize_sizes: min_size is \(\), expected .* or several"),
        (([(5, 6)], 8, -1), ShapeError, "resize_sizes: max_size is -1"),
        (
            ([(5, 6), (1, 5000)], (800, 900), 1333),
            ShapeError,
            r"sizes\[1\] is 1x5000 \(height x width\), which a resize to 800, at most 1333, makes 0 pixels on one side\. Leave",
        ),
    ],
)
def test_all_at_once_refuses_what_is_no_size(arguments, error, text):
    with pytest.raises(error, match=text):
        resize_sizes(*arguments)
    with pytest.raises(ShapeError, match=r"resize_sizes: fixed_size\[0\] is 0"):
        resize_sizes([(5, 6)], 8, fixed_size=(0, 3))
