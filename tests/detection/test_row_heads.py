"""RoI heads over padded rows against torchvision's own heads on the real rows alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FrozenBatchNorm2d

from fixshape.detection._row_heads import check_rows, run_rows
from fixshape.errors import ModelError


class Untracked(nn.BatchNorm2d):
    """As in a model that was built without running statistics; torch's own forward."""

    def __init__(self, channels):
        super().__init__(channels, track_running_stats=False)


class Cumulative(nn.BatchNorm2d):
    def __init__(self, channels):
        super().__init__(channels, momentum=None, eps=1e-3)


HEADS = {
    "TwoMLPHead": lambda: TwoMLPHead(4 * 7 * 7, 6),
    "FastRCNNConvFCHead": lambda: FastRCNNConvFCHead((4, 7, 7), [5, 3], [6], norm_layer=nn.BatchNorm2d),
    "FastRCNNConvFCHead-cumulative": lambda: FastRCNNConvFCHead((4, 7, 7), [5, 3], [6], norm_layer=Cumulative),
    "FastRCNNConvFCHead-untracked": lambda: FastRCNNConvFCHead((4, 7, 7), [5, 3], [6], norm_layer=Untracked),
    "FastRCNNConvFCHead-frozen": lambda: FastRCNNConvFCHead((4, 7, 7), [5, 3], [6], norm_layer=FrozenBatchNorm2d),
    "FastRCNNConvFCHead-predictor": lambda: nn.Sequential(
        FastRCNNConvFCHead((4, 7, 7), [5], [6], norm_layer=nn.BatchNorm2d), FastRCNNPredictor(6, 3)
    ),
    "MaskRCNNHeads": lambda: nn.Sequential(MaskRCNNHeads(4, (5, 3), 1, norm_layer=nn.BatchNorm2d), MaskRCNNPredictor(3, 4, 2)),
    "MaskRCNNHeads-group": lambda: MaskRCNNHeads(4, (6, 6), 1, norm_layer=lambda channels: nn.GroupNorm(2, channels)),
    "MaskRCNNHeads-instance": lambda: MaskRCNNHeads(4, (6, 6), 1, norm_layer=nn.InstanceNorm2d),
    "KeypointRCNNHeads": lambda: nn.Sequential(KeypointRCNNHeads(4, (5, 3)), KeypointRCNNPredictor(3, 2)),
    "BatchNorm1d": lambda: nn.Sequential(TwoMLPHead(4 * 7 * 7, 6), nn.BatchNorm1d(6), nn.ReLU(inplace=True)),
    "one-layer-twice": lambda: (lambda act: nn.Sequential(act, nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), act))(nn.Tanh()),
}
VALID = torch.tensor([True, False, True, True, False, True, False, True])


def make(name):
    torch.manual_seed(0)
    head = HEADS[name]().double()
    check_rows("roi_heads.box_head", head)
    return head


def step(head, run, seed):
    """One pass over the real rows: outputs, gradient of the input, gradients and buffers of the head."""
    head.zero_grad()
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(8, 4, 7, 7, generator=generator, dtype=torch.float64)
    x = x.masked_fill(~VALID[:, None, None, None], 0).requires_grad_()
    results = run(head, x)
    results = results if isinstance(results, tuple) else (results,)
    for result in results:
        (result * torch.linspace(-1, 2, result.numel(), dtype=result.dtype).reshape(result.shape).sin()).sum().backward(
            retain_graph=True
        )
    state = {name: value.clone() for name, value in head.state_dict().items()}
    gradients = {name: parameter.grad.clone() for name, parameter in head.named_parameters()}
    return [r.detach() for r in results], x.grad[VALID], gradients, state


def real_rows(run):
    """The head's results on the real rows, or those rows of its results on all."""

    def rows(head, x):
        results = run(head, x)
        return tuple(r[VALID] for r in results) if isinstance(results, tuple) else results[VALID]

    return rows


def dynamic(head, x):
    return head(x[VALID])


@real_rows
def static(head, x):
    return run_rows(head, x, VALID)


@real_rows
def unaware(head, x):
    return head(x)


