"""The judgement: each known form found with its code and no static twin, and findings grouped, counted and ordered."""

import pytest
import torch

from fixshape import OpRecorder
from fixshape.audit._judge import judge
from fixshape.audit._report import AuditReport, Location, OpEvent, Origin
from tests.audit.cases import CASES, STEPS, batch

HERE = Location("train.py", 12, "main")
THERE = Location("train.py", 40, "main")


def recorded(step, batches=None):
    recorder = OpRecorder()
    for given in batches or [batch(number) for number in range(STEPS)]:
        with recorder:
            step(given)
        recorder.step()
    return recorder.report()


@pytest.mark.parametrize("name", CASES)
def test_a_dynamic_form_is_found_at_its_line(name):
    code, dynamic, _ = CASES[name]
    findings, unknown = judge(recorded(dynamic))
    found = [finding for finding in findings if finding.code == code]
    assert found, [(finding.code, finding.op) for finding in findings]
    assert all(finding.caller.function == name for finding in found if finding.caller)
    assert all(finding.suggestion for finding in findings)
    assert max(finding.steps for finding in found) >= STEPS - 1  # a length may come twice
    assert unknown == {}


@pytest.mark.parametrize("name", CASES)
def test_its_static_twin_has_nothing_to_find(name):
    findings, unknown = judge(recorded(CASES[name][2]))
    # Found by all means, and static: nonzero_static has no kernel for the NPU.
    assert [(f.code, f.op) for f in findings if f.code != "FS402"] == []
    assert unknown == {}


def test_the_table_is_as_long_as_it_should_be():
    assert len(CASES) >= 40
    assert {code[:3] for code, _, _ in CASES.values()} == {"FS1", "FS2"}


def _event(kind="compile", op="aten.add.Tensor", *, step=0, site=HERE, shapes=("f32[4]",), **rest):
    return OpEvent(kind=kind, op=op, phase="forward", site=site, caller=site, step=step, shapes=shapes, **rest)


def _report(*events, **rest):
    origins: dict[Origin, int] = {}
    for event in events:
        origin = Origin(kind=event.kind, op=event.op, phase=event.phase, site=event.site, caller=event.caller)
        origins[origin] = origins.get(origin, 0) + 1
    return AuditReport(steps=(), events=events, left_out={}, origins=origins, **rest)


def test_events_of_one_line_are_one_finding():
    events = [_event("dynamic", "aten.nonzero.default", step=step, shapes=("bool[9]",)) for step in (0, 0, 3)]
    (finding,), _ = judge(_report(*events, _event("compile", "aten.nonzero.default", step=0)))
    assert (finding.code, finding.count, finding.steps, finding.compiles) == ("FS101", 3, 2, 0)
    assert (finding.shapes, finding.site, finding.caller) == (("bool[9]",), HERE, HERE)


def test_what_the_list_left_out_is_counted():
    event = _event("sync", "aten._local_scalar_dense.default")
    origin = Origin(kind=event.kind, op=event.op, phase=event.phase, site=HERE, caller=HERE)
    (finding,), _ = judge(AuditReport(steps=(), events=(), left_out={"sync": 7}, origins={origin: 7}))
    assert (finding.code, finding.count, finding.steps) == ("FS201", 7, 1)


def test_the_first_two_steps_may_compile_and_the_third_not():
    warm = [_event(step=step, shapes=(f"f32[{step}]",)) for step in (0, 1)]
    assert judge(_report(*warm))[0] == ()
    late = [_event(step=step, shapes=(f"f32[{step}]",)) for step in (2, 3, 3)]
    (finding,), _ = judge(_report(*warm, *late))
    assert (finding.code, finding.count, finding.steps, finding.compiles) == ("FS301", 3, 2, 3)


def test_own_compiles_of_a_dynamic_op_are_its_own():
    events = [_event("dynamic", "aten.nonzero.default", step=step) for step in range(4)]
    events += [_event("compile", "aten.nonzero.default", step=step, shapes=(f"bool[{step}]",)) for step in range(4)]
    (finding,), _ = judge(_report(*events))
    assert (finding.code, finding.compiles) == ("FS101", 2)


def test_a_python_number_that_varies():
    def step(number):
        return torch.ones(4) * number

    (finding,), _ = judge(recorded(step, [1, 2, 3, 4]))
    assert (finding.code, finding.op, finding.compiles) == ("FS303", "aten.mul.Tensor", 2)
    assert judge(recorded(step, [1.0, 2.0, 3.0, 4.0]))[0] == ()


def test_an_input_that_varies_has_what_follows_under_it():
    (finding,), _ = judge(recorded(lambda x: x.sin().cos(), [torch.ones(8)] * 3 + [torch.ones(5)]))
    assert (finding.code, finding.op, finding.count, finding.compiles) == ("FS302", "", 1, 2)
    assert finding.shapes == ("f32[5]",)


