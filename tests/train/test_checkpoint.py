"""A training's state on disk: what comes back, what is refused, and what a full disk leaves."""

import contextlib
import copy
import errno
import gc
import random
import subprocess
import sys
import weakref
import zipfile

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fixshape import make_loader
from fixshape.backend._cpu import CpuBackend
from fixshape.errors import BackendError, CheckpointError, DtypeError, NonFiniteLossError, ShapeError
from fixshape.plan import Bucket, ShapePlan
from fixshape.train import Checkpoint, fit
from tests.train.doubles import WithLosses

PLAN = ShapePlan([Bucket(8, 8, 2), Bucket(8, 16, 2)])
SAMPLES = 23
SIZES = [(8, 8 if index % 3 else 14) for index in range(SAMPLES)]


class Drawing(torch.utils.data.Dataset):
    """Samples with something drawn from each generator of the process, unless it is left out."""

    def __init__(self, draws=True):
        self.draws = draws

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        image = torch.rand(3, *SIZES[index], generator=torch.Generator().manual_seed(index))
        if self.draws:
            image = image + (torch.rand(()).item() + random.random() + np.random.rand()) * 0.01
        return image, {"image_id": index, "boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}


class Dropping(WithLosses):
    """Draws in its forward, too."""

    def forward(self, images, targets):
        return super().forward(nn.functional.dropout(images, 0.3), targets)


class Training:
    """All that a checkpoint holds, made anew with the same seed."""

    def __init__(self, *, workers=0, persistent=False, plan=PLAN, optimizer=torch.optim.AdamW, lr=0.01, seed=0):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        self.model = Dropping(norm=True)
        self.optimizer = optimizer(self.model.parameters(), lr=lr)
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, 0.01, total_steps=40)
        self.ema = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        self.loader = make_loader(Drawing(not workers), plan, 3, sizes=SIZES, num_workers=workers, persistent_workers=persistent)

    def fit(self, folder, *, stop_after=None, **options):
        def stop(*_):
            if stop_after is not None and len(self.model.modes) == stop_after:
                raise KeyboardInterrupt

        handle = self.model.register_forward_pre_hook(stop)
        options = {"epochs": 3, "checkpoint_every": 2, "evaluate": lambda _: torch.rand(1), **options}
        try:
            return fit(
                self.model, self.loader, self.optimizer, scheduler=self.scheduler, ema=self.ema,
                checkpoint=folder, backend="cpu", progress=False, **options,
            )  # fmt: skip
        finally:
            handle.remove()

    def checkpoint(self, folder, **parts):
        parts = {"scheduler": self.scheduler, "ema": self.ema, "loader": self.loader, **parts}
        return Checkpoint(folder, model=self.model, optimizer=self.optimizer, backend="cpu", **parts)

    def state(self):
        parts = (self.model, self.optimizer, self.scheduler, self.ema, self.loader)
        return copy.deepcopy([part.state_dict() for part in parts])


