"""A classifier of timm with what its own train script uses: mixup and cutmix, soft targets, clipping, a schedule, an average."""

import argparse

import numpy as np
import timm
import torch
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import AverageMeter, ModelEmaV3, dispatch_clip_grad
from torch.utils.data import DataLoader, Dataset

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="mobilenetv3_small_050")
parser.add_argument("--opt", default="lamb")
parser.add_argument("--lr", type=float, default=1e-3)
parser.add_argument("--batch-size", type=int, default=4)
parser.add_argument("--size", type=int, default=64)
parser.add_argument("--cutmix", type=float, default=1.0)
options = parser.parse_args()


class Stripes(Dataset):
    """Stripes of ten widths, which are the classes."""

    def __len__(self):
        return 64

    def __getitem__(self, index):
        random = torch.Generator().manual_seed(index)
        label = index % 10
        wave = torch.sin(torch.arange(options.size) / (label + 1)).expand(3, options.size, -1)
        return wave + torch.randn(3, options.size, options.size, generator=random) / 10, label


def main():
    torch.manual_seed(0)
    np.random.seed(0)  # mixup draws from numpy
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = timm.create_model(options.model, pretrained=False, num_classes=10, drop_rate=0.2, drop_path_rate=0.1).to(device)
    average = ModelEmaV3(model, decay=0.999, use_warmup=True)
    optimizer = create_optimizer_v2(model, opt=options.opt, lr=options.lr, weight_decay=0.02)
    schedule = CosineLRScheduler(optimizer, t_initial=100, warmup_t=5, warmup_lr_init=1e-5, t_in_epochs=False)
    mixup = Mixup(mixup_alpha=0.2, cutmix_alpha=options.cutmix, label_smoothing=0.1, num_classes=10)
    criterion, losses = SoftTargetCrossEntropy(), AverageMeter()
    for step, (images, labels) in enumerate(DataLoader(Stripes(), options.batch_size, drop_last=True)):
        images, targets = mixup(images.to(device), labels.to(device))
        loss = criterion(model(images), targets)
        optimizer.zero_grad()
        loss.backward()
        dispatch_clip_grad(model.parameters(), 1.0)
        optimizer.step()
        average.update(model, step=step)
        schedule.step_update(step)
        losses.update(loss.item(), len(images))
        print(f"step {step}: loss {losses.avg:.3f}")


if __name__ == "__main__":
    main()
