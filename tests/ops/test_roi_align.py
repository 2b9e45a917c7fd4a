"""RoIAlign over levels against ``torchvision.ops.MultiScaleRoIAlign``, forward and backward: each form of it, on the CPU."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.gradcheck import gradcheck
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

from fixshape.audit import OpRecorder
from fixshape.errors import DtypeError, ShapeError
from fixshape.ops import _roi_align, _roi_bags, _roi_matrices, multiscale_roi_align
from fixshape.ops._roi_bags import pool_bags
from fixshape.ops._roi_gather import pool_gather
from fixshape.ops._roi_matrices import pool_matrices
from fixshape.ops._roi_torchvision import pool_torchvision

CANVAS = (256, 192)
SCALES = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
FORMS = [pool_bags, pool_gather, pool_matrices, pool_torchvision]


@pytest.fixture(params=FORMS, ids=lambda form: form.__name__)
def form(request, monkeypatch):
    """Each form, as if this device were its own."""
    monkeypatch.setattr(_roi_align, "_form_for", lambda device, samples: request.param)
    return request.param


@pytest.fixture(params=[pool_matrices, pool_torchvision], ids=lambda form: form.__name__)
def adaptive_form(request, monkeypatch):
    """Each form that can do with a number of samples that follows from the box."""
    monkeypatch.setattr(_roi_align, "_form_for", lambda device, samples: request.param)
    return request.param


def pyramid(seed, *, scales=SCALES, batch=2, channels=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, channels, *(int(side * scale) for side in CANVAS), generator=generator, dtype=dtype)
        for scale in scales
    ]


def draw(seed, *shape, dtype=torch.float64):
    """Boxes of all levels, a good part of them partly or wholly outside; every third down to a hundredth of a pixel."""
    generator = torch.Generator().manual_seed(seed)
    exponent = torch.empty(*shape, 2, dtype=dtype).uniform_(4.5, 9.5, generator=generator)
    exponent[..., ::3, :] = 3 * exponent[..., ::3, :] - 18
    side = 2**exponent
    centre = torch.empty(*shape, 2, dtype=dtype).uniform_(-40, 260, generator=generator)
    return torch.cat([centre - side / 2, centre + side / 2], dim=-1)


def reference(features, boxes, output_size, *, scales, sampling_ratio=2, canonical_scale=224, canonical_level=4, valid_mask=None):
    """torchvision's answer for the real boxes, zeros for the others; its scales are given, not inferred."""
    pooler = MultiScaleRoIAlign([str(k) for k in range(len(features))], output_size, sampling_ratio)
    pooler.scales = list(scales)
    finest, coarsest = (int(-torch.tensor(scale).log2().item()) for scale in (scales[0], scales[-1]))
    pooler.map_levels = initLevelMapper(finest, coarsest, canonical_scale, canonical_level)
    valid = torch.ones(boxes.shape[:2], dtype=torch.bool, device=boxes.device) if valid_mask is None else valid_mask
    named = {str(k): feature for k, feature in enumerate(features)}
    rows = pooler(named, [b[v] for b, v in zip(boxes, valid, strict=True)], [CANVAS] * len(boxes))
    return rows.new_zeros(*valid.shape, *rows.shape[1:]).index_put((valid,), rows)


def value_and_gradients(pool, features, boxes, output_size, **options):
    leaves = [feature.clone().requires_grad_() for feature in features]
    pooled = pool(leaves, boxes, output_size, **options)
    # A different factor for each entry, or a gradient in the wrong place would go unseen.
    factor = torch.linspace(-1, 1, pooled.numel(), dtype=pooled.dtype).to(pooled.device)  # XLA computes it in float32
    (pooled * factor.reshape(pooled.shape)).sum().backward()
    return pooled.detach(), [leaf.grad for leaf in leaves]


def check(features, boxes, output_size, *, pool=multiscale_roi_align, **options):
    """Asserts that values and gradients are torchvision's to 1e-9."""
    want, want_gradients = value_and_gradients(reference, features, boxes, output_size, **options)
    got, got_gradients = value_and_gradients(pool, features, boxes, output_size, **options)
    assert want.abs().max() > 0.1
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(got_gradients, want_gradients, rtol=1e-9, atol=1e-11)


