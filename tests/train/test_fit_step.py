"""One optimiser step as fit makes it: accumulation, precision, clipping, averaged weights, and batches moved ahead."""

import contextlib
import copy
import itertools
import json
import math
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fixshape.backend._cpu import CpuBackend
from fixshape.collate import PadToBucket
from fixshape.errors import BackendError, DtypeError, ShapeError
from fixshape.plan import Bucket
from fixshape.train import CompileGuard, fit
from fixshape.train._batch import Group, shapes_of
from fixshape.train._prefetch import Ahead
from tests.train.doubles import Counted, GraphDevice, WithLosses
from tests.train.test_fit import BUCKET, WIDE, padded, run, sample


def twins(**options):
    torch.manual_seed(0)
    model = WithLosses(**options)
    return model, copy.deepcopy(model)


def by_hand(model, groups, *, lr=0.1, clip_norm=None, ema=None, momentum=0.0):
    """The loop that people write, over lists of batches; its losses."""
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum), []
    for group in groups:
        optimizer.zero_grad()
        mean = 0.0
        for images, targets in group:
            loss = sum(model(images, targets).values()) / len(group)
            loss.backward()
            mean = mean + loss.detach()
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        optimizer.step()
        if ema is not None:
            ema.update_parameters(model)
        losses.append(mean.item())
    return tuple(losses)


def mixed():
    return [*padded(1, 3), PadToBucket(WIDE)([sample(2), sample(1)]), *padded(0, 2), PadToBucket(WIDE)([sample(1), sample(0)])]


@pytest.mark.parametrize(("accumulate", "sizes"), [(2, [2, 2, 2]), (3, [3, 3]), (4, [4, 2]), (9, [6])])
def test_accumulation_is_a_loop_by_hand(accumulate, sizes):
    batches = mixed()
    fitted, hand = twins(norm=True)
    summary = run(fitted, batches, lr=0.1, accumulate=accumulate, epochs=2)
    groups = [batches[sum(sizes[:index]) :][:size] for index, size in enumerate(sizes)] * 2
    assert summary.losses == by_hand(hand, groups)
    torch.testing.assert_close(fitted.state_dict(), hand.state_dict(), rtol=0, atol=0)


def test_accumulated_steps_are_optimiser_steps():
    loader = Counted(padded(1, 1, 1, 1, 1))
    model = WithLosses()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    summary = fit(model, loader, optimizer, steps=5, accumulate=2, scheduler=scheduler, backend="cpu", progress=False)
    assert len(summary.steps) == len(summary.losses) == scheduler.last_epoch == 5  # groups of 2, 2, 1, 2, 2
    assert loader.handed_out == 9
    assert summary.shapes == {"2 of 2x3x8x10, 3 boxes": 4, "2x3x8x10, 3 boxes": 1}
    assert summary.total_pixels == 9 * 2 * 80


def test_the_shapes_of_a_group():
    one, other = padded(1)[0], PadToBucket(WIDE)([sample(1)])
    assert shapes_of(Group((one,))) == "2x3x8x10, 3 boxes"
    assert shapes_of(Group((one, other))) == "2x3x8x10, 3 boxes; 1x3x8x20, 3 boxes"


def test_an_accumulated_step_warms_up_and_is_quiet():
    summary = run(WithLosses(norm=True), padded(*[1] * 12), accumulate=3, guard=CompileGuard("error"))
    assert [bool(record.op_compiles) for record in summary.steps] == [True, False, False, False]


def test_a_lazy_device_s_graph_is_cut_between_the_batches_of_a_step():
    device = GraphDevice()
    cuts = []

    class Traced(WithLosses):
        def forward(self, images, targets):
            cuts.append(device.cuts)
            return super().forward(images, targets)

    run(Traced(), padded(1, 1, 1, 1), accumulate=2, backend=device)
    assert all(later > earlier for earlier, later in itertools.pairwise(cuts))


class Scaling(CpuBackend):
    """As a GPU: its own type is float16, here written as bfloat16's autocast, and its gradients are scaled."""

    asked = None

    def autocast(self, *, dtype=None, enabled=True):
        self.asked = dtype
        return contextlib.nullcontext()

    def grad_scaler(self, *, enabled=True):
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2, enabled=enabled)
        return self.scaler


@pytest.mark.parametrize("clip_norm", [None, 0.05])
def test_scaled_gradients_are_unscaled_before_they_are_clipped_and_used(clip_norm):
    batches = mixed()
    fitted, hand = twins()
    summary = run(fitted, batches, lr=0.1, autocast=True, clip_norm=clip_norm, backend=Scaling(), accumulate=2)
    assert summary.losses == by_hand(hand, [batches[:2], batches[2:4], batches[4:]], clip_norm=clip_norm)
    torch.testing.assert_close(fitted.state_dict(), hand.state_dict(), rtol=0, atol=0)  # the scale is a power of two


