"""Two ranks of which one dies; torchrun starts them anew, and again, and each time one of them comes late.

torchrun --standalone --nproc-per-node 2 --max-restarts 2 -m tests.train.second_life
"""

import os
import sys
import time

import torch
import torch.distributed as dist

from fixshape import get_backend
from fixshape.train import joined

LATE = 1.0  # seconds: by then the other has read whatever the dead ones left in the store


def main() -> None:
    life, last = (int(os.environ[f"TORCHELASTIC_{name}"]) for name in ("RESTART_COUNT", "MAX_RESTARTS"))
    if int(os.environ["RANK"]) == life % 2:
        time.sleep(LATE)
    with joined(get_backend("cpu")) as (rank, ranks):
        total = torch.tensor(rank + 1)
        dist.all_reduce(total)
        if life < last:
            os._exit(rank)
        # One write: torchrun's ranks do not buffer, and would mix their lines.
        sys.stdout.write(f"rank {rank} of {ranks} in life {life}: sum {total.item()}\n")


if __name__ == "__main__":
    main()
