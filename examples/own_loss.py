"""Make a detection loss of your own static and leave its code as it is: one decorator, audited before and after.

Run: python examples/own_loss.py

custom_loss.py rewrites such a loss by hand with ``ops``, which is faster; here nothing is rewritten.
"""

import torch
import torch.nn.functional as F
from torchvision.ops import generalized_box_iou_loss

from fixshape.audit import run
from fixshape.ops import static_indexing

CLASSES = 5


def as_it_was(logits, boxes, labels, wanted):
    """Label 0 is the background, and rows labelled -1 are ignored. Five selections, each as long as its values say."""
    kept = labels >= 0
    each = F.cross_entropy(logits[kept], labels[kept], reduction="none")
    background = each[labels[kept] == 0]
    hard = background[background > background.mean()]
    positive = torch.nonzero(labels > 0).squeeze(1)
    found, real = boxes[positive], wanted[positive]
    of_boxes = generalized_box_iou_loss(found, real, reduction="sum")
    of_scores = F.binary_cross_entropy_with_logits(logits[positive, labels[positive]], (found - real).abs().sum(1).neg().exp())
    return each.mean() + hard.sum() / len(hard) + of_boxes / len(positive) + of_scores


as_it_is = static_indexing(as_it_was)


def make_batch(seed: int):
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1, CLASSES, (200,), generator=random)
    labels[: 9 * seed] = 0  # fewer objects from batch to batch
    corner, sides, moved = torch.rand(3, 200, 2, generator=random, dtype=torch.float64)
    wanted = torch.cat([corner, corner + sides + 0.1], 1)
    logits = torch.randn(200, CLASSES, generator=random, dtype=torch.float64)
    return logits.requires_grad_(), (wanted + moved.repeat(1, 2) / 4).requires_grad_(), labels, wanted


def main() -> None:
    answers = []
    for name, loss in {"as it was": as_it_was, "with the decorator": as_it_is}.items():
        batches = [make_batch(seed) for seed in range(6)]
        values = []

        def step(batch, loss=loss, values=values):
            values.append(loss(*batch))
            values[-1].backward()

        report = run(step, batches, steps=6)
        answers.append([(value.detach(), batch[0].grad, batch[1].grad) for value, batch in zip(values, batches, strict=True)])
        total = report.total()
        print(f"{name}: dynamic-shape ops {total.dynamic}, host syncs {total.syncs}")
        print(f"op compiles per step: {[counts.compiles for counts in report.steps]}")
    torch.testing.assert_close(answers[0], answers[1], rtol=1e-12, atol=1e-12)
    print("the same losses and the same gradients")


if __name__ == "__main__":
    main()
