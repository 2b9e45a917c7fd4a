"""A small torchvision model and its static twin on one canvas, with one random choice: the same step, and how far it is apart.

Shapes: n boxes, H x W image.
"""

import copy

import torch
from torch import Tensor
from torchvision.tv_tensors import TVTensor

from fixshape import Bucket, PadToBucket
from fixshape.detection import CocoSamples, DrawnShapes
from tests.detection import reduced
from tests.detection.twins import assert_equal, make_twin, step

EXACT = {"losses": 1e-9, "gradients": 1e-9, "buffers": 1e-9}
SIZES = [(128, 150), (100, 192), (128, 192), (90, 120)]
"""Of the images of a batch: the canvas is never quite filled."""


class Pair:
    """A reference and its twin, which :meth:`compare` gives the same state and the same step."""

    def __init__(self, name: str, canvas: tuple[int, int] = reduced.CANVAS) -> None:
        self.name, self.canvas = name, canvas
        self.reference = reduced.build(name)
        self.twin = make_twin(self.reference)
        reduced.on_canvas(self.reference, canvas)
        self.shared = None
        if name in reduced.RCNNS:
            self.shared = reduced.SharedKeys(self.reference, self.twin)
            label_in_double(self.reference)

    def pad(self, images: list[Tensor], targets: list[dict], slots: int):
        """The batch as the twin takes it."""
        return PadToBucket(Bucket(*self.canvas, slots))(list(zip(images, targets, strict=True)))

    def step_both(self, images: list[Tensor], targets: list[dict], slots: int | None = None):
        """(losses, gradients, buffers) of the twin and of the reference, from the reference's state."""
        counts = [len(target["boxes"]) for target in targets]
        slots = slots or max(1, *counts)
        if self.shared:
            self.shared.expect(counts, slots)
        self.twin.load_state_dict(self.reference.state_dict())
        ours = step(self.twin, *self.pad(images, targets, slots))
        theirs = step(self.reference, [image.clone() for image in images], [dict(target) for target in targets])
        return ours, theirs

    def compare(self, images: list[Tensor], targets: list[dict], slots: int | None = None):
        """Asserts that both steps are equal, and gives the reference's losses."""
        ours, theirs = self.step_both(images, targets, slots)
        assert_equal(ours, theirs, **EXACT)
        return theirs[0]

    def random(self, counts: list[int], *, seed: int = 0):
        """Random images with the given numbers of boxes."""
        classes = 2 if self.name == "keypointrcnn" else reduced.CLASSES
        return random_batch(
            counts, seed=seed, classes=classes, masks="mask" in self.name, keypoints=reduced.KEYPOINTS * ("key" in self.name)
        )

    def fitted(self, sample, *, keypoints: int = reduced.KEYPOINTS):
        """A sample of a data set, resized to fit the canvas, with the classes and keys that the small model has."""
        image, target = fit(sample, self.canvas)
        keys = ["boxes", "labels", *(["masks"] if "mask" in self.name else []), *(["keypoints"] if "key" in self.name else [])]
        target = {key: target[key] for key in keys}
        target["labels"] = target["labels"] % ((2 if self.name == "keypointrcnn" else reduced.CLASSES) - 1) + 1
        if "keypoints" in target:
            target["keypoints"] = target["keypoints"][:, :keypoints]
        return image, target


def label_in_double(model) -> None:
    """torchvision labels anchors in float32, and computes its float64 objectness loss with those to 1e-8 only; see the tests."""
    compute = model.rpn.compute_loss
    model.rpn.compute_loss = lambda objectness, deltas, labels, targets: compute(
        objectness, deltas, [label.to(objectness.dtype) for label in labels], targets
    )


def random_batch(counts: list[int], *, seed: int, classes: int, masks: bool, keypoints: int, dtype=torch.float64):
    """Random images of :data:`SIZES` with random boxes of all sizes, and masks and keypoints that fill them."""
    generator = torch.Generator().manual_seed(seed)
    images, targets = [], []
    for count, (height, width) in zip(counts, SIZES, strict=False):
        images.append(torch.rand(3, height, width, generator=generator, dtype=dtype))
        side = torch.tensor([width, height], dtype=dtype)
        corners = torch.rand(count, 2, generator=generator, dtype=dtype) * side * 0.6
        extents = (0.08 + 0.3 * torch.rand(count, 2, generator=generator, dtype=dtype)) * side
        target = {"boxes": torch.cat((corners, corners + extents), 1)}
        target["labels"] = torch.randint(1, classes, (count,), generator=generator)
        if masks:
            target["masks"] = (torch.rand(count, height, width, generator=generator) < 0.5).to(torch.uint8)
        if keypoints:
            places = corners[:, None] + torch.rand(count, keypoints, 2, generator=generator, dtype=dtype) * extents[:, None]
            seen = torch.randint(0, 3, (count, keypoints, 1), generator=generator)
            target["keypoints"] = torch.cat((places.float(), seen.float()), 2)
        targets.append(target)
    return images, targets


def fit(sample, canvas: tuple[int, int]):
    """Resizes a sample as torchvision's transform would, but so that it fits the canvas."""
    from torchvision.models.detection.transform import GeneralizedRCNNTransform
    from torchvision.transforms.v2 import functional

    image, target = sample
    pixels = functional.to_dtype(functional.to_image(image), torch.float64, scale=True).as_subclass(Tensor)
    scale = min(canvas[0] / pixels.shape[1], canvas[1] / pixels.shape[2])
    shorter, longer = sorted(int(side * scale) for side in pixels.shape[1:])
    resize = GeneralizedRCNNTransform(shorter, longer, [0.0], [1.0])
    target = {key: value.as_subclass(Tensor) if isinstance(value, TVTensor) else value for key, value in target.items()}
    image, target = resize.resize(pixels, dict(target))
    assert image.shape[1] <= canvas[0]
    assert image.shape[2] <= canvas[1]
    return image, target


def drawn_samples(length: int, *, seed: int = 7) -> DrawnShapes:
    return DrawnShapes(length, seed=seed)


def real_samples(name: str, folder) -> CocoSamples:
    """Photographs with boxes, with masks from polygons, or with persons' keypoints."""
    folder = folder / "coco_permissive"
    if name == "keypointrcnn":
        return CocoSamples(folder / "images", folder / "person_keypoints.json", keypoints=True)
    return CocoSamples(folder / "images", folder / "instances.json", masks="mask" in name)


def fresh(model):
    """The same weights and buffers, untouched by an earlier step."""
    return copy.deepcopy(model)
