"""The warm-up compiles what training will need, and leaves no trace."""

import copy

import pytest
import torch
from torch import nn

from fixshape.audit import OpRecorder
from fixshape.collate import PadToBucket
from fixshape.errors import BackendError, ShapeError
from fixshape.plan import Bucket, ShapePlan
from fixshape.train import CompileGuard, warmup, watch
from tests.train.doubles import GraphDevice, WithLosses

PLAN = ShapePlan([Bucket(8, 8, 2), Bucket(16, 12, 3), Bucket(16, 16, 3)])
OPTIMIZERS = {
    "SGD with momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.1),
}


class Training:
    """A model that uses all that is put back, and its step."""

    def __init__(self, optimizer="SGD with momentum"):
        torch.manual_seed(0)
        self.model = WithLosses(norm=True)
        self.model.body.append(nn.Dropout(0.5))
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        self.seen = []

    def step(self, images, targets):
        self.seen.append((tuple(images.shape), tuple(targets["boxes"].shape)))
        self.optimizer.zero_grad()
        sum(self.model(images, targets).values()).backward()
        self.optimizer.step()

    def warmup(self, **options):
        return warmup(
            self.step, PLAN, **{"batch_size": 2, "model": self.model, "optimizer": self.optimizer, "backend": "cpu", **options}
        )

    def state(self):
        model = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        gradients = [None if parameter.grad is None else parameter.grad.clone() for parameter in self.model.parameters()]
        return model, gradients, copy.deepcopy(self.optimizer.state_dict()), torch.get_rng_state()


def batch(bucket=PLAN.buckets[0]):
    image = torch.rand(3, bucket.height, bucket.width)
    return PadToBucket(bucket)([(image, {"boxes": torch.tensor([[0.0, 1.0, 4.0, 5.0]]), "labels": torch.tensor([1])})] * 2)


def assert_equal(left, right):
    torch.testing.assert_close(left, right, rtol=0, atol=0)


def test_two_steps_in_each_bucket_the_largest_first():
    training = Training()
    assert training.warmup() == 6
    sizes = [((2, 3, 16, 16), (2, 3, 4)), ((2, 3, 16, 12), (2, 3, 4)), ((2, 3, 8, 8), (2, 2, 4))]
    assert training.seen == [size for size in sizes for _ in range(2)]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("resumed", [False, True], ids=["new", "in the middle of a training"])
def test_all_is_put_back_bitwise(optimizer, resumed):
    training = Training(optimizer)
    if resumed:
        for _ in range(3):
            training.step(*batch())
    before = training.state()
    assert bool(before[2]["state"]) == resumed == all(gradient is not None for gradient in before[1])
    training.warmup()
    assert_equal(training.state(), before)


def test_gradients_that_the_step_adds_to_are_put_back():
    training = Training()
    training.step(*batch())
    before = training.state()

    def accumulate(images, targets):
        for parameter in training.model.parameters():
            parameter.grad += 1

    warmup(accumulate, PLAN, batch_size=2, model=training.model, optimizer=training.optimizer, backend="cpu")
    assert_equal(training.state(), before)


def test_the_warm_up_did_change_what_is_put_back():
    training = Training()
    before, states = training.state(), []

    def step(images, targets):
        training.step(images, targets)
        states.append(training.state())

    warmup(step, PLAN, batch_size=2, model=training.model, optimizer=training.optimizer, backend="cpu")
    for part, whole in zip(states[-1], before, strict=True):
        with pytest.raises(AssertionError):
            assert_equal(part, whole)


def test_tensors_and_groups_keep_their_identity():
    training = Training()
    training.step(*batch())
    model = training.model

    def parts():
        return [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters()), *training.optimizer.param_groups]

    before = [id(part) for part in parts()]
    training.warmup()
    assert [id(part) for part in parts()] == before


def test_options_that_the_step_changes_are_put_back():
    training = Training()

    def step(images, targets):
        training.step(images, targets)
        training.optimizer.param_groups[0]["lr"] *= 0.5

    warmup(step, PLAN, batch_size=2, model=training.model, optimizer=training.optimizer, backend="cpu")
    assert training.optimizer.param_groups[0]["lr"] == 0.1


