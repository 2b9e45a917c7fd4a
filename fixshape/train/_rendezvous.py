"""Which part of the store do ranks meet in, when torchrun keeps one store over its restarts?

torchrun hands the ranks of every life the same store and no name of the life (torch 2.9 and 2.15,
``torch/distributed/elastic/rendezvous/dynamic_rendezvous.py``, ``next_rendezvous``; ``torch/distributed/rendezvous.py``,
``_create_c10d_store``). There a rank that starts early finds the address that a dead one has left, and cannot connect to it.
``TORCHELASTIC_RESTART_COUNT`` is no such name either: each node counts the restarts that its own ranks have caused.
"""

from __future__ import annotations

import time
import uuid
from datetime import timedelta

from torch.distributed.distributed_c10d import PrefixStore, Store

_POLL = 0.01  # seconds


def own_part(store: Store, rank: int, ranks: int, timeout: timedelta) -> Store:
    """The part of a store that these ranks have for themselves, whatever earlier ones have left in it.

    Rank 0 draws a name and hands it to each of the others under a key that that one has drawn: what both draw has never been in
    the store. A question that a dead rank has left is answered too, and nobody hears it. Ranks that still live from before could
    take a name away; torchrun ends them all before it starts new ones.

    Args:
        store: reached by all ranks.
        rank: of this process.
        ranks: how many take part; each must call this.
        timeout: after which the others are given up.

    Returns:
        The store under a prefix that all ranks of this life share, and no others.

    Raises:
        RuntimeError: a rank has not come in time.
    """
    store.set_timeout(timeout)
    if rank:
        question = uuid.uuid4().hex
        store.set(f"asks/{rank}", question)
        name = store.get(question).decode()
        store.set(f"{name}/{rank}", "has it")
        return PrefixStore(name, store)
    name = uuid.uuid4().hex
    end = time.monotonic() + timeout.total_seconds()
    for other in range(1, ranks):
        while not store.check([f"{name}/{other}"]):
            if store.check([f"asks/{other}"]):
                store.set(store.get(f"asks/{other}").decode(), name)
            if time.monotonic() > end:
                raise RuntimeError(f"rank {other} of {ranks} has not come in {timeout.total_seconds():g} s")
            time.sleep(_POLL)
    return PrefixStore(name, store)
