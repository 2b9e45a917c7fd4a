"""The proof in onnxruntime: what differs is told for the gear it differs in, padding too."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from fixshape.errors import OnnxFileError, UsageError
from fixshape.export import Gears, export_onnx, parse_inputs, verify_onnx
from fixshape.export._export_eager import draw_inputs, example_gear, other_gears
from tests.export import modules
from tests.export.modules import IMAGES


@pytest.fixture(scope="module")
def padded(tmp_path_factory):
    """A model that masks, one that does not, and their files."""
    folder, gears = tmp_path_factory.mktemp("padded"), modules.with_image_sizes()
    found = {}
    for leaks in (False, True):
        model, path = modules.Masked(leaks), folder / f"{leaks}.onnx"
        export_onnx(model, gears, path)
        found[leaks] = (model, path)
    return gears, found


@pytest.fixture(scope="module")
def free(tmp_path_factory):
    model, path = modules.FreeBatch(), tmp_path_factory.mktemp("free") / "model.onnx"
    export_onnx(model, IMAGES, path)
    return model, path


def test_padding_that_is_without_effect(padded):
    gears, found = padded
    verified = verify_onnx(*found[False], gears)
    assert verified.ok
    assert [row.image for row in verified.rows] == [None, None, (32, 48), (32, 48)]
    assert all(row.padded_largest < 1e-5 for row in verified.rows[2:])
    assert str(verified).splitlines()[0].startswith("images [1, 3, 32, 48], image_sizes [1, 2]: equal to ")
    assert "; 32x48 padded: equal to " in str(verified).splitlines()[2]


def test_padding_that_leaks_is_told_of_the_output_that_it_reaches(padded):
    gears, found = padded
    verified = verify_onnx(*found[True], gears)
    assert [row.ok for row in verified.rows] == [True, True, False, False]
    assert not any(row.differences for row in verified.rows)
    assert [text.partition(":")[0] for text in verified.rows[3].padded] == ["mean"]
    assert "    padded: mean: 3 of 3 numbers differ" in str(verified)
    assert verify_onnx(*found[True], gears, compare_padded=False).ok


def test_padding_without_image_sizes_is_compared_when_asked(free):
    """A convolution sees the edge of the padding: its bias stands beyond the image, and zeros did."""
    model, path = free
    gears = Gears(IMAGES.inputs, ({"N": 1, "H": 32, "W": 32}, {"N": 1, "H": 32, "W": 64}))
    assert verify_onnx(model, path, gears).rows[1].image is None
    assert verify_onnx(model, path, gears, compare_padded=True).rows[1].image == (32, 32)
    tokens = Gears(parse_inputs("images:N,3,8,8"), ({"N": 1}, {"N": 2}))
    with pytest.raises(UsageError, match="no input has the axes H, W at its end: there is nothing to pad"):
        verify_onnx(model, path, tokens, compare_padded=True)


def test_other_weights_differ_in_every_gear(free):
    verified = verify_onnx(modules.FreeBatch(), free[1], IMAGES)
    assert not any(row.ok for row in verified.rows)
    assert "numbers differ, most at [" in verified.rows[0].differences[0]
    assert verified.rows[0].largest > 0.1


def _file(folder, body):
    """A graph of x [N, 3] that is written down as text."""
    text = f'<ir_version: 8, opset_import: ["" : 18]> g (float[N,3] x) => (float[N,3] y) {{ {body} }}'
    onnx.save(onnx.parser.parse_model(text), folder / "model.onnx")
    return folder / "model.onnx", Gears(parse_inputs("x:N,3"), ({"N": 1}, {"N": 2}))


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


def test_an_output_that_is_small_as_a_whole_is_compared_at_its_own_scale(tmp_path):
    path, gears = _file(tmp_path, "factor = Constant <value_float = 1e-6> () y = Mul(x, factor)")
    assert verify_onnx(Times(1e-6), path, gears).ok
    assert not verify_onnx(Times(1.1e-6), path, gears).ok


def test_a_gear_that_one_of_the_two_refuses(free, tmp_path):
    """Each says why, and the other gears are compared all the same."""
    model, path = free
    graph = onnx.load(path)
    graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(graph, tmp_path / "static.onnx")
    verified = verify_onnx(model, tmp_path / "static.onnx", IMAGES)
    assert [row.ok for row in verified.rows] == [False, True, False] * 2
    assert "onnxruntime cannot run the model on images [1, 3, 32, 48]" in verified.rows[0].differences[0]
    assert verified.rows[0].largest is None

    class Picky(modules.FreeBatch):
        def forward(self, images):
            if len(images) == 4:
                raise ValueError("too many")
            return super().forward(images)

    picky = Picky()
    picky.load_state_dict(model.state_dict())
    verified = verify_onnx(picky, path, IMAGES)
    assert [row.ok for row in verified.rows] == [True, True, False] * 2
    assert "the model refuses images [4, 3, 32, 48]: ValueError: too many (" in verified.rows[2].differences[0]


def test_a_file_with_other_outputs_or_inputs(free, tmp_path):
    model, path = free
    both = nn.Identity()
    both.forward = lambda images: (model(images), images)
    assert verify_onnx(both, path, IMAGES).rows[0].differences == ("the file has 1 outputs (output), the model gives 2.",)
    with pytest.raises(UsageError, match="has inputs images, expected data"):
        verify_onnx(model, path, Gears(parse_inputs("data:N,3,H,W"), IMAGES.values))
    (tmp_path / "broken.onnx").write_bytes(path.read_bytes()[:200])
    with pytest.raises(OnnxFileError, match=r"broken.onnx"):
        verify_onnx(model, tmp_path / "broken.onnx", IMAGES)


def test_drawn_inputs_are_the_same_each_time_and_know_image_sizes():
    shapes = {"images": (2, 3, 8, 6), "sizes": (2, 2)}
    images, sizes = draw_inputs(shapes)
    assert torch.equal(images, draw_inputs(shapes)[0])
    assert sizes.tolist() == [[8, 6], [8, 6]]
    assert sizes.dtype == torch.int64
    assert draw_inputs({"pairs": (4, 2)})[0].dtype == torch.float32


def test_the_gear_that_is_captured_has_no_size_of_one_and_no_equal_ones():
    inputs = parse_inputs("images:N,3,H,W")
    gears = Gears(inputs, tuple({"N": n, "H": h, "W": w} for n in (1, 8, 2) for h, w in ((8, 8), (64, 32), (32, 16))))
    assert gears.values[example_gear(gears)] == {"N": 2, "H": 32, "W": 16}
    others = [gears.values[index] for index in other_gears(gears, example_gear(gears))]
    assert others == [{"N": 1, "H": 8, "W": 8}]
    assert other_gears(Gears(inputs, gears.values[:1]), 0) == []


def test_nothing_is_hidden_by_nan(tmp_path):
    """NaN equals NaN, and nothing else."""

    class Root(nn.Module):
        def forward(self, x):
            return x.sqrt()

    path, gears = _file(tmp_path, "y = Sqrt(x)")
    verified = verify_onnx(Root(), path, gears)
    assert verified.ok
    assert all(np.isfinite(row.largest) for row in verified.rows)
    assert not verify_onnx(nn.Identity(), path, gears).ok
    assert not verify_onnx(Root(), _file(tmp_path, "a = Abs(x) y = Sqrt(a)")[0], gears).ok
