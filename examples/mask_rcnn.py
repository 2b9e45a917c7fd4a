"""Make a Mask R-CNN static, train it for some steps, and get masks back at the size of the original images.

Run: python examples/mask_rcnn.py [STEPS]

A small one, built as torchvision's builders build theirs: any backbone and any head that keeps the interface will do.
"""

import sys

import torch
from torch.utils.data import DataLoader
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import mobilenet_backbone

import fixshape
from fixshape.detection import DrawnShapes, host_transform, to_list


def build() -> MaskRCNN:
    backbone = mobilenet_backbone(backbone_name="mobilenet_v3_large", weights=None, fpn=True, trainable_layers=6)
    anchors = AnchorGenerator(((16, 32, 64, 128),) * 3, ((0.5, 1.0, 2.0),) * 3)
    return MaskRCNN(
        backbone,
        num_classes=DrawnShapes.num_classes,
        rpn_anchor_generator=anchors,
        min_size=192,
        max_size=192,
        box_batch_size_per_image=32,  # of which a quarter may be positive: 8 masks an image
    )


class Resized(torch.utils.data.Dataset):
    """Drawn shapes, resized on the host as the model's own transform would."""

    def __init__(self, samples, transform):
        self.samples, self.transform = samples, transform

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.transform(*self.samples[index])


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    torch.manual_seed(0)
    model = build()
    samples = Resized(DrawnShapes(2 * steps, max_boxes=4), host_transform(model))
    collate = fixshape.PadToBucket((192, 192), max_boxes=4, num_classes=DrawnShapes.num_classes)
    loader = DataLoader(samples, batch_size=2, collate_fn=collate)
    static = fixshape.to_static(model)
    optimizer = torch.optim.SGD(static.parameters(), lr=0.005, momentum=0.9)

    watched = fixshape.watch(loader, backend="cpu", guard=fixshape.CompileGuard("error"))
    for images, targets in watched:
        loss = sum(static(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        watched.log(loss.detach())
    print(f"loss {watched.losses[0]:.3f} -> {watched.losses[-1]:.3f}")
    print(f"op compiles per step: {[record.op_compiles for record in watched.records]}")

    static.eval()
    with torch.no_grad():
        found = to_list(static(images, targets), targets)
    for detections, size in zip(found, targets["orig_sizes"].tolist(), strict=True):
        assert detections["masks"].shape[1:] == (1, *size)
    print("masks at the size of the original images")


if __name__ == "__main__":
    main()
