"""Scripts as they are: their steps, their end, and what they see of the world. Programs of a few lines, real workers."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from fixshape.audit._script import Recording, load_module, load_script, record_script
from fixshape.errors import ShapeError, UsageError

MODEL = """
import torch
from torch.utils.data import DataLoader
model = torch.nn.Linear(4, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
row = torch.ones(4)
def train(rows):
    optimizer.zero_grad()
    model(rows).sum().backward()
    optimizer.step()
def loader(samples=40, **options):
    return DataLoader([row] * samples, 4, **options)
"""


def write(folder: Path, source: str, name: str = "train.py") -> Path:
    path = folder / name
    path.write_text(MODEL + textwrap.dedent(source))
    return path


def record(folder: Path, source: str, *, steps: int = 4, **options) -> Recording:
    return record_script(load_script(str(write(folder, source))), [], steps=steps, **options)


def launches(recording: Recording) -> list[int]:
    return [step.launches for step in recording.report.steps]


# Where a step ends.


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> int:
    """Launches of a step, as the loader divides it."""
    recording = record(tmp_path_factory.mktemp("one"), "for rows in loader(): train(rows)\n", steps=3)
    first, second, third = launches(recording)
    assert first == second == third > 5
    return first


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_gives_its_next_batch_and_what_it_does_itself_is_not_counted(tmp_path, one, workers):
    source = f"""
    class Samples(torch.utils.data.Dataset):
        def __len__(self): return 400
        def __getitem__(self, index): return torch.rand(4).nonzero().sum() * torch.ones(4)
    for rows in DataLoader(Samples(), 4, num_workers={workers}): train(rows)
    """
    recording = record(tmp_path, source)
    assert launches(recording) == [one] * 4
    assert (recording.status, recording.exit_code, recording.steps) == ("stopped", None, 4)
    assert recording.report.by_operator("dynamic") == {}
    assert recording.inputs == {"batch": {"f32[4, 4]": 4}}


def test_without_a_loader_the_optimizers_step_ends_it(tmp_path, one):
    recording = record(tmp_path, "while True: train(torch.empty(3, 4))\n")
    assert launches(recording) == [one] * 4, "what built the model, before it was first called, is in no step"


def test_a_model_that_is_no_module_has_its_building_in_the_first_step(tmp_path, one):
    source = """
    weight = torch.rand(4, 2).requires_grad_()
    loss, optimizer = torch.nn.MSELoss(), torch.optim.SGD([weight], lr=0.1)
    while True:
        optimizer.zero_grad(); loss(torch.ones(3, 4) @ weight, torch.ones(3, 2)).backward(); optimizer.step()
    """
    first, *later = launches(record(tmp_path, source))
    assert len(set(later)) == 1 and first > later[0], "nothing tells them apart; the call of a loss does not begin a step"


def test_two_optimizers_make_one_step_and_the_first_decides(tmp_path, one):
    source = """
    critic = torch.optim.SGD(model.parameters(), lr=0.2)
    while True:
        train(torch.empty(3, 4))
        optimizer.zero_grad(); model(torch.empty(3, 4)).sum().backward(); critic.step()
    """
    assert set(launches(record(tmp_path, source))[1:]) == {2 * one}


def test_an_optimizer_that_is_gone_decides_nothing(tmp_path, one):
    source = """
    train(torch.empty(3, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    while True: train(torch.empty(3, 4))
    """
    assert launches(record(tmp_path, source))[1:] == [one] * 3


def test_accumulated_gradients_are_a_step_for_each_batch(tmp_path):
    source = """
    for index, rows in enumerate(loader()):
        model(rows).sum().backward()
        if index % 2: optimizer.step()
    """
    assert len(launches(record(tmp_path, source))) == 4


def test_where_one_batch_serves_many_steps_the_optimizer_decides(tmp_path, one):
    recording = record(tmp_path, "rows = next(iter(loader()))\nwhile True: train(rows)\n")
    assert launches(recording) == [2 * one, one, one, one]


def test_the_user_decides_once_asked(tmp_path, one):
    source = """
    import fixshape
    for index, rows in enumerate(loader()):
        train(rows)
        if index % 3 == 2: fixshape.audit.step()
    """
    assert launches(record(tmp_path, source)) == [one, one, one, 3 * one]
    source = source.replace("for index", "fixshape.audit.step()\n    for index")
    assert launches(record(tmp_path, source, steps=2))[1:] == [3 * one]


def test_outside_an_audit_the_users_step_does_nothing():
    import fixshape

    fixshape.audit.step()


def test_two_loaders_side_by_side(tmp_path, one):
    source = "for rows, more in zip(loader(), DataLoader([torch.ones(7)] * 40, 2)): train(rows)\n"
    recording = record(tmp_path, source)
    assert launches(recording) == [one] * 4
    assert recording.inputs == {"batch": {"f32[4, 4]": 4}, "loader 2: batch": {"f32[2, 7]": 4}}


def test_a_loader_inside_a_data_set_ends_no_step(tmp_path, one):
    source = """
    class Samples(torch.utils.data.Dataset):
        def __len__(self): return 400
        def __getitem__(self, index): return sum(loader(8)).sum(0)
    for rows in DataLoader(Samples(), 4): train(rows)
    """
    recording = record(tmp_path, source)
    assert launches(recording) == [one] * 4
    assert recording.inputs == {"batch": {"f32[4, 4]": 4}}


def test_batches_that_nothing_is_done_with_are_no_steps(tmp_path, one):
    assert launches(record(tmp_path, "list(loader())\nfor rows in loader(): train(rows)\n")) == [one] * 4


def test_epochs_and_the_end_of_the_script(tmp_path, one):
    recording = record(tmp_path, "for epoch in range(2):\n    for rows in loader(8): train(rows)\n", steps=9)
    assert launches(recording) == [one] * 4
    assert (recording.status, recording.exit_code, recording.steps) == ("finished", None, 4)


def test_under_a_mode_of_the_scripts_own(tmp_path, one):
    source = """
    from torch.utils.flop_counter import FlopCounterMode
    with FlopCounterMode(display=False) as counter:
        for rows in loader(num_workers=1): train(rows)
    """
    recording = record(tmp_path, source)
    assert recording.status == "stopped" and len(launches(recording)) == 4
    assert all(abs(count - one) <= 2 for count in launches(recording)[1:])


# How it is stopped.


def test_clean_up_runs_and_is_not_recorded(tmp_path, one):
    source = """
    try:
        while True:
            try: train(torch.empty(3, 4))
            except Exception: pass
    finally:
        torch.rand(3).nonzero()
        open("cleaned", "w").close()
    """
    source = source.replace('"cleaned"', repr(str(tmp_path / "cleaned")))
    recording = record(tmp_path, source)
    assert launches(recording)[1:] == [one] * 3
    assert recording.status == "stopped" and (tmp_path / "cleaned").exists()


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_have_ended(tmp_path, persistent):
    source = f"""
    kept = loader(num_workers=2, persistent_workers={persistent})
    batches = iter(kept)
    for rows in batches: train(rows)
    """
    recording = record(tmp_path, source)
    assert recording.status == "stopped"
    assert multiprocessing.active_children() == []


def test_a_script_that_swallows_the_stop_is_stopped_at_its_next_batch(tmp_path, one):
    source = """
    for attempt in range(3):
        try:
            for rows in loader(): train(rows)
        except: pass
    """
    recording = record(tmp_path, source)
    assert launches(recording) == [one] * 4
    assert recording.status == "finished"


def test_a_script_that_swallows_all_is_given_up(tmp_path):
    class GivenUp(BaseException):
        pass

    def give_up(recording: Recording) -> None:
        seen.append(recording)
        raise GivenUp

    seen: list[Recording] = []
    source = """
    swallowed = 0
    while swallowed < 100:
        try: train(torch.ones(3, 4))
        except BaseException as error:
            if type(error).__name__ == "GivenUp": raise
            swallowed += 1
    """
    recording = record(tmp_path, source, give_up=give_up)
    assert isinstance(recording.error, GivenUp)
    assert (seen[0].status, seen[0].steps) == ("stopped", 4)


def test_it_is_told_of_each_step(tmp_path):
    seen: list[tuple] = []
    record(
        tmp_path,
        "for rows in loader(): train(rows)\n",
        on_step=lambda recording: seen.append((recording.status, recording.steps, len(recording.report.steps))),
    )
    assert seen == [("running", number, number) for number in (1, 2, 3, 4)]


def test_an_error_of_who_is_told_is_not_the_scripts(tmp_path):
    def fail(recording: Recording) -> None:
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        record(tmp_path, "for rows in loader():\n    try: train(rows)\n    except OSError: pass\n", on_step=fail)


def test_nothing_is_left_behind(tmp_path):
    import signal

    from torch.optim.optimizer import _global_optimizer_post_hooks
    from torch.utils._python_dispatch import _get_current_dispatch_mode
    from torch.utils.data.dataloader import _BaseDataLoaderIter

    def state() -> tuple:
        return (
            _BaseDataLoaderIter.__next__, dict(_global_optimizer_post_hooks), _get_current_dispatch_mode(),
            signal.getsignal(signal.SIGTERM), sys.modules["__main__"], sys.argv, list(sys.path), os.getcwd(),
        )  # fmt: skip

    before = state()
    record(tmp_path, "for rows in loader(): train(rows)\n")
    assert record(tmp_path, "import sys\nsys.argv.append('x'); sys.path.clear(); 1 / 0\n").status == "raised"
    assert state() == before


# How it ends by itself.


@pytest.mark.parametrize(
    ("last", "status", "exit_code"),
    [
        ("sys.exit(7)", "exited", 7),
        ("sys.exit()", "exited", 0),
        ("sys.exit('no more')", "exited", 1),
        ("1 / 0", "raised", 1),
        ("raise KeyboardInterrupt", "interrupted", 130),
        ("pass", "finished", None),
    ],
)
def test_its_end_is_its_own(tmp_path, last, status, exit_code):
    recording = record(tmp_path, f"import sys\nfor rows in loader(8): train(rows)\n{last}\n", steps=9)
    assert (recording.status, recording.exit_code, recording.steps) == (status, exit_code, 2)
    assert (recording.error is None) == (status not in ("exited", "raised"))


def test_a_step_that_was_cut_short_is_kept(tmp_path, one):
    source = "for index, rows in enumerate(loader()):\n    model(rows)\n    if index == 2: 1 / 0\n    train(rows)\n"
    recording = record(tmp_path, source)
    assert (recording.status, recording.steps) == ("raised", 2)
    assert launches(recording) == [one + 1, one + 1, 1]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("", "train.py ended without a step: no DataLoader gave a batch"),
        ("model(torch.ones(3, 4))", "Call fixshape.audit.step() at the end of each step"),
        ("raise SystemExit(0)", "ended without a step"),
    ],
)
def test_never_a_step(tmp_path, source, text):
    with pytest.raises(UsageError) as caught:
        record(tmp_path, source)
    assert text in str(caught.value)


def test_files_that_are_no_script(tmp_path):
    def refused(content: bytes) -> str:
        (tmp_path / "bad.py").write_bytes(content)
        with pytest.raises(UsageError) as caught:
            load_script(str(tmp_path / "bad.py"))
        return str(caught.value)

    assert refused(b"x = 1\nfor x in\n").endswith("bad.py, line 2: invalid syntax (for x in).")
    assert "bad.py" in refused(b"x = 1\0")
    assert "bad.py" in refused(b"x = '\xff'\n")
    assert "bad.py" in refused(b"return 1\n")
    with pytest.raises(UsageError, match="none.py: No such file or directory. Expected a Python script"):
        load_script(str(tmp_path / "none.py"))
    with pytest.raises(UsageError, match="Is a directory"):
        load_script(str(tmp_path))


def test_modules_that_are_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hollow").mkdir()
    (tmp_path / "hollow" / "__init__.py").write_text("")
    (tmp_path / "hollow" / "broken.py").write_text("def\n")
    (tmp_path / "failing").mkdir()
    (tmp_path / "failing" / "__init__.py").write_text("1 / 0")
    for name, text in [
        ("missing_module", "-m missing_module: there is no such module"),
        ("hollow", "no __main__ in the package"),
        ("missing_package.train", "it cannot be imported (ModuleNotFoundError"),
        ("failing.train", "it cannot be imported (ZeroDivisionError"),
        ("hollow.broken", "-m hollow.broken, line 1: invalid syntax"),
        ("sys", "there is no such module"),
        ("", "cannot be imported"),
    ]:
        with pytest.raises(UsageError) as caught:
            load_module(name)
        assert text in str(caught.value)


def test_steps_are_at_least_one(tmp_path):
    with pytest.raises(ShapeError, match="audit: steps is 0, expected a whole number of at least 1"):
        record(tmp_path, "", steps=0)


# What it sees of the world, held against Python itself.

WORLD = """
import json, os, sys
world = [sys.argv, sys.path[:1], os.getcwd(), __name__, __file__, __package__, __doc__, __spec__ and __spec__.name,
         type(__loader__).__name__, sys.modules["__main__"].__dict__ is globals(), sorted(set(globals()) - {"world"})]
open(os.environ["WORLD"], "w").write(json.dumps(world))
if os.environ.get("STEPS"):
    while True: train(torch.ones(3, 4))
"""


@pytest.mark.parametrize(
    "form", ["script", "package", *(pytest.param(form, marks=pytest.mark.slow) for form in ("link", "path", "module"))]
)
def test_the_world_is_as_python_shows_it(tmp_path, form):
    folder = tmp_path / "pack"
    folder.mkdir()
    source = '"""Its docstring."""\n' + MODEL + WORLD
    for name in ("train.py", "__main__.py", "__init__.py"):
        (folder / name).write_text(source if name != "__init__.py" else "")
    (tmp_path / "link.py").symlink_to(folder / "train.py")
    given = {
        "script": ["pack/train.py"], "path": [str(folder / "train.py")], "link": ["link.py"],
        "module": ["-m", "pack.train"], "package": ["-m", "pack"],
    }[form]  # fmt: skip
    seen = []
    for steps, command in (("", [*given]), ("1", ["-m", "fixshape.cli", "audit", *given, "--steps", "1", "--"])):
        environment = {**os.environ, "WORLD": str(tmp_path / "world.json"), "STEPS": steps, "PYTHONPATH": _root()}
        done = subprocess.run(
            [sys.executable, *command, "--lr", "--", "a b"], cwd=tmp_path, env=environment, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
        seen.append(json.loads((tmp_path / "world.json").read_text()))
        (tmp_path / "world.json").unlink()
    assert seen[0] == seen[1]
    assert seen[0][0][1:] == ["--lr", "--", "a b"]


def _root() -> str:
    import fixshape

    return str(Path(fixshape.__file__).parent.parent)
