"""A torchvision model and its static twin, stepped on the same images, and how far they are apart.

The images are resized before either sees them, so that torchvision's own resize is the identity, bitwise.
"""

import copy

import torch
from torch import Tensor
from torchvision.models import detection

from fixshape import Bucket, PadToBucket, to_static

SIZES = {"ssdlite320_mobilenet_v3_large": 320, "ssd300_vgg16": 300}


def build(name: str, *, num_classes: int = 4, seed: int = 0, dtype: torch.dtype = torch.float64):
    """A torchvision model with random weights, training."""
    torch.manual_seed(seed)
    model = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=num_classes)
    return model.to(dtype).train()


def make_twin(reference):
    """The static form of a copy: it shares nothing with the reference."""
    return to_static(copy.deepcopy(reference))


def pad(images: list[Tensor], targets: list[dict], max_boxes: int):
    """The batch as the static model takes it."""
    height, width = images[0].shape[-2:]
    return PadToBucket(Bucket(height, width, max_boxes))(list(zip(images, targets, strict=True)))


def step(model, *batch) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Losses, gradients by parameter name, and buffers of the model's own state after one forward and backward."""
    model.zero_grad(set_to_none=True)
    losses = model(*batch)
    sum(losses.values()).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    persistent = model.state_dict().keys()
    buffers = {name: b.clone() for name, b in model.named_buffers() if name in persistent}
    return {name: loss.detach() for name, loss in losses.items()}, gradients, buffers


def distance(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The largest relative difference of any tensor: largest absolute one over the largest value. Keys must be the same.

    A tensor that is a millionth of the largest is measured by that millionth: some gradients are rounding alone, with no digit
    of their own to compare (of a bias before a batch-norm that takes it away again, of one that shifts a whole softmax).
    """
    assert ours.keys() == theirs.keys() and ours
    worst = 0.0
    least = 1e-6 * max(value.double().abs().max().item() for value in theirs.values())
    for name, value in theirs.items():
        assert torch.isfinite(ours[name]).all(), f"{name} is not finite"
        difference = (ours[name].double() - value.double()).abs().max().item()
        if difference:
            worst = max(worst, difference / max(value.double().abs().max().item(), least, 1e-30))
    return worst


def assert_equal(ours, theirs, *, losses: float, gradients: float, buffers: float) -> None:
    """Both results of :func:`step`, each part to its own relative tolerance."""
    for part, tolerance, mine, other in zip(
        ("losses", "gradients", "buffers"), (losses, gradients, buffers), ours, theirs, strict=True
    ):
        if part == "buffers" and not other:
            continue  # a model without batch-norm has none
        found = distance(mine, other)
        assert found <= tolerance, f"{part} differ by {found:.2e}, expected at most {tolerance:.0e}"


def drawn(name: str, counts: list[int], *, seed: int = 0, dtype: torch.dtype = torch.float64, num_classes: int = 4):
    """Random images on the model's canvas with the given numbers of boxes, of all sizes, ragged as torchvision takes them."""
    side = SIZES[name]
    generator = torch.Generator().manual_seed(seed)
    images = [torch.rand(3, side, side, generator=generator, dtype=dtype) for _ in counts]
    targets = []
    for count in counts:
        corners = torch.rand(count, 2, generator=generator, dtype=dtype) * side * 0.7
        extents = (0.02 + 0.28 * torch.rand(count, 2, generator=generator, dtype=dtype)) * side
        labels = torch.randint(1, num_classes, (count,), generator=generator)
        targets.append({"boxes": torch.cat((corners, corners + extents), 1), "labels": labels})
    return images, targets