# -- the numbers of torchvision -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "samples", "want"),
    [
        ("cpu", 2, pool_bags),
        ("cpu", -1, pool_torchvision),
        ("cuda", 2, pool_torchvision),
        ("cuda", -1, pool_torchvision),
        ("xla", 2, pool_gather),
        ("xla", -1, pool_matrices),
        ("npu", 2, pool_matrices),
        ("npu", -1, pool_matrices),
    ],
)
def test_each_device_has_its_form(device, samples, want):
    assert _roi_align._form_for(device, samples) is want


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**31), st.sampled_from([1, 2, 3]), st.sampled_from([(7, 7), (1, 1), (3, 5)]), st.floats(0.2, 1))
def test_tiny_huge_and_outlying_boxes(form, seed, sampling_ratio, output_size, share):
    valid = torch.rand(2, 40, generator=torch.Generator().manual_seed(seed)) < share
    valid[0, 0] = True
    boxes = draw(seed, 2, 40)
    boxes[0, 0] = torch.tensor([10.0, 20.0, 90.0, 100.0])  # one box at least is inside
    check(pyramid(seed), boxes, output_size, scales=SCALES, sampling_ratio=sampling_ratio, valid_mask=valid)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**31), st.sampled_from([(7, 7), (1, 1), (3, 5)]), st.floats(0.2, 1))
def test_as_many_samples_as_a_bin_is_large(adaptive_form, seed, output_size, share):
    test_tiny_huge_and_outlying_boxes.hypothesis.inner_test(adaptive_form, seed, -1, output_size, share)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
@pytest.mark.parametrize("sampling_ratio", [2, -1])
def test_the_op_of_torchvision_gives_its_numbers_to_the_bit(device, sampling_ratio, monkeypatch):
    """Values; a gradient on CUDA is a sum in no order."""
    monkeypatch.setattr(_roi_align, "_form_for", lambda device, samples: pool_torchvision)
    features = [feature.to(device) for feature in pyramid(20, dtype=torch.float32)]
    boxes = draw(20, 2, 40, dtype=torch.float32).to(device)
    options = {"scales": SCALES, "sampling_ratio": sampling_ratio}
    got, got_gradients = value_and_gradients(multiscale_roi_align, features, boxes, 7, **options)
    want, want_gradients = value_and_gradients(reference, features, boxes, 7, **options)
    assert torch.equal(got, want)
    torch.testing.assert_close(got_gradients, want_gradients)


@pytest.mark.parametrize("factor", [1, 1 + 1e-9, 1 - 1e-9, 1 - 6e-7, 1 - 8e-7, 1 + 1e-5, 1 - 1e-5])
def test_boxes_on_the_border_of_two_levels(form, factor):
    """From 1 - 6.9e-7 on, that is 1e-6 of an octave, a box counts as of the coarser level."""
    sides = factor * torch.tensor([28.0, 56.0, 112.0, 224.0, 448.0, 896.0], dtype=torch.float64)
    zero = torch.zeros_like(sides)
    boxes = torch.stack([zero, zero, sides, sides], dim=-1).expand(2, -1, -1)
    check(pyramid(1), boxes, 4, scales=SCALES)


def test_samples_on_the_border_of_the_map(form):
    """One feature pixel outside still counts, anything more is zero; both borders exactly, and just beyond."""
    edges = [-8.0, -6.0, -5.0, -4.0, -3.999, 0.0, 4 * 47.0, 4 * 48.0, 4 * 48.001]
    left = torch.tensor(edges, dtype=torch.float64)
    boxes = torch.stack([left, left, left + 8, left + 8], dim=-1).expand(2, -1, -1)
    for output_size, sampling_ratio in ((1, 1), (2, 1), (2, 2), (4, 1)):
        check(pyramid(2), boxes, output_size, scales=SCALES, sampling_ratio=sampling_ratio)


def test_boxes_of_no_area_are_of_one_feature_pixel(form):
    boxes = torch.tensor([[[50.0, 60.0, 50.0, 60.0], [50.0, 60.0, 150.0, 60.0]]], dtype=torch.float64)
    check(pyramid(3, batch=1), boxes, 3, scales=SCALES)