def test_inputs_of_few_shapes_are_no_finding_once_they_are_warm():
    rows, more_rows = torch.ones(8), torch.ones(5)
    assert judge(recorded(torch.sin, [rows, more_rows, rows, more_rows]))[0] == ()
    assert [finding.code for finding in judge(recorded(torch.sin, [rows, more_rows]))[0]] == ["FS302"]


def test_a_dynamic_op_has_what_follows_under_it():
    def step(b):
        return b.x[b.mask].sin().cos()

    (finding,), _ = judge(recorded(step))
    assert (finding.code, finding.count, finding.compiles) == ("FS102", STEPS, 2 * (STEPS - 2))


def test_a_size_of_python_that_varies():
    findings, _ = judge(recorded(lambda size: torch.ones(size).sin(), [3, 4, 5]))
    assert [(f.code, f.op, f.compiles) for f in findings] == [
        ("FS301", "aten.sin.default", 1),
        ("FS303", "aten.ones.default", 1),
    ]


def test_what_saves_most_comes_first():
    events = [
        *[_event("sync", "aten._local_scalar_dense.default", step=step) for step in range(9)],
        *[_event("dynamic", "aten.nonzero.default", step=step) for step in range(2)],
        *[_event("compile", "aten.add.Tensor", step=step, site=THERE, shapes=(f"f32[{step}]",)) for step in range(5)],
    ]
    findings, _ = judge(_report(*events))
    assert [finding.code for finding in findings] == ["FS301", "FS201", "FS101"]
    assert judge(_report(*reversed(events)))[0] != ()
    assert judge(_report(*events))[0] == findings


def test_an_op_that_no_rule_knows_is_told():
    _, unknown = judge(
        _report(
            _event("dynamic", "aten.new_and_dynamic.default"),
            _event("compile", "aten.new_and_dynamic.default"),
            _event("compile", "somelib.fused_thing.default"),
            _event("compile", "somelib.fused_thing.default", step=1),
            _event("compile", "aten.add.Tensor"),
        )
    )
    assert unknown == {"aten.new_and_dynamic.default": 1, "somelib.fused_thing.default": 2}


def test_double_and_complex_inputs():
    def step(x):
        return x.double() * 2, torch.complex(x, x) * x

    findings, _ = judge(recorded(step, [torch.ones(3)] * 3))
    assert [(f.code, f.op, f.count) for f in findings] == [
        ("FS401", "aten.mul.Tensor", 1),
        ("FS403", "aten.mul.Tensor", 1),
    ]


def test_an_op_without_a_kernel_for_the_npu():
    findings, _ = judge(recorded(lambda x: torch.nn.functional.huber_loss(x, x * 2), [torch.ones(3)]))
    assert [(f.code, f.op) for f in findings] == [("FS402", "aten.huber_loss.default")]


def test_step_counters_of_an_optimizer_are_no_syncs():
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight], foreach=False)

    def step(x):
        optimizer.zero_grad()
        (weight * x).sum().backward()
        optimizer.step()

    report = recorded(step, [torch.ones(3)] * 3)
    assert report.total().optimizer.syncs > 0
    assert judge(report)[0] == ()


def test_a_report_of_nothing():
    assert judge(AuditReport(steps=(), events=(), left_out={}, origins={})) == ((), {})


def test_many_events_are_judged():
    """Ten thousand of each kind, the most that a report lists, all at one line: nothing is compared with all before it."""
    events = [_event(step=step // 10, shapes=(f"f32[{step}]",)) for step in range(10_000)]
    events += [_event("sync", "aten._local_scalar_dense.default", step=step // 10) for step in range(10_000)]
    report = _report(*events)
    findings, _ = judge(report)
    assert [(f.code, f.count, f.steps) for f in findings] == [("FS301", 9_980, 998), ("FS201", 10_000, 1_000)]


def test_a_cause_that_is_no_finding_is_left_alone():
    origin = Origin(kind="dynamic", op="somelib.find.default", phase="forward", site=HERE, caller=HERE)
    findings, unknown = judge(AuditReport(steps=(), events=(), left_out={}, origins={origin: 2}, causes={origin: 5}))
    assert (findings, unknown) == ((), {"somelib.find.default": 2})


def test_a_line_that_does_two_things_has_two_findings():
    def step(b):
        return b.loss[b.mask].sum().item()

    findings, _ = judge(recorded(step))
    assert {finding.code: finding.suggestion for finding in findings} == {
        "FS102": "masked_sum(b.loss, valid_mask=b.mask)",
        "FS201": "b.loss[b.mask].sum().detach()  # stays a tensor",
    }


def test_a_slice_of_python_after_a_read_that_has_nothing_to_do_with_it():
    def step(b):
        total = b.loss.sum().item()
        half = 4
        return total, b.x[:half].sum()

    assert [finding.code for finding in judge(recorded(step))[0]] == ["FS201"]
