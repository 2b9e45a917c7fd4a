"""The real thing: an SSDlite trained on images of varying size and box count, and what torchvision's own would compile."""

import pytest
import torch
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

from fixshape.collate import PadToBucket
from fixshape.detection import DrawnShapes, host_transform, to_static
from fixshape.plan import Bucket
from fixshape.train import CompileGuard, fit

STEPS = 30
SHAPES = DrawnShapes(2 * STEPS, seed=3)


def make_model():
    torch.manual_seed(0)
    return ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=SHAPES.num_classes).train()


def samples(number):
    for index in (2 * number, 2 * number + 1):
        image, target = SHAPES[index]
        yield image, {key: target[key] for key in ("boxes", "labels")}


OPTIMIZERS = {
    "SGD with momentum": (lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9), None),
    "AdamW": (lambda p: torch.optim.AdamW(p, lr=1e-4), None),
    "SGD with OneCycleLR": (
        lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9),
        lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=STEPS),
    ),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name != "SGD with momentum" else []) for name in OPTIMIZERS]
)
def test_nothing_compiles_after_the_warm_up_over_images_of_varying_size(name):
    model = make_model()
    transform = host_transform(model)
    collate = PadToBucket(Bucket(320, 320, SHAPES.max_boxes), num_classes=SHAPES.num_classes)
    static = to_static(model)
    make_optimizer, make_scheduler = OPTIMIZERS[name]
    optimizer = make_optimizer(static.parameters())
    summary = fit(
        static,
        (collate([transform(*sample) for sample in samples(number)]) for number in range(STEPS)),
        optimizer,
        scheduler=make_scheduler(optimizer) if make_scheduler else None,
        guard=CompileGuard("error"),
        backend="cpu",
        progress=False,
    )
    first, second, *rest = (record.op_compiles for record in summary.steps)
    assert first > 500 and rest == [0] * (STEPS - 2)
    assert summary.shapes == {f"2x3x320x320, {SHAPES.max_boxes} boxes": STEPS}
    assert summary.quiet_after == (2 if second else 1)


def test_torchvision_s_own_goes_on_compiling():
    model = make_model()
    summary = fit(
        model,
        (tuple(map(list, zip(*samples(number), strict=True))) for number in range(6)),
        torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9),
        predict=True,
        backend="cpu",
        progress=False,
    )
    assert all(record.op_compiles > 50 for record in summary.steps)
    assert summary.quiet_after is None
