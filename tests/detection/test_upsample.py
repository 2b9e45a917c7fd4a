"""Upsampling by index against torch's own, on the CPU and with torchvision's modules on XLA."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.detection.backbone_utils import mobilenet_backbone, resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from fixshape.detection._upsample import _nearest, nearest_by_index

FORMATS = [torch.contiguous_format, torch.channels_last]


def by_index(*arguments, **options):
    with nearest_by_index():
        return F.interpolate(*arguments, **options)


def value_and_gradient(function, x, **options):
    x = x.clone().requires_grad_()
    result = function(x, **options)
    (result * torch.linspace(-1, 2, result.numel(), dtype=result.dtype).reshape(result.shape)).sum().backward()
    return result.detach(), x.grad


def lengths_that_differ(index, dtype=torch.float32, lengths=range(1, 401)):
    """The pairs of lengths for which ``index`` chooses other rows than torch does."""
    wrong = []
    for length in lengths:
        x = torch.arange(length, dtype=dtype).reshape(1, 1, length, 1).expand(1, 2, length, 3)
        for count in range(1, 401) if dtype == torch.float32 else (2 * length, 2 * length - 1):
            want = F.interpolate(x, size=(count, 3), mode="nearest")
            if not torch.equal(index(x, 2, count, length / count), want):
                wrong.append((length, count))
    return wrong


def test_nearest_chooses_torchs_rows_for_many_lengths():
    assert lengths_that_differ(_nearest, lengths=range(1, 401, 13)) == []


@pytest.mark.slow
def test_nearest_chooses_torchs_rows_for_all_lengths():
    assert lengths_that_differ(_nearest) == []


def test_nearest_chooses_torchs_rows_in_every_pyramid_in_float64():
    assert lengths_that_differ(_nearest, torch.float64) == []


def test_the_comparison_fails_for_whole_numbers():
    """The oracle at work; and why the index is not made of whole numbers, which would be exact."""
    assert lengths_that_differ(
        lambda x, dim, count, _: x.index_select(dim, torch.arange(count) * x.shape[dim] // count), lengths=range(1, 30)
    )


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize(
    "options",
    [
        {"size": (14, 10)},
        {"size": (13, 9), "mode": "nearest"},
        {"size": 6},
        {"size": torch.Size([3, 2])},
        {"scale_factor": 2.0},
        {"scale_factor": (1.7, 2.3)},
        {"scale_factor": 1.7, "recompute_scale_factor": True},
    ],
    ids=str,
)
def test_nearest_gives_torchs_bits(options, memory_format):
    x = torch.randn(2, 3, 7, 5).contiguous(memory_format=memory_format)
    value, gradient = value_and_gradient(by_index, x, **options)
    want, want_gradient = value_and_gradient(F.interpolate, x, **options)
    assert torch.equal(value, want)
    torch.testing.assert_close(gradient, want_gradient)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "options",
    [
        {"scale_factor": 2.0, "align_corners": False, "recompute_scale_factor": False},
        {"scale_factor": 1.7},
        {"scale_factor": 1.7, "recompute_scale_factor": True},
        {"size": (14, 9)},
        {"size": (3, 2)},
        {"size": (1, 1)},
    ],
    ids=str,
)
def test_bilinear_gives_torchs_numbers(options, dtype):
    x = torch.randn(2, 3, 7, 5, dtype=dtype)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 0.02}[dtype]
    got = value_and_gradient(by_index, x, mode="bilinear", **options)
    want = value_and_gradient(F.interpolate, x, mode="bilinear", **options)
    torch.testing.assert_close(got[0], want[0], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(got[1], want[1], rtol=tolerance, atol=tolerance * 10)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((2, 3, 7), {"size": 14, "mode": "nearest"}),
        ((2, 3, 7, 5), {"size": (14, 9), "mode": "bilinear", "align_corners": True}),
        ((2, 3, 7, 5), {"size": (4, 3), "mode": "bilinear", "antialias": True}),
        ((2, 3, 7, 5), {"size": (14, 9), "mode": "bicubic"}),
    ],
)
def test_other_calls_are_left_alone(shape, options):
    x = torch.randn(shape)
    assert torch.equal(by_index(x, **options), F.interpolate(x, **options))


def test_wrong_calls_get_torchs_own_error():
    x = torch.randn(1, 1, 2, 2)
    for options in ({}, {"size": (2, 2), "scale_factor": 2.0}):
        with pytest.raises(ValueError, match="size or scale_factor"):
            by_index(x, **options)


def test_it_reaches_a_pyramid_and_ends():
    torch.manual_seed(0)
    pyramid = FeaturePyramidNetwork([3, 4], 5)
    x = {"fine": torch.randn(1, 3, 7, 9), "coarse": torch.randn(1, 4, 4, 5)}
    with torch.profiler.profile() as inside, nearest_by_index():
        got = pyramid(x)
    with torch.profiler.profile() as outside:
        want = pyramid(x)
    names = [{event.key for event in profile.key_averages()} for profile in (inside, outside)]
    assert ["aten::upsample_nearest2d" in found for found in names] == [False, True]
    torch.testing.assert_close(got, want, rtol=0, atol=0)


# -- XLA ----------------------------------------------------------------------------------------------------------------------

IMAGE, ROWS = (1, 3, 128, 128), (2, 8, 7, 7)


class Pyramid(nn.Module):
    """A feature pyramid, the coarser level of which has an odd size."""

    def __init__(self, extra_blocks):
        super().__init__()
        self.pyramid = FeaturePyramidNetwork([8, 8], 6, extra_blocks)

    def forward(self, x):
        return self.pyramid({"fine": x, "coarse": F.max_pool2d(x, 3, 2, 1)})


def resnet50(**options):
    return resnet_fpn_backbone(backbone_name="resnet50", weights=None, **options)


MODULES = {
    "pyramid": (lambda: Pyramid(LastLevelMaxPool()), ROWS),
    "pyramid-p6p7": (lambda: Pyramid(LastLevelP6P7(6, 6)), ROWS),
    "box": (lambda: FastRCNNConvFCHead((8, 7, 7), [8, 8], [16], norm_layer=nn.BatchNorm2d), ROWS),
    "mask": (lambda: nn.Sequential(MaskRCNNHeads(8, (8, 8), 1), MaskRCNNPredictor(8, 8, 3)), ROWS),
    "mask-group": (lambda: MaskRCNNHeads(8, (8, 8), 1, norm_layer=lambda channels: nn.GroupNorm(2, channels)), ROWS),
    "keypoint": (lambda: nn.Sequential(KeypointRCNNHeads(8, (8, 8)), KeypointRCNNPredictor(8, 3)), ROWS),
}
BACKBONES = {
    "resnet50-pyramid": (resnet50, IMAGE),
    "resnet50-p6p7-pyramid": (lambda: resnet50(returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256)), IMAGE),
    "mobilenet-pyramid": (lambda: mobilenet_backbone(backbone_name="mobilenet_v3_large", weights=None, fpn=True), IMAGE),
}


def run(module, x, *, stays):
    """Output and gradient of the input, and what ran on the host."""
    from fixshape import get_backend

    backend = get_backend("xla")
    module, x = module.to(backend.device()), x.to(backend.device()).requires_grad_()
    backend.step()
    before = backend.fallbacks()
    if stays:
        with nearest_by_index():
            results = module(x)
    else:
        results = module(x)
    results = list(results.values()) if isinstance(results, dict) else [results]
    sum(result.square().mean() for result in results).backward()
    backend.step()
    after = backend.fallbacks()
    return [t.detach().cpu() for t in (*results, x.grad)], {name for name in after if after[name] != before.get(name, 0)}


@pytest.mark.xla
@pytest.mark.parametrize("name", [*MODULES, *(pytest.param(name, marks=pytest.mark.slow) for name in BACKBONES)])
def test_torchvisions_modules_stay_on_the_device(name):
    torch.manual_seed(0)
    make, shape = (MODULES | BACKBONES)[name]
    module, x = make(), torch.randn(shape)
    got, on_host = run(copy.deepcopy(module), x, stays=True)
    assert on_host == set()
    want, on_host = run(copy.deepcopy(module), x, stays=False)
    upsampling = "nearest" if "pyramid" in name else "bilinear" if name == "keypoint" else None
    # The day this fails, the mode is no longer needed.
    assert on_host == ({f"aten::upsample_{upsampling}2d_backward"} if upsampling else set())
    # Each against its largest: in front of a batch norm the gradient is a small difference of large numbers.
    for ours, other in zip(got, want, strict=True):
        scale = other.abs().max()
        torch.testing.assert_close(ours / scale, other / scale, rtol=0, atol=1e-6 if name in MODULES else 1e-4)
