"""The loop that is run for you: what it calls and when, what it counts, and what it stops at."""

import itertools
import math

import pytest
import torch
from torch import nn

from fixshape.collate import PadToBucket
from fixshape.errors import BackendError, FixshapeWarning, NonFiniteLossError, ShapeDriftError, ShapeError
from fixshape.plan import Bucket
from fixshape.train import CompileGuard, fit
from tests.train.doubles import Counted, GraphDevice, WithLosses, mode_is_active

BUCKET = Bucket(8, 10, 3)


def sample(boxes=1, height=8, width=10):
    corners = torch.rand(boxes, 2)
    return torch.rand(3, height, width), {
        "boxes": torch.cat([corners, corners + 2], 1),
        "labels": torch.ones(boxes, dtype=torch.int64),
    }


def padded(*boxes, collate=None):
    """Batches of two images with so many boxes each."""
    return [(collate or PadToBucket(BUCKET))([sample(count), sample(0)]) for count in boxes]


def run(model, loader, *, lr=0.01, **options):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    return fit(model, loader, optimizer, **{"backend": "cpu", "progress": False, **options})


class Losing(nn.Module):
    """Its losses are given; nothing is learnt."""

    def __init__(self, losses):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.losses = iter(losses)

    def forward(self, *batch):
        return self.weight + next(self.losses)


