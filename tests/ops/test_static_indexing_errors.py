"""What ``static_indexing`` cannot follow: each error with its text and its line."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
import torchvision.ops as tv

from fixshape.errors import FixshapeError, StaticIndexingError
from fixshape.ops import static_indexing
from tests.ops.rows_programs import MASKS


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


HERE = re.escape(__file__) + r":\d+: "


def refuses(function, expected):
    with pytest.raises(StaticIndexingError) as caught, static_indexing():
        function(torch.ones(6, 4), torch.tensor(MASKS["some"]), torch.tensor(MASKS["late"]))
    assert isinstance(caught.value, FixshapeError) and isinstance(caught.value, RuntimeError)
    assert re.match(expected, str(caught.value)), str(caught.value)


ERRORS = {
    "two selections": (
        lambda x, m, o: x[m] + x[o],
        r"static_indexing: (__add__|add) of \(n of 6, 4\), \(n of 6, 4\): rows of two different selections meet "
        rf"\({HERE}lambda x, m, o: x\[m\] \+ x\[o\],\)\. Select both with the same mask, made once: ",
    ),
    "not selected": (
        lambda x, m, o: x[m] + x,
        r"static_indexing: __add__ of \(n of 6, 4\), \(6, 4\): selected rows meet a tensor with 6 entries in that dimension, "
        rf"which are not selected \({HERE}.*\)\. Select from it with the same mask\.$",
    ),
    "no handler": (
        lambda x, m, o: torch.unique(x[m]),
        rf"static_indexing: unique of \(n of 6, 4\): there is no static form of this op on selected rows \({HERE}.*\)\. "
        r"Reduce the rows first, compute it before the selection, or use static_indexing\(strict=False\) for the dynamic form\.$",
    ),
    "out": (
        lambda x, m, o: torch.exp(x[m], out=x),
        r"static_indexing: exp of .*: out= cannot hold selected rows .* Use the result",
    ),
    "a branch": (
        lambda x, m, o: 1 if len(x[m]) == 0 else 2,
        r"static_indexing: bool\(\) of a count: the number of selected rows is not known in Python "
        rf"\({HERE}.*len\(x\[m\]\) == 0.*\)\. Write torch\.where\(n > 0, a, b\) for a branch, or drop the branch: ",
    ),
    "max by a key": (
        lambda x, m, o: max(1, x[m].shape[0], key=lambda n: n > 2),
        r"static_indexing: bool\(\) of a count: .*max\(1, x\[m\]\.shape\[0\], key=.*n\.clamp\(min=1\) for max\(1, n\)\.$",
    ),
    "int": (lambda x, m, o: int(x[m].numel()), r"static_indexing: int\(\) of a count: .* Write torch\.where"),
    "float": (lambda x, m, o: float(x[m].numel()), r"static_indexing: float\(\) of a count: .* Use it as it is, n / 2, or"),
    "range": (lambda x, m, o: range(len(x[m])), r"static_indexing: a count as an index: .* Write torch\.where"),
    "item": (lambda x, m, o: len(x[m]).item(), r"static_indexing: item\(\) of a count: .* Write torch\.where"),
    "a look": (
        lambda x, m, o: bool(x[m]),
        r"static_indexing: __bool__ of .*: this looks at the values in Python .* Reduce the rows",
    ),
    "a loop": (
        lambda x, m, o: [row for row in x[m]],
        r"static_indexing: unbind of .*: a loop over selected rows takes as many steps as there are rows .* Write it",
    ),
    "foreign mask": (
        lambda x, m, o: x[m][o],
        r"static_indexing: __getitem__ of .*: a mask selects from rows that it does not belong to .* Make the mask from the rows",
    ),
    "mask of rows": (
        lambda x, m, o: x[x[m, 0] > 0],
        r"static_indexing: __getitem__ of .*: a mask of selected rows selects from a tensor that is not selected .* Select",
    ),
    "step": (
        lambda x, m, o: x[m][:: len(x[m])],
        r"static_indexing: __getitem__ of .*: a slice of rows has the step .* Use a step",
    ),
    "squeeze": (
        lambda x, m, o: x[m].squeeze(0),
        r"static_indexing: squeeze of .*: squeeze\(\) of a dimension of rows .* Index or",
    ),
    "cut": (
        lambda x, m, o: x[m].view(2, -1),
        r"static_indexing: view of .*: the reshape cuts a dimension of rows into pieces .* Keep the rows in one dimension",
    ),
    "a size": (
        lambda x, m, o: torch.zeros((len(x[m]) * 2, 3)),
        r"static_indexing: zeros: a size is reckoned from a count of rows .* Only a count as it is",
    ),
    "another size": (
        lambda x, m, o: x[m].expand(6, 4),
        r"static_indexing: expand of .*: a dimension of rows is expanded .* Use -1",
    ),
    "foreign size": (lambda x, m, o: x[o].view(len(x[m]), 4), r"static_indexing: view of .*: a count is the size of a .* Use -1"),
    "arange": (
        lambda x, m, o: torch.arange(1, len(x[m])),
        r"static_indexing: arange: arange\(\) reckons .* Use torch\.arange\(n\)",
    ),
    "eye": (lambda x, m, o: torch.eye(len(x[m]) + 1), r"static_indexing: eye: eye\(\) reckons .* Use torch\.eye\(n\)"),
    "repeat": (
        lambda x, m, o: x[m].repeat(len(x[m]), 1),
        r"static_indexing: repeat of .*: the rows are repeated by a count .* Expand a new dimension",
    ),
    "repeats": (
        lambda x, m, o: x[m].repeat_interleave(torch.tensor([2]), 0),
        r"static_indexing: repeat_interleave of .*: the number of repeats is not a Python int .* Index with the row",
    ),
    "side by side": (
        lambda x, m, o: torch.cat([x[m], x[o]], 1),
        r"static_indexing: cat of .*: rows are put beside what is not of the same selection .* Select all of it",
    ),
    "diagonal": (lambda x, m, o: x[m].diagonal(), r"static_indexing: diagonal of .*: a diagonal of this kind has no static form"),
    "split": (
        lambda x, m, o: x[m].split(2),
        r"static_indexing: split of .*: the op works along the dimension of the selected rows",
    ),
    "neighbours": (
        lambda x, m, o: x[m].diff(dim=0, prepend=x[:1]),
        r"static_indexing: diff of .*: diff\(\) with prepend or append is not followed .* Put it beside",
    ),
    "product": (
        lambda x, m, o: x[m].T @ x,
        r"static_indexing: (__matmul__|matmul) of .*: a product sums over rows of one side that the other side does not have",
    ),
    "equation": (
        lambda x, m, o: torch.einsum("...d,d", x[m], x[0]),
        r"static_indexing: einsum of .*: an equation with an ellipsis",
    ),
    "letter": (
        lambda x, m, o: torch.einsum("nd,nd->d", x[m], x[o]),
        r"static_indexing: einsum of .*: the letter 'n' stands for rows of different selections .* Select all with the same mask",
    ),
    "classes": (
        lambda x, m, o: F.one_hot(x[m].long()),
        r"static_indexing: one_hot of .*: the number of classes is not given .* Write",
    ),
    "similarity": (
        lambda x, m, o: F.cosine_similarity(x[m], x[m], 0),
        r"static_indexing: cosine_similarity of .*: the similarity is along the dimension of the selected rows .* Multiply",
    ),
    "distance": (
        lambda x, m, o: F.pairwise_distance(x[m].T, x[m].T),
        r"static_indexing: pairwise_distance of .*: the distance is along the dimension of the selected rows .* Subtract",
    ),
    "batches": (
        lambda x, m, o: torch.cdist(x[m][None], x[m][None]),
        r"static_indexing: cdist of .*: cdist\(\) of batches .* Use \(a",
    ),
    "not in front": (
        lambda x, m, o: F.max_pool1d(x[m][None], 2),
        r"static_indexing: .*pool.* of .*: the rows are not the first dimension of the input alone",
    ),
    "channels": (
        lambda x, m, o: F.conv1d(x[m].view(-1, 2, 2), x[m].view(-1, 2, 2)),
        r"static_indexing: conv1d of .*: the rows are not the first dimension of the input alone",
    ),
    "no batch": (
        lambda x, m, o: F.adaptive_avg_pool2d(x[m], 1),
        r"static_indexing: adaptive_avg_pool2d of .*: the first of 2 dimensions is not the one of the rows here",
    ),
    "inner": (
        lambda x, m, o: torch.inner(x[m], x[m].view(-1, 1, 4)),
        r"static_indexing: inner of .*: inner\(\) of more than a matrix .* Write it as an einsum",
    ),
    "bins": (
        lambda x, m, o: torch.bincount(x[m, 0].long()),
        r"static_indexing: bincount of .*: the number of bins is not given .* Write torch\.bincount",
    ),
    "quantiles": (
        lambda x, m, o: x[m].quantile(torch.tensor([0.1, 0.9]), dim=0),
        r"static_indexing: quantile of .*: a quantile of this kind has no static form .* Give one number",
    ),
    "looked up": (
        lambda x, m, o: torch.bucketize(x, x[m, 0]),
        r"static_indexing: bucketize of .*: rows are looked up in what is not a plain vector",
    ),
    "cross product": (
        lambda x, m, o: torch.cross(x[m, :3], x[m, 1:]),
        r"static_indexing: cross of .*: the dimension of a cross product is not given .* Write torch\.cross",
    ),
    "weighted covariance": (
        lambda x, m, o: torch.cov(x[m], aweights=x[0]),
        r"static_indexing: cov of .*: a weighted covariance is not followed",
    ),
    "gradient": (
        lambda x, m, o: torch.autograd.grad(x.requires_grad_()[m], x, x[o]),
        r"static_indexing: grad of .*: grad_outputs are not of the rows of the outputs .* Write torch\.ones_like",
    ),
    "samples": (
        lambda x, m, o: F.ctc_loss(x[:, None], x[m, 0].long(), m.sum()[None], m.sum()[None]),
        r"static_indexing: ctc_loss of .*: log_probs, targets and lengths are not of the same samples .* Select all of them",
    ),
    "features": (
        lambda x, m, o: tv.roi_align(x.view(6, 1, 2, 2)[m], torch.cat([x, x], 1)[m, :5], 2),
        r"static_indexing: roi_align of .*: the features, or the numbers of a box, are selected rows .* Select boxes alone",
    ),
    "an attribute read": (
        lambda x, m, o: x[m].grad,
        r"static_indexing: grad of \(n of 6, 4\): there is no static form of this op on selected rows",
    ),
    "a count elsewhere": (
        lambda x, m, o: x.sum(len(x[m])),
        r"static_indexing: sum of \(6, 4\): selected rows, or their count, are no argument that is followed here",
    ),
    "real tensors alone": (
        lambda x, m, o: torch.vmap(torch.sum)(x[m]),
        r"static_indexing: code that takes real tensors alone met selected rows, or their count "
        rf"\({HERE}.*\): .*Rows.* Call it before the selection",
    ),
    "a legacy constructor": (
        lambda x, m, o: torch.Tensor(len(x[m]), 3),
        r"static_indexing: code that takes real tensors alone met .*a count as a size: the number of selected rows is not known",
    ),
    "norm": (
        lambda x, m, o: torch.linalg.norm(x[m], "nuc"),
        r"static_indexing: norm of .*: a matrix norm has no static form",
    ),
    "loss": (
        lambda x, m, o: F.cross_entropy(x[m], x[o, 0].long()),
        r"static_indexing: cross_entropy of .*: the rows of input and target are not of the same selection .* Select both",
    ),
    "classes of rows": (
        lambda x, m, o: F.cross_entropy(x.T[:, m], x.T[:, m]),
        r"static_indexing: cross_entropy of .*: the classes of the loss are along the dimension of the selected rows .* Bring",
    ),
    "vectors": (
        lambda x, m, o: F.triplet_margin_loss(x.T[:, m], x.T[:, m], x.T[:, m]),
        r"static_indexing: triplet_margin_loss of .*: the vectors of the loss are along the dimension of the selected rows",
    ),
    "gather": (
        lambda x, m, o: x[m].gather(1, x[o, :1].long()),
        r"static_indexing: gather of .*: the rows of input and index are not of the same selection .* Select both",
    ),
    "written elsewhere": (
        lambda x, m, o: x.__setitem__(m, x[o]),
        r"static_indexing: __setitem__ of .*: rows are written where another selection is meant .* Write the rows with the mask",
    ),
    "written to all": (
        lambda x, m, o: x.__setitem__(slice(None), x[o]),
        r"static_indexing: __setitem__ of .*: .* 6 entries in that dimension, which are not selected .* Select from it with",
    ),
    "written to one": (
        lambda x, m, o: x[:1].add_(x[o]),
        r"static_indexing: add_ of .*: rows cannot be written into \(1, 4\) .* Write them with the mask: x\[mask\] = rows",
    ),
    "added to all": (lambda x, m, o: x.add_(x[m]), r"static_indexing: add_ of .*: .* Select from it with the same mask"),
    "too many values": (
        lambda x, m, o: x.__setitem__(m, x[:3]),
        r"static_indexing: __setitem__ of .*: 3 values are written to the rows of a mask .* Select them with the same mask",
    ),
    "a slice written": (
        lambda x, m, o: x[m].__setitem__(slice(0, 1), 0),
        r"static_indexing: __setitem__ of .*: a slice of rows, or a single one, is written .* Write it with a mask",
    ),
    "a row written": (
        lambda x, m, o: x[m].__setitem__(0, 0),
        r"static_indexing: __setitem__ of .*: a slice of rows, or a single one, is written .* Write it with a mask",
    ),
    "a row written behind an ellipsis": (
        lambda x, m, o: x.view(6, 2, 2)[m].permute(1, 2, 0).__setitem__((..., 0), 0),
        r"static_indexing: __setitem__ of .*: a slice of rows, or a single one, is written .* Write it with a mask",
    ),
    "a view written": (
        lambda x, m, o: x[m][1:].mul_(2),
        r"static_indexing: mul_ of .*: a slice of rows, or a single one, is written .* Write it with a mask",
    ),
    "a part of a tensor written": (
        lambda x, m, o: x[: len(x[m])].zero_(),
        r"static_indexing: zero_ of .*: a slice of rows, or a single one, is written .* Write it with a mask",
    ),
    "a custom function": (
        lambda x, m, o: Doubled.apply(x.requires_grad_()[m]),
        r"static_indexing: __mul__ of .*: the forward pass of a torch\.autograd\.Function meets rows .* Apply the function",
    ),
    "an attribute": (
        lambda x, m, o: setattr(x[m], "grad", None),
        r"static_indexing: grad = of .*: attributes of selected rows cannot be set .* Set it on the tensor",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_what_cannot_be_followed_says_so(name):
    refuses(*ERRORS[name])


def test_a_mask_of_another_shape_is_torchs_own_error():
    with static_indexing(), pytest.raises(IndexError, match=r"the mask has shape \(5,\), expected \(6,\), as it selects from"):
        torch.ones(6, 4)[torch.ones(5, dtype=torch.bool)]
    with static_indexing(), pytest.raises(IndexError, match="too many indices for a tensor of 1 dimensions"):
        torch.ones(6)[torch.ones(6, dtype=torch.bool), 0]


def test_rows_and_counts_do_not_leave_the_block():
    x, m = torch.ones(6, 4), torch.tensor(MASKS["some"])
    expected = r"^static_indexing: return of \(n of 6, 4\): selected rows leave their block \(.*\)\. Return what is reduced: "
    for returned in (lambda: x[m], lambda: {"rows": [x[m]]}, lambda: (1, x[m])):
        with pytest.raises(StaticIndexingError, match=expected):
            static_indexing(returned)()
    with static_indexing():
        rows, count = x[m], len(x[m])
    expected = rf"^static_indexing: selected rows, or their count, are used outside of the block that made them \({HERE}"
    for use in (
        lambda: rows.sum(),
        lambda: rows + 1,
        lambda: x * rows,
        lambda: len(rows),
        lambda: torch.exp(rows),
        lambda: count + 1,
    ):
        with pytest.raises(StaticIndexingError, match=expected):
            use()
    assert static_indexing(lambda: len(x[m]))() == torch.tensor(3)


def test_the_users_line_is_not_one_of_torchvisions_ops():
    with pytest.raises(StaticIndexingError, match=HERE), static_indexing():
        x, m = torch.ones(6, 4), torch.tensor(MASKS["some"])
        tv.box_convert(x[m], "xyxy", "cxcywh") + tv.nms(x[m], x[m, 0], 0.5)


def test_other_errors_stay_what_they_are():
    x, m = torch.ones(6, 4), torch.tensor(MASKS["some"])
    for error in (ValueError("Rows must be positive"), KeyError("'Rows'")):
        with pytest.raises(type(error), match="Rows"), static_indexing():
            x[m].sum()
            raise error
