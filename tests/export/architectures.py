"""Models as files, made by torch's own exporters at a fixed batch size: what users have when they want another.

``python -m tests.export.architectures`` prints what becomes of each.
"""

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from torch import nn
from torch.nn import functional

from fixshape.errors import ExportError
from fixshape.export import diff, fix_shape, load_model, rename, set_batch


class Shuffle(nn.Module):
    """ShuffleNet's channel shuffle, which makes Python numbers of every size."""

    def forward(self, x):
        batch, channels, height, width = (int(size) for size in x.shape)
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)
        return x.flatten(1) * 2


class Transformer(nn.Module):
    """An encoder with a class token and positions, both expanded to the batch."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.positions = nn.Embedding(10, 8)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x):
        batch, length, _ = x.shape
        x = torch.cat([self.token.expand(int(batch), -1, -1), x], 1)
        positions = torch.arange(length + 1).unsqueeze(0).expand(int(batch), -1)
        return self.encoder(x + self.positions(positions)).mean(1)


class SequenceFirst(nn.Module):
    """Attention that holds batch and heads in one axis, and the batch as the second axis."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2)

    def forward(self, x):
        x = x.transpose(0, 1)
        return self.attention(x, x, x)[0].transpose(0, 1)


class Recurrent(nn.Module):
    def __init__(self, kind=nn.LSTM):
        super().__init__()
        self.cells = kind(4, 8, 2, batch_first=True, bidirectional=True)

    def forward(self, x):
        return self.cells(x)[0]


class SuperResolution(nn.Module):
    """Twice the size, height and width dynamic in the file, and the batch held by the sizes of Resize."""

    def __init__(self):
        super().__init__()
        self.before, self.after = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x):
        batch = int(x.shape[0])
        x = functional.interpolate(self.before(x), scale_factor=2, mode="bilinear")
        return self.after(x.reshape(batch, 8, -1).relu().view(batch, 8, *x.shape[2:]))


class Points(nn.Module):
    """As many results as there are positive numbers."""

    def forward(self, x):
        return x.reshape(int(x.shape[0]), -1).nonzero()


class MeanOfBatch(nn.Module):
    """What one sample gets depends on the others."""

    def forward(self, x):
        return x - x.mean(0)


class Unrolled(nn.Module):
    """A loop over the batch, which tracing writes out."""

    def forward(self, x):
        return torch.stack([x[index] * 2 for index in range(int(x.shape[0]))])


class Video(nn.Module):
    """Frames and samples in one axis, and apart again."""

    def __init__(self):
        super().__init__()
        self.norm, self.linear = nn.BatchNorm2d(4), nn.Linear(16, 3)

    def forward(self, x):
        batch, frames = int(x.shape[0]), int(x.shape[1])
        x = self.norm(x.view(batch * frames, 4, 2, 2)).view(batch * frames, 16)
        return self.linear(x).view(batch, frames, 3).mean(1)


class Halves(nn.Module):
    """The batch twice in one axis, cut in two and to its first half by constant bounds."""

    def forward(self, x):
        batch = int(x.shape[0])
        both = torch.cat([x, x * 2], 0)
        first, second = both.chunk(2)
        return first + 3 * second + both[:batch]


class Picked(nn.Module):
    """One row of each sample, picked by a constant that counts the samples."""

    def forward(self, x):
        return x[torch.arange(int(x.shape[0])), x.sum(2).argmax(1)]


class Segmentation(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = torchvision.models.segmentation.lraspp_mobilenet_v3_large(weights_backbone=None)

    def forward(self, x):
        return self.model(x)["out"]


def vision_transformer():
    """torchvision's, whose head starts as zeros: then no output tells one sample from another."""
    model = torchvision.models.VisionTransformer(32, 8, 2, 4, 32, 64)
    nn.init.normal_(model.heads.head.weight)
    return model


@dataclass(frozen=True, eq=False)
class Case:
    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]  # of one sample
    refused: str | None = None  # the operator that set-batch must name
    script: bool = False  # by the exporter of TorchScript
    dynamic: dict | None = None  # of torch.onnx.export

    def __str__(self) -> str:
        return self.name.replace(" ", "_")


