"""DETR of transformers, trained on rectangles in images of different sizes, padded to the largest of a batch."""

import argparse

import torch
from torch.utils.data import DataLoader, Dataset
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=1e-4)
parser.add_argument("--lr-backbone", type=float, default=1e-5)
parser.add_argument("--batch-size", type=int, default=2)
parser.add_argument("--clip-max-norm", type=float, default=0.1)


class Rectangles(Dataset):
    """Images with 1 to 6 bright rectangles on them; boxes are (centre x, centre y, width, height), as parts of the image."""

    def __len__(self):
        return 64

    def __getitem__(self, index):
        random = torch.Generator().manual_seed(index)
        height, width = torch.randint(96, 160, (2,), generator=random).tolist()
        count = int(torch.randint(1, 7, (1,), generator=random))
        sizes = 0.1 + torch.rand(count, 2, generator=random) * 0.3
        centres = sizes / 2 + torch.rand(count, 2, generator=random) * (1 - sizes)
        image = torch.rand(3, height, width, generator=random) / 4
        corners = torch.cat([centres - sizes / 2, centres + sizes / 2], 1) * torch.tensor([width, height, width, height])
        for left, top, right, bottom in corners.int().tolist():
            image[:, top:bottom, left:right] += 0.5
        return image, {"class_labels": torch.randint(0, 5, (count,), generator=random), "boxes": torch.cat([centres, sizes], 1)}


def collate(samples):
    images, labels = zip(*samples, strict=True)
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    pixel_values = torch.zeros(len(images), 3, height, width)
    pixel_mask = torch.zeros(len(images), height, width, dtype=torch.int64)
    for index, image in enumerate(images):
        pixel_values[index, :, : image.shape[1], : image.shape[2]] = image
        pixel_mask[index, : image.shape[1], : image.shape[2]] = 1
    return {"pixel_values": pixel_values, "pixel_mask": pixel_mask, "labels": list(labels)}


def main():
    options = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    backbone = ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1], layer_type="basic", out_features=["stage4"]
    )
    config = DetrConfig(
        backbone_config=backbone,
        num_labels=5,
        num_queries=20,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        auxiliary_loss=True,
    )
    model = DetrForObjectDetection(config).to(device).train()
    of_backbone = [p for name, p in model.named_parameters() if "backbone" in name and p.requires_grad]
    others = [p for name, p in model.named_parameters() if "backbone" not in name]
    optimizer = torch.optim.AdamW(
        [{"params": others}, {"params": of_backbone, "lr": options.lr_backbone}], lr=options.lr, weight_decay=1e-4
    )
    for step, batch in enumerate(DataLoader(Rectangles(), options.batch_size, collate_fn=collate)):
        labels = [{key: value.to(device) for key, value in label.items()} for label in batch["labels"]]
        outputs = model(batch["pixel_values"].to(device), batch["pixel_mask"].to(device), labels=labels)
        optimizer.zero_grad()
        outputs.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip_max_norm)
        optimizer.step()
        print(f"step {step}: loss {outputs.loss.item():.3f}")


if __name__ == "__main__":
    main()
