"""Where torchvision's anchors lie on a canvas, for any canvas, without a tensor that comes from the host.

Shapes: A anchors of all levels, a anchors per location, h x w the feature size of a level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator


class GridAnchors(nn.Module):
    """The anchors of an ``AnchorGenerator`` on each level of a feature pyramid.

    It keeps the anchors of one location as buffers outside of the ``state_dict``, never below float32. They are made anew and not
    taken from the generator: that casts its own to the dtype of each batch and keeps the result, so that they stay rounded after
    one batch in 16 bits.

    Args:
        generator: of the model.
        like: a parameter of the model, whose device and dtype the anchors get.
    """

    def __init__(self, generator: AnchorGenerator, like: Tensor) -> None:
        super().__init__()
        self._generator = generator
        self._make_cells(like)

    def forward(self, features: Sequence[Tensor], canvas: tuple[int, int]) -> list[Tensor]:
        """The anchors of each level, [h w a, 4] XYXY canvas pixels, in the order of torchvision's heads.

        The arithmetic of ``torchvision/models/detection/anchor_utils.py`` (``AnchorGenerator.forward``), bit for bit. Its strides
        are whole numbers, the canvas over the feature size rounded down, and so differ from the true ones where the canvas is no
        multiple of them (1344 pixels on 11 columns: 122, not 128). It costs one pass over the anchors: nothing is kept from one
        batch to the next, and no canvas has to be known before.

        Args:
            features: [B, C, h, w] of each level.
            canvas: (height, width) in pixels.
        """
        anchors = []
        for level, feature in enumerate(features):
            cell = self.get_buffer(f"cell_{level}")
            height, width = feature.shape[-2:]
            y = torch.arange(height, device=cell.device, dtype=torch.int32) * (canvas[0] // height)
            x = torch.arange(width, device=cell.device, dtype=torch.int32) * (canvas[1] // width)
            shift_y, shift_x = y[:, None].expand(height, width), x[None].expand(height, width)
            shifts = torch.stack((shift_x, shift_y, shift_x, shift_y), dim=-1)
            anchors.append((shifts[:, :, None] + cell).reshape(-1, 4))
        return anchors

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> GridAnchors:
        super()._apply(fn, *args, **kwargs)  # type: ignore[no-untyped-call]
        self._make_cells(self.get_buffer("cell_0"))
        return self

    def _make_cells(self, like: Tensor) -> None:
        dtype = torch.promote_types(like.dtype, torch.float32)
        for level, shapes in enumerate(zip(self._generator.sizes, self._generator.aspect_ratios, strict=True)):
            cell = self._generator.generate_anchors(*shapes)
            self.register_buffer(f"cell_{level}", cell.to(like.device, dtype), persistent=False)
