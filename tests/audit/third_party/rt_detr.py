"""RT-DETR of transformers, trained on rectangles in square images; the number of boxes, and of denoising queries, varies."""

import argparse

import torch
from torch.utils.data import DataLoader, Dataset
from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=1e-4)
parser.add_argument("--batch-size", type=int, default=2)
parser.add_argument("--size", type=int, default=96)
options = parser.parse_args()


class Rectangles(Dataset):
    """Images with 1 to 6 bright rectangles on them; boxes are (centre x, centre y, width, height), as parts of the image."""

    def __len__(self):
        return 64

    def __getitem__(self, index):
        random = torch.Generator().manual_seed(index)
        count = int(torch.randint(1, 7, (1,), generator=random))
        sizes = 0.1 + torch.rand(count, 2, generator=random) * 0.3
        centres = sizes / 2 + torch.rand(count, 2, generator=random) * (1 - sizes)
        image = torch.rand(3, options.size, options.size, generator=random) / 4
        corners = torch.cat([centres - sizes / 2, centres + sizes / 2], 1) * options.size
        for left, top, right, bottom in corners.int().tolist():
            image[:, top:bottom, left:right] += 0.5
        return image, {"class_labels": torch.randint(0, 5, (count,), generator=random), "boxes": torch.cat([centres, sizes], 1)}


def collate(samples):
    images, labels = zip(*samples, strict=True)
    return torch.stack(images), list(labels)


def main():
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    backbone = RTDetrResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1], layer_type="basic", out_indices=[2, 3, 4]
    )
    config = RTDetrConfig(
        backbone_config=backbone,
        num_labels=5,
        num_queries=30,
        num_denoising=20,
        d_model=32,
        encoder_hidden_dim=32,
        encoder_in_channels=[32, 48, 64],
        decoder_in_channels=[32, 32, 32],
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        decoder_layers=2,
    )
    model = RTDetrForObjectDetection(config).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=10)
    for step, (images, labels) in enumerate(DataLoader(Rectangles(), options.batch_size, collate_fn=collate)):
        labels = [{key: value.to(device) for key, value in label.items()} for label in labels]
        outputs = model(images.to(device), labels=labels)
        optimizer.zero_grad()
        outputs.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        schedule.step()
        print(f"step {step}: loss {outputs.loss.item():.3f}")


if __name__ == "__main__":
    main()
