"""The translations: what onnxruntime computes of them is what torch computes, ties, NaN and large numbers included."""

import numpy as np
import pytest
import torch
from torch import nn

from fixshape.export._onnx_run import open_session, run
from fixshape.export._onnx_translations import translations

NAN, INF = float("nan"), float("inf")
LARGE = torch.tensor([0, 1, -1, 6, 7, -7, -8, 7 * (2**24 + 1), -7 * (2**24) - 1, 2**55 - 1, -(2**55) + 1])


class Calls(nn.Module):
    """A function of tensors as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def exported(function, *inputs, table=None, dynamic=None):
    """The model, written with opset 18."""
    shapes = None if dynamic is None else (tuple(dynamic for _ in inputs),)
    program = torch.onnx.export(
        Calls(function).eval(),
        inputs,
        dynamo=True,
        opset_version=18,
        custom_translation_table=translations() if table is None else table,
        dynamic_shapes=shapes,
        verbose=False,
    )
    return program.model_proto


def computed(model, *inputs):
    session = open_session(model)
    feeds = dict(zip([port.name for port in session.get_inputs()], (value.numpy() for value in inputs), strict=True))
    return list(run(session, feeds).values())


def assert_same(function, *inputs, table=None):
    expected = function(*inputs)
    for got, want in zip(computed(exported(function, *inputs, table=table), *inputs), expected, strict=True):
        assert got.dtype == want.numpy().dtype
        np.testing.assert_array_equal(got, want.numpy())


def sorted_both_ways(x, dim=-1):
    return *torch.sort(x, dim=dim, stable=True), *torch.sort(x, dim=dim, stable=True, descending=True)


def test_a_stable_sort_is_torchs():
    """One graph for all of them, as each export takes a second."""
    generator = torch.Generator().manual_seed(0)
    ties = torch.randint(0, 4, (7, 60, 5), generator=generator).float()
    kinds = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.float64]
    of_every_kind = [torch.randint(-100, 100, (3, 40), generator=generator).to(kind) for kind in kinds]
    beyond_floats = torch.tensor([2**60 + 1, 2**60, 2**60 + 2, -(2**60) - 1, -(2**60)])
    not_finite = torch.tensor([[1.0, NAN, INF, -INF, NAN, 0.0, INF, -0.0], [NAN, INF, NAN, INF, 3.0, 3.0, -INF, NAN]])

    def function(ties, *rest):
        along = (value for dim in (0, 1, -1) for value in sorted_both_ways(ties, dim))
        return *along, *(value for x in rest for value in sorted_both_ways(x))

    assert_same(function, ties, *of_every_kind, beyond_floats, not_finite, torch.tensor(3.0))


def test_a_sorted_axis_may_be_dynamic_and_a_fixed_one_has_a_constant_count():
    """A compiler for fixed shapes cannot know a TopK whose count is computed."""

    def function(x):
        return *sorted_both_ways(x, 1), *sorted_both_ways(x, 2)

    model = exported(function, torch.rand(2, 6, 4), dynamic={0: "N", 1: "L"})
    x = torch.rand(5, 9, 4)
    for got, want in zip(computed(model, x), function(x), strict=True):
        np.testing.assert_array_equal(got, want.numpy())
    constants = {tensor.name for tensor in model.graph.initializer}
    fixed = [node.input[1] in constants for node in model.graph.node if node.op_type == "TopK"]
    assert sum(fixed) == len(fixed) / 2 == 4


def test_whole_numbers_are_divided_exactly():
    def function(x, y, narrow, wide, fraction, whole):
        of_wide = (wide.div(7, rounding_mode="floor"), wide.div(91, rounding_mode="trunc"))
        of_narrow = (narrow.div(7, rounding_mode="floor"), narrow.div(91, rounding_mode="trunc"))
        ways = (fraction.div(2.0, rounding_mode="floor"), fraction.div(2.0, rounding_mode="trunc"))
        return (
            *(
                x // 7,
                x.div(-7, rounding_mode="floor"),
                x.div(y, rounding_mode="floor"),
                x.div(91, rounding_mode="floor"),
                x.div(91, rounding_mode="trunc"),
            ),
            *(x.div(y, rounding_mode="trunc"), *of_narrow, *of_wide, *ways, whole.div(2.5, rounding_mode="floor")),
        )

    fraction, whole = torch.tensor([-7.5, -1.0, 0.0, 2.0, 9.75]), torch.tensor([-7, 0, 5, 11])
    narrow = torch.tensor([-128, -127, 0, 1, 7, 126, 127], dtype=torch.int8)
    wide = torch.tensor([-(2**31), 2**24 + 1, 2**31 - 1], dtype=torch.int32)
    assert_same(function, LARGE, torch.tensor([3, -3] * 5 + [1]), narrow, wide, fraction, whole)


def test_the_exporters_own_division_is_wrong_and_the_comparison_sees_it():
    with pytest.raises(AssertionError):
        assert_same(lambda x: (x.div(7, rounding_mode="floor"),), LARGE, table={})


def test_a_shift_rounds_down():
    def function(x, narrow, unsigned, ends):
        return *(x >> k for k in (0, 1, 7, 49)), narrow >> 30, narrow >> 31, unsigned >> 3, ends >> 62, ends >> 63

    narrow = torch.tensor([-(2**31), -1, 0, 1, 2**31 - 1], dtype=torch.int32)
    unsigned = torch.tensor([0, 7, 8, 255], dtype=torch.uint8)
    assert_same(function, LARGE, narrow, unsigned, torch.tensor([-(2**63), -1, 0, 1, 2**63 - 1]))


def test_without_the_table_torch_knows_no_stable_sort():
    with pytest.raises(torch.onnx.errors.OnnxExporterError, match="ONNX"):
        exported(sorted_both_ways, torch.rand(4), table={})


def test_an_adaptive_mean_is_torchs_at_every_size():
    """Also at sizes that are a multiple of the cells where the example's is none, and the other way round."""

    class Pooled(nn.Module):
        def forward(self, x):
            cells = [nn.functional.adaptive_avg_pool2d(x, size) for size in (6, (2, 3), 1, (None, 4))]
            return *cells, nn.functional.adaptive_avg_pool3d(x, (2, 3, 2))

    model = Pooled().eval()
    axes = {0: "N", 2: "H", 3: "W"}
    program = torch.onnx.export(
        model, (torch.randn(2, 3, 7, 5),), dynamo=True, opset_version=18, dynamic_shapes=(axes,), verbose=False,
        custom_translation_table=translations(),
    )  # fmt: skip
    session = open_session(program.model_proto)
    for shape in ((1, 3, 6, 12), (3, 3, 2, 3), (2, 3, 13, 4), (2, 3, 12, 7)):
        x = torch.randn(shape)
        for got, want in zip(run(session, {"x": x.numpy()}).values(), model(x), strict=True):
            np.testing.assert_allclose(got, want.numpy(), rtol=1e-5, atol=1e-6)


def test_an_adaptive_mean_of_fixed_sizes_is_a_pooling_where_it_can_be():
    model = exported(lambda x: nn.functional.adaptive_avg_pool2d(x, (2, 3)), torch.randn(1, 2, 4, 9))
    assert [node.op_type for node in model.graph.node] == ["AveragePool"]
