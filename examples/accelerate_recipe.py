"""accelerate: semantic segmentation of images of any size, in batches of two planned shapes.

Run: python examples/accelerate_recipe.py [EPOCHS]
"""

import sys

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device, set_seed
from torch import nn
from torch.utils.data import Dataset
from torchvision.ops import Conv2dNormActivation

import fixshape
from fixshape.collate import Pad, pad_ragged
from fixshape.detection import DrawnShapes
from fixshape.ops import masked_cross_entropy


class Maps(Dataset):
    """Drawn shapes, and of each pixel the class that is seen there; 0 is the background."""

    def __init__(self, count):
        self.shapes = DrawnShapes(count, max_boxes=4, sides=(48, 96))

    def __len__(self):
        return len(self.shapes)

    def __getitem__(self, index):
        image, target = self.shapes[index]
        classes = (target["masks"].long() * target["labels"][:, None, None]).sum(0)  # the masks do not overlap
        return {"image": image, "classes": classes}


def make_model() -> nn.Module:
    layers = [Conv2dNormActivation(channels, 24, 5, norm_layer=None) for channels in (3, 24, 24)]
    return nn.Sequential(*layers, nn.Conv2d(24, DrawnShapes.num_classes, 1))


def main(epochs: int = 4) -> None:
    set_seed(0)
    accelerator = Accelerator(cpu=True)
    data = Maps(32)
    sizes = [size[:2] for size in data.shapes.sizes()]
    plan = fixshape.plan_buckets(sizes, 2, multiple_of=32)
    padded = {"image": Pad(plan, dim=(-2, -1)), "classes": Pad(plan, dim=(-2, -1), fill_value=255)}
    loader = fixshape.make_loader(data, plan, 4, sizes=sizes, collate=pad_ragged(padded))
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    # Not the loader: its sampler knows the ranks by itself, and accelerate would part its batches among them once more.
    model, optimizer = accelerator.prepare(model, optimizer)

    watched = fixshape.watch(loader, backend=accelerator.device.type, guard=fixshape.CompileGuard("error"))
    for _ in range(epochs):
        for batch, _ in watched:
            batch = send_to_device(batch, accelerator.device)
            with accelerator.autocast():
                valid_mask = batch["classes"] != 255
                loss = masked_cross_entropy(model(batch["image"]), batch["classes"], valid_mask=valid_mask)
            optimizer.zero_grad()
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            watched.log(loss)
    print(f"loss {watched.losses[0]:.3f} -> {watched.losses[-1]:.3f}")
    for shapes in sorted({record.shapes for record in watched.records}):
        compiles = [record.compiles for record in watched.records if record.shapes == shapes]
        print(f"compiles per step, {shapes}: {compiles}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