@pytest.mark.parametrize(
    "scales",
    [
        [1 / 16],
        [1 / 8, 1 / 16],
        [1 / 32, 1 / 32, 1 / 64],  # torchvision's own mobilenet pyramid: the last feature is never reached
    ],
)
def test_other_pyramids(form, scales):
    check(pyramid(4, scales=scales), draw(4, 2, 60), 3, scales=scales)


def test_another_canonical_box(form):
    check(pyramid(5), draw(5, 2, 40), 3, scales=SCALES, canonical_scale=60, canonical_level=3)


def test_maps_that_are_one_pixel_high(form):
    features = [torch.randn(1, 2, 1, 9, dtype=torch.float64), torch.randn(1, 2, 1, 1, dtype=torch.float64)]
    check(features, draw(6, 1, 50) / 4, 3, scales=[1 / 8, 1 / 16])


@pytest.mark.parametrize(("form", "module"), [(pool_bags, _roi_bags), (pool_matrices, _roi_matrices)])
def test_chunks_change_nothing(form, module, monkeypatch):
    monkeypatch.setattr(_roi_align, "_form_for", lambda device, samples: form)
    features, boxes = pyramid(7, channels=5), draw(7, 2, 23)
    whole = multiscale_roi_align(features, boxes, 7, scales=SCALES)
    for budget in (3 * 8 * (64 * 48 + 32 * 24 + 16 * 12 + 8 * 6), 1):  # three channels, and not even one
        monkeypatch.setattr(module, "_CHUNK_BYTES", budget)
        torch.testing.assert_close(multiscale_roi_align(features, boxes, 7, scales=SCALES), whole, rtol=0, atol=1e-14)
        check(features, boxes, 7, scales=SCALES)


def clipped(features, boxes, output_size, **options):
    """Broken: boxes are cut to the canvas, so that no sample is ever outside."""
    limit = torch.tensor([CANVAS[1], CANVAS[0]] * 2, dtype=boxes.dtype)
    return multiscale_roi_align(features, boxes.clamp(min=0).minimum(limit), output_size, **options)


def rounded(features, boxes, output_size, **options):
    """Broken: the nearest level instead of the one below."""
    return multiscale_roi_align(features, boxes, output_size, **options, canonical_scale=round(224 / 2**0.5))


def detached(features, boxes, output_size, **options):
    """Broken: the finest level has no gradient."""
    return multiscale_roi_align([features[0].detach() + 0 * features[0], *features[1:]], boxes, output_size, **options)


@pytest.mark.parametrize("broken", [clipped, rounded, detached])
def test_the_comparison_fails_for_a_broken_form(broken):
    """The oracle at work."""
    check(pyramid(8), draw(8, 2, 40), 3, scales=SCALES)
    with pytest.raises(AssertionError):
        check(pyramid(8), draw(8, 2, 40), 3, scales=SCALES, pool=broken)


def test_gradcheck(form):
    features = [feature[..., :6, :5].clone().requires_grad_() for feature in pyramid(9, scales=SCALES[:2], batch=1, channels=1)]
    boxes = torch.tensor([[[2.0, 3.0, 12.0, 19.0], [-6.0, 1.0, 30.0, 70.0], [0.0, 0.0, 9.0, 9.0]]], dtype=torch.float64)
    valid = torch.tensor([[True, True, False]])

    def pool(*features):
        return multiscale_roi_align(
            features, boxes, 2, scales=SCALES[:2], canonical_scale=32, canonical_level=3, valid_mask=valid
        )

    assert gradcheck(pool, features)


