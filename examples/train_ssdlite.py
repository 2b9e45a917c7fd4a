"""Train an SSDlite with static shapes on a data set of your own: here drawn shapes, in under a minute on a CPU.

Run: python examples/train_ssdlite.py [steps]
"""

import sys

import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

import fixshape
from fixshape.detection import DrawnShapes, host_transform


class MyData(Dataset):
    """Any data set that gives (image, target), with the model's own resize applied on the host."""

    def __init__(self, transform):
        self.samples = DrawnShapes(64, seed=1)
        self.transform = transform

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        image, target = self.samples[index]
        return self.transform(image, {key: target[key] for key in ("boxes", "labels", "image_id")})


def main(steps: int = 16) -> None:
    torch.manual_seed(0)
    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4)
    data = MyData(host_transform(model))
    static = fixshape.to_static(model)
    collate = fixshape.PadToBucket((320, 320), max_boxes=12, num_classes=4)
    loader = DataLoader(data, batch_size=4, shuffle=True, drop_last=True, collate_fn=collate)
    optimizer = torch.optim.SGD(static.parameters(), lr=0.02, momentum=0.9)
    summary = fixshape.fit(static, loader, optimizer, steps=steps, backend="cpu", predict=True)
    print(f"loss {summary.losses[0]:.2f} -> {summary.losses[-1]:.2f}; nothing compiled after step {summary.quiet_after}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