def test_the_scale_grows_and_a_step_whose_gradients_overflow_is_left_out():
    backend, (model, before) = Scaling(), twins()
    run(model, padded(1, 1), autocast=True, backend=backend)
    assert backend.scaler.get_scale() == 2.0**11
    model.load_state_dict(before.state_dict())
    hook = model.body[0].weight.register_hook(lambda gradient: gradient * math.inf)
    run(model, padded(1), autocast=True, backend=backend)
    hook.remove()
    torch.testing.assert_close(model.state_dict(), before.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(("asked", "dtype", "scaled"), [(True, None, True), (torch.bfloat16, torch.bfloat16, False)])
def test_only_float16_is_scaled(asked, dtype, scaled):
    backend = Scaling()
    run(WithLosses(), padded(1), autocast=asked, backend=backend)
    assert backend.asked is dtype and backend.scaler.is_enabled() is scaled


@pytest.mark.parametrize(("autocast", "seen"), [(False, torch.float32), (True, torch.bfloat16), (torch.bfloat16, torch.bfloat16)])
def test_autocast_is_the_backend_s(autocast, seen):
    dtypes = []
    model = WithLosses()
    model.body[0].register_forward_hook(lambda module, args, output: dtypes.append(output.dtype))
    run(model, padded(1), autocast=autocast)
    assert dtypes == [seen]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_float16_that_nothing_scales():
    with pytest.raises(BackendError, match=r"autocast=torch\.float16 on the cpu backend, which does not scale .* autocast=True"):
        run(WithLosses(), padded(1), autocast=torch.float16)


def test_an_autocast_that_is_none():
    with pytest.raises(DtypeError, match=r"^fit: autocast is torch\.float32, expected True, False, torch\.bfloat16 or torch\.fl"):
        run(WithLosses(), padded(1), autocast=torch.float32)


def test_gradients_are_clipped_over_the_whole_group():
    batches = padded(1, 3, 2, 0)
    fitted, hand = twins()
    summary = run(fitted, batches, lr=0.1, clip_norm=0.01, accumulate=2)
    assert summary.losses == by_hand(hand, [batches[:2], batches[2:]], clip_norm=0.01)
    torch.testing.assert_close(fitted.state_dict(), hand.state_dict(), rtol=0, atol=0)
    unclipped = twins()[0]
    assert run(unclipped, batches, lr=0.1, accumulate=2).losses != summary.losses


@pytest.mark.parametrize("norm", [0, -1.0, math.nan])
def test_a_norm_that_clips_nothing(norm):
    with pytest.raises(ShapeError, match=rf"^fit: clip_norm is {norm}, expected a number above 0, or None\.$"):
        run(WithLosses(), padded(1), clip_norm=norm)


def averaged(model):
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))


