"""``static_indexing`` against plain code, form by form."""

from __future__ import annotations

import re
from contextlib import nullcontext

import pytest
import torch

import fixshape
from fixshape.ops import _rows, static_indexing
from tests.ops.rows_programs import MASKS, run

pytestmark = pytest.mark.filterwarnings("ignore:.*degrees of freedom is <= 0")  # the variance of no rows


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
len(m.nonzero()) * w + m.nonzero().shape[0] * w
(x[m] * y[m.clone()]).sum(0) + (x[m] * y[m.detach()]).sum(0) + (x[m] * y[m.contiguous()]).sum(0)
(x[m[:, None].expand(-1, 4)] * y[m.unsqueeze(-1).expand_as(y)]).sum()
f = list(m.view(2, 3)); r = torch.cat([b[k] for b, k in zip(y.view(2, 3, 4), f)]); (x[torch.cat(f)] - r).square().sum(0)
a, b = m.view(2, 3); r = torch.cat([y[:3][a], y[3:][b]], 0); (x.view(2, 3, 4)[torch.stack([a, b], 0)] * r).sum(0)
k = m.clone(); r = x[m]; k[:2] = False; x[k].nan_to_num(0, 0, 0).sum(0) + r.sum(0)
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
n = len(m.nonzero()); r = torch.zeros(n, 4).double(); r[torch.arange(n), c[m]] = 2.0; (r * x[m]).sum(0)
n = len(x[m]); (x.new_ones(n, 4) * x[m]).sum(0) + w.expand(n, -1).mul(y[m]).sum(0) + w.repeat(n, 1).sum(0)
r = x[m] * 1; F.relu(r, inplace=True); (r * w).sum(0)
s = x[m] @ y[m].T; s.fill_diagonal_(-3.0); s.square().sum()
a = x[m].scatter_reduce(1, c[m][:, None], y[m][:, :1], 'prod'); (a.cumsum(0).sin() + a).sum(0)
r = torch.empty_like(x[m]); r.copy_(x[m]); r.sum(0)
s = x[m][y[m, 0].argsort()] * 1; s[m2[m]] = 0; s.square().sum(0)
z = w * torch.ones(6, 4).double(); z[m] = x[m][y[m, 0].argsort()]; (z * y.nan_to_num(0, 0, 0)).sum(0)
s = y[m].sort(0)[0] * 1; s[x[m, 0] > 0] = 2.0; s.square().sum(0)
s = x[m][y[m, 0].argsort()] * 1; s[torch.arange(len(s)), c[m]] = 0.25; s.square().sum(0)
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
v = x[m]; v = v - v.mean(0); (v @ torch.outer(w, w)).tanh().sum()
v = x[m].detach(); v = v - v.mean(0); torch.einsum('nd,d->n', v, w).sum() + F.layer_norm(v, (4,), w).sum()
v = x[m].detach(); v = v - v.mean(0); F.linear(v, w[None]).sum()
v = x[m].detach(); v = v - v.mean(0); torch.cdist(v, w[None]).sum() + F.cosine_similarity(v, w[None]).sum()
(F.linear(x[m].detach(), torch.outer(w, w)) - F.linear(y[m].detach(), torch.outer(w, w))).norm(dim=1).sum()
(c[m] // c[m].clamp(min=1)).sum() + (c[m] % (c[m] + 1)).sum() + (7 // (c[m] + 1)).sum() + w
(1 & c[m]).sum() + (6 | c[m]).sum() + (5 ^ c[m]).sum() + (1 << c[m]).sum() + (7 >> c[m]).sum() + x[m].sum()
torch.special.log_softmax(x[m], 1).sum(0) + torch.special.softmax(x[m], 1).square().sum(0)
F.conv1d(x[m].view(-1, 2, 2), w.view(2, 2, 1)).square().sum() + F.adaptive_avg_pool1d(x[m].view(-1, 2, 2), 1).square().sum()
F.bilinear(x[m], y[m], w.view(1, 4, 1) * w.view(1, 1, 4)).square().sum() + F.glu(x[m]).sum()
a = x[m].view(-1, 2, 2); F.scaled_dot_product_attention(a, y[m].view(-1, 2, 2), a * w.view(2, 2)).square().sum()
a = x[m].view(-1, 2, 2); a = a - a.mean(0); k = a > -9; F.scaled_dot_product_attention(a * w[:2], a, a, attn_mask=k).sum()
k = w.detach().sort()[0]; torch.bucketize(x[m], k).sum() * w + torch.searchsorted(k, y[m]).sum() + torch.isin(c[m], c[:2]).sum()
a, b = torch.meshgrid(x[m, 0], y[m, 0], indexing='ij'); (a * b.exp()).sum()
a, b = torch.meshgrid(x[m, 0], w, indexing='xy'); (a * b.exp()).sum()
x[m].repeat(2, 1).mul(torch.cat([y[m], y[m]])).sum(0)
n = len(x[m]); i, j = torch.triu_indices(n, n, 1); (x[m][i] * y[m][j]).sum(0)
n = len(x[m]); i, j = torch.tril_indices(n, n); (x[m][i] - y[m][j]).square().sum(0)
torch.column_stack([x[m][:, 0], y[m]]).prod(1).sum() + torch.row_stack([x[m], y[m]]).sum() + torch.vstack([x[m], y[m]]).sum(0)
torch.linalg.cross(x[m][:, :3], y[m][:, 1:]).square().sum() + torch.cross(x[m][:, :3], w[None, :3], dim=1).sum()
a = x[m].view(-1, 2, 2); a.det().sum() + (a.inverse() * w.view(2, 2)).sum() + torch.linalg.slogdet(a)[1].sum()
r = x[m].detach().requires_grad_(); s = (r * w).sin().sum(1); grad(s, r, 0 * s + 1, create_graph=True)[0].norm(2, 1).sum()
r = x[m] * w; g = grad(outputs=r.square().sum(), inputs=r, create_graph=True)[0]; g.square().sum(0)
f = (w * torch.ones(1, 4, 4).double())[None]; tv.roi_align(f, torch.cat([0 * p[m][:, :1], p[m]], 1), 2).square().sum()
torch.distributions.Normal(x[m], y[m].exp(), validate_args=False).log_prob(w).sum() + (x[m] == None) * w
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
x[m].roll(1, 0).mul(y[m]).sum(0) + x[m].roll(-2, 0).mul(y[m]).sum(0) + (torch.roll(x[m], (1, 2), (0, 1)) * y[m]).sum(0)
(x[m].roll(1) * y[m]).sum(0) + (x[m].roll(1, 1) * y[m]).sum(0)
x[m].diff(dim=1).square().sum() + x[m].diff(dim=0).square().sum(0) + x[m].diff(n=2, dim=0).square().sum(0)
torch.bincount(c[m], minlength=5).sum() * w + torch.bincount(c[m], x[m, 0].detach().exp(), minlength=4)
n = len(x[m]); torch.tensor(n) * w + torch.tensor([n, 1.0]).sum() * w + x.new_tensor(n) * w + round(n / 2) * w
s = sum(len(t) for t in (x[m], y[m])); torch.as_tensor([s], dtype=torch.float64) * w
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
torch.cov(x[m].T, correction=0).sum(0) + torch.cov(x[m]).square().sum() + torch.corrcoef(x[m]).square().sum()
torch.quantile(x[m], 0.3, 0) + torch.quantile(x[m], 0.5) + x[m].quantile(0.9, dim=0, keepdim=True).sum(0)
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
F.multilabel_margin_loss(x[m], F.pad(c[m][:, None], (0, 3), value=-1)
F.multi_margin_loss(x[m], c[m], weight=w.detach().exp()
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
]
LOSSES += ["F.kl_div(x[m].log_softmax(1), y[m].softmax(1), reduction='batchmean')", "F.mse_loss(x[m], y[m], size_average=False)"]
# torch raises for an empty batch of these, or gives memory that nobody wrote to.
_NOT_OF_NOTHING = ("triplet", "multilabel", "multi_margin")


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
