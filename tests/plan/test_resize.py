"""The resize rule against torchvision's own transform, on every size of 5,000 real images."""

import json

import pytest
import torch
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from fixshape.errors import ShapeError
from fixshape.plan import resized_size


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
