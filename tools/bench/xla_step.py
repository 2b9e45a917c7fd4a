"""Steady seconds per step on XLA: torchvision's own training step against the static one.

    PJRT_DEVICE=CPU python tools/bench/xla_step.py [--static-steps 10] [--dynamic-steps 4] [--batch-size 2]

Each side in a process of its own, on the same drawn images, weights and order. A side's figure is the median of its steps after
the first two, in which each may compile as it likes. The dynamic side compiles at every step, so that its figure is mostly
compiling: that is what the ratio is about.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
from typing import Any


def run(side: str, steps: int, batch_size: int) -> dict[str, Any]:
    """One side; imported names stay inside so that torch_xla is loaded before anything runs."""
    from fixshape import fit, get_backend

    backend = get_backend("xla")

    import torch
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    from fixshape.cli.__main__ import make_parser
    from fixshape.cli._train_data import load
    from fixshape.detection import DrawnShapes, to_static

    torch.manual_seed(0)
    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=DrawnShapes.num_classes).train()
    options = ["--batch-size", str(batch_size), *(["--dynamic"] if side == "dynamic" else [])]
    arguments = make_parser().parse_args(["train", *options])
    loader, _ = load(arguments, model)
    trained = (model if side == "dynamic" else to_static(model)).to(backend.device())
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.02, momentum=0.9)
    records = fit(trained, loader, optimizer, steps=steps, backend=backend).steps
    return {"compiles": [record.graph_compiles for record in records], "seconds": [record.seconds for record in records]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--static-steps", type=int, default=10)
    parser.add_argument("--dynamic-steps", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=2)
    arguments = parser.parse_args()
    medians = {}
    for side, steps in (("static", arguments.static_steps), ("dynamic", arguments.dynamic_steps)):
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # torch_xla must not be forked
            found = pool.apply(run, (side, steps, arguments.batch_size))
        medians[side] = statistics.median(found["seconds"][2:])
        print(
            f"{side:<8} graph compiles per step {found['compiles']}, seconds per step {[round(s, 2) for s in found['seconds']]}"
        )
    print(f"dynamic / static, median of the steps after two: {medians['dynamic'] / medians['static']:.1f}")


if __name__ == "__main__":
    main()
