"""A detector on several processes, or devices, that goes on by itself after one of them has died.

One node:        torchrun --standalone --nproc-per-node 2 examples/torchrun_recipe.py
Several nodes:   torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29400 \\
                     examples/torchrun_recipe.py --backend npu        (on each node; HOST is one of them)
Restarts:        torchrun --standalone --nproc-per-node 2 --max-restarts 3 examples/torchrun_recipe.py --die-at 5

torchrun starts all processes anew when one is gone; `resume=True` then goes on from the last checkpoint, on a folder that all
nodes share. The sampler gives every rank the same bucket at the same step, and each sample to one rank.
"""

import argparse
import os

import torch
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

import fixshape
from fixshape.detection import DrawnShapes, host_transform
from fixshape.plan import cover_all
from fixshape.train import joined, replicate

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--backend", default="cpu")
parser.add_argument("--steps", type=int, default=8)
parser.add_argument("--checkpoint", default="kept")
parser.add_argument("--die-at", type=int, help="rank 1 ends in this step of its first life, as a machine does that fails")
options = parser.parse_args()


def main() -> None:
    backend = fixshape.get_backend(options.backend)
    with joined(backend) as (rank, ranks):
        torch.manual_seed(0)
        model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=DrawnShapes.num_classes)
        samples, transform = DrawnShapes(64), host_transform(model)
        sizes = transform.sizes(samples.sizes())
        loader = fixshape.make_loader(samples, cover_all(sizes), batch_size=2, sizes=sizes, transform=transform)
        device = backend.device(int(os.environ.get("LOCAL_RANK", "0")) if backend.name in ("cuda", "npu") else 0)
        static = replicate(fixshape.to_static(model).to(device), device)
        if options.die_at and rank == 1 and os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0":
            static.register_forward_pre_hook(Failure(options.die_at))
        summary = fixshape.fit(
            static,
            loader,
            torch.optim.SGD(static.parameters(), lr=0.02, momentum=0.9),
            steps=options.steps,
            checkpoint=options.checkpoint,
            checkpoint_every=2,
            resume=True,
            backend=backend,
            progress=rank == 0,
        )
        if rank == 0:
            done = summary.resumed_at + len(summary.steps)
            print(f"{ranks} ranks, {done} steps, resumed at step {summary.resumed_at}, loss {summary.losses[-1]:.3f}")


class Failure:
    """Ends the process in its n-th step, without a word."""

    def __init__(self, step: int) -> None:
        self.left = step

    def __call__(self, *arguments: object) -> None:
        self.left -= 1
        if self.left == 0:
            os._exit(1)


if __name__ == "__main__":
    main()
