"""What a static model finds, and the way back to torchvision's own form.

Shapes: B images, D detection slots, n detections of one image, K keypoints, m the side of what a mask or keypoint head gives,
H, W pixels of an original image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor
from torchvision.models.detection.roi_heads import heatmaps_to_keypoints, paste_masks_in_image
from torchvision.models.detection.transform import resize_boxes, resize_keypoints

from fixshape._check import check_shape


class Detections(NamedTuple):
    """Detections of a fixed number of slots per image, best first. What stands in a slot that is not valid means nothing.

    Attributes:
        boxes: [B, D, 4] XYXY, pixels of the canvas.
        scores: [B, D].
        labels: [B, D] int64.
        valid_mask: [B, D] bool, True where a slot holds a detection.
        masks: [B, D, 1, m, m], probabilities over the box that a point belongs to the object, of the detection's own class;
            ``None`` from models without masks.
        keypoints: [B, D, K, m, m], heatmaps over the box, as logits; ``None`` from models without keypoints.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    valid_mask: Tensor
    masks: Tensor | None = None
    keypoints: Tensor | None = None


def to_list(detections: Detections, targets: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Torchvision's own result: one dictionary per real image, of varying length, in the coordinates of the original images.

    It waits for the device and copies to the host: call it once per batch, outside of what is compiled. Fillers are left out.

    Masks and keypoints get their place here, by torchvision's own functions, as their size in pixels is that of the box. The
    masks of one image take 4 n H W bytes: 120 MB for 100 detections of 480x640 pixels.

    Args:
        detections: of a batch of B images.
        targets: the batch's targets by :class:`fixshape.PadToBucket`; ``image_sizes`` [B, 2], ``orig_sizes`` [B, 2], both
            (h, w) in pixels, and ``image_valid`` [B] bool are read.

    Returns:
        ``[{"boxes": [n, 4] XYXY pixels, "scores": [n], "labels": [n]}, ...]`` on the CPU, best first, as
        ``torchvision/models/detection/transform.py`` (``postprocess``) scales them. With ``detections.masks`` also ``"masks"``
        [n, 1, H, W], probabilities; with ``detections.keypoints`` also ``"keypoints"`` [n, K, 3] (x, y in pixels, and 1) and
        ``"keypoints_scores"`` [n, K], the logits there (``keypointrcnn_inference`` of
        ``torchvision/models/detection/roi_heads.py``).

    Raises:
        ShapeError: the targets are not those of as many images; or masks or keypoints are not of the shape of
            :class:`Detections`.

    Example:
        >>> import torch
        >>> found = Detections(
        ...     torch.tensor([[[10.0, 20.0, 30.0, 40.0], [0.0, 0.0, 0.0, 0.0]]]),
        ...     torch.tensor([[0.9, 0.0]]), torch.tensor([[2, 0]]), torch.tensor([[True, False]]),
        ... )
        >>> targets = {
        ...     "image_sizes": torch.tensor([[320, 320]]),
        ...     "orig_sizes": torch.tensor([[640, 320]]),
        ...     "image_valid": torch.tensor([True]),
        ... }
        >>> to_list(found, targets)[0]["boxes"]
        tensor([[10., 40., 30., 80.]])
    """
    count = detections.boxes.shape[0]
    for name, expected in (("image_sizes", (count, 2)), ("orig_sizes", (count, 2)), ("image_valid", (count,))):
        check_shape("to_list", f"targets[{name!r}]", targets[name].shape, expected, "Give the targets of the same batch.")
    slots = detections.boxes.shape[:2]
    for name, heads, channels in (("masks", detections.masks, 1), ("keypoints", detections.keypoints, "K")):
        if heads is not None:
            square = heads.shape[-1] if heads.dim() else "m"
            check_shape("to_list", f"detections.{name}", heads.shape, (*slots, channels, square, square), "See Detections.")
    host = Detections._make(None if field is None else field.cpu() for field in detections)
    found = []
    for image, is_real in enumerate(targets["image_valid"].tolist()):
        if is_real:
            size, original = targets["image_sizes"][image].tolist(), targets["orig_sizes"][image].tolist()
            found.append(_of_image(host, image, size, original))
    return found


def _of_image(detections: Detections, image: int, size: list[int], original: list[int]) -> dict[str, Tensor]:
    """The detections of one image, from (h, w) ``size`` to (H, W) ``original``."""
    valid = detections.valid_mask[image]
    boxes = detections.boxes[image][valid]
    scaled = resize_boxes(boxes, size, original)
    found = {"boxes": scaled, "scores": detections.scores[image][valid], "labels": detections.labels[image][valid]}
    if detections.masks is not None:
        found["masks"] = paste_masks_in_image(detections.masks[image][valid], scaled, (original[0], original[1]))
    if detections.keypoints is not None:
        # The heatmaps are read on the canvas, and only the points that are found are scaled.
        keypoints, found["keypoints_scores"] = heatmaps_to_keypoints(detections.keypoints[image][valid], boxes)
        found["keypoints"] = resize_keypoints(keypoints, size, original)
    return found
