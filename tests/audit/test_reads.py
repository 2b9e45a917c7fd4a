"""Reads that are no op: each counts where a device would wait, once, at its line; ``torch.Tensor`` is as it was afterwards."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors

from fixshape.audit import OpRecorder, _reads, predict

HOST = torch.device("cpu")
METHODS = ("tolist", "numpy", "cpu", "to", "__array__")
BATCH = torch.arange(6.0)
WEIGHT = torch.ones(6, requires_grad=True)


def _syncs(program: Callable[[], Any]) -> dict[str, int]:
    recorder = OpRecorder()
    with recorder:
        program()
    report = recorder.report()
    found = report.by_operator("sync")
    assert sum(found.values()) == report.total().syncs
    return dict(found)


def _made() -> torch.Tensor:
    return BATCH + 1


def _each_in_turn() -> None:
    made = _made()
    made.tolist(), made.numpy(), made.tolist()


def _fetched_and_read_on() -> None:
    fetched = _made().cpu()
    fetched.tolist(), fetched.numpy(), fetched[0].item(), fetched.cpu(), fetched.to("cpu")
    [row.item() for row in fetched]
    (fetched * 2 > 1).any().item()


def _fetched_with_a_gradient() -> None:
    loss = (WEIGHT * BATCH).sum()
    loss.cpu().item()
    (loss / 2).item()  # goes on in the graph of the loss, which is the device's


def _fetched_and_written() -> None:
    total = _made()
    total.cpu()
    total.add_(BATCH)
    total.cpu()


def _moved() -> None:
    BATCH.clone()
    batch = torch.from_numpy(np.ones(3))
    batch.to(HOST).tolist()


def _moved_back() -> None:
    found = _made().cpu()
    found.to(HOST).tolist()


COUNTED: dict[str, tuple[Callable[[], Any], dict[str, int]]] = {
    "tolist": (lambda: _made().tolist(), {"Tensor.tolist": 1}),
    "tolist of one value": (lambda: _made().sum().tolist(), {"Tensor.tolist": 1}),
    "numpy": (lambda: _made().numpy(), {"Tensor.numpy": 1}),
    "numpy by force": (lambda: (WEIGHT * 2).numpy(force=True), {"Tensor.numpy": 1}),
    "asarray": (lambda: np.asarray(_made()), {"Tensor.numpy": 1}),
    "asarray of a type": (lambda: np.asarray(_made(), dtype=np.float64), {"Tensor.numpy": 1}),
    "__array__": (lambda: _made().__array__(), {"Tensor.numpy": 1}),
    "a function of numpy": (lambda: np.stack([_made()]), {"Tensor.numpy": 1}),
    "cpu": (lambda: _made().cpu(), {"Tensor.cpu": 1}),
    "to cpu": (lambda: _made().to("cpu"), {"Tensor.cpu": 1}),
    "to cpu by name": (lambda: _made().to(device="cpu"), {"Tensor.cpu": 1}),
    "to cpu as a device": (lambda: _made().to(torch.device("cpu")), {"Tensor.cpu": 1}),
    "to cpu and a type": (lambda: _made().to("cpu", torch.float64), {"Tensor.cpu": 1}),
    "a parameter": (lambda: WEIGHT.tolist(), {"Tensor.tolist": 1}),
    "a view of a parameter": (lambda: WEIGHT.detach().numpy(), {"Tensor.numpy": 1}),
    "the data of a parameter": (lambda: WEIGHT.data.numpy(), {"Tensor.numpy": 1}),
    "in place": (lambda: BATCH.clone().mul_(2).tolist(), {"Tensor.tolist": 1}),
    "each read waits": (_each_in_turn, {"Tensor.tolist": 2, "Tensor.numpy": 1}),
    "cpu and item": (lambda: _made().sum().cpu().item(), {"Tensor.cpu": 1}),
    "cpu and numpy": (lambda: _made().cpu().numpy(), {"Tensor.cpu": 1}),
    "detach, cpu, numpy": (lambda: (WEIGHT * 2).detach().cpu().numpy(), {"Tensor.cpu": 1}),
    "cpu, detach, numpy": (lambda: (WEIGHT * 2).cpu().detach().numpy(), {"Tensor.cpu": 1}),
    "cpu, another type, numpy": (lambda: _made().cpu().double().numpy(), {"Tensor.cpu": 1}),
    "what has been fetched": (_fetched_and_read_on, {"Tensor.cpu": 1}),
    "fetched, and used on": (_fetched_with_a_gradient, {"Tensor.cpu": 1, "aten._local_scalar_dense.default": 1}),
    "fetched, and written": (_fetched_and_written, {"Tensor.cpu": 2}),
    "fetched, and equal on the host": (lambda: torch.equal(_made().cpu(), _made().cpu()), {"Tensor.cpu": 2}),
    "fetched on one side": (lambda: torch.equal(_made().cpu(), BATCH), {"Tensor.cpu": 1, "aten.equal.default": 1}),
    "moved": (_moved, {"Tensor.tolist": 1}),
    "moved back": (_moved_back, {"Tensor.cpu": 1, "Tensor.tolist": 1}),
    "item, as ever": (lambda: _made()[0].item(), {"aten._local_scalar_dense.default": 1}),
}

LINEAR = torch.nn.Linear(2, 2)
FREE: dict[str, Callable[[], Any]] = {
    "a batch as it came": lambda: (BATCH.tolist(), BATCH.numpy(), np.asarray(BATCH), BATCH.cpu(), BATCH.to("cpu")),
    "to a device": lambda: (_made().to(HOST), _made().to(device=HOST), _made().to(HOST, non_blocking=True)),
    "to a type": lambda: (_made().to(torch.float32), _made().to(torch.float64), _made().to(dtype=torch.float64)),
    "to another tensor's": lambda: _made().to(BATCH),
    "a copy that does not wait": lambda: _made().to("cpu", non_blocking=True).tolist(),
    "the same by position": lambda: _made().to("cpu", torch.float64, True).tolist(),
    "a module that is moved": lambda: (LINEAR.to("cpu"), LINEAR.cpu(), LINEAR.to(HOST)),
    "away": lambda: _made().to("meta"),
    "sizes": lambda: (list(_made().shape), _made().size(), len(_made())),
    "modes put aside": lambda: _aside(_made()),
}


def _aside(made: torch.Tensor) -> None:
    with _disable_current_modes():
        made.tolist()


@pytest.mark.parametrize(("program", "syncs"), COUNTED.values(), ids=COUNTED)
def test_a_read_counts_once(program, syncs):
    assert _syncs(program) == syncs


@pytest.mark.parametrize("program", FREE.values(), ids=FREE)
def test_what_waits_for_nothing_counts_nothing(program):
    assert _syncs(program) == {}


def test_the_copy_of_a_real_device_is_an_op_and_counts_once():
    def program() -> torch.Tensor:
        with FakeTensorMode():
            return torch.empty(3, device="cuda").cpu()

    assert _syncs(program) == {"aten._to_copy.default": 1}


def test_beside_a_real_device_the_cpu_is_the_host():
    def program() -> None:
        with FakeTensorMode():
            torch.empty(3, device="cuda").to("cpu", non_blocking=True)
        _made().tolist()

    assert _syncs(program) == {}


def test_a_read_is_told_at_its_line_with_its_shape_and_module():
    class Head(torch.nn.Module):
        def forward(self, rows: torch.Tensor) -> list[float]:
            return (rows * 2).tolist()

    with OpRecorder() as recorder:
        torch.nn.Sequential(Head())(BATCH)
    (event,) = [event for event in recorder.report().events if event.kind == "sync"]
    assert event.site is not None and event.site == event.caller
    assert (event.site.file, event.site.line) == (__file__, Head.forward.__code__.co_firstlineno + 1)
    assert (event.shapes, event.module, event.phase, event.step) == (("f32[6]",), "0", "forward", 0)


def test_the_phase_is_that_which_runs():
    weight, seen = torch.ones(3, requires_grad=True), []

    class Watching(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure: Any = None) -> None:
            for group in self.param_groups:
                group["params"][0].grad.cpu()

    optimizer = Watching([weight], lr=0.1)
    with OpRecorder() as recorder:
        loss = (weight * 2).sum()
        loss.register_hook(lambda gradient: seen.append(gradient.tolist()))
        loss.backward()
        optimizer.step()
    steps = recorder.report().steps[0]
    assert seen == [1.0]
    assert (steps.forward.syncs, steps.backward.syncs, steps.optimizer.syncs) == (0, 1, 1)


def test_what_has_been_fetched_is_the_devices_again_at_the_next_step():
    recorder, kept = OpRecorder(), BATCH * 2
    for _ in range(3):
        with recorder:
            kept = kept if recorder.launches else BATCH * 3
            kept.cpu(), kept.cpu(), WEIGHT.cpu(), WEIGHT.cpu()
            BATCH.sin()
        recorder.step()
    assert [step.syncs for step in recorder.report().steps] == [2, 2, 2]


def test_without_lines_nothing_is_wrapped():
    before = dict(vars(torch.Tensor))
    with OpRecorder(lines=False) as recorder:
        assert dict(vars(torch.Tensor)) == before
        _made().tolist(), _made().sum().cpu().item()
    assert recorder.current.syncs == 1


def test_recorders_in_one_another_count_the_same():
    with OpRecorder() as outer:
        with OpRecorder() as inner:
            np.asarray(_made())
            _made().sum().cpu().item()
        _made().tolist()
    assert (outer.current.syncs, inner.current.syncs) == (3, 2)


def _wrapped() -> set[str]:
    return set(METHODS) & set(vars(torch.Tensor)) - {"__array__"}


def test_torch_is_as_it_was_whatever_happens():
    before = dict(vars(torch.Tensor))
    originals = [getattr(torch.Tensor, name) for name in METHODS]
    with pytest.raises(KeyError), OpRecorder(), OpRecorder() as inner, inner:
        assert _wrapped() == {"tolist", "numpy", "cpu", "to"}
        raise KeyError
    outer, inner = OpRecorder(), OpRecorder()
    with outer:
        with inner:
            pass
        assert _wrapped()
        with inner:
            pass
        assert _wrapped()
    assert dict(vars(torch.Tensor)) == before
    assert [getattr(torch.Tensor, name) for name in METHODS] == originals


def test_what_somebody_else_wraps_stays(monkeypatch):
    def theirs(tensor: torch.Tensor) -> Any:
        seen.append(tensor)
        return given(tensor)

    seen: list[torch.Tensor] = []
    with OpRecorder() as recorder:
        given = torch.Tensor.tolist
        monkeypatch.setattr(torch.Tensor, "tolist", theirs)
        _made().tolist()
    assert torch.Tensor.tolist is theirs
    assert _made().tolist() == (BATCH + 1).tolist()
    assert (len(seen), recorder.current.syncs) == (3, 1)
    with recorder:
        _made().tolist()
    assert recorder.current.syncs == 2
    monkeypatch.undo()
    delattr(torch.Tensor, "tolist")  # what theirs had found there


def test_errors_are_torchs_own_and_count_nothing():
    def messages() -> list[str]:
        said = []
        for wrong in (lambda: (WEIGHT * 2).numpy(), lambda: _made().to("nowhere"), lambda: _made().tolist(1)):
            with pytest.raises((RuntimeError, TypeError)) as error:
                wrong()
            said.append(str(error.value))
        return said

    expected, recorder = messages(), OpRecorder()
    with recorder:
        found = messages()
    assert found == expected
    assert recorder.current.syncs == 0


def test_results_are_the_very_same():
    made = _made()
    with OpRecorder():
        assert made.cpu() is made and made.to("cpu") is made and made.to(torch.float32) is made
        assert np.shares_memory(made.numpy(), made.numpy())
        assert made.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
        assert made.to("cpu", torch.float64, copy=True, memory_format=torch.preserve_format).dtype == torch.float64
        assert torch.Tensor.cpu.__doc__ is not None and torch.Tensor.cpu.__name__ == "cpu"


class _Functions(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


def test_subclasses_and_function_modes_are_told_of_torchs_own_methods():
    own = [getattr(torch.Tensor, name) for name in ("to", "cpu", "tolist", "numpy")]
    image = tv_tensors.Image(torch.rand(3, 4, 4))

    def program() -> list[Any]:
        with _Functions() as mode:
            made.to(HOST), made.cpu(), made.tolist(), made.numpy()
        return mode.seen

    made = _made()
    assert program() == own
    kinds = type(image.to(torch.float64)), type(image.cpu())
    with OpRecorder() as recorder:
        made = _made()
        assert program() == own
        assert (type(image.to(torch.float64)), type(image.cpu())) == kinds == (tv_tensors.Image, torch.Tensor)
    assert recorder.report().by_operator("sync") == {"Tensor.cpu": 1}


def test_another_thread_does_not_count():
    made, found = _made(), []
    with OpRecorder() as recorder:
        made.mul_(2)
        thread = threading.Thread(target=lambda: found.append(made.tolist()))
        thread.start()
        thread.join()
    assert found == [made.tolist()]
    assert recorder.current.syncs == 0


class _ReadsInWorker(Dataset):
    def __init__(self, recorder: OpRecorder) -> None:
        self.recorder = recorder

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        torch.ones(index + 3).sin().tolist()
        WEIGHT.tolist()
        return self.recorder.current.syncs


def test_a_forked_worker_does_not_count():
    recorder = OpRecorder()
    loader = DataLoader(_ReadsInWorker(recorder), batch_size=None, num_workers=1, multiprocessing_context="fork")
    with recorder:
        iterator = iter(loader)  # forks, after it has drawn a seed
        before = recorder.current.syncs
        assert [int(value) - before for value in iterator] == [0, 0]


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("recorded_first", [True, False])
def test_a_compiled_read_is_neither_broken_nor_compiled_anew(backend, recorded_first):
    def fetched(rows: torch.Tensor) -> torch.Tensor:
        return rows.sin().cpu() + rows.to("cpu") + rows.to(torch.float64)

    def with_numpy(rows: torch.Tensor) -> Any:
        return rows.sin().numpy().sum() + rows.tolist()[0]

    for function in (fetched, with_numpy):
        graphs = []

        def counting(graph: Any, inputs: Any, graphs: list[Any] = graphs) -> Any:
            graphs.append(graph)
            return torch._dynamo.lookup_backend(backend)(graph, inputs)

        torch._dynamo.reset()
        compiled, expected = torch.compile(function, backend=counting, fullgraph=function is fetched), function(BATCH)
        before = None
        for number in range(4):
            if (number % 2 == 0) is recorded_first:
                with OpRecorder():
                    result = compiled(BATCH)
            else:
                result = compiled(BATCH)
            np.testing.assert_allclose(np.asarray(result), np.asarray(expected), rtol=1e-6)
            if number == 1:
                before = len(graphs)
        assert before == len(graphs)
        if function is fetched and _mode_bears_compiled():
            assert len(graphs) == 1


def _mode_bears_compiled() -> bool:
    from fixshape.audit._mode import _GUARDS_KNOW_MODES

    return _GUARDS_KNOW_MODES


def test_a_read_inside_a_compiled_function_by_its_full_name():
    compiled = torch.compile(lambda rows: torch.Tensor.cpu(rows.sin()) * 2, backend="aot_eager", fullgraph=True)
    expected = BATCH.sin() * 2
    with OpRecorder():
        assert torch.equal(compiled(BATCH), expected)
    assert torch.equal(compiled(BATCH), expected)


def _graphs(program: Callable[[], Any], steps: int = 3) -> tuple[int, ...]:
    recorder = OpRecorder()
    for _ in range(steps):
        with recorder:
            kept = program()
        recorder.step()
        del kept
    return predict(recorder)["xla"]


def _halfway(read: Callable[[torch.Tensor], Any]) -> Callable[[], torch.Tensor]:
    def program() -> torch.Tensor:
        total = BATCH.sum()
        read(total)
        return total + BATCH

    return program


@pytest.mark.parametrize(
    "read",
    [
        lambda total: total.item(),
        lambda total: total.tolist(),
        lambda total: total.numpy(),
        lambda total: total.cpu().numpy(),
        lambda total: total.to("cpu", non_blocking=True),
        lambda total: (total.tolist(), total.cpu(), total.item()),
    ],
)
def test_a_read_cuts_the_graph_of_a_lazy_device(read):
    assert _graphs(_halfway(read)) == (2, 0, 0)


def test_what_is_made_on_the_host_is_no_graph():
    assert _graphs(_halfway(lambda total: None)) == _graphs(_halfway(lambda total: BATCH.tolist())) == (1, 0, 0)
    assert _graphs(lambda: BATCH.sum().cpu() * 2 + 1) == (1, 0, 0)


def test_a_list_cuts_what_torch_compile_makes_and_a_copy_does_not():
    def program(rows: torch.Tensor, read: Callable[[torch.Tensor], Any]) -> torch.Tensor:
        made = rows.sin()
        read(made)
        return rows.cos() * 2

    def predicted(read: Callable[[torch.Tensor], Any]) -> tuple[int, ...]:
        recorder = OpRecorder()
        for _ in range(2):
            with recorder:
                program(BATCH, read)
            recorder.step()
        return predict(recorder)["torch.compile"]

    reads: list[Callable[[torch.Tensor], Any]] = [
        lambda made: made.tolist(),
        lambda made: BATCH.tolist(),
        lambda made: made[0].cpu().item(),
        lambda made: made.cpu(),
        lambda made: made.numpy(),
    ]
    for read in reads:
        graphs: list[Any] = []

        def counting(graph: Any, inputs: Any, graphs: list[Any] = graphs) -> Any:
            graphs.append(graph)
            return graph.forward

        torch._dynamo.reset()
        torch.compile(program, backend=counting, dynamic=False)(BATCH, read)
        assert predicted(read) == (len(graphs), 0)


READS: list[tuple[Callable[[torch.Tensor], Any], bool, bool]] = [  # whether it waits, and whether it fetches
    (lambda tensor: tensor.tolist(), True, False),
    (lambda tensor: tensor.numpy(), True, False),
    (lambda tensor: np.asarray(tensor), True, False),
    (lambda tensor: tensor.sum().item(), True, False),
    (lambda tensor: tensor.cpu(), True, True),
    (lambda tensor: tensor.to("cpu"), True, True),
    (lambda tensor: tensor.to(torch.float32), False, False),
]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(range(len(READS)))), max_size=12))
def test_any_order_of_reads(order):
    recorder, fetched, expected = OpRecorder(), set(), 0
    with recorder:
        tensors = [BATCH + number for number in range(4)]
        for index, kind in order:
            read, waits, fetches = READS[kind]
            read(tensors[index])
            expected += waits and index not in fetched
            fetched |= {index} if fetches else set()
    assert recorder.current.syncs == expected


def test_no_tensor_is_kept():
    recorder, gone = OpRecorder(), []
    gc.disable()
    try:
        with recorder:
            for _ in range(3):
                made = _made()
                made.cpu().tolist(), made.detach().numpy(), made.to(HOST)
                gone.append(weakref.ref(made))
                del made
        assert [tensor() for tensor in gone] == [None] * 3
        recorder.step()
        assert recorder._trace is not None and not recorder._trace.whereabouts._device
    finally:
        gc.enable()


@pytest.mark.parametrize("part", ["on_device", "fetch"])
def test_the_oracle_fails_where_tensors_are_not_told_apart(monkeypatch, part):
    broken = {"on_device": lambda self, tensor: True, "fetch": lambda self, tensor: None}
    monkeypatch.setattr(f"fixshape.audit._whereabouts.Whereabouts.{part}", broken[part])
    wrong = [name for name, (program, syncs) in COUNTED.items() if _syncs(program) != syncs]
    wrong += [name for name, program in FREE.items() if _syncs(program) != {}]
    assert wrong


def test_the_recorders_that_listen_are_counted():
    assert _reads._listeners == 0
    with OpRecorder():
        assert _reads._listeners == 1
    assert _reads._listeners == 0 and _reads._wrapped == {}


def _truth_against_prediction() -> dict[str, tuple[list[int], list[int]]]:
    """Runs in a process of its own: graphs that XLA compiles for steps with reads, and those predicted from the host."""
    import torch_xla
    import torch_xla.debug.metrics as metrics

    def log(loss: torch.Tensor, out: torch.Tensor) -> None:
        loss.detach().cpu().numpy()

    def lengths(loss: torch.Tensor, out: torch.Tensor) -> None:
        out[:, 0].tolist()
        loss.tolist()

    def host_work(loss: torch.Tensor, out: torch.Tensor) -> None:
        found = out.detach().to("cpu")
        (found > 0).sum().item()
        found.exp().mean().tolist()

    def nothing(loss: torch.Tensor, out: torch.Tensor) -> None:
        pass

    def compiles() -> int:
        data = metrics.metric_data("CompileTime")
        return int(data[0]) if data else 0

    device = torch_xla.device()
    torch.ones(1, device=device)
    figures = {}
    for number, read in enumerate((log, lengths, host_work, nothing)):
        recorder, truth = OpRecorder(), []
        for where in (HOST, device):
            torch.manual_seed(0)
            model = torch.nn.Linear(6, 3 + number).to(where)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for _ in range(4):
                rows = torch.ones(5, 6).to(where)
                torch_xla.sync()
                before = compiles()
                if where is HOST:
                    recorder.__enter__()
                out = model(rows)
                loss = out.square().mean()
                read(loss, out)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if where is HOST:
                    recorder.__exit__(None, None, None)
                    recorder.step()
                torch_xla.sync()
                del loss, out
                if where is not HOST:
                    truth.append(compiles() - before)
        figures[read.__name__] = (list(predict(recorder)["xla"]), truth)
    return figures


@pytest.mark.xla
def test_the_prediction_with_reads_is_what_xla_compiles():
    code = f"import runpy, json; print(json.dumps(runpy.run_path({__file__!r})['_truth_against_prediction']()))"
    root = Path(__file__).parent.parent.parent
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=root)
    for name, (predicted, truth) in json.loads(done.stdout.splitlines()[-1]).items():
        assert predicted == truth, name