def test_averaged_weights_are_those_of_a_loop_by_hand_and_are_evaluated():
    batches = padded(1, 3, 2, 0)
    fitted, hand = twins(norm=True)
    ema, expected, evaluated = averaged(fitted), averaged(hand), []

    def evaluate(given):
        assert given is ema.module and not given.training and fitted.training
        evaluated.append({name: value.clone() for name, value in given.state_dict().items()})

    run(fitted, batches, lr=0.1, ema=ema, evaluate=evaluate)
    by_hand(hand, [[batch] for batch in batches], ema=expected)
    torch.testing.assert_close(ema.state_dict(), expected.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(evaluated, [ema.module.state_dict()], rtol=0, atol=0)
    assert int(ema.n_averaged) == 4 and not torch.equal(ema.module.body[0].weight, fitted.body[0].weight)
    assert torch.equal(ema.module.body[1].running_mean, fitted.body[1].running_mean)


def test_a_warm_up_leaves_nothing_in_scaler_and_averaged_weights():
    results = []
    batches = padded(*[1] * 6)
    for warm in (None, padded(1)):
        model, backend = twins(norm=True)[0], Scaling()
        ema = averaged(model)
        options = {"accumulate": 2, "autocast": True, "backend": backend, "ema": ema, "predict": True}
        summary = run(model, batches, warm_up=warm, **options)
        results.append((summary.losses, model.state_dict(), ema.state_dict(), backend.scaler.state_dict()))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
    assert summary.warmup_compiles and [record.op_compiles for record in summary.steps] == [0] * 3


class Valueless(CpuBackend):
    """As a dry run: a device with shapes and without values, which it says."""

    has_values = False

    def device(self, index=0):
        return torch.device("meta")


def test_in_a_dry_run_no_loss_is_read():
    model = WithLosses(norm=True).to("meta")
    ema = averaged(model)
    options = {"ema": ema, "clip_norm": 1.0, "autocast": torch.float16, "accumulate": 2}
    summary = run(model, padded(1, 1, 1, 1), backend=Valueless(), **options)
    assert summary.losses == () and len(summary.steps) == 2


def test_batches_are_moved_one_ahead_and_no_more():
    groups = [Group((torch.tensor([10.0 * group]), torch.tensor([10.0 * group + 1]))) for group in range(3)]
    asked = []

    class Log(Ahead):
        def _move(self, batch):
            asked.append(float(batch))
            return super()._move(batch)

    ahead, seen = Log(torch.device("meta")), []
    for group in ahead.groups(iter(groups)):
        for _ in ahead.batches(group):
            seen.append(list(asked))
    assert seen == [
        [0, 10, 1],
        [0, 10, 1],
        [0, 10, 1, 20, 11],
        [0, 10, 1, 20, 11],
        [0, 10, 1, 20, 11, 21],
        [0, 10, 1, 20, 11, 21],
    ]


def test_on_the_cpu_nothing_is_taken_ahead():
    loader = Counted(padded(1, 1, 1))
    seen = []
    model = WithLosses()
    model.register_forward_pre_hook(lambda *_: seen.append(loader.handed_out))
    run(model, loader)
    assert seen == [1, 2, 3]
    assert [ahead for ahead in Ahead(torch.device("cpu")).groups(iter("abc"))] == list("abc")


def test_batches_moved_ahead_are_the_same_also_where_one_comes_twice():
    batch, other = torch.ones(2), torch.zeros(2)
    ahead = Ahead(torch.device("cpu"))
    ahead._device = torch.device("cpu", 0)
    ahead._send(batch)
    group = Group((batch, batch, other, batch))
    assert [float(moved.sum()) for moved in ahead.batches(group)] == [2, 2, 0, 2]
    assert ahead._moved == {}


def test_no_batch_is_taken_ahead_of_the_last_step():
    loader = Counted(padded(1, 1, 1, 1, 1))
    model = WithLosses().to("meta")
    run(model, loader, backend=Valueless(), steps=3)
    assert loader.handed_out == 3


def test_an_evaluation_comes_before_the_next_round_is_begun():
    loader, seen = Counted(padded(1, 1)), []
    model = WithLosses().to("meta")
    run(model, loader, backend=Valueless(), epochs=2, evaluate=lambda _: seen.append(loader.handed_out))
    assert seen == [2, 4]


def test_a_count_of_batches_that_is_none():
    with pytest.raises(ShapeError, match=r"^fit: accumulate is 0, expected a whole number of at least 1\.$"):
        run(WithLosses(), padded(1), accumulate=0)


def test_a_graph_refuses_a_scaler():
    class Cuda(Scaling):
        name = "cuda"

    with pytest.raises(BackendError, match=r"cuda_graph=True with float16, .* Take autocast=torch\.bfloat16\.$"):
        run(WithLosses(), padded(1), cuda_graph=True, autocast=True, backend=Cuda())


def test_each_batch_of_a_group_is_one_bucket_of_its_own():
    """The docstring's reason: a mean of normalised losses is not the loss of one large batch."""
    few, many = PadToBucket(Bucket(8, 10, 3))([sample(1)]), PadToBucket(BUCKET)([sample(3)])

    class PerBox(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, images, targets):
            return self.weight * targets["boxes"].sum() / targets["valid_mask"].sum()

    summary = run(PerBox(), [few, many], accumulate=2, lr=0.0)
    single = run(PerBox(), [few, many], lr=0.0)
    assert summary.losses[0] == pytest.approx(sum(single.losses) / 2)


_ON_XLA = """
import json, sys
from fixshape.backend import get_backend
backends = get_backend("xla"), get_backend("cpu")  # XLA before autograd first runs
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from fixshape.train import CompileGuard, fit

batches = [(torch.rand(4, rows, generator=torch.Generator().manual_seed(n)),) for n, rows in enumerate([3, 5, 5, 3] * 4)]

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, rows):
        return (rows[:, :3] @ self.weight - 1).square().mean() + rows.sum() * 1e-3

found = {}
for backend in backends:
    model = Model().to(backend.device())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    summary = fit(
        model, batches, optimizer, accumulate=2, clip_norm=0.5, ema=ema, epochs=2, backend=backend, progress=False,
        guard=CompileGuard("error"),
    )
    found[backend.name] = [list(summary.losses), ema.module.weight.tolist(), [step.graph_compiles for step in summary.steps]]
json.dump(found, sys.stdout)
"""


@pytest.mark.xla
def test_on_xla_with_batches_moved_ahead_it_is_the_same_training_and_comes_to_rest():
    done = subprocess.run([sys.executable, "-c", _ON_XLA], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    losses, weights, graphs = found["xla"]
    assert losses == pytest.approx(found["cpu"][0], rel=1e-5)
    assert weights == pytest.approx(found["cpu"][1], rel=1e-5)
    assert len(graphs) == 16 and sum(graphs[:4]) > 0 and graphs[4:] == [0] * 12
