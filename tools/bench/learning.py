"""Does the static model learn what torchvision's learns? Average precision of both, from the same weights on the same images.

    python tools/bench/learning.py [--steps 500] [--seeds 0 1] [--batch-size 4] [--side 256] [--images 100] [--json]

torchvision's ``fasterrcnn_mobilenet_v3_large_320_fpn`` with random weights and live batch-norm, on drawn shapes. One side is the
model as it is, with list batches padded to the largest image of each; the other its static form, on one canvas. Both see the same
images in the same order; which anchors and proposals are sampled differs, as it does between two seeds of torchvision. 64 boxes
of an image are sampled instead of 512, for the sake of time, on both sides. Every model is evaluated by its own evaluation path,
on images that none has seen, by pycocotools.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import time
from collections.abc import Sequence
from typing import Any

import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

from fixshape import Bucket, PadToBucket, to_static
from fixshape.detection import DrawnShapes, host_transform, to_list


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1))
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--side", type=int, default=256, help="of the canvas; images are resized to fit it")
    parser.add_argument("--images", type=int, default=100, help="to evaluate on")
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--sides", nargs="+", default=("torchvision", "static"))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    for seed in arguments.seeds:
        for side in arguments.sides:
            result = {"side": side, "seed": seed, **run(arguments, side, seed)}
            print(json.dumps(result) if arguments.json else as_text(result), flush=True)


def run(arguments: argparse.Namespace, side: str, seed: int) -> dict[str, float]:
    """Trains one side with one seed, and evaluates it."""
    torch.manual_seed(seed)
    options = {"min_size": arguments.side, "max_size": arguments.side, "box_batch_size_per_image": 64}
    model = fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=DrawnShapes.num_classes, **options
    )
    samples = DrawnShapes(arguments.steps * arguments.batch_size, seed=seed, max_boxes=6)
    transform = host_transform(model)
    trained = to_static(model) if side == "static" else model
    optimizer = torch.optim.SGD(trained.parameters(), lr=arguments.lr, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, arguments.lr, total_steps=arguments.steps, pct_start=0.1)
    trained.train()
    torch.manual_seed(seed)
    losses, began = [], time.perf_counter()
    for number in range(arguments.steps):
        chosen = range(number * arguments.batch_size, (number + 1) * arguments.batch_size)
        loss = sum(trained(*batch(arguments, side, [samples[index] for index in chosen], transform)).values())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained.parameters(), 10.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    seconds = time.perf_counter() - began
    unseen = [DrawnShapes(arguments.images, seed=10_000, max_boxes=6)[index] for index in range(arguments.images)]
    average, at_half = average_precision(unseen, detect(arguments, side, trained.eval(), unseen, host_transform(model)))
    return {"loss": sum(losses[-20:]) / len(losses[-20:]), "ap": average, "ap50": at_half, "seconds": seconds}


def batch(arguments: argparse.Namespace, side: str, samples: Sequence[Any], transform: Any) -> Any:
    if side == "static":
        return PadToBucket(Bucket(arguments.side, arguments.side, 6))([transform(*sample) for sample in samples])
    copied = [(image, {key: target[key].clone() for key in ("boxes", "labels")}) for image, target in samples]
    return [list(part) for part in zip(*copied, strict=True)]


@torch.no_grad()
def detect(arguments: argparse.Namespace, side: str, model: nn.Module, samples: Sequence[Any], transform: Any) -> list[Any]:
    """What the model finds on each image, in the coordinates of the image, by its own evaluation path."""
    found: list[dict[str, Tensor]] = []
    for first in range(0, len(samples), 4):
        given = samples[first : first + 4]
        if side == "static":
            images, targets = batch(arguments, side, given, transform)
            found += to_list(model(images, targets), targets)
        else:
            found += model([image for image, _ in given])
    return found


def average_precision(samples: Sequence[Any], found: Sequence[dict[str, Tensor]]) -> tuple[float, float]:
    """COCO's AP over IoU .5 to .95, and at .5."""
    truth: dict[str, Any] = {"info": {}, "images": [], "annotations": [], "categories": []}
    truth["categories"] = [{"id": label} for label in range(1, DrawnShapes.num_classes)]
    results = []
    for image_id, ((image, target), detections) in enumerate(zip(samples, found, strict=True), start=1):
        truth["images"].append({"id": image_id, "height": image.shape[1], "width": image.shape[2]})
        for box, label in zip(xywh(target["boxes"]), target["labels"].tolist(), strict=True):
            truth["annotations"].append(
                {"id": len(truth["annotations"]) + 1, "image_id": image_id, "category_id": label, "bbox": box}
                | {"area": box[2] * box[3], "iscrowd": 0}
            )
        rows = zip(xywh(detections["boxes"]), detections["labels"].tolist(), detections["scores"].tolist(), strict=True)
        results += [{"image_id": image_id, "category_id": label, "bbox": box, "score": score} for box, label, score in rows]
    if not results:
        return 0.0, 0.0
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(truth)
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0]), float(evaluation.stats[1])


def xywh(boxes: Tensor) -> list[list[float]]:
    return torch.cat((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), dim=1).tolist()


def as_text(result: dict[str, Any]) -> str:
    return (
        f"{result['side']:<12} seed {result['seed']}   loss {result['loss']:.3f}   AP {result['ap']:.3f}"
        f"   AP50 {result['ap50']:.3f}   {result['seconds']:.0f} s"
    )


if __name__ == "__main__":
    main()
