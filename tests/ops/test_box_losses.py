from __future__ import annotations

import pytest
import torch
import torchvision.ops as tv

from fixshape import ops
from fixshape.errors import ShapeError

PAIRS = [
    (ops.masked_generalized_box_iou_loss, tv.generalized_box_iou_loss),
    (ops.masked_distance_box_iou_loss, tv.distance_box_iou_loss),
    (ops.masked_complete_box_iou_loss, tv.complete_box_iou_loss),
]
NAMES = [op.__name__ for op, _ in PAIRS]

#: apart, touching at an edge, at a corner, one inside the other, equal, overlapping, thin
FIRST = [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 9, 9], [2, 3, 5, 7], [0, 0, 4, 4], [0, 0, 100, 0.01]]
SECOND = [[5, 5, 6, 7], [1, 0, 2, 1], [1, 1, 2, 2], [2, 2, 4, 5], [2, 3, 5, 7], [1, 2, 7, 5], [50, 0, 51, 90]]


@pytest.mark.parametrize(("op", "dynamic"), PAIRS, ids=NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bit_for_bit_torchvision_with_its_gradients(op, dynamic, dtype):
    results = []
    for function, options in ((op, {"valid_mask": torch.ones(7, dtype=torch.bool)}), (dynamic, {})):
        first, second = (torch.tensor(rows, dtype=dtype, requires_grad=True) for rows in (FIRST, SECOND))
        loss = function(first, second, **options)
        loss.sum().backward()
        results.append((loss.detach(), first.grad, second.grad))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=0)
    torch.testing.assert_close(results[0][1:], results[1][1:], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("op", "dynamic"), PAIRS, ids=NAMES)
def test_one_pair_without_a_batch(op, dynamic):
    first, second = torch.tensor([0.0, 0.0, 4.0, 4.0]), torch.tensor([1.0, 2.0, 7.0, 5.0])
    got = op(first, second, valid_mask=torch.tensor(True))
    torch.testing.assert_close(got, dynamic(first[None], second[None])[0])
    assert op(first, second, valid_mask=torch.tensor(False)) == 0


@pytest.mark.parametrize("op", [op for op, _ in PAIRS], ids=NAMES)
def test_boxes_of_five_numbers_are_named(op):
    with pytest.raises(ShapeError, match=r"^masked_\w+: boxes1 has shape \(2, 5\), expected \(2, 4\)\.$"):
        op(torch.zeros(2, 5), torch.zeros(2, 5), valid_mask=torch.ones(2, dtype=torch.bool))