def test_it_trains_as_a_loop_by_hand_does():
    batches = padded(1, 3, 0, 2)
    torch.manual_seed(0)
    fitted, by_hand = WithLosses(norm=True), WithLosses(norm=True)
    by_hand.load_state_dict(fitted.state_dict())
    summary = run(fitted, batches, lr=0.1)
    optimizer, losses = torch.optim.SGD(by_hand.parameters(), lr=0.1), []
    for images, targets in batches:
        loss = sum(by_hand(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    torch.testing.assert_close(fitted.state_dict(), by_hand.state_dict(), rtol=0, atol=0)
    assert summary.losses == tuple(losses)


@pytest.mark.parametrize(
    ("options", "steps", "handed_out"),
    [({}, 3, 3), ({"epochs": 2}, 6, 6), ({"steps": 2}, 2, 2), ({"steps": 3}, 3, 3), ({"steps": 7, "epochs": 1}, 7, 7)],
)
def test_epochs_and_steps(options, steps, handed_out):
    loader = Counted(padded(1, 1, 1))
    summary = run(WithLosses(), loader, **options)
    assert len(summary.steps) == len(summary.losses) == steps
    assert loader.handed_out == handed_out  # no batch is loaded to be thrown away


def test_the_schedule_is_stepped_after_each_step():
    model = WithLosses()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.1)
    fit(model, padded(1, 1, 1, 1), optimizer, scheduler=scheduler, backend="cpu", progress=False)
    assert scheduler.last_epoch == 4
    assert math.isclose(optimizer.param_groups[0]["lr"], 0.001)


@pytest.mark.parametrize(
    ("options", "after"), [({"epochs": 2}, [3, 6]), ({"steps": 4}, [3, 4]), ({"steps": 3}, [3]), ({"steps": 2}, [2])]
)
def test_evaluate_is_called_after_each_run_through_the_loader_and_at_the_end(options, after):
    model, steps = WithLosses(), []

    def evaluate(given):
        steps.append(len(model.modes))
        assert given is model and not model.training and not torch.is_grad_enabled() and not mode_is_active()

    summary = run(model, padded(1, 1, 1), evaluate=evaluate, predict=True, **options)
    assert steps == after
    assert set(model.modes) == {(True, True)}
    assert model.training and torch.is_grad_enabled()
    assert len(summary.steps) == after[-1]


def test_a_model_in_evaluation_mode_is_put_into_training_mode():
    model = WithLosses().eval()
    run(model, padded(1))
    assert model.modes == [(True, True)]


def test_an_evaluation_may_compile_under_a_guard():
    model = WithLosses()
    sizes = itertools.count(5)
    summary = run(
        model, padded(1, 1, 1), epochs=3, guard=CompileGuard("error"),
        evaluate=lambda model: model.body(torch.ones(1, 3, 8, next(sizes))),
    )  # fmt: skip
    assert [record.op_compiles for record in summary.steps[2:]] == [0] * 7


def test_graphs_of_an_evaluation_are_not_the_next_step_s():
    device, number = GraphDevice(), itertools.count()
    summary = run(WithLosses(), padded(1, 1), epochs=3, backend=device, evaluate=lambda _: device.trace(next(number)))
    device.step()
    assert device.compiles() == 3
    assert [record.graph_compiles for record in summary.steps] == [0] * 6


def test_a_loss_may_be_a_tensor_or_a_mapping():
    batches = [(torch.ones(2, 3),)] * 2

    class Both(Losing):
        def forward(self, rows):
            value = super().forward()
            return value if self.weight.grad is None else {"a": value, "b": value}

    assert run(Both([1.0, 2.0]), batches, lr=0.0).losses == (1.0, 4.0)


def test_list_batches_are_trained_on_and_have_no_padding_to_count():
    class OnLists(Losing):
        def forward(self, images, targets):
            assert isinstance(images, list) and isinstance(targets, list)
            return super().forward()

    batch = [sample(1)[0], sample(1, 7, 5)[0]], [sample(1)[1], {}]
    summary = run(OnLists([1.0, 2.0]), [batch] * 2)
    assert (summary.real_pixels, summary.total_pixels, summary.real_slots, summary.total_slots, summary.boxes_dropped) == (0,) * 5
    assert summary.shapes == {"3x8x10, 1 boxes; 3x7x5, 0 boxes": 2}


def test_a_batch_of_tensors_with_another_target_is_trained_on():
    batches = [(torch.ones(2, 3, 4, 4), {"boxes": torch.ones(2, 3, 4), "labels": torch.ones(2, 3)})]
    summary = run(WithLosses(), batches)
    assert summary.total_pixels == 0 and len(summary.losses) == 1


def test_padding_is_counted_exactly():
    collate = PadToBucket(BUCKET)
    batches = [collate([sample(1), sample(3, 4, 5)]), collate([sample(0, 8, 1), sample(2)])]
    summary = run(WithLosses(), batches)
    assert (summary.real_pixels, summary.total_pixels) == (80 + 20 + 8 + 80, 4 * 80)
    assert (summary.real_slots, summary.total_slots) == (1 + 3 + 0 + 2, 4 * 3)
    assert summary.shapes == {"2x3x8x10, 3 boxes": 2}


def test_dropped_boxes_are_summed():
    summary = run(WithLosses(), padded(5, 3, 4, collate=PadToBucket(BUCKET, overflow="largest")))
    assert summary.boxes_dropped == 2 + 0 + 1


def test_memory_is_the_backend_s():
    assert run(WithLosses(), padded(1)).peak_memory > 2**20


def with_fillers(batches=3):
    return [PadToBucket(BUCKET, batch_size=3)([sample(1)])] * batches


def test_fillers_and_live_batch_norm_warn_once_at_the_call():
    expected = (
        r"^fit: a training batch has fillers while 1 batch-norm layers are live \(body\.1, \.\.\.\): all-padding images change"
        r" their statistics and the loss\. Complete the batches with real samples, or drop the last \(drop_last=True\)\.$"
    )
    model = WithLosses(norm=True)
    with pytest.warns(FixshapeWarning, match=expected) as caught:
        fit(model, with_fillers(), torch.optim.SGD(model.parameters()), backend="cpu", progress=False)
    assert [warning.filename for warning in caught] == [__file__]


def test_fillers_without_batch_norm_do_not_warn():
    run(WithLosses(), with_fillers())  # a FixshapeWarning is an error in the tests


def test_fillers_with_frozen_batch_norm_do_not_warn():
    model = WithLosses(norm=True)
    model.body[1].train = lambda mode=True: model.body[1]
    model.body[1].training = False
    run(model, with_fillers())


def test_full_batches_with_batch_norm_do_not_warn():
    run(WithLosses(norm=True), padded(1, 1))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_one_step_later(value):
    expected = (
        rf"^fit: the loss of step 5 is {value}, expected a finite number\. The losses before it: 2, 3, 4\."
        r" Lower the learning rate, or warm it up\.$"
    )
    model = Losing([1.0, 2.0, 3.0, 4.0, value, 6.0, 7.0, 8.0])
    with pytest.raises(NonFiniteLossError, match=expected):
        run(model, [(torch.ones(1), torch.ones(1))] * 8, lr=0.0)
    assert next(model.losses) == 7.0
    assert not mode_is_active()


def test_a_first_and_last_loss_that_is_not_finite():
    with pytest.raises(NonFiniteLossError, match=r"the loss of step 1 is nan, .* The losses before it: none\."):
        run(Losing([math.nan]), [(torch.ones(1), torch.ones(1))])


def test_a_loader_that_gives_nothing():
    with pytest.raises(ShapeError, match=r"^fit: the loader gave no batch\. Has it fewer samples than a batch, with drop_last\?"):
        run(WithLosses(), [], steps=3)


def test_an_iterator_that_is_used_up():
    with pytest.raises(ShapeError, match=r"An iterator can be run through only once\.$"):
        run(WithLosses(), iter(padded(1, 1)), epochs=2)


@pytest.mark.parametrize("name", ["epochs", "steps"])
def test_an_argument_that_is_no_count(name):
    with pytest.raises(ShapeError, match=rf"^fit: {name} is 0, expected a whole number of at least 1\.$"):
        run(WithLosses(), padded(1), **{name: 0})


def test_a_backend_that_is_not_known():
    with pytest.raises(BackendError, match="there is no backend 'tpu'"):
        run(WithLosses(), padded(1), backend="tpu")


OPTIMIZERS = {
    "SGD with momentum": (lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9), None),
    "AdamW": (lambda p: torch.optim.AdamW(p, lr=1e-3), None),
    "SGD with OneCycleLR": (
        lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9),
        lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=12),
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_op_compiles_after_the_warm_up(name):
    model = WithLosses(norm=True)
    make_optimizer, make_scheduler = OPTIMIZERS[name]
    optimizer = make_optimizer(model.parameters())
    scheduler = make_scheduler(optimizer) if make_scheduler else None
    batches = padded(*(number % 4 for number in range(12)))
    guard = CompileGuard("error")
    summary = fit(model, batches, optimizer, scheduler=scheduler, guard=guard, backend="cpu", progress=False)
    assert summary.steps[0].op_compiles > 0
    assert [record.op_compiles for record in summary.steps[2:]] == [0] * 10
    assert summary.quiet_after in (1, 2)