CASES = [
    Case("channel shuffle", Shuffle, (8, 4, 4)),
    Case("channel shuffle, TorchScript", Shuffle, (8, 4, 4), script=True),
    Case("transformer encoder", Transformer, (5, 8)),
    Case("transformer encoder, TorchScript", Transformer, (5, 8), script=True),
    Case("attention, sequence first", SequenceFirst, (5, 8)),
    Case("LSTM", Recurrent, (5, 4)),
    Case("LSTM, TorchScript", Recurrent, (5, 4), script=True),
    Case("GRU", lambda: Recurrent(nn.GRU), (5, 4)),
    Case("super-resolution, H and W dynamic", SuperResolution, (3, 16, 24), dynamic={2: "H", 3: "W"}),
    Case("video", Video, (3, 4, 2, 2)),
    Case("halves of a double batch", Halves, (3, 4)),
    Case("one row picked per sample", Picked, (3, 4)),
    Case("nonzero inside", Points, (3, 4), refused="NonZero"),
    Case("nonzero inside, TorchScript", Points, (3, 4), refused="NonZero", script=True),
    Case("mean over the batch", MeanOfBatch, (3, 4), refused="Sub"),
    Case("loop over the batch", Unrolled, (3, 4), refused="node_select_1"),
    Case("shufflenet_v2_x0_5", torchvision.models.shufflenet_v2_x0_5, (3, 64, 64)),
    Case("shufflenet_v2_x0_5, TorchScript", torchvision.models.shufflenet_v2_x0_5, (3, 64, 64), script=True),
    Case("lraspp_mobilenet_v3_large", Segmentation, (3, 64, 64)),
    Case("vision transformer, 2 layers", vision_transformer, (3, 32, 32)),
]  # fmt: skip


def export(case: Case, batch: int, path: Path, shape: tuple[int, ...] | None = None) -> Path:
    """The file of a case, its batch size baked in."""
    torch.manual_seed(0)
    model, example = case.make().eval(), torch.randn(batch, *(shape or case.shape))
    options: dict = {"dynamo": False} if case.script else {"dynamo": True, "external_data": False, "verbose": False}
    if case.dynamic:
        options["dynamic_shapes"] = (case.dynamic,)
    with quiet():
        torch.onnx.export(model, (example,), path, input_names=["x"], output_names=["y"], opset_version=18, **options)
    return path


@contextlib.contextmanager
def quiet():
    """Without what exporters write to stderr."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)


def outcome(case: Case, folder: Path) -> tuple[str, str, str, str]:
    """What becomes of a file in set-batch, rename, fix-shape and diff."""
    path = export(case, 2, folder / f"{case}_2.onnx")
    model = load_model(path)
    told = []
    try:
        change = set_batch(model)
        told.append(f"proved at {', '.join(map(str, change.proof.batch_sizes))}; {len(change.changed)} nodes")
    except ExportError as error:
        change = None
        told.append(f"refused: {error}")
    for step in (
        lambda: rename(model, {"x": "data", "y": "fc1"}),
        lambda: fix_shape(change.model if change else model, {"x": (3 if change else 2, *case.shape)}),
        lambda: diff(model, load_model(export(case, 3, folder / f"{case}_3.onnx"))),
    ):
        try:
            result = step()
            told.append(result.proved[-1] if hasattr(result, "proved") else "equal")
        except ExportError as error:
            told.append(f"refused: {error}")
    return tuple(told)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        for entry in CASES:
            print(entry.name)
            for action, said in zip(("set-batch", "rename", "fix-shape", "diff"), outcome(entry, Path(temporary)), strict=True):
                print(f"    {action:10} {said}")
