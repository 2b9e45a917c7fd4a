"""Mask2Former of transformers for semantic segmentation: crops of one size, as many masks for an image as it has classes."""

import argparse

import torch
from torch.utils.data import DataLoader, Dataset
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=1e-4)
parser.add_argument("--batch-size", type=int, default=2)
parser.add_argument("--size", type=int, default=64)
options = parser.parse_args()


class Rectangles(Dataset):
    """A background of class 0 and 1 to 5 rectangles of classes 1 to 5 on it."""

    def __len__(self):
        return 64

    def __getitem__(self, index):
        random = torch.Generator().manual_seed(index)
        classes = torch.zeros(options.size, options.size, dtype=torch.int64)
        for label in range(1, int(torch.randint(2, 7, (1,), generator=random))):
            top, left = torch.randint(0, options.size // 2, (2,), generator=random).tolist()
            height, width = torch.randint(options.size // 4, options.size // 2, (2,), generator=random).tolist()
            classes[top : top + height, left : left + width] = label
        image = classes / 6 + torch.rand(3, options.size, options.size, generator=random) / 10
        labels = classes.unique()
        return image, (classes == labels[:, None, None]).float(), labels


def collate(samples):
    images, masks, labels = zip(*samples, strict=True)
    return torch.stack(images), list(masks), list(labels)


def main():
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    backbone = SwinConfig(
        image_size=options.size,
        embed_dim=16,
        depths=[1, 1, 1, 1],
        num_heads=[2, 2, 4, 4],
        window_size=4,
        drop_path_rate=0.1,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = Mask2FormerConfig(
        backbone_config=backbone,
        num_labels=6,
        num_queries=12,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=64,
        dim_feedforward=64,
        encoder_layers=1,
        decoder_layers=3,
        num_attention_heads=4,
        train_num_points=256,
    )
    model = Mask2FormerForUniversalSegmentation(config).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, weight_decay=0.05)
    for step, (images, masks, labels) in enumerate(DataLoader(Rectangles(), options.batch_size, collate_fn=collate)):
        outputs = model(
            images.to(device),
            mask_labels=[mask.to(device) for mask in masks],
            class_labels=[label.to(device) for label in labels],
        )
        optimizer.zero_grad()
        outputs.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        optimizer.step()
        print(f"step {step}: loss {outputs.loss.item():.3f}")


if __name__ == "__main__":
    main()
