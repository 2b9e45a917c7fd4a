"""The three lists: what torch tags has a rule or a reason, and what nobody knows is unknown."""

import pytest
import torch

from fixshape.audit._report import Location, Origin
from fixshape.audit._rules import HARMLESS_NAMESPACES, IGNORED, NO_NPU_KERNEL, RULES, code_of, device_code, standing


def _tagged():
    for qualified in torch._C._dispatch_get_all_op_names():
        namespace, _, rest = qualified.partition("::")
        name, _, overload = rest.partition(".")
        try:
            func = getattr(getattr(getattr(torch.ops, namespace), name), overload or "default")
        except (AttributeError, RuntimeError):
            continue
        if func.tags and {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output} & set(func.tags):
            yield str(func)


def test_all_that_torch_tags_is_ruled_or_ignored_for_a_reason():
    tagged = set(_tagged())
    assert len(tagged) > 15
    assert {op for op in tagged if standing(op) == "unknown"} == set()


def test_a_tagged_op_without_a_rule_is_unknown(monkeypatch):
    monkeypatch.setattr("fixshape.audit._rules._RULED", frozenset())
    assert standing("aten.nonzero.default") == "unknown"
    assert standing("aten.sin.default") == "ignored"


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        ("aten.nonzero.default", "ruled"),
        ("aten._ctc_loss.default", "ignored"),
        ("aten.of_a_later_torch.default", "ignored"),
        ("torchvision.roi_align.default", "ignored"),
        ("cond", "ignored"),
        ("not_a_higher_order_op", "unknown"),
        ("somelib.op.default", "unknown"),
        ("", "ruled"),  # an input
    ],
)
def test_which_list_an_op_is_on(op, expected):
    assert standing(op) == expected


def test_no_op_is_on_two_lists_and_every_ignored_one_has_a_reason():
    ruled = {op for rule in RULES for op in rule.operators}
    assert not ruled & set(IGNORED)
    assert all(rule.code or rule.reason for rule in RULES)
    assert all(IGNORED.values()) and all(HARMLESS_NAMESPACES.values())
    assert not ruled & NO_NPU_KERNEL


def _sync(site, phase="forward"):
    return Origin(kind="sync", op="aten._local_scalar_dense.default", phase=phase, site=site)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("one_hot(labels)", "FS108"),
        ("F.one_hot(labels, -1)", "FS108"),
        ("F.one_hot(labels, num_classes=-1)", "FS108"),
        ("F.one_hot(labels, 5)", ""),
        ("F.one_hot(labels, num_classes=classes)", ""),
        ("F.one_hot(labels, int(n))", "FS201"),
        ("n.item()", "FS201"),
        ("optimizer.step()", "FS201"),
    ],
)
def test_the_line_of_a_read_decides(tmp_path, line, code):
    file = tmp_path / "train.py"
    file.write_text(line + "\n")
    assert code_of(_sync(Location(str(file), 1))) == code


def test_a_read_without_source_is_a_read(tmp_path):
    assert code_of(_sync(None)) == "FS201"
    assert code_of(_sync(Location(str(tmp_path / "gone.py"), 1))) == "FS201"


def test_an_optimizers_own_counter_is_told_by_its_line(tmp_path):
    file = tmp_path / "train.py"
    file.write_text("optimizer.step()\nn = norm.item()\n")
    assert code_of(_sync(Location(str(file), 1), "optimizer")) == ""
    assert code_of(_sync(Location(str(file), 2), "optimizer")) == "FS201"


@pytest.mark.parametrize(
    ("op", "shapes", "code"),
    [
        ("aten.mul.Tensor", ("f32[3]", "f64[3]"), "FS401"),
        ("aten.mul.Tensor", ("f32[3]", "f64[]"), None),
        ("aten.cat.default", ("[f32[3], f64[2, 2]]",), "FS401"),
        ("aten.mul.Tensor", ("c64[3]",), "FS403"),
        ("aten.mul.Tensor", ("bf16[3]",), None),
        ("torchvision.deform_conv2d.default", ("f32[3]",), "FS402"),
        ("torchvision.nms.default", ("f32[3, 4]",), None),
    ],
)
def test_what_a_device_does_badly(op, shapes, code):
    assert device_code(op, shapes) == code
