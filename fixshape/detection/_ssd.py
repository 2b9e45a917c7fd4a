"""SSD300 and SSDlite, static.

Shapes: B images, H x W canvas, M box slots, A anchors, C classes with the background, K candidates per class, D detections.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD

from fixshape._check import check_shape
from fixshape.detection._box_coder import decode, encode
from fixshape.detection._detections import Detections
from fixshape.detection._normalize import normalize
from fixshape.errors import DtypeError, ModelError, ShapeError
from fixshape.ops import box_iou, hard_negative_mining, masked_smooth_l1_loss, nms, ssd_match


class StaticSSD(nn.Module):
    """torchvision's SSD with fixed shapes. Made by :func:`fixshape.to_static`.

    Follows ``torchvision/models/detection/ssd.py``: ``compute_loss``, ``postprocess_detections``.

    The anchors are constants of the canvas, made by the model's own generator in the parameters' dtype, never below float32
    (torchvision builds them in the features' dtype at each step: under autocast in 16 bits), and not in the ``state_dict``.
    """

    anchors: Tensor
    canvas_size: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, model: SSD) -> None:
        super().__init__()
        size = model.transform.fixed_size
        if size is None or model.transform._skip_resize:
            raise ModelError(
                "to_static: the SSD's transform has no fixed size, or skips the resize; torchvision's builders set one."
            )
        self.backbone = model.backbone
        self.head = model.head
        self.transform = model.transform
        self.canvas = (int(size[1]), int(size[0]))
        self._generator = model.anchor_generator
        self._coder = model.box_coder
        self._matching_threshold = model.proposal_matcher.high_threshold
        self._negative_ratio = model.neg_to_pos_ratio
        self._score_thresh = model.score_thresh
        self._nms_thresh = model.nms_thresh
        self._detections_per_img = model.detections_per_img
        self._topk_candidates = model.topk_candidates
        self._grids = _feature_sizes(model.backbone, self.canvas)
        self.train(model.training)
        self._make_constants()

    @property
    def num_classes(self) -> int:
        """Classes, the background included: labels are 0 to this less one."""
        return int(self.head.classification_head.num_columns)

    def forward(
        self, images: Tensor, targets: Mapping[str, Tensor] | None = None, image_sizes: Tensor | None = None
    ) -> dict[str, Tensor] | Detections:
        """Losses while training, detections in evaluation.

        Args:
            images: [B, 3, H, W] on the canvas, floating in [0, 1] or uint8, not normalised.
            targets: while training, by :class:`fixshape.PadToBucket`: ``boxes`` [B, M, 4] XYXY canvas pixels, ``labels``
                [B, M] int64, ``valid_mask`` [B, M] bool, ``image_sizes`` [B, 2]; other keys are not read. In evaluation only
                ``image_sizes`` is read, if targets are given.
            image_sizes: [B, 2] int64, (h, w) of each image on the canvas; ``None``: all of it.

        Returns:
            Training: ``{"bbox_regression": [], "classification": []}``, scalars as torchvision's. Evaluation:
            :class:`fixshape.Detections` with D = ``detections_per_img``, boxes on the canvas.

        Raises:
            ShapeError: the images are not on the model's canvas, or the targets are of other images.
            DtypeError: the images are integers other than uint8.
            ModelError: training without targets.
        """
        where = type(self).__name__
        way_out = "Resize with fixshape.detection.host_transform(model) and pad with PadToBucket(model.canvas, max_boxes=...)."
        check_shape(where, "images", images.shape, ("B", 3, *self.canvas), way_out)
        if not (images.is_floating_point() or images.dtype == torch.uint8):
            raise DtypeError(f"{where}: images are {images.dtype}, expected floating in [0, 1] or torch.uint8.")
        if image_sizes is None and targets is not None:
            image_sizes = targets["image_sizes"]
        if image_sizes is None:
            image_sizes = self.canvas_size.expand(images.shape[0], 2)
        check_shape(where, "image_sizes", image_sizes.shape, (images.shape[0], 2))
        if self.training:
            if targets is None:
                raise ModelError(
                    f"{where}: training needs targets: model(images, targets). For detections call model.eval() first."
                )
            slots = targets["valid_mask"].shape[1:]
            for name, trailing in (("valid_mask", ()), ("boxes", (4,)), ("labels", ())):
                check_shape(where, f"targets[{name!r}]", targets[name].shape, (images.shape[0], *slots, *trailing))
        normalized = normalize(images, image_sizes, self.mean, self.std)
        features = self.backbone(normalized.to(next(self.backbone.parameters()).dtype))
        outputs = self.head([features] if isinstance(features, Tensor) else list(features.values()))
        if targets is None or not self.training:
            return self._detect(outputs["cls_logits"], outputs["bbox_regression"], image_sizes)
        return self._losses(
            outputs["cls_logits"], outputs["bbox_regression"], targets["boxes"], targets["labels"], targets["valid_mask"]
        )

    def _losses(self, logits: Tensor, regression: Tensor, boxes: Tensor, labels: Tensor, valid_mask: Tensor) -> dict[str, Tensor]:
        iou = box_iou(boxes, self.anchors, valid_mask1=valid_mask)
        matches = ssd_match(iou, valid_mask=valid_mask, threshold=self._matching_threshold)  # [B, A]
        matched = matches >= 0
        slots = matches.clamp(min=0)

        # The background gets its own anchor as box, so that its code is zeros and not infinities, and in the boxes' dtype, since
        # torchvision takes their widths and heights in that.
        matched_boxes = boxes.gather(1, slots[..., None].expand(-1, -1, 4))
        matched_boxes = torch.where(matched[..., None], matched_boxes, self.anchors.to(boxes.dtype))
        codes = encode(matched_boxes, self.anchors, self._coder.weights)
        box_loss = masked_smooth_l1_loss(regression, codes, reduction="sum", valid_mask=matched)

        classes = torch.where(matched, labels.gather(1, slots), 0)
        class_loss = F.cross_entropy(logits.flatten(0, 1), classes.flatten(), reduction="none").view(classes.shape)
        foreground = classes > 0  # not `matched`: a box labelled 0 counts in the normaliser alone, as in torchvision
        negatives = hard_negative_mining(class_loss, foreground, negative_ratio=self._negative_ratio)
        # Two sums, not one over the union: where three times the foreground is more than the background, torchvision's
        # negatives reach into the foreground, and those anchors count twice (ssd.py:323).
        class_loss = torch.where(foreground, class_loss, 0).sum() + torch.where(negatives, class_loss, 0).sum()

        count = matched.sum().clamp(min=1)
        return {"bbox_regression": box_loss / count, "classification": class_loss / count}

    def _detect(self, logits: Tensor, regression: Tensor, image_sizes: Tensor) -> Detections:
        boxes = decode(regression, self.anchors, self._coder.weights, self._coder.bbox_xform_clip)
        limits = image_sizes.flip(1).repeat(1, 2)[:, None].to(boxes.dtype)  # [B, 1, 4]: w, h, w, h
        boxes = torch.minimum(boxes.clamp(min=0), limits)

        per_class = F.softmax(logits, dim=-1)[..., 1:].transpose(1, 2)  # [B, C-1, A]
        is_candidate = per_class > self._score_thresh
        best, anchors = torch.where(is_candidate, per_class, -1).topk(
            min(self._topk_candidates, per_class.shape[2])
        )  # [B, C-1, K]
        batch = torch.arange(boxes.shape[0], device=boxes.device)[:, None, None]
        candidates = boxes[batch, anchors]  # [B, C-1, K, 4]
        size = min(self._detections_per_img, best.shape[2])
        kept, is_kept = nms(candidates, best, self._nms_thresh, size=size, valid_mask=best > self._score_thresh)

        # D of all classes' survivors: no class can place more than D among the best D.
        scores = torch.where(is_kept, best.gather(2, kept), -1).flatten(1)
        survivors = candidates.gather(2, kept[..., None].expand(-1, -1, -1, 4)).flatten(1, 2)
        labels = torch.arange(1, self.num_classes, device=boxes.device)[:, None].expand(-1, size).reshape(-1)
        scores, order = scores.topk(min(self._detections_per_img, scores.shape[1]))
        valid_mask = scores >= 0
        return Detections(
            boxes=torch.where(valid_mask[..., None], survivors.gather(1, order[..., None].expand(-1, -1, 4)), 0),
            scores=torch.where(valid_mask, scores, 0),
            labels=torch.where(valid_mask, labels[order], 0),
            valid_mask=valid_mask,
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> StaticSSD:
        # .to(), .double(), .cuda() end here. Constants are made anew: float32 anchors cast to float64 would be 3e-5 pixels off.
        super()._apply(fn, *args, **kwargs)  # type: ignore[no-untyped-call]
        self._make_constants()
        return self

    def _make_constants(self) -> None:
        parameter = next(self.parameters())
        dtype = torch.promote_types(parameter.dtype, torch.float32)
        features = [torch.empty(1, 1, *grid, dtype=dtype) for grid in self._grids]
        (anchors,) = self._generator(ImageList(torch.empty(1, 1, *self.canvas), [self.canvas]), features)
        for name, constant in (
            ("anchors", anchors),
            ("canvas_size", torch.tensor(self.canvas)),
            ("mean", torch.tensor(self.transform.image_mean, dtype=dtype)),
            ("std", torch.tensor(self.transform.image_std, dtype=dtype)),
        ):
            self.register_buffer(name, constant.to(parameter.device), persistent=False)


def _feature_sizes(backbone: nn.Module, canvas: tuple[int, int]) -> list[tuple[int, int]]:
    """The (height, width) of each feature map, learnt without computing: on the meta device, in evaluation, on a copy."""
    probe = copy.deepcopy(backbone).to("meta").eval()
    with torch.no_grad():
        features = probe(torch.empty(1, 3, *canvas, device="meta", dtype=next(probe.parameters()).dtype))
    maps = [features] if isinstance(features, Tensor) else list(features.values())
    sizes = [(int(feature.shape[-2]), int(feature.shape[-1])) for feature in maps]
    if not sizes:
        raise ShapeError("to_static: the backbone gives no feature map.")
    return sizes
