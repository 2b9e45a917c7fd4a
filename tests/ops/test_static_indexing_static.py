"""A block of ``static_indexing`` is one program whatever the mask says: four witnesses that know nothing of one another.

``FakeTensorMode`` has no values to look at; our own recorder counts dynamic ops, syncs and op compiles; ``torch.compile`` takes
the block whole, and other counts of valid rows compile nothing anew; XLA compiles it once.

Shapes: R rows, of which as many are valid as the step says; 4 columns.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
import torchvision.ops as tv
from torch import Tensor
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from fixshape.audit import OpRecorder
from fixshape.ops import static_indexing

R = 24
COUNTS = (9, 3, 0, R, 17, 1, 12, 5)  # valid rows of the steps; the first two are the warm-up


@dataclasses.dataclass(frozen=True)
class Loss:
    """A loss as it is written, on ``(predicted [R, 4], wanted [R, 4], labels int64 [R], valid bool [R])``."""

    name: str
    function: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

    def step(self, *arguments: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and its gradient, inside a block."""
        predicted = arguments[0].detach().requires_grad_()
        with static_indexing():
            loss = self.function(predicted, *arguments[1:])
        return loss.detach(), *torch.autograd.grad(loss, predicted)


def _by_mask(predicted: Tensor, wanted: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    difference = predicted[valid] - wanted[valid]
    return (difference.abs() + 0.1).log().sum(1).mean() + F.mse_loss(predicted[valid], wanted[valid])


def _by_position(predicted: Tensor, wanted: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    rows = torch.nonzero(valid).squeeze(1)
    chosen = predicted[rows, labels[rows]].sigmoid()
    return -(chosen + 1e-3).log().sum() / rows.numel() + predicted[torch.where(valid)[0]].norm(dim=1).sum()


def _classes(predicted: Tensor, wanted: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    each = F.cross_entropy(predicted[valid], labels[valid], reduction="none")
    return each[each > 1].sum() / valid.sum().clamp(min=1) + (F.one_hot(labels[valid], 4) * predicted[valid]).sum()


def _of_boxes(predicted: Tensor, wanted: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    found, real = (torch.cat([x[valid, :2], x[valid, :2] + x[valid, 2:].exp()], 1) for x in (predicted, wanted))
    return tv.generalized_box_iou_loss(found, real, reduction="sum") / found.shape[0]


def _written(predicted: Tensor, wanted: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    target = torch.zeros_like(predicted)
    target[valid] = wanted[valid].softmax(1)
    target[valid, labels[valid]] = 1.0
    return F.binary_cross_entropy_with_logits(predicted, target.clamp(0, 1), reduction="sum")


LOSSES = [
    Loss("by_mask", _by_mask),
    Loss("by_position", _by_position),
    Loss("classes", _classes),
    Loss("of_boxes", _of_boxes),
    Loss("written", _written),
]
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)


def _arguments(seed: int, count: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    predicted, wanted = torch.randn(2, R, 4, generator=generator)
    valid = torch.rand(R, generator=generator).argsort() < count
    return predicted, wanted, torch.randint(0, 4, (R,), generator=generator), valid


BATCHES = [_arguments(seed, count) for seed, count in enumerate(COUNTS)]


# -- a program without values -------------------------------------------------------------------------------------------------


@every_loss
def test_runs_on_tensors_without_values(loss):
    with FakeTensorMode() as mode:
        value, gradient = loss.step(*map(mode.from_tensor, BATCHES[0]))
    assert (value.shape, gradient.shape) == ((), (R, 4))


@every_loss
def test_without_a_block_it_does_not(loss):
    """The witness at work."""
    with pytest.raises(DynamicOutputShapeException), FakeTensorMode() as mode:
        loss.function(*map(mode.from_tensor, BATCHES[0]))


# -- our own recorder ---------------------------------------------------------------------------------------------------------


def _recorded(step: Callable[..., object]) -> tuple[int, int, list[int]]:
    """Dynamic ops, host syncs, and the op compiles of each step."""
    with OpRecorder() as recorder:
        for batch in BATCHES:
            step(*batch)
            recorder.step()
    report = recorder.report()
    return report.total().dynamic, report.total().syncs, [counts.compiles for counts in report.steps]


@every_loss
def test_our_own_recorder_finds_nothing_and_nothing_compiles_after_the_first_step(loss):
    dynamic, syncs, compiles = _recorded(loss.step)
    assert (dynamic, syncs) == (0, 0)
    assert compiles[0] > 0 and not any(compiles[1:])


@every_loss
def test_our_own_recorder_finds_the_loss_without_a_block(loss):
    dynamic, _, compiles = _recorded(loss.function)
    assert dynamic > 0 and sum(compiles[2:]) > 0


def test_what_is_not_followed_is_counted_where_that_is_asked_for():
    def step(predicted: Tensor, *rest: Tensor) -> None:
        with static_indexing(strict=False):
            torch.linalg.svdvals(predicted[rest[-1]])  # there is no way to do without the dynamic form

    assert _recorded(step)[0] > 0


# -- as one graph -------------------------------------------------------------------------------------------------------------


@every_loss
def test_forward_and_backward_are_written_down_as_one_graph(loss):
    graph = make_fx(loss.step)(*BATCHES[0])
    for batch in BATCHES:
        torch.testing.assert_close(graph(*batch), loss.step(*batch), equal_nan=True)


# -- torch.compile ------------------------------------------------------------------------------------------------------------


def _inside(loss: Loss) -> Callable[..., Tensor]:
    """The block is part of what is compiled."""

    def block(*arguments: Tensor) -> Tensor:
        with static_indexing():
            return loss.function(*arguments)

    return block


def _decorated(loss: Loss) -> Callable[..., Tensor]:
    return static_indexing(loss.function)


places = pytest.mark.parametrize("place", [_inside, _decorated])


@pytest.fixture
def compiled() -> Iterator[Callable[..., Callable[..., Tensor]]]:
    torch._dynamo.reset()
    yield functools.partial(torch.compile, dynamic=False, backend="aot_eager")
    torch._dynamo.reset()


def test_torch_compile_makes_one_graph_that_other_counts_do_not_recompile(compiled):
    _check_one_graph(LOSSES[0], compiled(_inside(LOSSES[0]), fullgraph=True))


@pytest.mark.slow
@places
@pytest.mark.parametrize("loss", LOSSES[:-1], ids=lambda loss: loss.name)
def test_torch_compile_makes_one_graph_of_each(compiled, place, loss):
    _check_one_graph(loss, compiled(place(loss), fullgraph=True))


@pytest.mark.slow
@places
def test_a_write_of_rows_is_no_part_of_such_a_graph(compiled, place):
    """torch.compile hands a write to a tensor to no function mode; it says so, and without ``fullgraph`` runs it as it is."""
    *_, written = LOSSES
    with pytest.raises(torch._dynamo.exc.Unsupported):
        compiled(place(written), fullgraph=True)(*BATCHES[0])
    torch._dynamo.reset()
    _check_compiled(written, compiled(place(written)), BATCHES[0])


@pytest.mark.slow
@every_loss
def test_what_is_compiled_and_called_in_a_block_gives_the_same(compiled, loss):
    """As one graph or as several: that is not promised."""
    function = compiled(loss.function)

    def call(*arguments: Tensor) -> Tensor:
        with static_indexing():
            return function(*arguments)

    for batch in BATCHES[:3]:
        _check_compiled(loss, call, batch)


def _check_one_graph(loss: Loss, compiled: Callable[..., Tensor]) -> None:
    _check_compiled(loss, compiled, BATCHES[0])
    with torch.compiler.set_stance("fail_on_recompile"):
        for batch in BATCHES[1:]:
            _check_compiled(loss, compiled, batch)


def _check_compiled(loss: Loss, compiled: Callable[..., Tensor], batch: tuple[Tensor, ...]) -> None:
    predicted = batch[0].clone().requires_grad_()
    value = compiled(predicted, *batch[1:])
    got = (value.detach(), *torch.autograd.grad(value, predicted))
    torch.testing.assert_close(got, loss.step(*batch), equal_nan=True)  # of no row, a mean is NaN


# -- XLA ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.xla
@every_loss
def test_xla_compiles_it_once(loss):
    import torch_xla
    import torch_xla.debug.metrics as metrics

    def compiles() -> int:
        found = metrics.metric_data("CompileTime")
        return int(found[0]) if found else 0

    each = []
    for batch in BATCHES:
        on_device = [tensor.to(torch_xla.device()) for tensor in batch]
        torch_xla.sync()
        metrics.clear_all()
        results = loss.step(*on_device)
        torch_xla.sync()
        each.append(compiles())
        assert not [name for name in metrics.counter_names() if name.startswith("aten::")]
        want = loss.step(*batch)
        for got, expected in zip(results, want, strict=True):
            torch.testing.assert_close(got.cpu(), expected, rtol=1e-4, atol=1e-5, equal_nan=True)
    assert each[0] > 0 and not any(each[1:])


@pytest.mark.xla
def test_xla_compiles_the_loss_without_a_block_for_each_count():
    """The witness at work."""
    import torch_xla
    import torch_xla.debug.metrics as metrics

    metrics.clear_all()
    for batch in BATCHES[:3]:
        value = LOSSES[0].function(*(tensor.to(torch_xla.device()) for tensor in batch))
        torch_xla.sync()
        value.cpu()
    assert metrics.metric_data("CompileTime")[0] >= 3  # one a step at least
