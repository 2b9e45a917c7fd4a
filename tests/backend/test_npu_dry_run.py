"""The real torch-npu over the stand-in: every name is there, no value is given out, and a static step compiles once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fixshape.backend import conformance

pytestmark = pytest.mark.npu

ROOT = Path(__file__).parents[2]


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, env=environment, cwd=ROOT)


def _found(*command: str) -> dict:
    done = _run("-m", *command)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def rules():
    return _found("tests.backend.npu_rules")


def test_every_name_of_torch_npu_that_is_used_is_in_the_wheel(rules):
    assert {"amp.GradScaler", "set_compile_mode", "synchronize", "config.allow_internal_format"} <= set(rules["names"])
    assert rules["missing"] == []
    assert rules["hccl"] == ["hccl", True]


def test_it_passes_the_checks_of_a_backend(rules):
    assert rules["conformance"] == {check.__name__: ["gives", None] for check in conformance.CHECKS}


def test_one_process_has_one_dry_run_and_no_other_npu(rules):
    assert rules["again"]
    assert rules["unavailable"] == "this process is in a dry run, and has no other NPU"
    assert rules["auto"] != "npu"
    assert rules["stdout"] == ""


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("known", [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]),
        ("a row", [3.0, 4.0, 5.0]),
        ("refilled", [[1.0, 1.0, 1.0]] * 2),
        ("item", 3.5),
    ],
)
def test_what_the_host_put_there_can_be_read(rules, what, value):
    assert rules["values"][what] == ["gives", value]


@pytest.mark.parametrize(
    ("what", "op"),
    [
        ("column", "aten._to_copy.default"),  # a kernel would gather it
        ("computed", "aten._to_copy.default"),
        ("to the host", "aten.copy_.default"),
        ("written to", "aten._to_copy.default"),
        ("statistics", "aten._to_copy.default"),  # a batch-norm writes to them, and its schema does not say so
        ("bool", "aten._local_scalar_dense.default"),
        ("equal", "aten.equal.default"),
        ("nonzero", "aten.nonzero.default"),
        ("mask", "aten.index.Tensor"),
        ("masked_select", "aten.masked_select.default"),
        ("unique", "aten._unique2.default"),
        ("repeat_interleave", "aten.repeat_interleave"),
        ("nms", "torchvision.nms.default"),
        ("backward", "aten._local_scalar_dense.default"),
    ],
)
def test_no_other_value_can_and_the_line_is_named(rules, what, op):
    outcome, error, text = rules["values"][what]
    assert (outcome, error) == ("raises", "BackendError")
    assert text.startswith(f"dry run: {op}")
    assert f" at {Path(__file__).with_name('npu_rules.py')}:" in text
    assert text.endswith("keep reads, such as that of the loss, behind 'if backend.has_values'.")


def test_nor_where_the_mode_does_not_reach(rules):
    assert rules["values"]["elsewhere"] == ["gives", [["raises", "RuntimeError"]]]
    assert rules["values"]["printed"] == ["raises", "RuntimeError"]


def test_what_belongs_to_a_key_and_what_does_not(rules):
    keys = rules["keys"]["built"]
    assert (keys["again"], keys["an int"], keys["a size"]) == ([1, 0], [1, 0], [1, 1, 0])
    assert (keys["a shape"], keys["a dtype"], keys["a bool"]) == ([True, True, False], [True, True], [True, True, False])
    assert (keys["stride"], keys["groups"]) == ([True, True, False], [True, True, False])
    assert keys["dilation"] == [True, False, False]  # the second is the first of "stride"
    assert (keys["a float"], keys["a factor"]) == ([1, 0, 0], [1, 0, 0])
    assert keys["a seed"] == keys["dropout"] == keys["permutation"] == [True, False, False]


def test_the_same_where_operators_are_compiled_online(rules):
    keys = rules["keys"]["online"]
    assert (keys["again"], keys["an int"]) == ([1, 0], [1, 0])
    assert all(first > 0 for first in keys["a size"][:2])
    assert keys["a size"][2] == 0
    assert (keys["a shape"], keys["a dtype"], keys["a bool"]) == ([True, True, False], [True, True], [True, True, False])
    assert (keys["a float"], keys["a factor"]) == ([1, 0, 0], [1, 0, 0])
    assert keys["a seed"] == keys["dropout"] == keys["permutation"] == [True, False, False]


def test_fall_backs_are_those_that_torch_npu_tells_of(rules):
    assert "aten::linalg_eig" in rules["said"]
    assert 0 < len(rules["said"]) < len(rules["shapes"])
    assert sorted({*rules["said"], "torchvision::nms"}) == sorted(rules["fallbacks"])
    assert rules["shapes"]["torchvision::roi_align"] == "['gives', [torch.Size([2, 3, 2, 2])]]"


def test_a_value_that_torch_npu_asks_for_by_itself_is_told(rules):
    assert rules["waits"] == 1


def test_a_slow_form_counts_each_time(rules):
    ((form, count),) = rules["slow_forms"].items()
    assert form.startswith("aten.ne.Scalar (int64): The oprator of ne is executed, ")
    assert count == 2


def test_the_settings_of_a_real_device_are_there(rules):
    cache, wrong, formats, built, online = rules["settings"]
    assert cache == formats == ["gives", None]
    assert wrong[1:] == ["ShapeError", "set_compile_cache: mode is 'sometimes', expected one of 'enable', 'force', 'disable'."]
    assert "set_compile_mode(online=True)" in built[1][1]
    assert "set_compile_cache(folder)" in online[1][1]
    assert rules["memory"] > 0


@pytest.mark.parametrize(
    ("name", "operators", "level", "whole"),
    [
        ("ssdlite320_mobilenet_v3_large", "built", 0.10, 0.15),
        ("ssdlite320_mobilenet_v3_large", "online", 0.15, 0.20),
        ("fasterrcnn", "built", 0.10, 0.10),
        ("fasterrcnn", "online", 0.10, 0.35),
    ],
)
def test_five_static_steps_compile_in_the_warm_up_alone_and_as_often_as_predicted(name, operators, level, whole):
    found = _found("tests.backend.npu_steps", name, operators)
    assert len(found["compiles"]) == len(found["predicted"]) == 5
    assert found["compiles"][0] > 0
    assert found["compiles"][2:] == found["predicted"][2:] == [0, 0, 0]
    assert len(set(found["launches"][1:])) == 1
    assert found["unread"] == 0  # each launch's arguments were told apart
    assert found["fallbacks"] == {}
    predicted, counted = sum(found["predicted"]), sum(found["compiles"])
    print(f"{name}, {operators}: predicted {predicted}, in CANN {counted}, in torch's operators {found['torch_operators']}")
    assert found["torch_operators"] == pytest.approx(predicted, rel=level)
    assert counted == pytest.approx(predicted, rel=whole)
    assert sum(count for _, count in found["by_operator"].values()) == found["compiles"][0]
    hardswish = {"aten::hardswish_backward": 100} if name.startswith("ssdlite") else {}
    assert found["waits"] == hardswish


def test_asked_for_after_a_backward_pass_it_says_so_and_how():
    code = "import torch; torch.ones(1, requires_grad=True).sum().backward(); "
    code += "from fixshape import get_backend; get_backend('npu', dry_run=True)"
    done = _run("-c", code)
    assert done.returncode == 1
    assert "BackendError: get_backend: ask for the dry run before the first backward()" in done.stderr