def assert_same(got, expected):
    """Bit for bit, through lists and mappings."""
    if isinstance(expected, torch.Tensor):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)
    elif isinstance(expected, dict):
        assert got.keys() == expected.keys()
        for key, value in expected.items():
            assert_same(got[key], value)
    elif isinstance(expected, list | tuple):
        assert len(got) == len(expected)
        for one, other in zip(got, expected, strict=True):
            assert_same(one, other)
    else:
        assert got == expected


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The losses and the last state of a run that nothing ended, by its options."""
    known = {}

    def of(**options):
        key = str(sorted(options.items()))
        if key not in known:
            training = Training(**{name: options.pop(name) for name in ("workers", "persistent") if name in options})
            losses = training.fit(tmp_path_factory.mktemp("unbroken"), **options).losses
            known[key] = losses, training.state()
        return known[key]

    return of


@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"checkpoint_every": None}, {"steps": 12}, {"warm": True}], ids=str)
@pytest.mark.parametrize("stop_after", [1, 7, 8, 11])
def test_a_resumed_run_has_the_losses_of_an_unbroken_one_bit_for_bit(unbroken, tmp_path, options, stop_after):
    options = dict(options)
    warm = options.pop("warm", False)
    losses, state = unbroken(**options)
    with pytest.raises(KeyboardInterrupt):
        Training().fit(tmp_path, stop_after=stop_after, **options)
    resumed = Training(seed=1)
    warm_up = resumed.loader.one_of_each() if warm and stop_after > 1 else None
    if stop_after == 1:
        resumed = Training()  # nothing is saved yet: it begins at the beginning, which follows from the seed
    summary = resumed.fit(tmp_path, resume=True, warm_up=warm_up, **options)
    assert summary.losses == losses[summary.resumed_at :]
    assert (summary.resumed_at > 0) == (stop_after > 1)
    assert_same(resumed.state(), state)


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("stop_after", [7, 10])
def test_with_workers_too(unbroken, tmp_path, persistent, stop_after):
    how = {"workers": 2, "persistent": persistent}
    losses, state = unbroken(**how, checkpoint_every=1)
    with pytest.raises(KeyboardInterrupt):
        Training(**how).fit(tmp_path, stop_after=stop_after, checkpoint_every=1)
    resumed = Training(**how, seed=1)
    summary = resumed.fit(tmp_path, resume=True, checkpoint_every=1)
    assert summary.resumed_at == stop_after and summary.losses == losses[stop_after:]
    assert_same(resumed.state(), state)


@pytest.mark.parametrize("stop_after", [None, 3])
def test_a_loader_is_freed_with_its_last_name(tmp_path, stop_after):
    """Left to the garbage collector, its persistent workers would be waited for, five seconds each."""
    training = Training()
    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(KeyboardInterrupt):
            training.fit(tmp_path, stop_after=stop_after)
        loader = weakref.ref(training.loader)
        del training.loader
        assert loader() is None
    finally:
        gc.enable()


def test_a_finished_run_is_resumed_to_its_evaluation_alone(tmp_path):
    first, seen = Training(), []
    first.fit(tmp_path)
    again = Training()
    summary = again.fit(tmp_path, resume=True, evaluate=seen.append)
    assert summary.steps == () and summary.losses == () and len(seen) == 1
    assert_same(again.model.state_dict(), first.model.state_dict())
    longer = again.fit(tmp_path, resume=True, epochs=4, evaluate=None)
    assert len(longer.losses) == len(again.loader)


def test_an_evaluation_that_was_ended_is_made_again(unbroken, tmp_path):
    losses, state = unbroken()
    evaluations = []

    def end(model):
        evaluations.append(torch.rand(1))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Training().fit(tmp_path, checkpoint_every=None, evaluate=end)
    resumed = Training(seed=1)
    summary = resumed.fit(tmp_path, checkpoint_every=None, resume=True, evaluate=lambda _: evaluations.append(torch.rand(1)))
    assert torch.equal(evaluations[0], evaluations[1]) and len(evaluations) == 4
    assert summary.losses == losses[summary.resumed_at :]
    assert_same(resumed.state(), state)


def test_the_newest_two_are_kept(tmp_path):
    Training().fit(tmp_path, checkpoint_every=4, epochs=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000012.pt", "step-00000014.pt"]


def test_a_folder_in_use_is_not_begun_anew(tmp_path):
    Training().fit(tmp_path, epochs=1)
    with pytest.raises(CheckpointError, match=r"step-00000007\.pt is there already, .* resume=True would go on with\."):
        Training().fit(tmp_path)


def test_no_checkpoint_yet_is_logged(tmp_path, caplog):
    assert Training().fit(tmp_path / "new", resume=True, epochs=1).resumed_at == 0
    assert "no checkpoint in" in caplog.text and "from the beginning" in caplog.text


SCHEDULERS = {
    "StepLR": lambda o: torch.optim.lr_scheduler.StepLR(o, 3),
    "MultiStepLR": lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [2, 3]),
    "CosineAnnealingLR": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 9),
    "OneCycleLR": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=9, cycle_momentum=False),
    "LambdaLR": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 0.9**step),
    "SequentialLR": lambda o: torch.optim.lr_scheduler.SequentialLR(
        o, [torch.optim.lr_scheduler.LinearLR(o), torch.optim.lr_scheduler.MultiStepLR(o, [4])], [2]
    ),
    "CyclicLR": lambda o: torch.optim.lr_scheduler.CyclicLR(o, 0.01, 0.1, cycle_momentum=False),
}


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("optimizer", ["SGD", "AdamW", "Adagrad", "RMSprop", "Adadelta", "NAdam"])
def test_optimisers_and_schedules_come_back(tmp_path, name, optimizer):
    def make(seed):
        torch.manual_seed(seed)
        model = nn.Linear(3, 2)
        made = getattr(torch.optim, optimizer)(model.parameters(), lr=0.1)
        return model, made, SCHEDULERS[name](made)

    def steps(model, made, schedule, count):
        for number in range(count):
            model(torch.full((1, 3), number + 1.0)).square().sum().backward()
            made.step()
            schedule.step()
            made.zero_grad()

    parts = make(0)
    steps(*parts, 3)
    Checkpoint(tmp_path, model=parts[0], optimizer=parts[1], scheduler=parts[2], backend="cpu").save(3)
    other = make(1)
    Checkpoint(tmp_path, model=other[0], optimizer=other[1], scheduler=other[2], backend="cpu").load()
    for one in (parts, other):
        steps(*one, 3)
    assert_same(other[0].state_dict(), parts[0].state_dict())
    assert other[1].param_groups[0]["lr"] == parts[1].param_groups[0]["lr"]


def test_a_learning_rate_on_the_device_keeps_its_tensor(tmp_path):
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=torch.tensor(0.5), fused=True)
    state = Checkpoint(tmp_path, model=model, optimizer=optimizer, backend="cpu")
    state.save(1)
    rate = optimizer.param_groups[0]["lr"]
    rate.fill_(0.1)
    state.load()
    assert optimizer.param_groups[0]["lr"] is rate and float(rate) == 0.5


def test_a_scaler_comes_back(tmp_path):
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scalers = [torch.amp.GradScaler("cpu", init_scale=2.0**power) for power in (4, 8)]
    for scaler, call in zip(scalers, ("save", "load"), strict=True):
        state = Checkpoint(tmp_path, model=model, optimizer=optimizer, scaler=scaler, backend="cpu")
        state.save(1) if call == "save" else state.load()
    assert scalers[1].get_scale() == 16


def test_the_generators_come_back(tmp_path):
    def drawn():
        return torch.rand(3).tolist(), np.random.standard_normal(3).tolist(), random.gauss(0, 1), random.random()

    training = Training()
    random.gauss(0, 1)  # the second of a pair is kept by Python's generator
    np.random.standard_normal()
    state = training.checkpoint(tmp_path)
    state.save(1)
    expected = drawn()
    drawn()
    loaded = state.load()
    assert drawn() == expected
    state.restore_generators(loaded.generators)
    assert drawn() == expected


def test_own_notes_and_a_file_by_name(tmp_path):
    state = Training().checkpoint(tmp_path)
    path = state.save(1, notes={"best": 0.5, "names": ["a"]})
    state.save(2)
    loaded = state.load(path)
    assert (loaded.step, loaded.notes) == (1, {"best": 0.5, "names": ["a"]})
    assert state.load().step == 2


class Evil:
    def __reduce__(self):
        return (print, ("it ran",))


def spoil(path, how):
    data = path.read_bytes()
    if how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "damaged":
        middle = data.index(b"data/0") + 200
        path.write_bytes(data[:middle] + bytes(byte ^ 255 for byte in data[middle : middle + 8]) + data[middle + 8 :])
    elif how == "foreign":
        torch.save({"model": torch.ones(1)}, path)
    elif how == "hostile":
        torch.save(Evil(), path)
    elif how == "newer":
        torch.save({**torch.load(path, weights_only=True), "version": 2}, path)
    elif how == "without a part":
        torch.save({name: value for name, value in torch.load(path, weights_only=True).items() if name != "loader"}, path)
    elif how == "huge":
        with path.open("r+b") as file:
            file.truncate(2**31)
    elif how == "a bomb":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", bytes(2**27))


BROKEN = {
    "truncated": "truncated, or no checkpoint",
    "empty": "truncated, or no checkpoint",
    "damaged": "it cannot be read .* is damaged|it cannot be read .*Bad CRC-32|it cannot be read",
    "foreign": "not a checkpoint of fixshape",
    "hostile": "it cannot be read .*[Ww]eights",
    "newer": r"its version is 2, this one reads 1\.",
    "without a part": "it has no loader: it was changed",
    "huge": "larger than",
    "a bomb": "unpacks to more than",
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_file_that_is_none_is_refused_and_changes_nothing(tmp_path, capfd, how):
    training = Training()
    state = training.checkpoint(tmp_path)
    state.save(1)
    spoil(state.save(2), how)
    before = training.state()
    with pytest.raises(CheckpointError, match=rf"^Checkpoint\.load: .*step-00000002\.pt: .*({BROKEN[how]})") as caught:
        state.load()
    assert str(caught.value).endswith(f"Delete it to go on from {tmp_path / 'step-00000001.pt'}.")
    assert_same(training.state(), before)
    assert "it ran" not in capfd.readouterr().out
    (tmp_path / "step-00000002.pt").unlink()
    assert state.load().step == 1


def test_nothing_to_load(tmp_path):
    state = Training().checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"^Checkpoint\.load: there is no checkpoint \(step-\*\.pt\) in .*\.$"):
        state.load()
    with pytest.raises(CheckpointError, match=r"nowhere\.pt: there is no such file\.$"):
        state.load(tmp_path / "nowhere.pt")


class Wider(WithLosses):
    def __init__(self):
        super().__init__(norm=True)
        self.body[0] = nn.Conv2d(3, 4, 5)


def other_training(what):
    if what == "plan":
        return Training(plan=ShapePlan([Bucket(8, 8, 2), Bucket(8, 32, 2)]))
    training = Training(optimizer=torch.optim.SGD) if what == "optimizer" else Training()
    if what == "shape":
        training.model = Wider()
    elif what == "names":
        training.model = nn.Sequential(training.model)
    elif what == "groups":
        training.optimizer = torch.optim.AdamW([{"params": [weight]} for weight in training.model.parameters()])
    elif what == "ema":
        training.ema = None
    elif what == "batch size":
        training.loader = make_loader(Drawing(), PLAN, 2, sizes=SIZES)
    return training


OTHERS = {
    "plan": r"it was trained with plan '\w+', here '\w+'\. Load that plan",
    "shape": r"its model is another one: body\.0\.weight has shape \(4, 3, 3, 3\), here \(4, 3, 5, 5\)\.",
    "names": r"its model is another one: 0\.body\.0\.bias, .* are in one of them only\.",
    "optimizer": r"the optimiser was 'AdamW' with groups of \[4\] parameters, here SGD with \[4\]\. Build it as it was\.",
    "groups": r"the optimiser was 'AdamW' with groups of \[4\] parameters, here AdamW with \[1, 1, 1, 1\]",
    "ema": r"it was saved with ema, here the training is without one\. Give the same\.",
    "batch size": r"the state is of another run: its batch size is 3, here 2",
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_training_s_checkpoint_is_refused_and_changes_nothing(tmp_path, what):
    Training().checkpoint(tmp_path).save(1)
    training = other_training(what)
    before = copy.deepcopy([training.model.state_dict(), training.loader.state_dict()])
    with pytest.raises(CheckpointError, match=OTHERS[what]):
        training.checkpoint(tmp_path).load()
    assert_same([training.model.state_dict(), training.loader.state_dict()], before)


def test_a_state_that_could_not_be_loaded_is_not_written(tmp_path):
    state = Training().checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"^Checkpoint\.save: notes\['a'\]\[0\] is \{1\}, of type set: only tensors"):
        state.save(1, notes={"a": [{1}]})
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_finite_are_not_written(tmp_path):
    training = Training()
    state = training.checkpoint(tmp_path)
    state.save(1)
    with torch.no_grad():
        training.model.body[0].bias[1] = torch.inf
    expected = (
        r"parameter body\.0\.bias is not finite after step 2, and nothing was written\. The last good one is .*step-00000001"
    )
    with pytest.raises(NonFiniteLossError, match=expected):
        state.save(2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.pt"]


def test_a_loss_that_is_no_number_keeps_the_last_good_one(tmp_path):
    training = Training()

    def spoil_loss(module, args, losses):
        return {**losses, "bad": losses["size"] * (torch.nan if len(module.modes) == 6 else 1)}

    training.model.register_forward_hook(spoil_loss)
    expected = (
        r"the loss of step 6 is nan, .* Its images \(image_id\): \d+, \d+, \d+\. .* The last checkpoint is .*step-00000004\.pt\.$"
    )
    with pytest.raises(NonFiniteLossError, match=expected):
        training.fit(tmp_path)
    assert max(path.name for path in tmp_path.iterdir()) == "step-00000004.pt"


def test_a_full_disk_leaves_the_last_one(tmp_path, monkeypatch):
    def full(path, data):
        if "00000004" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, data)

    real = sys.modules["fixshape.train._checkpoint"].write_atomic
    monkeypatch.setattr("fixshape.train._checkpoint.write_atomic", full)
    expected = (
        r"^Checkpoint\.save: step 4 could not be written to .* MiB\): No space left on device\. The last one,"
        r" .*step-00000002\.pt, is as it was\. Make room"
    )
    with pytest.raises(CheckpointError, match=expected):
        Training().fit(tmp_path)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002.pt"]
    assert Training().fit(tmp_path, resume=True, epochs=1).resumed_at == 2


_LIMITED = """
import resource, sys
import torch
from fixshape.errors import CheckpointError
from fixshape.train import Checkpoint
model = torch.nn.Linear(200, 200)
state = Checkpoint(sys.argv[1], model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), backend="cpu")
state.save(1)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    state.save(2)
except CheckpointError as error:
    print(error)
