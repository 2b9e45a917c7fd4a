"""Modules that exporters go wrong with, and their right forms. The tests name lines of this file by their comments."""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from fixshape.export import Gears, parse_inputs
from fixshape.ops import masked_sum

CANVASES = ((32, 48), (64, 32))
BATCHES = Gears(parse_inputs("images:N,3,16,16"), tuple({"N": batch} for batch in (1, 2, 4)))
IMAGES = Gears(
    parse_inputs("images:N,3,H,W"),
    tuple({"N": batch, "H": height, "W": width} for height, width in CANVASES for batch in (1, 2, 4)),
)


def line_of(comment: str) -> str:
    """``"modules.py:12"`` of the line that ends in a comment."""
    (number,) = (
        number for number, line in enumerate(Path(__file__).read_text().splitlines(), 1) if line.endswith(f"# {comment}")
    )
    return f"{Path(__file__).name}:{number}"


class BakedBatch(nn.Module):
    """The batch as a Python int, in a reshape."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, images):
        batch = int(images.shape[0])
        return self.conv(images).reshape(batch, 4, -1)  # baked batch


class FreeBatch(BakedBatch):
    """The right form."""

    def forward(self, images):
        return self.conv(images).flatten(2)


class FrozenHeight(nn.Module):
    """One of two sizes as a Python int."""

    def forward(self, images):
        return F.interpolate(images, size=(int(images.shape[2]) * 2, images.shape[3] * 2))  # frozen height


class FreeSize(nn.Module):
    """The right form."""

    def forward(self, images):
        return F.interpolate(images, size=(images.shape[2] * 2, images.shape[3] * 2))


class Item(nn.Module):
    """A number of the data, or here of the batch, read by the host."""

    def forward(self, images):
        count = torch.ones_like(images[:, 0, 0, 0]).sum().item()  # item
        return images[:, :2].mean((2, 3)) * count  # count


class Asks(nn.Module):
    """An operator of ours is called with what it does not take."""

    def forward(self, images):
        return masked_sum(images, valid_mask=torch.ones(images.shape[0] + 1, dtype=torch.bool))  # asks


class Branch(nn.Module):
    """A branch on data."""

    def forward(self, images):
        if images.sum() > 0:  # branch
            return images
        return images + 1


class Iterated(nn.Module):
    """One row of the batch after the other."""

    def forward(self, images):
        return torch.stack([row.mean() for row in images])  # iterated


class FromList(nn.Module):
    """A new tensor from sizes."""

    def forward(self, images):
        return images.mean((1, 2)) * torch.tensor([images.shape[2] / images.shape[3]])  # from list


class Looped(nn.Module):
    """As many operators as the batch has images."""

    def forward(self, images):
        for index in range(images.shape[0]):
            images = images + index  # looped
        return images


class Divided(nn.Module):
    """A float made of a size."""

    def forward(self, images):
        return images / math.sqrt(images.shape[2])  # divided


class Indices(nn.Module):
    """A size that follows from data."""

    def forward(self, images):
        return torch.nonzero(images[:, 0, 0] > 0)  # nonzero


class Two(nn.Module):
    """A dictionary and a tuple, and two inputs with one batch."""

    def forward(self, left, right):
        return {"sum": left + right, "rest": (left - right, left.argmax(1))}


class Masked(nn.Module):
    """The mean of the image on its canvas, and the image; padding is without effect, unless ``leaks``."""

    def __init__(self, leaks=False):
        super().__init__()
        self.leaks = leaks

    def forward(self, images, image_sizes):
        rows = torch.arange(images.shape[2])[None, :, None] < image_sizes[:, 0, None, None]
        columns = torch.arange(images.shape[3])[None, None] < image_sizes[:, 1, None, None]
        images = images + 1
        if not self.leaks:
            images = torch.where((rows & columns)[:, None], images, 0)
        return {"image": images, "mean": images.sum((1, 2, 3)) / image_sizes.prod(1)}


class Encoder(nn.Module):
    """A transformer encoder on tokens."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)

    def forward(self, tokens):
        return self.encoder(self.embed(tokens))


class Recurrent(nn.Module):
    """An LSTM: its last states too."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 16, num_layers=2, batch_first=True, bidirectional=True)

    def forward(self, steps):
        return self.lstm(steps)


class SuperResolution(nn.Module):
    """Enlarged by 1.5, then by a pixel shuffle."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, padding=1)

    def forward(self, images):
        return F.pixel_shuffle(self.conv(F.interpolate(images, scale_factor=1.5, mode="bilinear")), 2)


def lively(model: nn.Module) -> nn.Module:
    """With statistics and weights of which the outputs depend on the images: random networks give nearly the same for each."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all that it sees
    model.train()
    with torch.no_grad():
        for _ in range(2):
            model(torch.randn(4, 3, 64, 64))
    return model.eval()


def with_image_sizes() -> Gears:
    """A small canvas that fits in the larger one."""
    values = tuple({"N": batch, "H": height, "W": 48} for height in (32, 64) for batch in (1, 3))
    return Gears(parse_inputs("images:N,3,H,W;image_sizes:N,2"), values)
