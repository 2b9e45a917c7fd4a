"""A watched loop hands out the same batches, and knows what happened in each step."""

import pickle
import re
from types import SimpleNamespace

import pytest
import torch

from fixshape.errors import BackendError
from fixshape.train import CompileGuard, _bar, _watch, watch
from fixshape.train._watch import MOST_COMPILING_STEPS, QUIET_STEPS
from tests.train.doubles import Counted, GraphDevice, mode_is_active

WEIGHT = torch.ones(3, 2)


def rows(*lengths):
    return [torch.ones(length, 3) for length in lengths]


def quietly(loader, **options):
    return watch(loader, **{"backend": "cpu", "progress": False, **options})


def test_the_batches_are_the_loader_s_own_in_its_order():
    batches = rows(4, 2, 3)
    assert [id(batch) for batch in quietly(batches)] == [id(batch) for batch in batches]


def test_a_batch_is_asked_for_when_the_step_before_it_has_ended():
    loader = Counted(rows(4, 4, 4))
    for number, _ in enumerate(quietly(loader), start=1):
        assert loader.handed_out == number


def test_a_record_for_each_step():
    watched = quietly(rows(4, 4, 2, 4, 2, 2))
    for _ in watched:
        pass
    assert [record.index for record in watched.records] == [1, 2, 3, 4, 5, 6]
    assert [record.shapes for record in watched.records] == ["4x3", "4x3", "2x3", "4x3", "2x3", "2x3"]
    assert [record.in_warmup for record in watched.records] == [True, True, True, False, True, False]
    assert {(record.phase, record.op_compiles, record.graph_compiles) for record in watched.records} == {("train", None, None)}


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_the_phase_is_eval_without_gradients_and_has_a_warm_up_of_its_own(off):
    watched = quietly(rows(4, 4, 4))
    for _ in watched:
        pass
    with off():
        for _ in watched:
            pass
    assert [record.phase for record in watched.records] == ["train"] * 3 + ["eval"] * 3
    assert [record.in_warmup for record in watched.records] == [True, True, False] * 2


def test_epochs_over_one_watch_go_on_where_it_was():
    watched = quietly(rows(4, 4), predict=True)
    for _ in range(3):
        for batch in watched:
            _ = batch @ WEIGHT
    assert [record.index for record in watched.records] == [1, 2, 3, 4, 5, 6]
    assert [record.op_compiles for record in watched.records] == [1, 0, 0, 0, None, None]
    assert [record.in_warmup for record in watched.records] == [True, True, False, False, False, False]