# -- padding ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 50.0])
def test_padding_gives_zeros_and_no_gradient_whatever_it_holds(form, garbage):
    features, boxes = pyramid(10), draw(10, 2, 30)
    valid = torch.rand(2, 30, generator=torch.Generator().manual_seed(10)) < 0.6
    want, want_gradients = value_and_gradients(multiscale_roi_align, features, boxes, 3, scales=SCALES, valid_mask=valid)
    poisoned = boxes.masked_fill(~valid[..., None], garbage)
    with torch.autograd.set_detect_anomaly(True):  # fails where a NaN is on the way, even if it is hidden later
        got, gradients = value_and_gradients(multiscale_roi_align, features, poisoned, 3, scales=SCALES, valid_mask=valid)
    assert torch.equal(got, want) and (got[~valid] == 0).all()
    torch.testing.assert_close(gradients, want_gradients, rtol=0, atol=0)


def test_nothing_valid_gives_zeros_and_no_gradient(form):
    valid = torch.zeros(2, 30, dtype=torch.bool)
    pooled, gradients = value_and_gradients(
        multiscale_roi_align, pyramid(19), draw(19, 2, 30), 3, scales=SCALES, valid_mask=valid
    )
    assert (pooled == 0).all() and all((gradient == 0).all() for gradient in gradients)


def test_a_gradient_of_nan_stops_at_padding(form):
    features = [feature.requires_grad_() for feature in pyramid(11)]
    valid = torch.tensor([[True, False]] * 2)
    pooled = multiscale_roi_align(features, draw(11, 2, 2).abs(), 3, scales=SCALES, valid_mask=valid)
    pooled.backward(torch.full_like(pooled, torch.nan).masked_fill(valid[..., None, None, None], 1.0))
    assert all(feature.grad.isfinite().all() for feature in features)


def test_a_feature_that_is_not_finite_stays_out_of_padding(form):
    features = pyramid(12)
    features[0][:, :, 0, 0] = torch.inf  # the pixel that padding points at
    pooled = multiscale_roi_align(
        features, torch.zeros(2, 3, 4), 3, scales=SCALES, valid_mask=torch.zeros(2, 3, dtype=torch.bool)
    )
    assert (pooled == 0).all()


def test_boxes_that_are_not_finite_give_zeros(form):
    boxes = torch.tensor([[[torch.nan, 0, 9, 9], [0, 0, torch.inf, 9], [-torch.inf, 0, torch.inf, 9]]], dtype=torch.float64)
    assert (multiscale_roi_align(pyramid(13, batch=1), boxes, 3, scales=SCALES) == 0).all()


# -- shapes, dtypes, one program ----------------------------------------------------------------------------------------------


def test_shape_dtype_and_batch_of_one(form):
    features = pyramid(14, batch=1, channels=5, dtype=torch.float32)
    pooled = multiscale_roi_align(features, draw(14, 1, 6, dtype=torch.float32), (2, 3), scales=SCALES)
    assert pooled.shape == (1, 6, 5, 2, 3) and pooled.dtype == torch.float32


