"""The second stage's boxes: pooled features, losses while training, detections in evaluation.

Shapes: B images, R boxes per image (sampled, proposals or detections), C classes with the background, D detections.

Follows ``torchvision/models/detection/roi_heads.py`` (``fastrcnn_loss``, ``postprocess_detections``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import MultiScaleRoIAlign

from fixshape.detection._best import best_of_each_group
from fixshape.detection._box_coder import clip_to_images, decode, encode
from fixshape.detection._detections import Detections
from fixshape.detection._roi_samples import RoISamples
from fixshape.detection._row_heads import run_rows
from fixshape.detection._rpn import Proposals, is_large
from fixshape.ops import masked_cross_entropy, masked_smooth_l1_loss, multiscale_roi_align

_LEAST_SIDE = 1e-2  # of a detection in pixels, torchvision's


def box_losses(
    heads: RoIHeads, features: Mapping[str, Tensor], canvas: tuple[int, int], samples: RoISamples
) -> dict[str, Tensor]:
    """``loss_classifier`` and ``loss_box_reg``, both divided by the number of boxes sampled in the batch."""
    rows = pool_rows(heads.box_roi_pool, features, canvas, samples.boxes, samples.valid_mask)
    valid = samples.valid_mask.flatten()
    logits, regression = heads.box_predictor(run_rows(heads.box_head, rows, valid))
    labels = samples.labels.flatten()
    class_loss = masked_cross_entropy(logits, labels, valid_mask=valid)

    codes = regression.reshape(len(labels), -1, 4)
    codes = codes.gather(1, labels[:, None, None].expand(-1, 1, 4)).squeeze(1)
    wanted = encode(samples.matched_boxes, samples.boxes, heads.box_coder.weights).flatten(0, 1).to(codes.dtype)
    box_loss = masked_smooth_l1_loss(codes, wanted, "sum", beta=1 / 9, valid_mask=samples.positive.flatten())
    return {"loss_classifier": class_loss, "loss_box_reg": box_loss / valid.sum().clamp(min=1)}


def detect_boxes(
    heads: RoIHeads, features: Mapping[str, Tensor], canvas: tuple[int, int], proposals: Proposals, image_sizes: Tensor
) -> Detections:
    """The best boxes of all classes, suppressed within each class."""
    rows = pool_rows(heads.box_roi_pool, features, canvas, proposals.boxes, proposals.valid_mask)
    logits, regression = heads.box_predictor(run_rows(heads.box_head, rows, proposals.valid_mask.flatten()))
    batch, count = proposals.valid_mask.shape
    scores = logits.softmax(-1).reshape(batch, count, -1)[..., 1:].transpose(1, 2)  # [B, C-1, R]
    codes = regression.reshape(batch, count, -1, 4)[:, :, 1:]
    boxes = decode(codes, proposals.boxes[:, :, None], heads.box_coder.weights, heads.box_coder.bbox_xform_clip)
    boxes = clip_to_images(boxes, image_sizes).transpose(1, 2)  # [B, C-1, R, 4]
    candidate = (scores > heads.score_thresh) & is_large(boxes, _LEAST_SIDE) & proposals.valid_mask[:, None]
    return best_of_each_group(boxes, scores, candidate, iou_threshold=heads.nms_thresh, size=heads.detections_per_img)


def pool_rows(
    pool: MultiScaleRoIAlign, features: Mapping[str, Tensor], canvas: tuple[int, int], boxes: Tensor, valid_mask: Tensor
) -> Tensor:
    """The features of each box, [B R, C, h, w], zeros for padding.

    The scale of a level follows from the canvas. torchvision infers it from the images of its first batch and keeps it, and
    infers a wrong one where the canvas is more than 1.4 times as large as the largest image.
    """
    levels = [features[name] for name in pool.featmap_names if name in features]
    scales = [2.0 ** round(math.log2(level.shape[2] / canvas[0])) for level in levels]
    pooled = multiscale_roi_align(
        levels,
        boxes,
        tuple(pool.output_size),
        scales=scales,
        sampling_ratio=pool.sampling_ratio,
        canonical_scale=pool.canonical_scale,
        canonical_level=pool.canonical_level,
        valid_mask=valid_mask,
    )
    return pooled.flatten(0, 1)
