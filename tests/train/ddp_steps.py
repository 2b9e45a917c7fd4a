"""Steps of a static model and of torchvision's own under DDP, compared on every rank; started by torchrun.

torchrun --standalone --nproc-per-node 2 -m tests.train.ddp_steps retinanet
"""

import copy
import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from fixshape import get_backend
from fixshape.train import joined, replicate
from tests.detection.pairs import Pair
from tests.detection.twins import assert_equal, distance, step

STEPS = 3
DOUBLE = ("retinanet",)  # each image's loss has a normaliser of its own, and the batch takes their mean


def main(name: str) -> None:
    torch.manual_seed(0)
    backend = get_backend("cpu")
    with joined(backend) as (rank, ranks):
        assert ranks == 2 and dist.get_backend() == "gloo"
        pair = Pair(name)
        alone = copy.deepcopy(pair.twin)
        pair.reference = DistributedDataParallel(pair.reference)
        pair.twin = replicate(pair.twin, backend.device())
        assert pair.twin.static_graph
        optimizers = [torch.optim.SGD(model.parameters(), lr=5e-3, momentum=0.9) for model in (pair.reference, pair.twin)]
        for number in range(STEPS):
            batches = [pair.random([number + 1, 5 - number - other], seed=10 * number + other) for other in range(ranks)]
            ours, theirs = pair.step_both(*batches[rank], slots=8)
            assert_equal(ours, theirs, losses=1e-9, gradients=1e-9, buffers=1e-9)
            of_all = [None] * ranks
            dist.all_gather_object(of_all, ours[1])
            assert distance(of_all[0], of_all[1]) == 0, "every rank has the same gradients"
            if name in DOUBLE:
                alone.load_state_dict(pair.reference.module.state_dict())
                images, targets = ([*batches[0][part], *batches[1][part]] for part in (0, 1))
                whole = step(alone, *pair.pad(images, targets, 8))
                assert distance({key.removeprefix("module."): value for key, value in ours[1].items()}, whole[1]) < 1e-9
            for optimizer in optimizers:
                optimizer.step()
            assert distance(dict(pair.twin.named_parameters()), dict(pair.reference.named_parameters())) < 1e-9
        # One write: torchrun's ranks do not buffer, and would mix their lines.
        sys.stdout.write(f"rank {rank}: {STEPS} steps equal\n")


if __name__ == "__main__":
    main(sys.argv[1])
