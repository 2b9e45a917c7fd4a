"""Normalisation on the device: torchvision's numbers inside of an image, zero outside, whatever stands there."""

import pytest
import torch
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from fixshape.detection._normalize import normalize

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_torchvision_bitwise_and_pads_with_zero(dtype):
    transform = GeneralizedRCNNTransform(8, 8, MEAN, STD)
    sizes = torch.tensor([[5, 9], [8, 3], [0, 0], [8, 12]])
    images = torch.rand(4, 3, 8, 12, dtype=dtype)
    poisoned = images.clone()
    for image, (height, width) in zip(poisoned, sizes.tolist(), strict=True):
        image[:, height:], image[:, :, width:] = float("nan"), float("inf")
    result = normalize(poisoned, sizes, torch.tensor(MEAN, dtype=dtype), torch.tensor(STD, dtype=dtype))
    for image, given, (height, width) in zip(result, images, sizes.tolist(), strict=True):
        assert torch.equal(image[:, :height, :width], transform.normalize(given[:, :height, :width]))
        assert (image[:, height:] == 0).all() and (image[:, :, width:] == 0).all()
    assert result.dtype == dtype


def test_the_batch_is_left_as_it_was_and_gradients_stop_at_the_padding():
    images = torch.rand(1, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    before = images.detach().clone()
    normalize(images, torch.tensor([[2, 3]]), torch.tensor(MEAN).double(), torch.tensor(STD).double()).sum().backward()
    assert torch.equal(images.detach(), before)
    assert (images.grad[:, :, :2, :3] > 0).all() and (images.grad[:, :, 2:] == 0).all() and (images.grad[:, :, :, 3:] == 0).all()


def test_uint8_is_read_as_x_over_255():
    images = torch.randint(0, 256, (1, 3, 4, 4), dtype=torch.uint8)
    mean, std, sizes = torch.tensor(MEAN), torch.tensor(STD), torch.tensor([[4, 4]])
    assert torch.equal(normalize(images, sizes, mean, std), normalize(images / 255, sizes, mean, std))
