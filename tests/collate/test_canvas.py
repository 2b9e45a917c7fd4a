"""One padded tensor: any rank and dtype, in the main process and as a worker builds it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fixshape.collate import _canvas
from fixshape.collate._canvas import stack_padded

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8, torch.int64, torch.bool]


def plainly_stacked(values, rows, canvas, fill_value=0):
    """The oracle: every value padded by itself with F.pad, then stacked."""
    padded = []
    for value in values:
        pad = [amount for end, size in zip(reversed(canvas), reversed(value.shape), strict=True) for amount in (0, end - size)]
        padded.append(F.pad(value, pad, value=fill_value))
    padded += [torch.full(tuple(canvas), fill_value, dtype=values[0].dtype)] * (rows - len(values))
    return torch.stack(padded)


@st.composite
def stacks(draw):
    canvas = draw(st.lists(st.integers(1, 5), max_size=4))
    shapes = draw(st.lists(st.tuples(*(st.integers(0, end) for end in canvas)), min_size=1, max_size=3))
    dtype, fill_value = draw(st.sampled_from(DTYPES)), draw(st.sampled_from([0, 1]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    values = [torch.randint(0, 2, shape, generator=generator).to(dtype) for shape in shapes]
    return values, len(values) + draw(st.integers(0, 2)), canvas, fill_value


@pytest.fixture(params=["main process", "worker", "worker, by pieces", "worker without a file", "large", "dirty"])
def place(request, monkeypatch):
    """Where the batch is built; in memory that is not zero, too."""
    if request.param.startswith("worker"):
        monkeypatch.setattr(_canvas, "get_worker_info", object)
    if request.param == "worker, by pieces":
        monkeypatch.setattr(_canvas, "_PIECE", 3)
    if request.param == "worker without a file":
        monkeypatch.setattr(_canvas, "shared_zeros", lambda shape, dtype: (torch.zeros(*shape, dtype=dtype), None))
    if request.param == "large":
        monkeypatch.setattr(_canvas, "empty", lambda shape, dtype: (torch.zeros(*shape, dtype=dtype), True))
    if request.param == "dirty":
        monkeypatch.setattr(_canvas, "empty", lambda shape, dtype: (torch.full(tuple(shape), 1, dtype=dtype), False))
    return request.param


def test_a_stack_is_what_padding_each_value_by_itself_gives(place):
    @settings(deadline=None, max_examples=60)
    @given(stacks())
    def same(stack):
        got = stack_padded(*stack)
        assert got.dtype == stack[0][0].dtype and got.is_contiguous()
        assert torch.equal(got, plainly_stacked(*stack))
        if place.startswith("worker") and place != "worker without a file" and got.numel():
            assert got.is_shared()

    same()


def test_the_oracle_sees_a_wrong_fill_and_a_shifted_value(monkeypatch):
    values = [torch.ones(2, 3), torch.ones(3, 1)]
    assert torch.equal(stack_padded(values, 2, (3, 4)), plainly_stacked(values, 2, (3, 4)))
    assert not torch.equal(stack_padded(values, 2, (3, 4), 5), plainly_stacked(values, 2, (3, 4)))
    monkeypatch.setattr(_canvas, "_place", lambda row, value, fill_value: row[-len(value) :, : value.shape[1]].copy_(value))
    assert not torch.equal(stack_padded(values, 2, (3, 4)), plainly_stacked(values, 2, (3, 4)))


def test_strided_and_expanded_values_are_read_as_they_are(place):
    values = [torch.arange(6).view(2, 3).T, torch.ones((), dtype=torch.int64).expand(1, 2), torch.arange(12).view(3, 4)[:, ::2]]
    assert torch.equal(stack_padded(values, 3, (3, 2), -1), plainly_stacked(values, 3, (3, 2), -1))


def test_nan_is_written_where_it_is_asked_for(place):
    got = stack_padded([torch.zeros(2)], 2, (3,), float("nan"))
    assert got.isnan().tolist() == [[False, False, True], [True, True, True]]


def test_a_dimension_of_nothing_stays_nothing(place):
    assert stack_padded([torch.ones(2, 0), torch.ones(1, 0)], 3, (3, 0)).shape == (3, 3, 0)
