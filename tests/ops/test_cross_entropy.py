from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fixshape.errors import DtypeError, ShapeError
from fixshape.ops import masked_cross_entropy


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("shape", [(7, 3), (7, 3, 4), (7, 3, 2, 2), (3,)], ids=str)
def test_equals_torch_without_padding_in_all_its_shapes(shape, reduction):
    logits = torch.randn(shape, dtype=torch.float64)
    target = torch.randint(0, 3, shape[:1] + shape[2:] if len(shape) > 1 else ())
    got = masked_cross_entropy(logits, target, reduction=reduction, valid_mask=torch.ones_like(target, dtype=torch.bool))
    torch.testing.assert_close(got, F.cross_entropy(logits, target, reduction=reduction))


@pytest.mark.parametrize("weight", [None, torch.ones(3)])
def test_all_targets_ignored_gives_zero_where_torch_gives_nan(weight):
    logits, target = torch.randn(2, 3, requires_grad=True), torch.full((2,), -100)
    assert F.cross_entropy(logits, target, weight).isnan()
    loss = masked_cross_entropy(logits, target, weight, valid_mask=torch.tensor([True, False]))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss == 0 and (gradient == 0).all()


def test_ignore_index_may_be_a_class():
    logits, target = torch.randn(4, 3), torch.tensor([0, 1, 0, 2])
    valid = torch.tensor([True, True, True, False])
    torch.testing.assert_close(
        masked_cross_entropy(logits, target, ignore_index=0, valid_mask=valid), F.cross_entropy(logits[1:2], target[1:2])
    )


def test_weights_of_zero_give_what_torch_gives():
    logits, target, weight = torch.randn(2, 3), torch.tensor([0, 1]), torch.tensor([0.0, 1.0, 1.0])
    got = masked_cross_entropy(logits, target, weight, valid_mask=torch.tensor([True, False]))
    assert got.isnan() and F.cross_entropy(logits[:1], target[:1], weight).isnan()


def test_a_real_target_out_of_range_still_raises():
    with pytest.raises(IndexError, match="Target 7 is out of bounds"):
        masked_cross_entropy(torch.zeros(2, 3), torch.tensor([7, 0]), valid_mask=torch.tensor([True, True]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_targets_that_are_no_class_indices_are_refused(dtype):
    with pytest.raises(
        DtypeError, match=rf"^masked_cross_entropy: target has dtype {dtype}, expected class indices of torch.int64\.$"
    ):
        masked_cross_entropy(torch.zeros(2, 3), torch.zeros(2, dtype=dtype), valid_mask=torch.ones(2, dtype=torch.bool))


def test_wrong_shapes_are_named():
    valid = torch.ones(2, dtype=torch.bool)
    with pytest.raises(ShapeError, match=r"^masked_cross_entropy: input has shape \(\), expected \(C,\) or \(N, C, \.\.\.\)\.$"):
        masked_cross_entropy(torch.zeros(()), torch.zeros((), dtype=torch.int64), valid_mask=valid)
    with pytest.raises(
        ShapeError, match=r"^masked_cross_entropy: weight has shape \(4,\), expected \(3,\)\. One weight per class\.$"
    ):
        masked_cross_entropy(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), torch.ones(4), valid_mask=valid)
    with pytest.raises(
        ShapeError, match=r"^masked_cross_entropy: target has shape \(2, 3\), expected \(2,\)\. It holds one class"
    ):
        masked_cross_entropy(torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.int64), valid_mask=valid)
