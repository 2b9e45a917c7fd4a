"""``static_indexing`` against plain code, form by form, and every error with its text."""

from __future__ import annotations

import builtins
import copy
import re
import threading
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
import torchvision.ops as tv
from torch import nn

import fixshape
from fixshape.errors import FixshapeError, StaticIndexingError
from fixshape.ops import _rows, static_indexing
from tests.ops.conftest import GARBAGE, boxes

pytestmark = pytest.mark.filterwarnings("ignore:.*degrees of freedom is <= 0")  # the variance of no rows

MASKS = {
    "some": (True, False, False, True, True, False),
    "late": (False, False, True, False, True, True),
    "single": (False, False, False, True, False, False),
    "full": (True,) * 6,
    "empty": (False,) * 6,
}


def inputs(mask):
    """Tensors [6, 4] with garbage outside of the mask, a plain weight, labels, and a mask of rows and columns."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    m = torch.tensor(MASKS[mask])
    garbage = torch.tensor(GARBAGE, dtype=torch.float64)
    x, y = (torch.where(m[:, None], draw(6, 4), garbage).requires_grad_() for _ in range(2))
    c = torch.where(m, torch.randint(0, 4, (6,), generator=generator), 3)
    wide = (torch.rand(6, 4, generator=generator) < 0.6) & m[:, None]
    first, second = (torch.where(m[:, None], boxes((6,), generator), garbage).requires_grad_() for _ in range(2))
    return {"x": x, "y": y, "w": draw(4).requires_grad_(), "c": c, "m": m, "m2": wide, "p": first, "q": second}


def run(code, mask, block):
    """The result of a program over :func:`inputs`, with the gradients of all of them."""
    names = inputs(mask)
    leaves = [value for value in names.values() if value.requires_grad]
    names |= {"torch": torch, "F": F, "nn": nn, "tv": tv}
    *statements, last = code.split("; ")
    with block:
        exec("\n".join([*statements, f"result = {last}"]), names)
    result = names["result"]
    if result.requires_grad:
        # A different factor for each entry, or a gradient in the wrong place would go unseen.
        (result * torch.arange(1, result.numel() + 1, dtype=result.dtype).reshape(result.shape)).sum().backward()
    return result.detach(), [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]


def check(code, mask):
    want, want_gradients = run(code, mask, nullcontext())
    with nullcontext() if mask != "some" else fixshape.OpRecorder(lines=False) as recorder:
        got, gradients = run(code, mask, static_indexing())
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12, equal_nan=True)
    torch.testing.assert_close(gradients, want_gradients, rtol=1e-12, atol=1e-12)
    if recorder is not None:
        total = recorder.report().total()
        assert (total.dynamic, total.syncs) == (0, 0)


SELECTIONS = """
x[m].sum(0)
x[m, :].sum(0)
x[m, 1:3].sum(0)
x[m, 0].sum()
x[..., m2].sum()
x.mT[:, m].sum(1)
x.mT[..., m].mean(-1)
x[m2].square().sum()
x.view(6, 2, 2)[m].sum(0)
x.view(6, 2, 2)[m2.view(6, 2, 2)].sum()
x[m, None].sum(0)
x[m, c[m]].sum()
x[m][:, [0, 2]].sum(0)
x[m][torch.arange(len(c[m])), c[m]].sum()
x[m.nonzero().squeeze(1)].sum(0)
x[m.nonzero()[:, 0]].sum(0)
x[torch.nonzero(m).view(-1)].sum(0)
x[torch.nonzero(m, as_tuple=True)[0]].sum(0)
x[torch.where(m)].sum(0)
x[torch.where(m)[0] * 1].sum(0)
i, j = torch.where(m2); (x[i, j] * w[j]).sum() + (i + 2 * j).sum()
i, j = m2.nonzero().unbind(1); x[i, j].exp().sum()
i = m2.nonzero(); (x[i[:, 0], i[:, 1]] * w[i[:, 1]]).sum()
x.index_select(0, m.nonzero().flatten()).sum(0)
x.masked_select(m[:, None]).sum()
torch.masked_select(x, m2).prod()
x.masked_select(m[:, None]).view(-1, 4).sum(0)
x[m[:, None].expand_as(x)].view(-1, 4).prod(1).sum()
x.flatten()[m2.flatten()].sum()
(x[c < 3][m[c < 3]] * y[c < 3][m[c < 3]]).sum()
r = x[m]; (r[r > 0] * y[m][r > 0]).sum()
r = x[m]; r[r[:, 0] > 0].sum(0)
r = x[m]; k = (r[:, 1] > 0).nonzero().squeeze(1); (r[k] * y[m][k]).sum()
r = x[m]; r[:1].sum(0) + r[1:].sum(0) * 2 + r[::2].sum(0) * 3 + r[:-1].sum(0) * 5
r = x[m]; r[r.shape[0] // 2 :].sum(0)
x.gather(1, c[:, None])[m].sum()
x[m].gather(1, c[m][:, None]).squeeze(1).square().sum()
torch.take_along_dim(x[m], c[m][:, None], 1).sum()
w[c[m]].sum() + F.embedding(c[m], w[:, None]).square().sum()
(F.one_hot(c[m], 4) * x[m]).sum(0)
x[0 < c][m[c.view(-1) > 0]].sum(0)
torch.where(x[m] > 0, x[m], 2 * y[m]).sum(0)
x[m.to(torch.uint8).bool()].sum(0)
torch.argwhere(m2).sum(0)
""".strip().splitlines()

WRITES = """
z = w * torch.ones(6, 4).double(); z[m] = 0; z.square().sum(0)
z = w * torch.ones(6, 4).double(); z[m] = w * 2; z.square().sum(0)
z = w * torch.ones(6, 4).double(); z[m] = x[m] * 2; z.square().sum(0)
z = w * torch.ones(6, 4).double(); z[m] += y[m]; z[m] *= 2; z.square().sum(0)
z = w * torch.ones(6, 4).double(); z[m, 1:] = x[m, 1:]; z.square().sum(0)
z = w * torch.ones(6, 4).double(); z[m, c[m]] = 1.0; z.square().sum(0)
z = w * torch.ones(6, 4).double(); z[m2] = x[m2]; z[~m2] -= 1; z.square().sum(0)
z = w * torch.ones(6, 4).double(); i = m.nonzero().squeeze(1); z[i] += y[i]; z.square().sum(0)
z = w * torch.ones(6, 4).double(); i, j = torch.where(m2); z[i, j] = x[i, j] * 3; z.square().sum(0)
z = w * torch.ones(6, 4).double(); z[c[m]] = 5.0; z.square().sum(0)
z = w * torch.ones(6, 4).double(); z[:, c[m]] = 5.0; z.square().sum(0)
z = w * torch.ones(6, 4).double(); z[m] = len(c[m]); z.square().sum(0)
z = torch.zeros(6, 4).double(); z.index_put_((m,), x[m]); z.index_put_((c[m],), y[m], accumulate=True); z.square().sum(0)
(w * torch.ones(6, 4).double()).index_put(torch.where(m), x[m]).square().sum(0)
(w * torch.ones(6, 4).double()).masked_scatter(m[:, None], x[m]).square().sum(0)
(w * torch.ones(6, 4).double()).masked_scatter(m2, y[m2]).square().sum(0)
(w * torch.ones(6, 4).double()).masked_scatter(m[:, None], torch.ones(6, 4).double() * w).square().sum(0)
torch.zeros(4).double().index_add(0, c[m], x[m, 0]).square()
torch.zeros(4, 4).double().index_add_(0, c[m], x[m], alpha=2).square()
torch.zeros(4).double().scatter_add(0, c[m], x[m, 0]).square()
torch.zeros(4).double().scatter_reduce(0, c[m], x[m, 0], 'amax', include_self=False)
torch.zeros(4).double().index_fill(0, c[m], 2.0)
r = x[m].clone(); r[r < 0] = 0; r[:, 0] = w[0]; r[:, 1:] *= 2; r.square().sum(0)
r = x[m].clone(); v = r[:, 2:]; v += y[m, 2:]; v.clamp_(min=0); r.square().sum(0)
r = x[m].clone(); r.masked_fill_(r > 1, 1.0); r.mul_(w).sum(0)
r = torch.zeros_like(x[m]); r.scatter_(1, c[m][:, None], 1.0); (r * x[m]).sum(0)
r = x[m].new_zeros(len(x[m]), ) + x[m, 0]; r.sum()
""".strip().splitlines()

THROUGH = """
(x[m].exp().log1p().sqrt() * w - y[m].sigmoid() / 3).sum(0)
(1 - x[m]).abs().pow(1.5).sum(0) + (2 / (3 + y[m].abs())).sum(0) + (2 ** x[m]).sum(0)
torch.max(x[m], y[m]).sum(0) + torch.minimum(x[m], w).sum(0) + x[m].clamp(min=0).sum(0)
x[m].softmax(1).log().sum(0) + F.log_softmax(y[m], -1).sum(0)
x[m].softmax(0).square().sum(0) + F.log_softmax(y[m], 0).sum(0)
F.normalize(x[m]).sum(0) + F.normalize(y[m], dim=0).sum(0)
(x[m] @ torch.outer(w, w)).sum(0) + (x[m] @ w).sum()
(x[m].T @ y[m]).sum(0) + torch.einsum('nd,nd->d', x[m], y[m])
(x[m] @ y[m].T).square().sum() + torch.einsum('nd,md->nm', x[m], y[m]).exp().sum()
F.linear(x[m], w[None], w[:1]).square().sum()
nn.LayerNorm(4, dtype=torch.float64)(x[m]).square().sum(0) + nn.GELU()(y[m]).sum(0)
r = x[m]; (r[:, None] - r[None]).square().sum(-1).add(1e-9).sqrt().sum()
r = x[m]; d = (r[:, None] - r[None]).square().sum(-1) + torch.eye(len(r)); d.sqrt().sum()
r = x[m]; s = (r @ r.T).masked_fill(torch.eye(r.shape[0], dtype=torch.bool), -9.0); s.logsumexp(1).sum()
r = x[m] @ y[m].T; r.triu(1).sum() + r.tril(-1).mean() + r.diagonal().square().sum()
torch.cdist(x[m], y[m]).square().sum()
a, b = x[m].unsqueeze(1).expand(-1, 3, -1), y[m].view(-1, 2, 2); a.reshape(-1, 4).sum(0) + b.transpose(1, 2).reshape(-1, 4).sum(0)
x[m].view(-1).square().sum() + x[m].flatten().view(-1, 4).prod(1).sum() + x[m].view(-1, 2).prod(1).sum()
a, b, *_ = x[m].unbind(1); (a * b).sum() + sum(part.prod(1).sum() for part in y[m].split(2, 1))
a, b, *_ = x[m].T; (a * b).sum() + x[m].chunk(2, dim=1)[1].square().sum()
torch.cat([x[m], y[m]]).square().mean(0) + torch.cat([x[m], y[m]], 1).prod(1).sum()
torch.cat([x[m], w[None]]).square().mean(0) + torch.stack([x[m], y[m]], 1).prod(1).sum(0)
torch.cat([x[m], y[m]])[torch.cat([c[m], c[m]]) > 1].sum(0)
x[m].flip(0)[:1].sum(0) + x[m].flip(1).mul(w).sum(0) + x[m].repeat_interleave(2, 0).sum(0)
x[m].repeat(1, 2).square().sum(0) + w.expand((len(x[m]), 4)).mul(y[m]).sum(0).repeat(2)
x[m].float().double().to(torch.float64).type_as(w).detach().sum(0) + w
(torch.zeros_like(x[m]) + torch.ones((len(x[m]), 4)) + x[m].new_full((x[m].shape[0], 1), 2.0) + w).sum(0)
(torch.arange(len(x[m])) * x[m, 0]).sum()
(x[m] > 0).sum(0) + (x[m] > 0).any(0) + (x[m] > 0).all(1).sum() + (~(x[m] > 0)).logical_or(y[m] > 0).sum(0)
tv.box_iou(p[m], q[m]).square().sum() + tv.generalized_box_iou(p[m], q[m]).sum() + tv.box_area(p[m]).sum()
nn.BatchNorm1d(4, dtype=torch.float64).eval()(x[m]).square().sum(0)
""".strip().splitlines()

ENDS = """
x[m].sum() + x[m].sum(1).sum() + x[m].sum((0, 1)) + x[m].sum(0, keepdim=True).square().sum()
x[m].mean()
x[m].mean(1).sum() + x[m].sum(0).mean()
x[m].mean(dim=0)
x[m].var()
x[m].std(0, unbiased=False)
x[m].var(1).sum() + x[m].std(1, correction=0).sum()
x[m].prod(0) + x[m].norm() + torch.norm(y[m], dim=1).sum() + torch.linalg.vector_norm(x[m], 1, 0)
x[m].logsumexp(1).sum() + x[m].cumsum(0)[-1:].sum(0) + x[m].cumprod(0).sum()
(x[m].cumsum(0) * y[m]).sum(0) + (x[m].logcumsumexp(0) * y[m]).sum(0)
(x[m] > 0).any() + (x[m] > 0).all(0) + x[m].count_nonzero(0) + x[m].isnan().sum()
x[m].numel() / (x[m].sum() + 3) + len(x[m]) * w + x[m].shape[0] ** 2 - x[m].size(0)
x[m].sum() / (len(x[m]) + 1e-6) + w.sum() * (len(x[m]) == len(y[m]))
values, order = x[m].sort(0, descending=True); (values * w).cumsum(0).sum(0) + y[m][order[:, 0]].cumsum(0).sum(0)
r = x[m, 0]; (r[r.argsort()] * y[m, 0]).sum() + (y[m, 0].sort().values * r.argsort().argsort()).sum()
r = x[m, 0]; n = len(r) // 2; r.topk(n).values.sum() + r.sort().values[:n].square().sum()
x[m].cummax(0).values.sum(0) + x[m].cummin(0).values.mul(y[m]).sum(0)
x.sort(dim=1, descending=True).values[m].square().sum(0)
""".strip().splitlines()

OF_SOMETHING = """
x[m].norm(p=float('inf')) + x[m].max() + x[m].min() + x[m].amax(0) + x[m].amin((0, 1))
x[m].max(0).values + x[m].min(dim=0)[0] + x[m].max(1)[0].sum()
x[m].max(0).indices + x[m].argmin(0) + x[m].argmax(1).sum() + x[m].argmax()
y[m][x[m].argmax(0)].sum(0) + y[m][x[m, 0].argmax()] + x[m][0] + y[m][-1]
x[m].topk(1, 0).values + x[m].topk(2, 1).values.sum()
x[m].median(0).values
x[m].kthvalue(1, 0).values
torch.aminmax(x[m].detach(), dim=0)[0] + w
""".strip().splitlines()

LOSSES = [
    f"{loss}, reduction={reduction!r}){'.square().sum()' if reduction == 'none' else ''}"
    for reduction in ("none", "mean", "sum")
    for loss in """
F.l1_loss(x[m], y[m]
F.l1_loss(x[m], y[m], weight=x[m].exp()
F.mse_loss(x[m], w.expand_as(x[m])
F.smooth_l1_loss(x[m], y[m], beta=0.5
F.huber_loss(x[m], y[m], delta=0.5
F.binary_cross_entropy(x[m].sigmoid(), y[m].sigmoid()
F.binary_cross_entropy_with_logits(x[m], y[m].sigmoid(), weight=w.detach().exp(), pos_weight=w.detach().square()
F.soft_margin_loss(x[m], y[m].detach().sign()
F.poisson_nll_loss(x[m], y[m].exp(), full=True
F.hinge_embedding_loss(x[m], y[m].sign()
F.margin_ranking_loss(x[m, 0], y[m, 0], y[m, 1].sign(), margin=0.1
F.gaussian_nll_loss(x[m], y[m], y[m].exp()
F.kl_div(x[m].log_softmax(1), y[m].softmax(1)
F.kl_div(x[m].log_softmax(1), y[m].log_softmax(1), log_target=True
F.cosine_embedding_loss(x[m], y[m], y[m, 0].sign()
F.triplet_margin_loss(x[m], y[m], x[m].flip(1), margin=2.0
F.triplet_margin_with_distance_loss(x[m], y[m], x[m].flip(1)
F.multilabel_soft_margin_loss(x[m], (y[m] > 0).double()
F.cross_entropy(x[m], c[m]
F.cross_entropy(x[m], c[m], weight=w.detach().exp(), ignore_index=3, label_smoothing=0.1
F.cross_entropy(x[m], y[m].softmax(1)
F.cross_entropy(x[m] @ y[m].T, torch.arange(len(x[m]))
F.nll_loss(x[m].log_softmax(1), c[m], weight=w.detach().exp()
nn.CrossEntropyLoss(label_smoothing=0.1
nn.SmoothL1Loss(beta=0.3
tv.sigmoid_focal_loss(x[m], y[m].sigmoid()
tv.generalized_box_iou_loss(p[m], q[m]
tv.distance_box_iou_loss(p[m], q[m]
tv.complete_box_iou_loss(p[m], q[m]
""".strip().splitlines()
]
LOSSES = [
    re.sub(r"^(nn\.\w+\(.*?\))", r"\1(x[m], " + ("c[m])" if "Cross" in loss else "y[m])"), loss) if loss[:2] == "nn" else loss
    for loss in LOSSES
] + ["F.kl_div(x[m].log_softmax(1), y[m].softmax(1), reduction='batchmean')", "F.mse_loss(x[m], y[m], size_average=False)"]
# torch raises for an empty batch of these, or gives memory that nobody wrote to.
_NOT_OF_NOTHING = ("triplet", "multilabel")


@pytest.mark.parametrize("code", SELECTIONS + WRITES + THROUGH + ENDS)
def test_equals_plain_code(code):
    for mask in MASKS:
        check(code, mask)


@pytest.mark.parametrize("code", OF_SOMETHING)
def test_extremes_equal_plain_code(code):
    for mask in ("some", "late", "single", "full"):
        check(code, mask)


@pytest.mark.parametrize("code", LOSSES)
def test_losses_equal_plain_code(code):
    for mask in MASKS:
        if mask != "empty" or not any(word in code for word in _NOT_OF_NOTHING):
            check(code, mask)


def test_the_comparison_fails_where_padding_is_counted(monkeypatch):
    """The oracle at work."""
    monkeypatch.setattr("fixshape.ops._rows_ends.replaced", lambda x, dims, value: x._data)
    with pytest.raises(AssertionError, match="not close"):
        check("x[m].exp().sum(0)", "some")


def test_the_comparison_fails_where_padding_is_what_was_there(monkeypatch):
    """The oracle at work: without a real row in the padding, NaN comes through."""
    for module in ("_rows_select", "_rows"):
        monkeypatch.setattr(f"fixshape.ops.{module}.settle", lambda data, axes, dims=None: data.clone())
    with pytest.raises(AssertionError, match="not close"):
        check("x[m].sqrt().nan_to_num(0.5).mul(w).sum(0)", "some")


# -- what is promised beside the numbers --------------------------------------------------------------------------------------


def test_nothing_gives_a_nan_only_where_torch_does():
    with torch.autograd.set_detect_anomaly(True):  # fails where a NaN is on the way back, even if it is hidden later
        value, gradients = run(
            "((x[m] + 1).log() / y[m]).sqrt().sum() / len(x[m]).clamp(min=1) + w.sum()", "empty", static_indexing()
        )
    assert value == inputs("empty")["w"].sum()
    assert [gradient.abs().sum() for gradient in gradients] == [0, 0, 4, 0, 0]


def test_a_count_takes_part_in_what_python_cannot_decide():
    for mask in MASKS:
        want, got = (
            run(f"n = {n}; x[m].sum() / {clamped} + {chosen}", mask, block)
            for n, clamped, chosen, block in (
                ("len(x[m])", "max(1, n)", "(x[m].sum() if n > 2 else w.sum()) * (0 if n == 0 else 2)", nullcontext()),
                (
                    "len(x[m])",
                    "n.clamp(min=1)",
                    "torch.where(n > 2, x[m].sum(), w.sum()) * torch.where(n == 0, 0, 2)",
                    static_indexing(),
                ),
            )
        )
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize(
    "least",
    [
        "max(1, n)",
        "max(n, 1)",
        "max(n, 1.5)",
        "max(n, m.sum(), 2)",
        "max(1, m.sum())",
        "min(n, 2)",
        "min(m.sum(), n)",
        "max(1, min(n, 2))",
    ],
)
@pytest.mark.parametrize("mask", MASKS)
def test_max_and_min_of_counts_are_taken_on_the_device(least, mask):
    with fixshape.OpRecorder(lines=False) as recorder:
        got = run(f"n = len(x[m]); (x[m].sum() + w.sum()) / (1 + {least})", mask, static_indexing())
    assert recorder.report().total().syncs == 0
    torch.testing.assert_close(got, run(f"n = len(x[m]); (x[m].sum() + w.sum()) / (1 + {least})", mask, nullcontext()))


def test_max_and_min_are_pythons_own_for_all_else():
    a, nan = torch.tensor(2.5), torch.tensor(float("nan"))
    with static_indexing():
        assert max(3, 1, 2) == 3 and min([4, 2]) == 2 and max("ab", "b") == "b" and min((), default=7) == 7
        assert max([1, -5], key=abs) == -5 and max(a, 1) is a and max(1, nan) == 1 and min(torch.tensor(True), 5) is not None
        with pytest.raises(TypeError):
            max(1)


def test_the_fill_of_an_empty_selection_differs_from_tensor_to_tensor_and_column_to_column():
    x, m = torch.zeros(6, 4), torch.zeros(6, dtype=torch.bool)
    with static_indexing():
        first, second = (x[m]._data for _ in range(2))
    assert ((first > 0) & (first < 1) & (first != second)).all()
    assert (first.diff(dim=1) > 0).all()


def test_a_mask_that_is_written_to_is_another_mask():
    x, m = torch.arange(6.0), torch.tensor(MASKS["some"])
    with static_indexing():
        before = x[m]
        m[0] = False
        after = x[m]
        assert before.sum() == 7 and after.sum() == 7
        m[1] = True
        assert before.sum() == 7 and x[m].sum() == 8
        with pytest.raises(StaticIndexingError, match="two different selections"):
            before + x[m]


def test_indices_that_are_written_to_are_other_indices():
    x, m = torch.arange(7.0), torch.tensor((*MASKS["some"], False))
    with static_indexing():
        i = torch.where(m)[0]
        i += 1
        assert x[i].sum() == 10
        assert x[torch.where(m)[0]].sum() == 7


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_without_gradients(mode):
    x, m = torch.arange(6.0), torch.tensor(MASKS["some"])
    with mode(), static_indexing():
        y = x * 1
        own = y > 0
        rows = y[own]
        assert (rows * x[own]).sum() == 55
        own[5] = False
        with pytest.raises(StaticIndexingError, match="two different selections"):
            rows * x[own]
        assert (y[m] * x[m]).sum() == 25


def test_a_weight_that_torch_hides_from_modes_counts():
    x, y, weight = torch.ones(3), torch.zeros(3), torch.tensor([1.0, 2.0, 3.0])
    with static_indexing():
        assert F.l1_loss(x, 2 * y, weight=weight, reduction="sum") == F.l1_loss(x, 2 * y, reduction="sum") * 2


def test_random_rows_keep_their_shape_and_their_padding_equal():
    x, m = torch.ones(1000, 2), torch.arange(1000) % 2 == 0
    with static_indexing():
        rows = F.dropout(x[m], 0.5)
        assert 0.8 < rows.mean() < 1.2
        assert (rows._data[~m] == rows._data[0]).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_has_room_for_many_rows(dtype):
    x, m = torch.full((80_000,), 2.0, dtype=dtype), torch.arange(80_000) > 5_000
    with static_indexing():
        rows = x[m]
        small = rows * 1e-3
        for value, wanted in (
            (rows.mean(), 2),
            (small.sum() / len(rows), 2e-3),
            (F.mse_loss(rows, -rows), 16),
            (rows.std(correction=0), 0),
            ((rows / len(rows)).sum(), 2),
        ):
            assert value.dtype == dtype
            torch.testing.assert_close(float(value), float(wanted), rtol=0.02, atol=1e-5)


def test_counts_among_tensors():
    x, m = torch.ones(6, 4), torch.tensor(MASKS["some"])
    with static_indexing():
        n = len(x[m])
        assert torch.stack([n, n * 2]).tolist() == [3, 6]
        assert torch.maximum(torch.tensor(2), n) == 3 and torch.clamp(n, min=4) == torch.tensor(4)
        assert (n.float() / 2).sum() == 1.5 and n.reshape(1).tolist() == [3]
        whole = torch.zeros(6, dtype=torch.int64)
        whole[m] = 1.5
        assert whole.sum() == n * torch.ones(())


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


# -- the block ----------------------------------------------------------------------------------------------------------------


def plain_loss(x, m):
    return x[m].square().sum() / len(x[m])


def test_as_a_decorator():
    x, m = torch.arange(6.0), torch.tensor(MASKS["some"])
    for decorated in (static_indexing(plain_loss), static_indexing()(plain_loss), static_indexing(strict=False)(plain_loss)):
        assert decorated.__name__ == "plain_loss"
        assert decorated(x, m) == plain_loss(x, m)


class Criterion(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x, m):
        return (x[m] * self.weight).sum() / len(x[m])


def test_a_module_stays_one_with_the_same_parameters():
    criterion = Criterion()
    static = static_indexing(criterion)
    assert isinstance(static, Criterion) and static.weight is criterion.weight
    x, m = torch.ones(6, 4), torch.zeros(6, dtype=torch.bool)
    with pytest.raises(TypeError, match="not callable"):
        static_indexing(1)(x)
    assert static(x, ~m) == criterion(x, ~m) == copy.deepcopy(static)(x, ~m)
    with fixshape.OpRecorder(lines=False) as recorder:
        static(x, m)
    assert recorder.report().total().dynamic == 0
    with fixshape.OpRecorder(lines=False) as recorder:
        criterion(x, m)
    assert recorder.report().total().dynamic > 0


def test_all_is_restored_when_the_last_block_closes_and_after_an_exception():
    x, m = torch.arange(6.0), torch.tensor(MASKS["some"])
    builtin = len
    with pytest.raises(KeyError), static_indexing():
        assert builtins.len is not builtin
        with static_indexing():
            raise KeyError
    assert builtins.len is builtin
    assert x[m].shape == (3,)
    with static_indexing():
        with static_indexing(strict=False):
            rows = x[m]
        assert builtins.len is not builtin
        assert rows.sum() + x[m].sum() == 14
        assert len([1, 2]) == 2 and len(x) == 6
    assert builtins.len is builtin


def test_a_block_is_of_its_thread_and_len_is_restored_by_the_last_one():
    x, m, builtin = torch.arange(6.0), torch.tensor(MASKS["some"]), len
    inside, go_on, seen = threading.Event(), threading.Event(), []

    def other():
        with static_indexing():
            inside.set()
            go_on.wait(10)
            seen.append(float(x[m].sum() / len(x[m])))

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(10)
    assert x[m].shape == (3,) and len(x[m]) == 3
    with static_indexing():
        pass
    assert builtins.len is not builtin
    go_on.set()
    thread.join()
    assert builtins.len is builtin
    assert seen == [float(x[m].mean())]


def test_rows_look_like_a_tensor_and_are_none():
    x, m = torch.ones(6, 4), torch.tensor(MASKS["some"])
    with static_indexing():
        rows = x[m]
        assert not isinstance(rows, torch.Tensor)
        assert (rows.ndim, rows.dim(), rows.dtype, rows.device) == (2, 2, x.dtype, x.device)
        assert rows.shape == x[m].shape and rows.shape[1] == 4 and rows.size(-1) == 4
        assert rows.is_floating_point() and not rows.requires_grad
        assert repr(rows) == "Rows((n of 6, 4), torch.float32)"
        assert repr(len(rows)) == "Count()"
        assert not hasattr(rows, "nothing") and not hasattr(len(rows), "nothing")
        assert (len(rows) != None) and not (len(rows) == None)  # noqa: E711
        assert int(torch.as_tensor(len(rows))) == 3


# -- strict=False -------------------------------------------------------------------------------------------------------------


def test_what_cannot_be_followed_is_dynamic_if_not_strict():
    x, m = torch.arange(12.0).view(6, 2), torch.tensor(MASKS["some"])
    with fixshape.OpRecorder(lines=False) as recorder, static_indexing(strict=False):
        assert x[m].sum() == x[m].sum()
    assert recorder.report().total().dynamic == 0
    with fixshape.OpRecorder(lines=False) as recorder, static_indexing(strict=False):
        distinct = x[m].unique()
        assert distinct.shape == (6,)
        both = x[m] + x[~m]
        assert isinstance(both, torch.Tensor) and both.shape == (3, 2)
        assert max(1, len(x[m])) == 3 and [len(x[m])] == [3] and list(range(len(x[m]))) == [0, 1, 2]
        assert (x[m] * both).shape == (3, 2)
        assert x[m].tolist() == [[0, 1], [6, 7], [8, 9]]
    total = recorder.report().total()
    assert total.dynamic > 0 and total.syncs > 0


def test_rows_that_a_decorated_function_returns_are_tensors_if_not_strict():
    x, m = torch.arange(6.0), torch.tensor(MASKS["some"])
    rows, count = static_indexing(lambda: {"rows": x[m], "count": [len(x[m]), (1, x)]}, strict=False)().values()
    assert isinstance(rows, torch.Tensor) and rows.tolist() == [0, 3, 4]
    assert count[0] == torch.tensor(3) and count[1][1] is x


def test_writing_to_rows_is_refused_even_if_not_strict():
    x, m = torch.arange(6.0), torch.tensor(MASKS["some"])
    with static_indexing(strict=False), pytest.raises(StaticIndexingError, match=r"^static_indexing: index_reduce_ of "):
        x[m].index_reduce_(0, torch.tensor([0]), torch.ones(1), "mean")


# -- errors -------------------------------------------------------------------------------------------------------------------

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
    "float": (lambda x, m, o: float(x[m].numel()), r"static_indexing: float\(\) of a count: .* Write torch\.where"),
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
    "repeat": (lambda x, m, o: x[m].repeat(2, 1), r"static_indexing: repeat of .*: rows are repeated .* Expand a new dimension"),
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
        lambda x, m, o: x[m].diff(dim=0),
        r"static_indexing: diff of .*: differences between neighbouring rows have no",
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
    "norm": (
        lambda x, m, o: torch.linalg.norm(x[m], "nuc"),
        r"static_indexing: linalg_norm of .*: a matrix norm has no static form",
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


def test_everything_is_a_copy_of_a_real_row(monkeypatch):
    """The invariant, at every op of all programs."""
    made = []
    original = _rows.Rows.__init__

    def init(self, data, axes):
        original(self, data, axes)
        made.append(self)

    monkeypatch.setattr(_rows.Rows, "__init__", init)
    for code in SELECTIONS + THROUGH + ENDS:
        made.clear()
        run(code, "late", static_indexing())
        assert made, code
        for rows in made:
            for d, axis in enumerate(rows._axes):
                if axis is not None and bool(axis.any):
                    # Of several dimensions as one, the padding of each is a copy.
                    real = rows._data.index_select(d, (axis.valid if axis.parts else axis.rank == 0).nonzero().squeeze(1)[:4])
                    real = real.movedim(d, 0).reshape(real.shape[d], -1)
                    padding = rows._data.index_select(d, axis.padding.nonzero().squeeze(1)).movedim(d, 0)
                    padding = padding.reshape(len(padding), real.shape[1])
                    for row in padding:
                        same = torch.isclose(row.expand_as(real), real, rtol=1e-9, atol=1e-9, equal_nan=True)
                        assert same.all(1).any(), code
