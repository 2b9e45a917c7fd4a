from __future__ import annotations

import pytest
import torch

from fixshape.errors import DtypeError
from fixshape.ops import masked_mean, masked_sum

VALID = torch.tensor([[True, True, False], [False, False, False]])


@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("dim", [None, 0, -1, (0, 1), [1, 2], (0, 1, 2)])
def test_sum_and_mean_over_dimensions(dim, keepdim):
    x = torch.arange(24.0, dtype=torch.float64).reshape(2, 3, 4)
    kept = VALID[..., None].expand_as(x)
    dims = (0, 1, 2) if dim is None else dim
    total = torch.nansum(torch.where(kept, x, torch.nan), dims, keepdim)
    torch.testing.assert_close(masked_sum(x, dim, keepdim, valid_mask=VALID), total)
    mean = torch.nanmean(torch.where(kept, x, torch.nan), dims, keepdim).nan_to_num(0.0)
    torch.testing.assert_close(masked_mean(x, dim, keepdim, valid_mask=VALID), mean)


def test_sum_of_integers_and_bools_is_int64_as_in_torch():
    for x in (torch.ones(2, 3, dtype=torch.int32), torch.ones(2, 3, dtype=torch.bool)):
        total = masked_sum(x, valid_mask=VALID)
        assert (total.item(), total.dtype) == (2, x.sum().dtype)


def test_mean_of_float16_survives_a_sum_beyond_its_range():
    x = torch.full((70000,), 4.0, dtype=torch.float16)
    assert x.sum().isinf()
    mean = masked_mean(x, valid_mask=torch.ones(70000, dtype=torch.bool))
    assert (mean.item(), mean.dtype) == (4.0, torch.float16)


def test_mean_of_integers_is_refused():
    with pytest.raises(
        DtypeError, match=r"^masked_mean: input has dtype torch\.int64, expected floating point\. Use input\.float\(\)\.$"
    ):
        masked_mean(torch.ones(2, 3, dtype=torch.int64), valid_mask=VALID)


def test_mask_of_every_element_and_of_none():
    x = torch.tensor([1.0, 2.0])
    assert masked_mean(x, valid_mask=torch.tensor([False, True])) == 2
    assert masked_sum(x, valid_mask=torch.tensor(True)) == 3
