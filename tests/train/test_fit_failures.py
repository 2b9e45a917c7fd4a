"""What ends a training, and what is said then: no memory, a loss that is no number, a worker that dies, no TensorBoard."""

import math
import os
import signal
import sys
import types
from multiprocessing.queues import Queue

import pytest
import torch
from torch import nn

from fixshape import make_loader
from fixshape.backend._cpu import CpuBackend
from fixshape.errors import BackendError, ExtraError, NonFiniteLossError, OutOfMemoryError, WorkerError
from fixshape.plan import Bucket, ShapePlan
from fixshape.train import fit
from tests.train.doubles import WithLosses
from tests.train.test_fit import Losing, padded, run


class Greedy(WithLosses):
    """In its third step it wants more than any machine has."""

    def forward(self, images, targets):
        if len(self.modes) == 2:
            torch.empty(2**58)
        return super().forward(images, targets)


def test_a_step_without_memory_names_the_bucket_the_peak_and_the_way_out():
    expected = (
        r"^fit: out of memory in step 3, on 2x3x8x10, 3 boxes: [\d,]+ MiB were in use at most on cpu\. Lower the batch size"
        r" \(and raise accumulate= .*\), plan smaller buckets \(max_pixels=, or pixels_per_batch=\), or use autocast=True\."
        r" torch said: .*allocate"
    )
    with pytest.raises(OutOfMemoryError, match=expected) as caught:
        run(Greedy(), padded(1, 1, 1, 1))
    assert isinstance(caught.value.__cause__, RuntimeError)
    with pytest.raises(RuntimeError):  # what people catch now goes on catching it
        run(Greedy(), padded(1, 1, 1, 1))


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: unspecified launch failure",
        "NPU function error: aclrtSynchronizeStream, error code is 507011",
        "UNAVAILABLE: failed to connect to all addresses",
        "the device 0 is lost",
    ],
)
def test_a_device_that_is_gone_names_the_step_and_the_way_out(said):
    class Gone(WithLosses):
        def forward(self, images, targets):
            if len(self.modes) == 1:
                raise RuntimeError(said)
            return super().forward(images, targets)

    expected = (
        rf"^fit: the cpu device failed in step 2, and this process can use it no more: {said}\. Start it again, and resume=True"
        r" goes on from the last checkpoint\.$"
    )
    with pytest.raises(BackendError, match=expected):
        run(Gone(), padded(1, 1, 1))


def test_another_error_of_the_model_is_left_alone():
    class Wrong(WithLosses):
        def forward(self, images, targets):
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied on device cpu")

    with pytest.raises(RuntimeError, match="^mat1 and mat2 shapes cannot be multiplied on device cpu$"):
        run(Wrong(), padded(1))


def test_a_warm_up_without_memory():
    with pytest.raises(OutOfMemoryError, match=r"out of memory in the warm-up, on 2x3x8x10, 3 boxes: "):
        run(Greedy(), padded(1, 1), warm_up=padded(1, 1))


def test_an_evaluation_without_memory():
    def evaluate(model):
        torch.empty(2**58)

    with pytest.raises(OutOfMemoryError, match=r"out of memory in the evaluation: "):
        run(WithLosses(), padded(1), evaluate=evaluate)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("NPU out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm"),
    ],
)
def test_each_device_s_own_words_for_it(error):
    def fail(*_):
        raise error

    model = WithLosses()
    model.register_forward_pre_hook(fail)
    with pytest.raises(OutOfMemoryError, match="in step 1, on 2x3x8x10"):
        run(model, padded(1))


def test_a_lazy_device_that_fails_at_the_end_of_the_step():
    class Lazy(CpuBackend):
        steps = 0

        def step(self):
            self.steps += 1
            if self.steps == 4:  # each step is begun and ended with one
                raise RuntimeError("RESOURCE_EXHAUSTED")

    with pytest.raises(OutOfMemoryError, match="in step 2, on"):
        run(WithLosses(), padded(1, 1, 1), backend=Lazy())


def test_other_errors_are_left_alone():
    def fail(*_):
        raise RuntimeError("the size of tensor a must match")

    model = WithLosses()
    model.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="^the size of tensor a must match$") as caught:
        run(model, padded(1))
    assert type(caught.value) is RuntimeError


def test_a_loss_that_is_no_number_names_its_images():
    def batch(first):
        return torch.ones(2, 3), {"image_id": torch.tensor([first, first + 1]), "image_valid": torch.tensor([True, first != 20])}

    expected = r"the loss of step 3 is nan, .* The losses before it: 1, 2\. Its images \(image_id\): 20\. Lower the learning rate"
    with pytest.raises(NonFiniteLossError, match=expected):
        run(Losing([1.0, 2.0, math.nan, 4.0, 5.0]), [batch(10 * step) for step in range(5)], lr=0.0)