def test_float32_agrees_with_torchvision(form):
    features, boxes = pyramid(15, dtype=torch.float32), draw(15, 2, 50, dtype=torch.float32)
    want = reference(features, boxes, 7, scales=SCALES)
    torch.testing.assert_close(multiscale_roi_align(features, boxes, 7, scales=SCALES), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_are_computed_in_float32(form, dtype):
    features, boxes = pyramid(16, dtype=dtype), draw(16, 2, 20, dtype=torch.float32)
    got = multiscale_roi_align(features, boxes, 3, scales=SCALES)
    want = multiscale_roi_align([feature.float() for feature in features], boxes, 3, scales=SCALES)
    assert got.dtype == dtype and torch.equal(got, want.to(dtype))


def test_autocast_changes_nothing(form):
    features, boxes = pyramid(21, dtype=torch.float32), draw(21, 2, 20, dtype=torch.float32)
    want = multiscale_roi_align(features, boxes, 3, scales=SCALES)
    with torch.autocast("cpu"):
        assert torch.equal(multiscale_roi_align(features, boxes, 3, scales=SCALES), want)


def test_channels_last_features_give_the_same(form):
    features, boxes = pyramid(17), draw(17, 2, 20)
    strided = [feature.contiguous(memory_format=torch.channels_last) for feature in features]
    want = multiscale_roi_align(features, boxes, 3, scales=SCALES)
    assert torch.equal(multiscale_roi_align(strided, boxes, 3, scales=SCALES), want)


def test_no_gradient_goes_to_boxes(form):
    boxes = draw(18, 2, 4).requires_grad_()
    assert not multiscale_roi_align(pyramid(18), boxes, 3, scales=SCALES).requires_grad


def program(boxes, valid, *features):
    return multiscale_roi_align(features, boxes, 3, scales=SCALES, valid_mask=valid)


def arguments(seed):
    valid = torch.rand(2, 9, generator=torch.Generator().manual_seed(seed)) < 0.7
    return draw(seed, 2, 9), valid, *(feature.requires_grad_() for feature in pyramid(seed))


def test_runs_on_tensors_without_values(form):
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = program(*(mode.from_tensor(argument) for argument in arguments(0)))
    assert fake.shape == (2, 9, 3, 3, 3)


def test_runs_on_the_meta_device():
    features = [feature.to("meta") for feature in pyramid(22)]
    assert multiscale_roi_align(features, draw(22, 2, 9).to("meta"), 3, scales=SCALES).shape == (2, 9, 3, 3, 3)


def test_is_one_graph_that_other_content_does_not_recompile(form):
    torch._dynamo.reset()
    compiled = torch.compile(program, fullgraph=True, dynamic=False, backend="aot_eager")
    check_compiled(compiled, 0)
    with torch.compiler.set_stance("fail_on_recompile"):
        for seed in range(1, 4):
            check_compiled(compiled, seed)
    torch._dynamo.reset()


def check_compiled(compiled, seed):
    results = []
    for function in (compiled, program):
        given = arguments(seed)
        pooled = function(*given)
        pooled.square().sum().backward()
        results.append([pooled.detach(), *(feature.grad for feature in given[2:])])
    torch.testing.assert_close(*results)


def test_our_own_recorder_finds_nothing_dynamic_and_the_same_keys_for_other_content(form):
    recorder = OpRecorder()
    for seed in range(3):
        with recorder:
            program(*arguments(seed)).sum().backward()
        recorder.step()
    report = recorder.report()
    total = report.total()
    assert total.launches > 0 and (total.dynamic, total.syncs) == (0, 0)
    assert [step.compiles for step in report.steps[1:3]] == [0, 0]


def test_our_own_recorder_finds_the_dynamic_form():
    """The oracle at work."""
    boxes, valid, *features = arguments(0)
    with OpRecorder() as recorder:
        reference(features, boxes, 3, scales=SCALES, valid_mask=valid)
    assert recorder.report().total().dynamic > 0


def test_runs_in_one_graph_without_values_with_adaptive_samples(adaptive_form):
    def adaptive(boxes, valid, *features):
        return multiscale_roi_align(features, boxes, 3, scales=SCALES, sampling_ratio=-1, valid_mask=valid)

    torch._dynamo.reset()
    compiled = torch.compile(adaptive, fullgraph=True, dynamic=False, backend="aot_eager")
    torch.testing.assert_close(compiled(*arguments(0)), adaptive(*arguments(0)))
    with torch.compiler.set_stance("fail_on_recompile"):
        torch.testing.assert_close(compiled(*arguments(1)), adaptive(*arguments(1)))
    torch._dynamo.reset()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert adaptive(*(mode.from_tensor(argument) for argument in arguments(0))).shape == (2, 9, 3, 3, 3)


@pytest.mark.xla
@pytest.mark.parametrize("form", [pool_gather, pool_matrices])
def test_xla_has_the_numbers_of_torchvision_from_one_graph_whatever_the_content(form, monkeypatch):
    import torch_xla
    import torch_xla.debug.metrics as metrics

    monkeypatch.setattr(_roi_align, "_form_for", lambda device, samples: form)
    device = torch_xla.device()  # before the first backward pass: autograd counts its devices then
    compiles = []
    for seed in range(3):
        boxes, valid, *features = (argument.detach() for argument in arguments(seed))
        want, want_gradients = value_and_gradients(reference, features, boxes, 3, scales=SCALES, valid_mask=valid)
        boxes, valid, *features = (argument.to(device) for argument in (boxes, valid, *features))
        torch_xla.sync()
        metrics.clear_all()
        options = {"scales": SCALES, "valid_mask": valid}
        got, got_gradients = value_and_gradients(multiscale_roi_align, features, boxes, 3, **options)
        torch_xla.sync()
        compiles.append((metrics.metric_data("CompileTime") or [0])[0])
        assert not [name for name in metrics.counter_names() if name.startswith("aten::")]
        got, *got_gradients = (answer.cpu() for answer in (got, *got_gradients))
        torch.testing.assert_close((got, got_gradients), (want, want_gradients), rtol=1e-9, atol=1e-11)
    assert compiles == [1, 0, 0]


# -- errors -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"boxes": torch.zeros(3, 2, 4)}, r"boxes has shape \(3, 2, 4\), expected \(2, R, 4\)\. One row of boxes per image"),
        ({"boxes": torch.zeros(2, 4)}, r"boxes has shape \(2, 4\), expected \(2, R, 4\)\. "),
        ({"boxes": torch.zeros(2, 0, 4)}, r"R is 0, expected a whole number of at least 1\.$"),
        ({"canonical_scale": 0}, r"canonical_scale is 0, expected a whole number of at least 1\.$"),
        ({"output_size": 0}, r"output height is 0, expected a whole number of at least 1\.$"),
        ({"output_size": (7, -1)}, r"output width is -1, expected a whole number of at least 1\.$"),
        ({"output_size": (7,)}, r"output_size is \(7,\), expected \(height, width\) or one number for both\.$"),
        ({"sampling_ratio": 0}, r"sampling_ratio is 0, expected a whole number of at least 1\.$"),
        ({"sampling_ratio": -2}, r"sampling_ratio is -2, expected a whole number of at least 1\.$"),
        ({"valid_mask": torch.ones(2, 3, dtype=torch.bool)}, r"valid_mask has shape \(2, 3\), expected \(2, 2\)\. One entry per"),
        ({"features": []}, r"number of features is 0, expected a whole number of at least 1\.$"),
        ({"features": [torch.zeros(2, 3, 4)]}, r"features\[0\] has shape \(2, 3, 4\), expected \(B, C, H, W\)\. Features differ"),
        (
            {"features": [torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 2, 2)]},
            r"features\[1\] has shape \(2, 5, 2, 2\), expected \(2, 3, H, W\)\. Features differ in height and width only\.$",
        ),
        (
            {"features": [torch.zeros(2, 3, 0, 4)]},
            r"smallest size of features\[0\] is 0, expected a whole number of at least 1\.$",
        ),
        ({"scales": [0.25]}, r"scales is \[0\.25\], expected 2 positive numbers, one per feature\.$"),
        ({"scales": [0.25, 0.0]}, r"scales is \[0\.25, 0\.0\], expected 2 positive numbers, one per feature\.$"),
        (
            {"scales": [0.25, 0.0625]},
            r"scales is \[0\.25, 0\.0625\]: levels 2 to 4, expected 1 to 2 of them, from fine to coarse\. Give a feature for",
        ),
        ({"scales": [0.125, 0.25]}, r"scales is \[0\.125, 0\.25\]: levels 3 to 2, expected 1 to 2 of them"),
    ],
)
def test_wrong_shapes_and_sizes_are_named(changed, message):
    with pytest.raises(ShapeError, match=f"^multiscale_roi_align: {message}"):
        call(**changed)


def test_wrong_dtypes_are_named():
    with pytest.raises(DtypeError, match=r"^multiscale_roi_align: valid_mask has dtype torch\.int64, expected torch\.bool\."):
        call(valid_mask=torch.ones(2, 2, dtype=torch.int64))
    message = (
        r"^multiscale_roi_align: features\[1\] has dtype torch\.uint8, expected a floating point one\. Use features\[1\]\.fl"
    )
    with pytest.raises(DtypeError, match=message):
        call(features=[torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 2, 2, dtype=torch.uint8)])


def call(**changed):
    given = {
        "features": [torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 2, 2)],
        "boxes": torch.zeros(2, 2, 4),
        "output_size": 7,
        "scales": [0.25, 0.125],
    }
    return multiscale_roi_align(**{**given, **changed})
