"""The guard speaks of compiles after the warm-up, of those only, and names what compiled and where."""

import inspect
import re
import warnings

import pytest
import torch

from fixshape.errors import FixshapeWarning, ShapeDriftError, ShapeError
from fixshape.train import CompileGuard, watch
from tests.train.doubles import GraphDevice

WEIGHT = torch.ones(3, 2)


def guarded(batches, guard, **options):
    return watch(batches, guard=guard, progress=False, **{"backend": "cpu", **options})


def same(steps):
    return [torch.ones(4, 3)] * steps


def test_steps_of_the_same_shapes_are_quiet():
    guard = CompileGuard("error")
    for batch in guarded(same(6), guard):
        _ = (batch @ WEIGHT).relu().sum()
    assert guard.drift == []


def test_an_error_names_step_phase_shapes_op_and_the_caller_s_line():
    guard = CompileGuard("error")
    with pytest.raises(ShapeDriftError) as caught:
        for number, batch in enumerate(guarded(same(5), guard)):
            line = inspect.currentframe().f_lineno + 1
            _ = batch[: 2 if number == 3 else 4] @ WEIGHT
    assert str(caught.value) == (
        "CompileGuard: step 4 (train, 4x3) compiled after the warm-up: 1 op compile, the first of them aten.mm.default on"
        f" f32[2, 3], f32[3, 2] (forward) at {__file__}:{line}. Its shapes are new at this step: pad what varies, or call"
        " CompileGuard.pause() around what may compile."
    )
    assert guard.drift == [str(caught.value)]


def test_the_error_comes_when_the_step_has_ended():
    guard, steps = CompileGuard("error"), []
    with pytest.raises(ShapeDriftError):
        for number, batch in enumerate(guarded(same(5), guard)):
            _ = batch[: 2 if number == 2 else 4] @ WEIGHT
            steps.append(number)
    assert steps == [0, 1, 2]


def test_drift_in_the_last_step_is_found():
    with pytest.raises(ShapeDriftError, match="step 3"):
        for number, batch in enumerate(guarded(same(3), CompileGuard("error"))):
            _ = batch[: 2 if number == 2 else 4] @ WEIGHT


def test_a_backward_op_is_named_as_such():
    weight = WEIGHT.clone().requires_grad_()
    gradients = [torch.ones(copies, 3, 2) for copies in (4, 4, 5)]
    expected = r"1 op compile, .* aten\.sum\.dim_IntList on f32\[5, 3, 2\] \(backward\) at .*test_guard\.py:\d+\."
    with pytest.raises(ShapeDriftError, match=expected):
        for number, _ in enumerate(guarded(same(3), CompileGuard("error"))):
            weight.expand_as(gradients[number]).backward(gradients[number])  # forward it is a view
            weight.grad = None


def test_a_warning_is_given_at_the_loop_for_each_step_that_compiled():
    guard = CompileGuard()
    with pytest.warns(FixshapeWarning) as caught:
        line = inspect.currentframe().f_lineno + 1
        for number, batch in enumerate(guarded(same(8), guard)):
            _ = batch[: 2 if number == 3 else 3 if number == 5 else 4] @ WEIGHT
    assert [str(warning.message) for warning in caught] == guard.drift
    assert [re.search(r"step (\d)", message)[1] for message in guard.drift] == ["4", "6"]
    assert {(warning.filename, warning.lineno) for warning in caught} == {(__file__, line)}


def test_the_first_two_steps_in_a_new_bucket_are_free():
    guard = CompileGuard("error")
    long, short = torch.ones(4, 3), torch.ones(2, 3)
    for number, batch in enumerate(guarded([long, long, short, long, short, short], guard)):
        # At its second step a bucket has something new again, as an optimiser's first update has.
        extra = batch.cos() if number in (1, 4) else batch
        _ = extra @ WEIGHT
    assert guard.drift == []


def test_a_third_step_in_a_bucket_is_not_free():
    long, short = torch.ones(4, 3), torch.ones(2, 3)
    with pytest.raises(ShapeDriftError, match=r"step 6 \(train, 2x3\) .* aten\.cos\.default on f32\[2, 3\]"):
        for number, batch in enumerate(guarded([long, long, short, long, short, short], CompileGuard("error"))):
            _ = batch.cos() if number == 5 else batch


def test_evaluation_has_a_warm_up_of_its_own():
    guard = CompileGuard("error")
    watched = guarded(same(3), guard)
    for batch in watched:
        _ = batch @ WEIGHT
    with torch.no_grad():
        for number, batch in enumerate(watched):
            _ = batch.exp() if number < 2 else batch @ WEIGHT
        assert guard.drift == []
        with pytest.raises(ShapeDriftError, match=r"\(eval, 4x3\)"):
            for batch in watched:
                _ = batch.tan()


def test_pause_lets_things_compile_and_counts_before_and_after_it():
    guard = CompileGuard("error")
    watched = guarded(same(4), guard)
    for number, batch in enumerate(watched):
        _ = batch @ WEIGHT
        with guard.pause():
            _ = batch[: number + 1].cos()
        _ = batch.relu()
    assert [record.op_compiles for record in watched.records] == [2, 0, 0, 0]


def test_what_comes_after_a_pause_is_guarded():
    guard = CompileGuard("error")
    with pytest.raises(ShapeDriftError, match=r"aten\.sin\.default"):
        for number, batch in enumerate(guarded(same(4), guard)):
            with guard.pause():
                _ = batch.cos()
            _ = batch[: number + 1].sin()


