"""What a one-stage detector finds on the levels of a feature pyramid.

Shapes: B images, A anchors of a level, C classes, N candidates of all levels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fixshape.detection._best import best_of_all_classes
from fixshape.detection._box_coder import clip_to_images
from fixshape.detection._detections import Detections


def detect_on_levels(
    scores: Sequence[Tensor],
    codes: Sequence[Tensor],
    anchors: Sequence[Tensor],
    image_sizes: Tensor,
    *,
    decode: Callable[[Tensor, Tensor], Tensor],
    score_thresh: float,
    topk_candidates: int,
    nms_thresh: float,
    detections_per_img: int,
) -> Detections:
    """The detections of RetinaNet and FCOS: the best anchors and classes of each level, suppressed over all levels.

    Follows ``postprocess_detections`` in ``torchvision/models/detection/retinanet.py`` and ``fcos.py``.

    Args:
        scores: [B, A, C] of each level, in [0, 1].
        codes: [B, A, 4] of each level: what ``decode`` makes boxes of.
        anchors: [A, 4] of each level.
        image_sizes: [B, 2], (h, w); boxes are cut to it.
        decode: ``(codes, anchors) -> boxes``, any leading dimensions.
        score_thresh: candidates score more than this.
        topk_candidates: the most of one level.
        nms_thresh: of the suppression within a class.
        detections_per_img: D.
    """
    found = []
    for score, code, anchor in zip(scores, codes, anchors, strict=True):
        classes = score.shape[2]
        flat = torch.where(score > score_thresh, score, -1).flatten(1)
        best, index = flat.topk(min(topk_candidates, flat.shape[1]))
        row = index.div(classes, rounding_mode="floor")
        boxes = decode(code.gather(1, row[..., None].expand(-1, -1, 4)), anchor[row])
        found.append((clip_to_images(boxes, image_sizes), best, index - row * classes))
    boxes, best, labels = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
    return best_of_all_classes(
        boxes, best, labels, best > score_thresh, iou_threshold=nms_thresh, size=min(detections_per_img, best.shape[1])
    )