print(state.load().step)
"""


def test_a_file_that_may_not_grow_leaves_the_last_one(tmp_path):
    """The system's own refusal in the middle of a write."""
    done = subprocess.run([sys.executable, "-c", _LIMITED, str(tmp_path)], capture_output=True, text=True, check=False)
    message, step = done.stdout.splitlines()
    assert "step 2 could not be written" in message and "File too large. The last one, " in message and step == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.pt"]


def test_what_killed_processes_left_is_cleared(tmp_path):
    (tmp_path / ".step-00000003.pt.x7f2").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    Training().fit(tmp_path, epochs=1, checkpoint_every=None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "step-00000007.pt"]


def test_a_loader_that_does_not_know_how_far_it_came(tmp_path):
    model = WithLosses()
    with pytest.raises(
        DtypeError, match=r"checkpoint= with a loader of type list, .* expected the loader of fixshape\.make_loader"
    ):
        fit(model, [], torch.optim.SGD(model.parameters()), checkpoint=tmp_path, backend="cpu")


def test_a_dry_run_has_nothing_to_save(tmp_path):
    class Valueless(CpuBackend):
        has_values = False

    training = Training()
    with pytest.raises(BackendError, match="checkpoint= in a dry run, which has no values"):
        fit(training.model, training.loader, training.optimizer, checkpoint=tmp_path, backend=Valueless())


@pytest.mark.parametrize("count", [0, 1.5])
def test_arguments_that_are_no_counts(tmp_path, count):
    with pytest.raises(ShapeError, match=rf"^fit: checkpoint_every is {count}, expected a whole number of at least 1\.$"):
        Training().fit(tmp_path, checkpoint_every=count)
    with pytest.raises(ShapeError, match=r"^Checkpoint\.save: step is -1"):
        Training().checkpoint(tmp_path).save(-1)


def test_only_the_first_rank_writes(tmp_path, monkeypatch):
    state = Training().checkpoint(tmp_path)
    monkeypatch.setattr("fixshape.train._checkpoint._is_first_rank", lambda: False)
    assert state.save(1).name == "step-00000001.pt"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", [{"resume": True}, {"checkpoint_every": 2}], ids=str)
def test_options_that_need_a_folder(option):
    model = WithLosses()
    with pytest.raises(CheckpointError, match=rf"^fit: {next(iter(option))}= without checkpoint=, the folder\. Give it too\.$"):
        fit(model, [], torch.optim.SGD(model.parameters()), backend="cpu", **option)