def test_pause_between_steps_and_outside_of_a_loop():
    guard = CompileGuard("error")
    with guard.pause():
        _ = torch.ones(7).cos()

    def loader():
        for batch in same(4):
            with guard.pause():
                _ = batch.cos()
            yield batch

    for batch in guarded(loader(), guard):
        _ = batch @ WEIGHT
    assert guard.drift == []


def test_an_exception_inside_of_a_pause_leaves_the_guard_at_work():
    guard = CompileGuard("error")
    with pytest.raises(ShapeDriftError, match=r"aten\.sin\.default"):
        for number, batch in enumerate(guarded(same(4), guard)):
            try:
                with guard.pause():
                    raise ArithmeticError
            except ArithmeticError:
                _ = batch[: number + 1].sin()


def test_a_loop_inside_of_a_paused_one_gives_the_guard_back():
    guard = CompileGuard("error")
    outer = guarded(same(4), guard)
    for batch in outer:
        _ = batch @ WEIGHT
        with guard.pause(), torch.no_grad():
            for validation in guarded(same(3), guard):
                _ = validation @ WEIGHT
        with guard.pause():  # of the outer loop again
            _ = torch.ones(len(outer.records) + 1).cos()
    assert guard.drift == []
    assert [record.op_compiles for record in outer.records] == [1, 0, 0, 0]


def test_a_device_s_own_count_is_what_it_goes_by_and_the_loop_is_named():
    device, guard = GraphDevice(), CompileGuard("error")
    with pytest.raises(ShapeDriftError) as caught:
        line = inspect.currentframe().f_lineno + 1
        for number, batch in enumerate(guarded(same(5), guard, backend=device)):
            _ = batch[: number + 1] @ WEIGHT  # new ops, of which the device makes no new graph
            device.trace(("step", number // 3))
            device.trace(("rest", number // 3))
    assert str(caught.value) == (
        f"CompileGuard: step 4 (train, 4x3) compiled after the warm-up: 2 graph compiles, in the loop at {__file__}:{line}."
        " The device does not name the op: watch(..., predict=True) does."
    )


def test_with_prediction_the_op_behind_a_graph_compile_is_named():
    device = GraphDevice()
    with pytest.raises(ShapeDriftError, match=r"1 graph compile, the first of them aten\.mm\.default on f32\[2, 3\]"):
        for number, batch in enumerate(guarded(same(9), CompileGuard("error"), backend=device, predict=True)):
            part = batch[: 2 if number == 7 else 4]
            _ = part @ WEIGHT
            device.trace(part.shape)


class OperatorDevice(GraphDevice):
    """Counts operators."""

    name = "npu"


@pytest.mark.parametrize(("late", "told"), [(1, "1 op compile"), (3, "3 op compiles")])
def test_where_the_device_counts_operators_they_are_not_called_graphs(late, told):
    device = OperatorDevice()
    with pytest.raises(ShapeDriftError) as caught:
        for number, _ in enumerate(guarded(same(4), CompileGuard("error"), backend=device)):
            for kernel in range(late):
                device.trace((kernel, number // 3))
    assert f"step 4 (train, 4x3) compiled after the warm-up: {told} by the device's own count, in the loop at" in str(
        caught.value
    )


def test_with_prediction_the_op_behind_a_device_s_op_compiles_is_named():
    device = OperatorDevice()
    with pytest.raises(
        ShapeDriftError, match=r": 1 op compile by the device's own count, the first of them aten\.mm\.default on"
    ):
        for number, batch in enumerate(guarded(same(9), CompileGuard("error"), backend=device, predict=True)):
            part = batch[: 2 if number == 7 else 4]
            _ = part @ WEIGHT
            device.trace(part.shape)


def test_with_prediction_and_no_new_op_nobody_is_sent_to_predict():
    device = GraphDevice()
    with pytest.raises(ShapeDriftError) as caught:
        for number, batch in enumerate(guarded(same(9), CompileGuard("error"), backend=device, predict=True)):
            _ = batch @ WEIGHT
            device.trace(("order", number // 5))
    assert "step 6 " in str(caught.value)
    assert str(caught.value).endswith(
        "No op in it is new to the recorder: look for what changes in how they are put together, or in a number."
    )


def test_graphs_compiled_in_a_pause_are_not_the_step_s():
    device, guard = GraphDevice(), CompileGuard("error")
    watched = guarded(same(4), guard, backend=device)
    for number, _ in enumerate(watched):
        device.trace("step")
        with guard.pause():
            device.trace(("evaluation", number))
        device.trace("rest")
    assert guard.drift == []
    assert [record.graph_compiles for record in watched.records] == [2, 0, 0, 0]


def test_the_guard_finds_nothing_where_each_batch_is_a_bucket_of_its_own():
    # As its docstring says: each step is then a warm-up.
    guard = CompileGuard("error")
    for batch in guarded([torch.ones(length, 3) for length in range(1, 6)], guard):
        _ = batch @ WEIGHT
    assert guard.drift == []


def test_a_warning_made_an_error_by_a_filter_stops_the_loop():
    with warnings.catch_warnings():
        warnings.simplefilter("error", FixshapeWarning)
        with pytest.raises(FixshapeWarning, match="step 3"):
            for number, batch in enumerate(guarded(same(5), CompileGuard("warn"))):
                _ = batch[: 2 if number == 2 else 4] @ WEIGHT


def test_an_action_that_is_neither():
    with pytest.raises(ShapeError, match=r"^CompileGuard: action is 'raise', expected one of 'warn', 'error'\.$"):
        CompileGuard("raise")
