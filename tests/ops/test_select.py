from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fixshape.errors import ShapeError
from fixshape.ops import fixed_nonzero


@given(st.lists(st.integers(0, 4), min_size=1, max_size=3), st.integers(1, 80), st.integers(0, 2**31), st.floats(0, 1))
def test_rows_of_torch_nonzero_in_order(shape, size, seed, density):
    x = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density
    want = x.nonzero()
    got = fixed_nonzero(x, size=size, fill_value=-1)
    kept = min(size, len(want))
    assert got.indices.shape == (size, len(shape)) and got.indices.dtype == torch.int64
    assert got.count == len(want)
    assert got.valid_mask.tolist() == [True] * kept + [False] * (size - kept)
    assert torch.equal(got.indices[:kept], want[:kept])
    assert (got.indices[kept:] == -1).all()


def test_numbers_count_as_nonzero_as_in_torch():
    x = torch.tensor([0.0, -0.0, float("nan"), -2.0])
    assert torch.equal(fixed_nonzero(x, size=2).indices, x.nonzero())


def test_a_size_that_is_too_small_shows():
    found = fixed_nonzero(torch.ones(5), size=2)
    assert found.valid_mask.all() and found.count == 5 > 2


def test_slots_without_an_element_can_be_used_as_an_index_by_default():
    found = fixed_nonzero(torch.zeros(3), size=2)
    assert torch.arange(3)[found.indices[:, 0]].tolist() == [0, 0]


def test_wrong_arguments_are_named():
    with pytest.raises(ShapeError, match=r"^fixed_nonzero: size is 0, expected a whole number of at least 1\.$"):
        fixed_nonzero(torch.ones(3), size=0)
    with pytest.raises(
        ShapeError, match=r"^fixed_nonzero: input has shape \(\), expected at least one dimension\. Use input\.reshape"
    ):
        fixed_nonzero(torch.tensor(1), size=1)