def test_a_model_whose_shapes_follow_the_values_is_caught():
    class Dynamic(WithLosses):
        def forward(self, images, targets):
            real = targets["boxes"][targets["valid_mask"]]  # as many rows as there are boxes
            return {"loss": self.body(images).mean() + real.sum()}

    model = Dynamic()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with pytest.raises(
        ShapeDriftError, match=r"step 3 \(train, 2x3x8x10, 3 boxes\) .* aten\.sum\.default on f32\[3, 4\] \(forward\)"
    ):
        fit(model, padded(1, 2, 3), optimizer, guard=CompileGuard("error"), backend="cpu", progress=False)


def test_a_drift_warning_points_at_the_call_of_fit():
    model, device = WithLosses(), GraphDevice()
    model.register_forward_pre_hook(lambda *_: device.trace(len(model.modes)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with pytest.warns(FixshapeWarning, match=r"step 3 .* in the loop at .*test_fit\.py:\d+\.") as caught:
        fit(model, padded(1, 1, 1), optimizer, guard=CompileGuard(), backend=device, progress=False)
    assert [warning.filename for warning in caught] == [__file__]


def test_the_bar_goes_to_stderr(capfd):
    run(WithLosses(), padded(1, 1, 1), progress=True)
    out, err = capfd.readouterr()
    assert out == "" and "3/3" in err and "steady" in err


WIDE = Bucket(8, 20, 3)


def of_each():
    return [PadToBucket(bucket)([sample(2), sample(1)]) for bucket in (WIDE, BUCKET)]


def test_a_warm_up_compiles_each_shape_and_leaves_nothing():
    torch.manual_seed(0)
    batches, summaries, states = [*of_each(), *of_each()], [], []
    for first in (None, of_each()):
        torch.manual_seed(1)
        model = WithLosses(norm=True)
        summaries.append(run(model, batches, predict=True, warm_up=first))
        states.append(model.state_dict())
    cold, warm = summaries
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)
    assert cold.losses == warm.losses
    assert (cold.warmup_steps, cold.warmup_compiles) == (0, None)
    assert warm.warmup_steps == 4 and warm.warmup_compiles > 20
    assert [record.op_compiles for record in warm.steps] == [0] * 4
    assert [bool(record.op_compiles) for record in cold.steps[:2]] == [True, True]


def test_a_warm_up_under_a_guard_is_no_drift():
    summary = run(WithLosses(), of_each() * 3, guard=CompileGuard("error"), warm_up=of_each())
    assert summary.warmup_compiles > 0 and sum(record.op_compiles for record in summary.steps) == 0


def test_what_a_device_compiles_in_the_warm_up_is_told_apart():
    device = GraphDevice()

    class Traced(WithLosses):
        def forward(self, images, targets):
            device.trace(images.shape)
            return super().forward(images, targets)

    summary = run(Traced(), of_each() * 2, backend=device, warm_up=of_each())
    assert summary.warmup_compiles == 2
    assert [record.graph_compiles for record in summary.steps] == [0] * 4
