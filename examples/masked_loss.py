"""Rewrite a loss of your own so that its shapes are fixed: select with a mask, not with an index.

Run: python examples/masked_loss.py
"""

import torch
import torch.nn.functional as F

from fixshape import OpRecorder
from fixshape.ops import masked_cross_entropy


def as_it_was(logits, labels):
    """Anchors labelled -1 are ignored. How many are left depends on values: shapes change at every step."""
    kept = labels >= 0
    return F.cross_entropy(logits[kept], labels[kept])


def as_it_shall_be(logits, labels):
    """The same number and the same gradients, with shapes that do not change."""
    return masked_cross_entropy(logits, labels, valid_mask=labels >= 0)


def main() -> None:
    gradients = []
    for loss in (as_it_was, as_it_shall_be):
        logits = torch.linspace(-2, 2, 1000, dtype=torch.float64).view(200, 5).requires_grad_()
        labels = torch.arange(200) % 7 - 1
        labels[labels >= 5] = -1
        with OpRecorder() as recorder:
            value = loss(logits, labels)
            value.backward()
        gradients.append((value.detach(), logits.grad))
        print(f"{loss.__name__}: {value.item():.12f}, dynamic-shape ops: {recorder.report().total().dynamic}")
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-12, atol=1e-15)
    print("the same loss and the same gradients")


if __name__ == "__main__":
    main()
