"""Five training steps of a static model in a dry run on an NPU, as JSON: a process of its own, since a dry run lasts to its end.

python -m tests.backend.npu_steps ssdlite320_mobilenet_v3_large built
"""

import json
import sys

from fixshape import get_backend

CANVAS, SLOTS, CLASSES, STEPS = 320, 8, 4, 5


def main(name: str, operators: str) -> None:
    backend = get_backend("npu", dry_run=True)  # before torch has run a backward pass

    import torch

    from fixshape import Bucket, OpRecorder, PadToBucket, to_static
    from fixshape.train._batch import to_device
    from tests.backend.npu_batches import batch
    from tests.detection import reduced

    backend.set_compile_mode(online=operators == "online")
    if name in reduced.BUILDERS:
        model, bucket = to_static(reduced.build(name, dtype=torch.float32)), Bucket(*reduced.CANVAS, SLOTS)
    else:
        from torchvision.models import detection

        torch.manual_seed(0)
        built = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=CLASSES)
        model, bucket = to_static(built), Bucket(CANVAS, CANVAS, SLOTS)
    model = model.to(backend.device()).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    recorder = OpRecorder(lines=False)
    backend.step()
    backend.steps.clear()
    earlier = backend.torch_operators()
    for number in range(STEPS):
        images, targets = PadToBucket(bucket)(batch(bucket, [number % 4, 3], CLASSES, seed=number))
        images, targets = to_device(images, backend.device()), to_device(targets, backend.device())
        backend.step()
        backend.steps[number:] = []  # what a batch's way to the device launches
        with recorder:
            optimizer.zero_grad(set_to_none=True)
            sum(model(images, targets).values()).backward()
            optimizer.step()
        recorder.step()
        backend.step()
    torch_operators = backend.torch_operators()
    compiling = sum(count.compiles for count in torch_operators.values()) - sum(count.compiles for count in earlier.values())
    found = {
        "predicted": [step.compiles for step in recorder.report().steps],
        "launches": [step.launches for step in backend.steps],
        "compiles": [step.compiles for step in backend.steps],
        "by_operator": {key: [count.launches, count.compiles] for key, count in backend.steps[0].operators.items()},
        "torch_operators": compiling,
        "unread": backend.counts().unread,
        "fallbacks": backend.fallbacks(),
        "waits": backend.waits(),
        "slow_forms": backend.slow_forms(),
        "peak_memory": backend.peak_memory(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