def check(head, run, *, steps=3):
    twin = copy.deepcopy(head)
    for seed in range(steps):
        torch.testing.assert_close(step(head, run, seed), step(twin, dynamic, seed), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", HEADS)
def test_equals_the_head_on_the_real_rows(name, training):
    check(make(name).train(training), static)


def test_the_comparison_fails_for_a_batch_norm_over_all_rows():
    """The oracle at work."""
    with pytest.raises(AssertionError):
        check(make("MaskRCNNHeads"), unaware)


def test_running_statistics_moved_and_were_counted():
    head = make("FastRCNNConvFCHead")
    norm = head[0][1]
    before = norm.running_mean.clone()
    step(head, static, 0)
    assert norm.num_batches_tracked == 1
    assert not torch.equal(norm.running_mean, before)


def test_no_real_row_only_counts_as_in_torch():
    head, x = make("FastRCNNConvFCHead"), torch.zeros(8, 4, 7, 7, dtype=torch.float64)
    twin = copy.deepcopy(head)
    run_rows(head, x, VALID & False)
    twin(x[:0])
    torch.testing.assert_close(head.state_dict(), twin.state_dict(), rtol=0, atol=0)
    assert head[0][1].num_batches_tracked == 1


def test_a_head_of_which_one_norm_is_in_evaluation():
    head = make("FastRCNNConvFCHead")
    head[1][1].eval()
    check(head, static)


def test_hooks_run_where_nothing_looks_at_the_batch_and_are_refused_elsewhere():
    head, x = make("FastRCNNConvFCHead"), torch.zeros(8, 4, 7, 7, dtype=torch.float64)
    seen = []
    head[0][0].register_forward_hook(lambda *_: seen.append("convolution"))
    run_rows(head, x, VALID)
    assert seen == ["convolution"]
    head[0][1].register_forward_hook(lambda *_: seen.append("norm"))
    with pytest.raises(ModelError, match=r"^run_rows: BatchNorm2d has hooks, which would not run on padded rows\. Remove them, "):
        run_rows(head, x, VALID)
    run_rows(head.eval(), x, VALID)
    assert seen[-1] == "norm"


@pytest.mark.parametrize("name", ["FastRCNNConvFCHead", "FastRCNNConvFCHead-cumulative"])
def test_is_one_graph_that_other_rows_do_not_recompile(name):
    torch._dynamo.reset()
    head = make(name)
    twin = copy.deepcopy(head)
    compiled = torch.compile(lambda x, valid: run_rows(head, x, valid), fullgraph=True, dynamic=False, backend="aot_eager")
    x = torch.randn(8, 4, 7, 7, dtype=torch.float64)
    compiled(x, VALID).sum().backward()
    with torch.compiler.set_stance("fail_on_recompile"):
        compiled(x, ~VALID).sum().backward()
    for valid in (VALID, ~VALID):
        run_rows(twin, x, valid).sum().backward()
    torch.testing.assert_close(head.state_dict(), twin.state_dict())
    for parameter, other in zip(head.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad)
    torch._dynamo.reset()


@pytest.mark.xla
@pytest.mark.parametrize("name", ["FastRCNNConvFCHead", "FastRCNNConvFCHead-cumulative", "MaskRCNNHeads"])
def test_stays_on_an_xla_device(name):
    from fixshape import get_backend

    backend = get_backend("xla")
    head = make(name)
    x, valid = torch.randn(8, 4, 7, 7, dtype=torch.float64), VALID.to(backend.device())
    twin = copy.deepcopy(head)
    head.to(backend.device())
    backend.step()
    before = backend.fallbacks()
    out = run_rows(head, x.to(backend.device()), valid)
    torch.where(valid.reshape(-1, *(1,) * (out.dim() - 1)), out, 0).sum().backward()
    backend.step()
    assert backend.fallbacks() == before
    run_rows(twin, x, VALID)[VALID].sum().backward()
    torch.testing.assert_close({k: v.cpu() for k, v in head.state_dict().items()}, twin.state_dict(), rtol=1e-9, atol=1e-11)
    for parameter, other in zip(head.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad.cpu(), other.grad, rtol=1e-9, atol=1e-9)


# -- what is not understood ---------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        return x + self.norm(x)


class Backwards(nn.Sequential):
    def forward(self, x):
        for layer in reversed(self):
            x = layer(x)
        return x


WAY_OUT = (
    r"which would count padded rows\. Use nn\.BatchNorm2d, directly or inside of an nn\.Sequential that keeps its forward, or a"
    r" norm that takes each row by itself: nn\.GroupNorm, FrozenBatchNorm2d\.$"
)


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (
            nn.Sequential(nn.ReLU(), nn.Sequential(Residual())),
            r"roi_heads\.box_head\.1\.0 is a Residual with a batch norm in it, ",
        ),
        (Backwards(nn.BatchNorm2d(4)), r"roi_heads\.box_head is a Backwards with a batch norm in it, "),
        (nn.Sequential(nn.SyncBatchNorm(4)), r"roi_heads\.box_head\.0 is a SyncBatchNorm, "),
    ],
)
def test_a_batch_norm_that_is_not_understood_is_named(module, says):
    with pytest.raises(ModelError, match="^to_static: " + says + WAY_OUT):
        check_rows("roi_heads.box_head", module)


def test_one_that_came_after_the_check_is_refused_when_run():
    head = make("FastRCNNConvFCHead")
    head[1] = Residual().double()
    with pytest.raises(ModelError, match=r"^run_rows: a part of the head is a Residual with a batch norm in it, " + WAY_OUT):
        run_rows(head, torch.zeros(8, 4, 7, 7, dtype=torch.float64), VALID)


def test_other_modules_without_a_batch_norm_pass():
    check_rows("roi_heads.box_head", Backwards(nn.GroupNorm(2, 4), FrozenBatchNorm2d(4), nn.InstanceNorm2d(4)))
