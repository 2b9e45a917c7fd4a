"""Which rank of how many is this process?"""

from __future__ import annotations

import torch.distributed


def rank_and_world_size() -> tuple[int, int]:
    """As ``torch.distributed`` says once it is initialised; the one rank of one before, and where torch was built without it."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
