"""Rewrite a loss of several parts with ``ops``: hard examples, a mean per class, and boxes of the positives.

Run: python examples/custom_loss.py

masked_loss.py is the simplest case, one selection. Here three numbers depend on values: of hard examples, of classes that are
there, and of rows that have a box.
"""

import torch
import torch.nn.functional as F
from torchvision.ops import generalized_box_iou_loss

from fixshape.audit import run
from fixshape.ops import masked_cross_entropy, masked_generalized_box_iou_loss, masked_mean

CLASSES = 5


def as_it_was(logits, boxes, labels, wanted):
    """Rows labelled -1 are ignored, and 0 is the background."""
    kept = labels >= 0
    each = F.cross_entropy(logits[kept], labels[kept], reduction="none")
    hardest = each.topk(int(kept.sum()) // 4).values.mean()
    per_class = [each[labels[kept] == label].mean() for label in labels[kept].unique()]
    positive = (labels > 0).nonzero().squeeze(1)
    of_boxes = generalized_box_iou_loss(boxes[positive], wanted[positive], reduction="mean")
    return hardest + torch.stack(per_class).mean() + of_boxes


def as_it_shall_be(logits, boxes, labels, wanted):
    """The same number and the same gradients: every row stays where it is, and masks say which of them count."""
    kept = labels >= 0
    each = masked_cross_entropy(logits, labels, reduction="none", valid_mask=kept)
    # The first k of a sort, with k a tensor. What is ignored has loss 0 and comes last.
    ranked = each.sort(descending=True).values
    hardest = masked_mean(ranked, valid_mask=torch.arange(len(ranked), device=ranked.device) < kept.sum() // 4)
    # All classes at once, [n, C]; one that no row has is no part of the mean.
    members = labels[:, None] == torch.arange(CLASSES, device=labels.device)
    per_class = masked_mean(each[:, None].expand(-1, CLASSES), 0, valid_mask=members)
    of_boxes = masked_generalized_box_iou_loss(boxes, wanted, reduction="mean", valid_mask=labels > 0)
    return hardest + masked_mean(per_class, valid_mask=members.any(0)) + of_boxes


def make_batch(seed: int):
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1, CLASSES, (200,), generator=random)
    labels[labels == seed % CLASSES] = -1  # each batch lacks a class
    corner, sides, moved = torch.rand(3, 200, 2, generator=random, dtype=torch.float64)
    wanted = torch.cat([corner, corner + sides + 0.1], 1)
    logits = torch.randn(200, CLASSES, generator=random, dtype=torch.float64)
    return logits.requires_grad_(), (wanted + moved.repeat(1, 2) / 4).requires_grad_(), labels, wanted


def main() -> None:
    answers = []
    for loss in (as_it_was, as_it_shall_be):
        batches = [make_batch(seed) for seed in range(6)]
        values = []

        def step(batch, loss=loss, values=values):
            values.append(loss(*batch))
            values[-1].backward()

        report = run(step, batches, steps=6)
        answers.append([(value.detach(), batch[0].grad, batch[1].grad) for value, batch in zip(values, batches, strict=True)])
        total = report.total()
        print(f"{loss.__name__}: dynamic-shape ops {total.dynamic}, host syncs {total.syncs}")
        print(f"op compiles per step: {[counts.compiles for counts in report.steps]}")
    torch.testing.assert_close(answers[0], answers[1], rtol=1e-9, atol=1e-12)
    print("the same losses and the same gradients")


if __name__ == "__main__":
    main()
