"""How does a training take part where torchrun has started several of it: one model on all ranks, one report in the end?"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fixshape.backend import Backend
from fixshape.backend._ranks import rank_and_world_size
from fixshape.errors import BackendError
from fixshape.train._records import TrainSummary

TIMEOUT = timedelta(minutes=30)  # torch's own for gloo


@contextmanager
def joined(backend: Backend) -> Iterator[tuple[int, int]]:
    """Inside, this process is one rank of those that torchrun started; alone where it was started otherwise.

    The ranks speak through the backend's own collective: gloo, nccl, hccl or xla. Never run but with gloo. Ranks that torchrun
    has started anew meet each other, not what the dead ones have left in the store that it keeps.

    Args:
        backend: on each rank the same.

    Yields:
        The rank, and how many there are.

    Raises:
        BackendError: the ranks do not find each other, or their environment makes no sense.
    """
    if "RANK" not in os.environ or (dist.is_available() and dist.is_initialized()):
        yield rank_and_world_size()
        return
    # Here, as torch may be built without distributed: then there is nothing to join.
    from torch.distributed.rendezvous import rendezvous

    from fixshape.train._rendezvous import own_part

    try:
        if backend.name in ("cuda", "npu"):
            getattr(torch, backend.name).set_device(local_rank())
        store, rank, ranks = next(rendezvous("env://"))
        store = own_part(store, rank, ranks, TIMEOUT)
        dist.init_process_group(backend.collective, store=store, rank=rank, world_size=ranks)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise BackendError(
            f"train: the ranks do not find each other by {backend.collective} ({reason}). Start them with torchrun, which sets"
            " RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT; several nodes need --rdzv-endpoint."
        ) from error
    try:
        yield rank_and_world_size()
    finally:
        dist.destroy_process_group()


def local_rank() -> int:
    """The index of this process among those of its node, and of its device there; 0 without torchrun."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def replicate(model: nn.Module, device: torch.device) -> nn.Module:
    """The model with its gradients averaged over all ranks; itself where there is but one.

    It is torch's ``DistributedDataParallel`` with ``static_graph=True``: a static model uses the same parameters in every step,
    whatever a batch holds. Each rank's losses keep their own normaliser, as torchvision's do under it: with losses that are
    divided by the number of boxes, two ranks are not one process with the double batch.

    Args:
        model: on ``device``; the first rank's weights go to all.
        device: of this rank.

    Returns:
        The wrapped model; ``.module`` is the one given.
    """
    if rank_and_world_size()[1] == 1:
        return model
    devices = [device] if device.type in ("cuda", "npu") else None
    return DistributedDataParallel(model, device_ids=devices, static_graph=True)


def gathered(summary: TrainSummary) -> TrainSummary:
    """One summary of all ranks' on the first one, and each rank's own on the others.

    Losses are means over the ranks, a step's compiles and seconds and the memory those of the rank that has most, and what is
    counted of padding is added.
    """
    rank, ranks = rank_and_world_size()
    if ranks == 1:
        return summary
    found: list[Any] = [None] * ranks
    dist.all_gather_object(found, summary)
    return merged(found) if rank == 0 else summary


def merged(summaries: Sequence[TrainSummary]) -> TrainSummary:
    """See :func:`gathered`."""
    steps = []
    for records in zip(*(summary.steps for summary in summaries), strict=True):
        most = {
            name: max((value for record in records if (value := getattr(record, name)) is not None), default=None)
            for name in ("op_compiles", "graph_compiles", "native_op_compiles", "seconds")
        }
        steps.append(replace(records[0], **most))
    added = {
        name: sum(getattr(summary, name) for summary in summaries)
        for name in ("real_pixels", "total_pixels", "real_slots", "total_slots", "boxes_dropped")
    }
    losses = tuple(sum(values) / len(values) for values in zip(*(summary.losses for summary in summaries), strict=True))
    peak = max(summary.peak_memory for summary in summaries)
    return replace(summaries[0], steps=tuple(steps), losses=losses, peak_memory=peak, **added)
