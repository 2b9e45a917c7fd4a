"""Eight training steps of one small model on XLA, as JSON: a process of its own, since XLA dies in one that compiled too much.

python -m tests.detection.xla_steps fasterrcnn
"""

import json
import sys

from fixshape import get_backend

COUNTS = ([3, 1], [0, 4], [4, 4], [0, 0], [2, 3], [1, 1], [4, 0], [0, 1])


def main(name: str) -> None:
    backend = get_backend("xla")  # before torch has run a backward pass

    import torch

    from fixshape.train._batch import to_device
    from tests.detection.pairs import Pair, fresh
    from tests.detection.test_models_static import FixedKeys, _in_single

    pair = Pair(name)
    batches = [_in_single(pair.pad(*pair.random(counts, seed=seed), 4)) for seed, counts in enumerate(COUNTS)]
    host = fresh(pair.twin).float().train()
    device = backend.device()
    model = fresh(host).to(device)
    keys = FixedKeys(4)
    host.sampling_keys = keys
    model.sampling_keys = lambda stage, labels: keys(stage, labels).to(device)
    expected = {key: loss.item() for key, loss in host(*batches[0]).items()}

    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    compiles, totals, first = [], [], {}
    backend.step()
    before = backend.fallbacks()
    for number, (images, targets) in enumerate(batches):
        count = backend.compiles()
        losses = model(to_device(images, device), to_device(targets, device))
        optimizer.zero_grad(set_to_none=True)
        total = sum(losses.values())
        total.backward()
        optimizer.step()
        backend.step()
        compiles.append(backend.compiles() - count)
        if number == 0:
            first = {key: loss.item() for key, loss in losses.items()}
        totals.append(total.item())
    fallbacks = {key: value - before.get(key, 0) for key, value in backend.fallbacks().items() if value != before.get(key, 0)}
    print(json.dumps({"compiles": compiles, "fallbacks": fallbacks, "totals": totals, "first": first, "expected": expected}))


if __name__ == "__main__":
    main(sys.argv[1])
