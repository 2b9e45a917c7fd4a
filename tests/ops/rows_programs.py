"""Programs over selected rows: what they start from, and what a run of one gives."""

from __future__ import annotations

import torch
import torch.nn.functional as F
import torchvision.ops as tv
from torch import nn

from tests.ops.conftest import GARBAGE, boxes

MASKS = {
    "some": (True, False, False, True, True, False),
    "late": (False, False, True, False, True, True),
    "single": (False, False, False, True, False, False),
    "full": (True,) * 6,
    "empty": (False,) * 6,
}


def inputs(mask):
    """Tensors [6, 4] with garbage outside of the mask, a plain weight, labels, and a mask of rows and columns."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    m = torch.tensor(MASKS[mask])
    garbage = torch.tensor(GARBAGE, dtype=torch.float64)
    x, y = (torch.where(m[:, None], draw(6, 4), garbage).requires_grad_() for _ in range(2))
    c = torch.where(m, torch.randint(0, 4, (6,), generator=generator), 3)
    wide = (torch.rand(6, 4, generator=generator) < 0.6) & m[:, None]
    first, second = (torch.where(m[:, None], boxes((6,), generator), garbage).requires_grad_() for _ in range(2))
    return {"x": x, "y": y, "w": draw(4).requires_grad_(), "c": c, "m": m, "m2": wide, "p": first, "q": second}


def run(code, mask, block):
    """The result of a program over :func:`inputs`, with the gradients of all of them."""
    names = inputs(mask)
    leaves = [value for value in names.values() if value.requires_grad]
    names |= {"torch": torch, "grad": torch.autograd.grad, "F": F, "nn": nn, "tv": tv}
    *statements, last = code.split("; ")
    with block:
        exec("\n".join([*statements, f"result = {last}"]), names)
    result = names["result"]
    if result.requires_grad:
        # A different factor for each entry, or a gradient in the wrong place would go unseen.
        (result * torch.arange(1, result.numel() + 1, dtype=result.dtype).reshape(result.shape)).sum().backward()
    return result.detach(), [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