def test_seconds_are_those_of_the_body_and_not_of_the_loader(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(_watch, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def slow_loader():
        for batch in rows(4, 4):
            now[0] += 100.0
            yield batch

    watched = quietly(slow_loader())
    for number, _ in enumerate(watched):
        now[0] += 1.0 + number
    assert [record.seconds for record in watched.records] == [1.0, 2.0]


def test_a_loss_is_read_one_step_late_and_the_last_when_the_loop_ends():
    watched, seen = quietly(rows(4, 4, 4)), []
    for number, _ in enumerate(watched):
        watched.log(torch.tensor(float(number), requires_grad=True) if number != 1 else 1.0)
        seen.append(list(watched.losses))
    assert seen == [[], [0.0], [0.0, 1.0]]
    assert watched.losses == [0.0, 1.0, 2.0]


def test_a_logged_loss_holds_no_graph():
    watched = quietly(rows(4))
    for _ in watched:
        watched.log(torch.ones(1, requires_grad=True).sum())
        assert watched._unread.grad_fn is None


def test_break_ends_the_step_it_is_in():
    watched = quietly(rows(4, 4, 4), predict=True)
    for number, batch in enumerate(watched):
        _ = batch @ WEIGHT
        watched.log(5.0)
        if number == 1:
            break
    assert [record.op_compiles for record in watched.records] == [1, 0]
    assert watched.losses == [5.0, 5.0]
    assert not mode_is_active()


def test_an_exception_in_the_body_leaves_no_recorder_behind():
    watched = quietly(rows(4, 4), predict=True)

    def train():
        for _ in watched:
            assert mode_is_active()
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        train()
    assert not mode_is_active()
    assert len(watched.records) == 1


def test_what_the_loader_does_is_not_counted():
    def busy_loader():
        for length in (4, 4, 4, 4):
            yield torch.ones(length, 3).sin().cos() * 2

    watched = quietly(busy_loader(), predict=True)
    for batch in watched:
        _ = batch @ WEIGHT
    assert [record.op_compiles for record in watched.records] == [1, 0, 0, 0]


def test_prediction_stops_in_a_bucket_that_is_quiet_and_begins_in_a_new_one():
    watched = quietly(rows(*[4] * 6, *[2] * 6), predict=True)
    for batch in watched:
        _ = batch @ WEIGHT
    quiet = [1, *[0] * QUIET_STEPS, None, None]
    assert [record.op_compiles for record in watched.records] == quiet * 2


def test_prediction_stops_for_good_where_each_step_compiles():
    watched = quietly(rows(*range(1, MOST_COMPILING_STEPS + 4)), predict=True)
    for batch in watched:
        _ = batch @ WEIGHT
    assert [record.op_compiles for record in watched.records] == [1] * MOST_COMPILING_STEPS + [None] * 3


def test_as_many_buckets_as_steps_that_may_compile_are_all_counted_until_quiet():
    lengths = range(1, MOST_COMPILING_STEPS)
    watched = quietly(rows(*[length for length in lengths for _ in range(5)]), predict=True)
    for batch in watched:
        _ = batch @ WEIGHT
    assert [record.op_compiles for record in watched.records] == [1, *[0] * QUIET_STEPS, None] * len(lengths)


def test_without_prediction_nothing_is_recorded():
    for _ in quietly(rows(4)):
        assert not mode_is_active()


def test_the_device_s_own_count_is_of_the_step_alone():
    device = GraphDevice()

    def loader():
        for number in range(3):
            device.trace(("data", number))  # a preprocessing that compiles at each batch
            yield torch.ones(4)

    watched = quietly(loader(), backend=device)
    for number, _ in enumerate(watched):
        device.trace(("step", min(number, 1)))
    assert [record.graph_compiles for record in watched.records] == [1, 1, 0]
    assert device.compiles() == 5


def test_where_the_device_counts_prediction_stays_on():
    # Taken off, it would change what a lazy device traces.
    watched = quietly(rows(*[4] * 8), backend=GraphDevice(), predict=True)
    for batch in watched:
        _ = batch @ WEIGHT
    assert [record.op_compiles for record in watched.records] == [1, *[0] * 7]


@pytest.mark.parametrize("sized", [True, False], ids=["a loader with a length", "a loader without"])
def test_the_bar_is_on_stderr_and_names_loss_phase_and_compiles(capfd, monkeypatch, sized):
    monkeypatch.setattr(_bar, "DRAW_INTERVAL", 0.0)
    batches = rows(4, 4, 4)
    watched = watch(batches if sized else Counted(batches), backend="cpu", predict=True)
    for batch in watched:
        watched.log((batch @ WEIGHT).sum())
    out, err = capfd.readouterr()
    assert out == ""
    assert "warm-up, slow as expected, 0 compiles so far" in err  # before the first step has ended
    assert "warm-up, slow as expected, 2 compiles so far" in err
    assert "loss 24, steady, 2 compiles" in err
    assert ("3/3" if sized else "3step") in err.splitlines()[-1]


def test_the_bar_says_nothing_of_compiles_where_none_are_counted(capfd):
    watched = watch(rows(4, 4, 4), backend="cpu")
    for _ in watched:
        watched.log(1.0)
    err = capfd.readouterr().err
    assert "warm-up, slow as expected]" in err and "loss 1, not known to be steady, as compiles were not counted" in err


def test_without_progress_nothing_is_written(capfd):
    watched = quietly(rows(4, 4))
    with watched.warming_up():
        pass
    for _ in watched:
        pass
    assert capfd.readouterr() == ("", "")


def test_what_compiles_after_the_warm_up_is_not_called_one(capfd, monkeypatch):
    monkeypatch.setattr(_bar, "DRAW_INTERVAL", 0.0)
    watched = watch(rows(4, 4, 4, 4), backend="cpu", predict=True)
    for number, batch in enumerate(watched):
        _ = batch[: 2 if number == 3 else 4] @ WEIGHT
    assert "shape drift, 2 compiles" in capfd.readouterr().err


def test_the_verdict_ends_the_bar_and_is_logged(capfd, caplog):
    watched = watch(rows(4, 4, 4), backend="cpu", predict=True)
    assert watched.verdict == "no step yet"
    with caplog.at_level("INFO", logger="fixshape.train"):
        for batch in watched:
            _ = batch @ WEIGHT
    assert re.fullmatch(r"steady since step 2; warm-up \S+ m?s; \S+ m?s a step, counting included", watched.verdict)
    assert caplog.messages == [watched.verdict]
    assert capfd.readouterr().err.endswith(f", 1 compile, {watched.verdict}]\n")


def test_a_loop_without_a_batch_has_no_verdict_to_tell(capfd, caplog):
    with caplog.at_level("INFO", logger="fixshape.train"):
        for _ in watch([], backend="cpu"):
            pass
    assert caplog.messages == [] and "no step" not in capfd.readouterr().err


def test_a_warm_up_before_the_first_step_is_in_the_verdict(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(_watch, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    batches = rows(4, 4, 4)
    watched = quietly(batches, predict=True)
    with watched.warming_up():
        _ = batches[0] @ WEIGHT
        now[0] += 41.0
    for batch in watched:
        _ = batch @ WEIGHT
        now[0] += 0.21
    assert watched.warmup_compiles == 1
    assert watched.verdict == "steady since step 1; warm-up 41 s; 0.21 s a step, counting included"


class OperatorDevice(GraphDevice):
    """Counts operators, and has no values."""

    name = "npu"
    has_values = False


def test_a_count_of_operators_is_none_of_graphs():
    device = OperatorDevice()
    watched = quietly(rows(4, 4, 4), backend=device)
    with watched.warming_up():
        device.trace("before")
    for number, _ in enumerate(watched):
        device.trace(min(number, 1))
    found = [(record.op_compiles, record.graph_compiles, record.native_op_compiles) for record in watched.records]
    assert found == [(None, None, 1), (None, None, 1), (None, None, 0)]
    assert [record.compiles for record in watched.records] == [1, 1, 0]
    assert watched.warmup_compiles == 1


def test_predicted_and_native_op_compiles_stand_side_by_side():
    device = OperatorDevice()
    watched = quietly(rows(4, 4, 4), backend=device, predict=True)
    for batch in watched:
        device.trace("conv")
        device.trace("its gradient")
        _ = batch @ WEIGHT
    assert [(record.op_compiles, record.native_op_compiles) for record in watched.records] == [(1, 2), (0, 0), (0, 0)]


def test_a_dry_run_has_no_losses_and_no_times():
    watched = quietly(rows(4, 4, 4), backend=OperatorDevice())
    for number, _ in enumerate(watched):
        watched.log(torch.empty((), device="meta") if number < 2 else 1.0)
    assert watched.losses == [1.0]
    assert watched.verdict == "steady since step 1; a dry run: its seconds are no device's"


def test_it_can_be_pickled_before_and_within_a_loop(tmp_path):
    watched = watch(rows(4, 4, 4), backend="cpu", step_log=tmp_path / "steps.jsonl")
    assert len(list(pickle.loads(pickle.dumps(watched)))) == 3
    for _ in watched:
        again = pickle.loads(pickle.dumps(watched))
    assert [record.index for record in again.records] == [1, 2]
    assert len(list(again)) == 3


def test_a_backend_that_is_not_known():
    with pytest.raises(BackendError, match="there is no backend 'tpu'"):
        watch([], backend="tpu")


def test_a_guard_counts_at_every_step_where_the_device_does_not():
    watched = quietly(rows(*[4] * 8), guard=CompileGuard("error"))
    for batch in watched:
        _ = batch @ WEIGHT
    assert [record.op_compiles for record in watched.records] == [1, *[0] * 7]


def test_a_guard_adds_no_recorder_where_the_device_counts():
    for _ in quietly(rows(4, 4), backend=GraphDevice(), guard=CompileGuard("error")):
        assert not mode_is_active()
