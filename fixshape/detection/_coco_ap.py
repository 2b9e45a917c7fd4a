"""How good is what a static model finds, by COCO's own measure? pycocotools computes it.

Shapes: B images, D detection slots, H x W canvas.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert

from fixshape.detection._detections import Detections, to_list
from fixshape.errors import DatasetError, ExtraError


def coco_ap(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Mapping[str, Tensor]]],
    annotations: str | os.PathLike[str],
    *,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """Average precision of boxes on the images that a loader gives, against their annotation file.

    The truth is the file's own: crowds are ignored as COCO ignores them, and a category that the images lack is left out. It
    waits for the device at each batch: call it between steps, as ``fixshape.fit(evaluate=...)`` does.

    Args:
        model: a static model in evaluation mode, on ``device``; labels are category ids.
        loader: batches of :class:`fixshape.PadToBucket`, with ``image_id``; images [B, 3, H, W]. Fillers are left out.
        annotations: the COCO file that the images are of.
        device: where the batches go.

    Returns:
        ``{"AP": ..., "AP50": ..., "AP75": ...}``: over IoU 0.5 to 0.95, at 0.5 and at 0.75, at most 100 detections an image;
        all 0 where nothing was found, and -1 where the images have nothing to find, as pycocotools has it.

    Raises:
        ExtraError: pycocotools is not installed.
        DatasetError: the loader gives no image, or images without ``image_id``, or one that the file does not list.
    """
    if importlib.util.find_spec("pycocotools") is None:
        raise ExtraError("coco_ap: pycocotools is not installed: python -m pip install 'fixshape[coco]'.")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rows: list[dict[str, Any]] = []
    seen: list[int] = []
    with torch.no_grad():
        for images, targets in loader:
            if "image_id" not in targets:
                raise DatasetError("coco_ap: the targets have no image_id, expected the ids of the annotation file.")
            found: Detections = model(images.to(device), image_sizes=targets["image_sizes"].to(device))
            ids = targets["image_id"][targets["image_valid"]].tolist()
            seen += ids
            for image_id, detections in zip(ids, to_list(found, targets), strict=True):
                rows += _rows(image_id, detections)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools tells its progress there
        truth = COCO(os.fspath(annotations))
        missing = sorted(set(seen) - set(truth.imgs))
        if missing or not seen:
            got = f"image {missing[0]}, which {os.fspath(annotations)} does not list" if missing else "no image"
            raise DatasetError(f"coco_ap: the loader gave {got}. Evaluate on the images of that file.")
        if not rows:
            return {"AP": 0.0, "AP50": 0.0, "AP75": 0.0}
        evaluation = COCOeval(truth, truth.loadRes(rows), "bbox")
        evaluation.params.imgIds = sorted(set(seen))
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {name: float(value) for name, value in zip(("AP", "AP50", "AP75"), evaluation.stats, strict=False)}


def _rows(image_id: int, detections: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """Detections as COCO's result files have them."""
    boxes = box_convert(detections["boxes"], "xyxy", "xywh").tolist()
    each = zip(boxes, detections["labels"].tolist(), detections["scores"].tolist(), strict=True)
    return [{"image_id": image_id, "category_id": label, "bbox": box, "score": score} for box, label, score in each]
