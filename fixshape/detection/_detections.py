"""What a static model finds, and the way back to torchvision's own form.

Shapes: B images, D detection slots, M box slots.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor
from torchvision.models.detection.transform import resize_boxes

from fixshape._check import check_shape


class Detections(NamedTuple):
    """Detections of a fixed number of slots per image, best first. What stands in a slot that is not valid means nothing.

    Attributes:
        boxes: [B, D, 4] XYXY, pixels of the canvas.
        scores: [B, D].
        labels: [B, D] int64.
        valid_mask: [B, D] bool, True where a slot holds a detection.
        masks: ``None``, or [B, D, ...] by models that have them.
        keypoints: ``None``, or [B, D, ...] by models that have them.
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

    Args:
        detections: of a batch of B images.
        targets: the batch's targets by :class:`fixshape.PadToBucket`; ``image_sizes`` [B, 2], ``orig_sizes`` [B, 2], both
            (h, w) in pixels, and ``image_valid`` [B] bool are read.

    Returns:
        ``[{"boxes": [n, 4] XYXY pixels, "scores": [n], "labels": [n]}, ...]`` on the CPU, best first, as
        ``torchvision/models/detection/transform.py`` (``postprocess``) scales them.

    Raises:
        ShapeError: the targets are not those of as many images.

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
    boxes, scores, labels, valid_mask = (tensor.cpu() for tensor in detections[:4])
    found = []
    for image, is_real in enumerate(targets["image_valid"].tolist()):
        if is_real:
            valid = valid_mask[image]
            size, original = targets["image_sizes"][image].tolist(), targets["orig_sizes"][image].tolist()
            scaled = resize_boxes(boxes[image][valid], size, original)
            found.append({"boxes": scaled, "scores": scores[image][valid], "labels": labels[image][valid]})
    return found
