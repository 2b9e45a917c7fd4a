"""The images of a batch: every dtype, gray and RGB, and what may not be mixed."""

from __future__ import annotations

import pytest
import torch
from torchvision import tv_tensors

from fixshape.collate import PadToBucket, _canvas, _memory
from fixshape.errors import DtypeError, ShapeError
from fixshape.plan import Bucket
from tests.collate.samples import assert_is_padded, make_sample

BUCKET = Bucket(24, 32, 4)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8])
def test_dtype_and_channels_are_kept(dtype, channels):
    samples = [make_sample(dtype=dtype, channels=channels), make_sample(24, 32, dtype=dtype, channels=channels)]
    assert_is_padded(PadToBucket(BUCKET), samples, 24, 32, 4)


def test_padding_is_written_and_not_hoped_for(monkeypatch):
    monkeypatch.setattr(_canvas, "empty", lambda shape, dtype: (torch.full(shape, float("nan"), dtype=dtype), False))
    images, _ = PadToBucket(BUCKET, batch_size=3)([make_sample(), make_sample(24, 5)])
    assert not images.isnan().any()
    assert (
        not images[0, :, 20:].any() and not images[0, :, :, 30:].any() and not images[1, :, :, 5:].any() and not images[2].any()
    )


def test_a_large_batch_lies_in_new_memory_and_is_padded_the_same(monkeypatch):
    monkeypatch.setattr(_memory, "LARGE", 0)
    assert_is_padded(PadToBucket(BUCKET), [make_sample(), make_sample(24, 5)], 24, 32, 4)
    images, _ = PadToBucket(BUCKET, batch_size=3)([make_sample()])
    assert not images[1:].any()


def test_strided_tv_tensors_that_require_grad_come_out_plain():
    image = make_sample(30, 20)[0]
    turned = tv_tensors.Image(image.requires_grad_().transpose(1, 2))
    images, _ = PadToBucket(BUCKET)([(turned, {})])
    assert type(images) is torch.Tensor and not images.requires_grad
    assert torch.equal(images[0, :, :20, :30], image.transpose(1, 2))


def test_different_dtypes_name_both_samples():
    message = (
        r"PadToBucket: the image of sample 0 \(image_id 4\) is float32, that of sample 1 uint8, expected one dtype in a batch\."
        r" Convert in the transform \(torchvision\.transforms\.v2\.ToDtype\)\."
    )
    with pytest.raises(DtypeError, match=message):
        PadToBucket(BUCKET)([make_sample(image_id=4), make_sample(dtype=torch.uint8)])


def test_different_channel_counts_name_both_samples():
    message = (
        r"the image of sample 0 has 3 channel\(s\), that of sample 2 1, expected one count in a batch\. Convert in the transform"
    )
    with pytest.raises(ShapeError, match=message):
        PadToBucket(BUCKET)([make_sample(), make_sample(), make_sample(channels=1)])
