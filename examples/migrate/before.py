"""A training loop with one of torchvision's detection models, before (before.py) and after (after.py) its migration."""

import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

from fixshape.detection import DrawnShapes


class Shapes(Dataset):
    """Drawn shapes, in the place of your images. ``transforms`` is called with an image and its target, as torchvision does."""

    def __init__(self, transforms=None):
        self.samples = DrawnShapes(12, seed=1)
        self.transforms = transforms

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        image, target = self.samples[index]
        target = {"boxes": target["boxes"], "labels": target["labels"]}
        return (image, target) if self.transforms is None else self.transforms(image, target)


def moved(nest, device):
    if isinstance(nest, dict):
        return {key: moved(value, device) for key, value in nest.items()}
    return nest.to(device) if isinstance(nest, torch.Tensor) else [moved(value, device) for value in nest]


def main():
    torch.manual_seed(0)
    device = torch.device("cpu")
    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4).to(device)
    dataset = Shapes()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    loader = DataLoader(dataset, batch_size=4, shuffle=True, collate_fn=lambda batch: tuple(zip(*batch, strict=True)))
    values = []
    for images, targets in loader:
        losses = model(*moved((images, targets), device))
        loss = sum(losses.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.detach())
    return [value.item() for value in values]


if __name__ == "__main__":
    print("losses:", *(f"{value:.4f}" for value in main()))