def test_state_of_another_dtype_than_the_parameters_is_not_cast():
    weight = nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    optimizer.state[weight]["exact"] = torch.tensor([1 / 3, 1.0])
    model = nn.ParameterList([weight])
    warmup(lambda images, targets: None, PLAN, batch_size=1, model=model, optimizer=optimizer, backend="cpu")
    assert_equal(optimizer.state[weight]["exact"], torch.tensor([1 / 3, 1.0]))


def test_a_training_goes_on_as_if_there_had_been_no_warm_up():
    results = []
    for warm in (False, True):
        training = Training()
        if warm:
            training.warmup()
        torch.manual_seed(1)
        for _ in range(3):
            training.step(*batch())
        results.append(training.state())
    assert_equal(*results)


def test_it_is_put_back_when_the_step_fails():
    training = Training()
    before = training.state()

    def step(images, targets):
        training.step(images, targets)
        raise MemoryError

    with pytest.raises(MemoryError):
        warmup(step, PLAN, batch_size=2, model=training.model, optimizer=training.optimizer, backend="cpu")
    assert_equal(training.state(), before)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_no_op_compiles_after_it_in_any_bucket(optimizer):
    training = Training(optimizer)
    with OpRecorder() as recorder:
        training.warmup()
    recorder.step()
    for bucket in PLAN.buckets:
        images, targets = batch(bucket)
        with recorder:
            training.step(images, targets)
    assert recorder.current.compiles == 0 < recorder.current.launches


def test_each_step_is_a_graph_of_its_own():
    device, cuts = GraphDevice(), []
    warmup(
        lambda images, targets: cuts.append(device.cuts),
        PLAN, batch_size=2, model=nn.Identity(), optimizer=torch.optim.SGD([torch.ones(1)]), backend=device,
    )  # fmt: skip
    assert cuts == [0, 1, 2, 3, 4, 5]


def test_no_graph_compiles_after_it_under_a_guard():
    training, device, guard = Training(), GraphDevice(), CompileGuard("error")

    def step(images, targets):
        device.trace((images.shape, targets["boxes"].shape))
        training.step(images, targets)

    warmup(step, PLAN, batch_size=2, model=training.model, optimizer=training.optimizer, backend=device)
    assert device.compiles() == len(PLAN.buckets)
    watched = watch([batch(bucket) for bucket in PLAN.buckets] * 3, backend=device, guard=guard, progress=False)
    for images, targets in watched:
        step(images, targets)
    assert [record.graph_compiles for record in watched.records] == [0] * 9


@pytest.mark.parametrize(("channels", "dtype"), [(3, torch.uint8), (1, torch.float64)])
def test_channels_and_dtype_are_those_of_the_training(channels, dtype):
    seen = []
    warmup(
        lambda images, targets: seen.append((images.shape[1], images.dtype, bool(targets["image_valid"].all()))),
        PLAN, batch_size=2, model=nn.Identity(), optimizer=torch.optim.SGD([torch.ones(1)]),
        channels=channels, dtype=dtype, backend="cpu",
    )  # fmt: skip
    assert set(seen) == {(channels, dtype, True)}


@pytest.mark.parametrize("name", ["batch_size", "channels"])
def test_an_argument_that_is_no_size(name):
    with pytest.raises(ShapeError, match=rf"^warmup: {name} is 0, expected a whole number of at least 1\.$"):
        Training().warmup(**{name: 0})


def test_a_backend_that_is_not_known():
    with pytest.raises(BackendError, match="there is no backend 'tpu'"):
        Training().warmup(backend="tpu")


def test_real_batches_are_taken_as_they_are():
    training = Training()
    batches = [batch(bucket) for bucket in PLAN.buckets]
    before = training.state()
    steps = warmup(training.step, batches, model=training.model, optimizer=training.optimizer, backend="cpu")
    assert steps == 6
    assert training.seen[::2] == [(tuple(images.shape), tuple(targets["boxes"].shape)) for images, targets in batches]
    assert_equal(training.state(), before)


def test_a_plan_needs_a_batch_size():
    training = Training()
    with pytest.raises(ShapeError, match="warmup: batch_size is None, expected a whole number of at least 1."):
        training.warmup(batch_size=None)
