"""What a one-stage detector finds on the levels of a feature pyramid.

Shapes: B images, A anchors of a level, C classes, N candidates of all levels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fixshape.detection._best import best_of_all_classes
from fixshape.detection._box_coder import clip_to_images
from fixshape.detection._detections import Detections


class Limits(NamedTuple):
    """How many detections a model gives, and how good they have to be."""

    score_thresh: float  #: candidates score more than this
    topk_candidates: int  #: the most of one level
    nms_thresh: float  #: of the suppression within a class
    detections_per_img: int

    @classmethod
    def of(cls, model: Any) -> Limits:
        """Those of a torchvision model."""
        return cls(model.score_thresh, model.topk_candidates, model.nms_thresh, model.detections_per_img)


def detect_on_levels(
    scores: Sequence[Tensor],
    codes: Sequence[Tensor],
    anchors: Sequence[Tensor],
    image_sizes: Tensor,
    *,
    decode: Callable[[Tensor, Tensor], Tensor],
    limits: Limits,
) -> Detections:
    """The detections of RetinaNet and FCOS: the best anchors and classes of each level, suppressed over all levels.

    Follows ``postprocess_detections`` in ``torchvision/models/detection/retinanet.py`` and ``fcos.py``.

    Args:
        scores: [B, A, C] of each level, in [0, 1].
        codes: [B, A, 4] of each level: what ``decode`` makes boxes of.
        anchors: [A, 4] of each level.
        image_sizes: [B, 2], (h, w); boxes are cut to it.
        decode: ``(codes, anchors) -> boxes``, any leading dimensions.
        limits: of the model.
    """
    found = []
    for score, code, anchor in zip(scores, codes, anchors, strict=True):
        classes = score.shape[2]
        flat = torch.where(score > limits.score_thresh, score, -1).flatten(1)
        best, index = flat.topk(min(limits.topk_candidates, flat.shape[1]))
        row = index.div(classes, rounding_mode="floor")
        boxes = decode(code.gather(1, row[..., None].expand(-1, -1, 4)), anchor[row])
        found.append((clip_to_images(boxes, image_sizes), best, index - row * classes))
    boxes, best, labels = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
    return best_of_all_classes(
        boxes,
        best,
        labels,
        best > limits.score_thresh,
        iou_threshold=limits.nms_thresh,
        size=min(limits.detections_per_img, best.shape[1]),
    )