def test_the_images_of_a_list_batch_and_of_all_batches_of_a_step():
    batches = [([torch.ones(1)], [{"image_id": number}]) for number in (7, torch.tensor(8), torch.tensor([9]), 10)]
    with pytest.raises(NonFiniteLossError, match=r"the loss of step 2 is nan.* Its images \(image_id\): 9, 10\."):
        run(Losing([1.0, 2.0, 3.0, math.nan]), batches, lr=0.0, accumulate=2)


class Killing(torch.utils.data.Dataset):
    """Its worker dies on the sixth sample that it is asked for."""

    def __init__(self):
        self.asked = 0

    def __len__(self):
        return 24

    def __getitem__(self, index):
        self.asked += 1
        if self.asked == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.ones(3, 8, 10), {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}


def dying_loader():
    return make_loader(Killing(), ShapePlan([Bucket(8, 10, 3)]), 2, sizes=[(8, 10)] * 24, num_workers=1)


def test_a_worker_that_dies():
    expected = r"^fit: a worker of the DataLoader died after \d+ steps: .*\. The system kills workers .* use fewer workers.*=0\.$"
    with pytest.raises(WorkerError, match=expected):
        run(WithLosses(), dying_loader())


@pytest.mark.parametrize(
    "error", [ConnectionResetError(104, "Connection reset by peer"), EOFError(), FileNotFoundError("socket")]
)
def test_a_worker_that_dies_while_it_hands_over_tensors(monkeypatch, error):
    here, get = os.getpid(), Queue.get

    def fail(*arguments, **options):
        if os.getpid() == here:
            raise error
        return get(*arguments, **options)

    monkeypatch.setattr(Queue, "get", fail)
    with pytest.raises(WorkerError, match="died after 0 steps"):
        run(WithLosses(), dying_loader())


def test_an_error_that_a_worker_raises_is_its_own():
    class Missing(Killing):
        def __getitem__(self, index):
            raise FileNotFoundError("000007.jpg")

    loader = make_loader(Missing(), ShapePlan([Bucket(8, 10, 3)]), 2, sizes=[(8, 10)] * 24, num_workers=1)
    with pytest.raises(FileNotFoundError, match=r"000007\.jpg"):
        run(WithLosses(), loader)


class Recorder:
    """What of torch's SummaryWriter is used."""

    made = None

    def __init__(self, log_dir, purge_step):
        self.log_dir, self.purge_step, self.scalars, self.closed = log_dir, purge_step, [], False
        Recorder.made = self

    def add_scalar(self, tag, value, step):
        assert isinstance(value, float | int)
        self.scalars.append((tag, value, step))

    def close(self):
        self.closed = True

    def of(self, tag):
        return [(step, value) for name, value, step in self.scalars if name == tag]


@pytest.fixture
def tensorboard(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Recorder))
    return Recorder


def test_the_board_has_every_step_and_evaluation(tensorboard, tmp_path):
    model = WithLosses()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    summary = fit(
        model, padded(1, 1), optimizer, epochs=2, scheduler=scheduler, log_dir=tmp_path, predict=True,
        evaluate=lambda _: {"AP": torch.tensor(0.25)}, backend="cpu", progress=False,
    )  # fmt: skip
    board = tensorboard.made
    assert board.closed and board.log_dir == str(tmp_path) and board.purge_step == 1
    assert board.of("loss") == list(enumerate(summary.losses, 1))
    assert board.of("learning_rate/0") == [(1, 0.25), (2, 0.125), (3, 0.0625), (4, 0.03125)]
    assert board.of("seconds_per_step") == [(record.index, record.seconds) for record in summary.steps]
    assert board.of("compiles")[0][1] > 0
    assert board.of("evaluate/AP") == [(2, 0.25), (4, 0.25)]


def test_tensorboards_own_reader_finds_it(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    summary = run(WithLosses(), padded(1, 2, 3), log_dir=tmp_path, evaluate=lambda model: {"AP": 0.25})
    events = EventAccumulator(str(tmp_path)).Reload()
    found = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert found["loss"] == [(step, pytest.approx(loss)) for step, loss in enumerate(summary.losses, 1)]
    assert found["evaluate/AP"] == [(3, 0.25)] and len(found["seconds_per_step"]) == 3


def test_the_board_is_closed_where_training_fails(tensorboard, tmp_path):
    with pytest.raises(NonFiniteLossError):
        run(Losing([1.0, math.nan, 3.0]), [(torch.ones(1),)] * 3, log_dir=tmp_path)
    assert tensorboard.made.closed and tensorboard.made.of("loss") == [(1, 1.0)]


def test_tensorboard_that_is_not_installed(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # an import of it fails
    with pytest.raises(ExtraError, match=r"^fit: log_dir needs TensorBoard, .*: python -m pip install tensorboard$"):
        fit(nn.Linear(1, 1), [], torch.optim.SGD([torch.zeros(1)]), log_dir=tmp_path, backend="cpu")
