"""Every kind of value that a trace freezes, at its line; nothing where the trace is right; and the trace as the oracle."""

import warnings
from pathlib import Path

import pytest
import torch
from torchvision import models

from fixshape.errors import ExportError, UsageError
from fixshape.export import Gears, parse_inputs
from fixshape.export._trace_breaks import trace_breaks
from tests.export import modules
from tests.export.modules import BATCHES, IMAGES, line_of


def _told(model, gears=IMAGES, **options):
    return [
        (found.kind, f"{Path(found.site.file).name}:{found.site.line}") for found in trace_breaks(model.eval(), gears, **options)
    ]


def _survives(model, gears):
    """Whether a trace of one gear gives what the model gives in all."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        trace = torch.jit.trace(model, torch.ones(gears.shapes(1)["images"]), check_trace=False)
        for index in range(len(gears)):
            images = torch.ones(gears.shapes(index)["images"])
            expected = model(images)
            try:
                got = trace(images)
            except RuntimeError:
                return False
            if got.shape != expected.shape or not torch.allclose(got, expected):
                return False
    return True


FROZEN = {
    "a batch in a reshape": (modules.BakedBatch(), [("number", "baked batch")]),
    "a height": (modules.FrozenHeight(), [("number", "frozen height")]),
    "a float of a size": (modules.Divided(), [("number", "divided")]),
    "a value of the data, and where it goes": (modules.Item(), [("read", "item"), ("number", "count")]),
    "a tensor in an if": (modules.Branch(), [("read", "branch")]),
    "a tensor that is iterated over": (modules.Iterated(), [("parts", "iterated")]),
    "a loop over a size": (modules.Looped(), [("path", "looped")]),
    "a tensor from a list": (modules.FromList(), [("list", "from list")]),
}


@pytest.mark.parametrize("name", FROZEN)
def test_each_kind_is_found_at_its_line(name):
    model, expected = FROZEN[name]
    assert _told(model) == [(kind, line_of(comment)) for kind, comment in expected]
    if name != "a tensor in an if":  # the data of the oracle takes one way only
        assert not _survives(model.eval(), IMAGES)


@pytest.mark.parametrize("model", [modules.FreeBatch(), modules.FreeSize(), modules.SuperResolution()])
def test_sizes_that_a_trace_follows_are_no_finding(model):
    assert _survives(model.eval(), IMAGES)
    assert _told(model) == []


@pytest.mark.parametrize(
    "build",
    [
        lambda: models.shufflenet_v2_x0_5(weights=None),
        lambda: models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None),
    ],
    ids=["shufflenet_v2_x0_5", "lraspp_mobilenet_v3_large"],
)
def test_models_of_torchvision_have_none(build):
    gears = Gears(IMAGES.inputs, ({"N": 2, "H": 32, "W": 48}, {"N": 1, "H": 64, "W": 32}))
    assert trace_breaks(build(), gears) == ()


def test_transformers_and_lstms_have_none():
    gears = Gears(parse_inputs("x:N,L"), ({"N": 2, "L": 4}, {"N": 3, "L": 8}))
    assert trace_breaks(modules.Encoder(), gears, make_inputs=lambda shapes: (torch.ones(shapes["x"]).long(),)) == ()
    steps = Gears(parse_inputs("x:N,L,8"), gears.values)
    assert trace_breaks(modules.Recurrent(), steps) == ()


def test_a_branch_that_only_the_largest_gear_takes():
    class Large(torch.nn.Module):
        def forward(self, images):
            return images.relu() if images.shape[0] > 2 else images

    (found,) = trace_breaks(Large(), IMAGES)
    assert found.kind == "path"
    assert "0 operators run here in one gear and 1 in the other, beginning with aten.relu.default" in found.message
    assert trace_breaks(Large(), Gears(BATCHES.inputs, BATCHES.values[:2])) == ()


def test_the_text_names_both_numbers_and_the_way_out():
    (found,) = trace_breaks(modules.BakedBatch().eval(), BATCHES)
    assert str(found).startswith(f"{Path(modules.__file__)}:")
    assert (
        "aten.view.default([1, 4, 16, 16]) has [1, 4, -1], and [2, 4, -1] in the trace: a Python number is frozen. Write x.sh"
        in str(found)
    )


def test_a_model_that_cannot_be_traced_says_why():
    class Odd(torch.nn.Module):
        def forward(self, images):
            return images, "text"

    (found,) = trace_breaks(Odd(), BATCHES)
    assert (found.kind, found.site) == ("untraceable", None)
    assert "an unknown line: torch.jit.trace fails: " in str(found)


class Slices(torch.nn.Module):
    def forward(self, images):
        return images[:, 1:, :-1].sum() + images[:, :, ::2].sum() + images[..., 0].sum()


def test_a_trace_has_more_slices_than_eager_torch():
    assert trace_breaks(Slices(), IMAGES) == ()


class SlicedWhole(torch.nn.Module):
    def forward(self, images):
        return images[:, :, : int(images.shape[2])].mean((2, 3))


def test_other_results_are_told_also_where_no_line_shows_why():
    (found,) = trace_breaks(SlicedWhole(), IMAGES)
    assert (found.kind, found.site) == ("result", None)
    assert "the trace gives other results, and no number or operator that differs was seen: output" in found.message


def test_random_numbers_are_no_other_results():
    class Noise(torch.nn.Module):
        def forward(self, images):
            return images + torch.rand_like(images)

    assert trace_breaks(Noise(), IMAGES) == ()


def test_bad_input():
    with pytest.raises(UsageError, match="got a TorchScript module, in which nothing is left to find"):
        trace_breaks(torch.jit.script(modules.FreeBatch().eval()), BATCHES)
    with pytest.raises(UsageError, match=r"got one shape, images \[1, 3, 16, 16\], expected two gears that differ"):
        trace_breaks(modules.FreeBatch(), Gears(BATCHES.inputs, BATCHES.values[:1]))
    with pytest.raises(ExportError, match="the model refuses images"):
        trace_breaks(torch.nn.Conv2d(5, 1, 1), BATCHES)
