"""Migrate a plain torchvision training loop: what has to change in it, and that it then trains the same.

Run: python examples/migrate_torchvision.py

The loop is migrate/before.py and migrate/after.py, each of which runs by itself. The first loss is the same; those after it part
slowly, as those of two float32 runs in another order of summation do.
"""

import difflib
from pathlib import Path

import torch
from migrate import after, before


def main() -> None:
    lines = [Path(module.__file__).read_text().splitlines() for module in (before, after)]
    diff = list(difflib.unified_diff(*lines, "before.py", "after.py", lineterm="", n=1))
    print("\n".join(diff))
    changed = sum(line.startswith(("+", "-")) for line in diff[2:])
    print(f"lines added and removed: {changed}")

    losses = [module.main() for module in (before, after)]
    for name, values in zip(("before", "after"), losses, strict=True):
        print(f"losses {name}:", *(f"{value:.4f}" for value in values))
    torch.testing.assert_close(losses[1][0], losses[0][0], rtol=1e-5, atol=0)
    print("the same first loss")


if __name__ == "__main__":
    main()
