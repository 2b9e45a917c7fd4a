"""The walk of NMS as one loop of the graph on XLA, so that its compile time does not grow with the number of boxes.

Shapes: ``S`` sets of boxes, ``P`` planes of a box, ``N`` boxes in order of score, ``K`` tiles of ``T`` boxes each.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fixshape.backend._xla import loop
from fixshape.ops._nms_walk import fill_tiles, spared, split_tiles, suppressed, survivor_tables, survivors_of_tile


def survivors(planes: Tensor, alive: Tensor, threshold: float) -> Tensor:
    """What ``_nms_walk.survivors`` gives, by an XLA ``While`` over the tiles.

    A loop's shapes are fixed, so each step compares its survivors with all boxes and not with the later ones alone. What that
    does to boxes of the tiles before has no effect: their fate is written down by then.
    """
    count = alive.shape[-1]
    planes, alive = fill_tiles(planes), fill_tiles(alive)
    tiles = split_tiles(planes)
    tables = survivor_tables(spared(tiles, threshold))
    sets, steps = tiles.shape[:2]

    def step(state: list[Tensor], inputs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        alive, planes = state
        number, here, table = inputs
        alive_here = alive.reshape(sets, steps, here.shape[-1]).index_select(1, number).squeeze(1)
        kept = survivors_of_tile(table, alive_here)
        alive = torch.where(suppressed(here, kept, planes, threshold), 0, alive)
        return [alive, planes.clone()], [kept.long()]

    # Not bool: torch_xla turns that into integers on the way, and a loop wants its state back as it was.
    state = [alive.long(), planes]
    inputs = [torch.arange(steps, device=alive.device), tiles.movedim(1, 0), tables.movedim(1, 0)]
    _, (kept,) = loop(step, state, inputs)
    survives: Tensor = kept.movedim(0, 1).flatten(1)[:, :count] != 0
    return survives
