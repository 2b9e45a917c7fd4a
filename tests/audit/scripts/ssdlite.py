"""torchvision's SSDlite on drawn shapes, trained as its users train it. What the audit has to find is in test_processes."""

import argparse

import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.01)
parser.add_argument("--batch-size", type=int, default=2)
parser.add_argument("--workers", type=int, default=0)
options = parser.parse_args()


class Rectangles(Dataset):
    """Images of sizes of their own with 1 to 8 bright rectangles on them."""

    def __len__(self):
        return 64

    def __getitem__(self, index):
        random = torch.Generator().manual_seed(index)
        height, width = torch.randint(240, 400, (2,), generator=random).tolist()
        count = int(torch.randint(1, 9, (1,), generator=random))
        corners = torch.rand(count, 2, generator=random) * torch.tensor([width / 2, height / 2])
        sizes = 20 + torch.rand(count, 2, generator=random) * torch.tensor([width / 2 - 20, height / 2 - 20])
        boxes = torch.cat([corners, corners + sizes], dim=1)
        image = torch.rand(3, height, width, generator=random) / 4
        for left, top, right, bottom in boxes.int().tolist():
            image[:, top:bottom, left:right] += 0.5
        return image, {"boxes": boxes, "labels": torch.randint(1, 4, (count,), generator=random), "image_id": index}


def main():
    torch.manual_seed(0)
    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=options.lr, momentum=0.9)
    batches = DataLoader(
        Rectangles(),
        options.batch_size,
        shuffle=True,
        num_workers=options.workers,
        collate_fn=lambda samples: tuple(zip(*samples, strict=True)),
    )
    for step, (images, targets) in enumerate(batches):
        losses = model(list(images), [{key: value for key, value in target.items() if key != "image_id"} for target in targets])
        loss = sum(losses.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step}: loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
