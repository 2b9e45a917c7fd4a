"""The clean-up: what it removes, what it leaves, and that nothing of torch's own is missing but the rule that takes minutes."""

import warnings
from collections import Counter

import numpy as np
import onnx_ir
import pytest
import torch
from onnxscript import optimizer
from onnxscript.rewriter.rules import common
from torch import Tensor, nn

from fixshape.errors import ExportError
from fixshape.export import _onnx_passes
from fixshape.export._onnx_passes import clean_up
from fixshape.export._onnx_run import open_session, run


class Untidy(nn.Module):
    """Has something for each pass: a norm to fold, what is computed twice, what is not used, a size that is known."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        found = self.layers(images)
        found.exp()
        halves = (found + 0).transpose(1, 2).transpose(1, 2).unfold(3, 3, 3)
        grid = torch.arange(found.shape[3]) * 2 - torch.arange(found.shape[3])
        return found.flatten(2)[..., :5] * 2 + found.flatten(2)[..., :5] * 2, halves.sum(-1) + grid[: halves.shape[3]]


@pytest.fixture(scope="module")
def captured():
    generator = torch.Generator().manual_seed(0)
    model = Untidy().eval()
    for tensor in (*model.parameters(), model.layers[1].running_mean):
        tensor.data.normal_(generator=generator)
    images = torch.randn(2, 3, 8, 11, generator=generator)
    names = {"input_names": ["images"], "output_names": ["rows", "cells"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model, (images,), dynamo=True, dynamic_shapes=({0: "N"},), optimize=False, verbose=False, opset_version=18, **names
        )
    with torch.no_grad():
        return program, images, model(images)


def copied(program):
    return onnx_ir.from_proto(onnx_ir.to_proto(program.model))


def test_numbers_and_names_stay(captured):
    program, images, expected = captured
    model = copied(program)
    clean_up(model)
    assert [value.name for value in (*model.graph.inputs, *model.graph.outputs)] == ["images", "rows", "cells"]
    assert str(model.graph.inputs[0].shape) == "[N,3,8,11]"
    assert model.opset_imports == {"": 18}
    assert not model.functions
    got = run(open_session(onnx_ir.to_proto(model)), {"images": images.numpy()})
    for name, value in zip(("rows", "cells"), expected, strict=True):
        np.testing.assert_allclose(got[name], value.numpy(), rtol=1e-5, atol=1e-5)


def test_it_is_torch_s_own(captured):
    """Node for node; where a rule is missing, it is not."""
    program, *_ = captured
    model, own = copied(program), copied(program)
    clean_up(model)
    program.model, kept = own, program.model
    program.optimize()
    program.model = kept
    assert count(model) == count(own)
    assert count(model).total() < count(kept).total() / 2


def test_without_a_rule_it_is_not(captured, monkeypatch):
    monkeypatch.setattr(
        _onnx_passes, "_RULES", tuple(name for name in _onnx_passes._RULES if name != "fuse_batchnorm_into_conv_rule")
    )
    model = copied(captured[0])
    clean_up(model)
    assert count(model)["BatchNormalization"] == 1


def test_the_rule_that_takes_minutes_is_not_among_them():
    rules = [getattr(common, name) for name in _onnx_passes._RULES]
    assert common.slice_split_rule not in rules
    assert len({id(rule) for rule in rules}) == len(rules)


def test_a_failure_that_names_no_node_is_told_too(captured, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("Error at node 'none of ours'") from ValueError("odd")

    monkeypatch.setattr(optimizer, "fold_constants", fails)
    with pytest.raises(ExportError, match=r"the graph cannot be simplified: ValueError: odd\.$"):
        clean_up(copied(captured[0]))


def count(model) -> Counter:
    return Counter(node.op_type for node in model.graph)
