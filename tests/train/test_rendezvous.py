"""Ranks that are started anew meet each other, and not what dead ones have left in the store."""

import re
import threading
from datetime import timedelta

import pytest
import torch.distributed as dist

from fixshape.train._rendezvous import own_part
from tests.train.test_distributed import torchrun

LONG = timedelta(seconds=30)


def meet(store, ranks, order, *, started=lambda rank: None):
    """All ranks' parts of the store, each rank in a thread of its own, started in this order."""
    parts = {}

    def live(rank):
        parts[rank] = own_part(client(store), rank, ranks, LONG)

    threads = {rank: threading.Thread(target=live, args=(rank,), daemon=True) for rank in order}
    for rank, thread in threads.items():
        thread.start()
        started(rank)
    for thread in threads.values():
        thread.join(30)
        assert not thread.is_alive()
    return [parts[rank] for rank in range(ranks)]


def client(store):
    """A rank's connection to the store: one that waits keeps all others of the same connection waiting."""
    if isinstance(store, dist.TCPStore):
        return dist.TCPStore(store.host, store.port, is_master=False, timeout=LONG)
    return store


def tcp_store():
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=LONG)


@pytest.mark.parametrize("make", [dist.HashStore, tcp_store])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_each_life_has_a_part_of_its_own(make, order):
    store = make()
    for life in range(4):
        first, *others = meet(store, 3, order)
        assert not first.check(["address"]), "an earlier life's"
        first.set("address", f"of life {life}")
        assert {part.get("address") for part in others} == {f"of life {life}".encode()}
    store.set("address", "in the store itself, as torch would")
    assert first.get("address") == b"of life 3"


def test_a_question_of_the_dead_is_answered_in_vain():
    store = dist.HashStore()
    store.set("asks/1", "drawn by a rank that died before it was answered")

    def wait_for_the_answer(rank):
        if rank == 0:
            store.wait(["drawn by a rank that died before it was answered"], LONG)

    first, second = meet(store, 2, (0, 1), started=wait_for_the_answer)
    first.set("key", "value")
    assert second.get("key") == b"value"


def test_ranks_of_a_smaller_world_do_not_wait_for_those_that_left():
    store = dist.HashStore()
    meet(store, 4, range(4))
    first, second = meet(store, 2, range(2))
    first.set("key", "value")
    assert second.get("key") == b"value"


def test_who_does_not_come_is_named():
    store = dist.HashStore()
    with pytest.raises(RuntimeError, match=re.escape("rank 1 of 2 has not come in 0.05 s")):
        own_part(store, 0, 2, timedelta(seconds=0.05))
    with pytest.raises(dist.DistError):
        own_part(store, 1, 2, timedelta(seconds=0.05))


@pytest.mark.slow
def test_torchrun_starts_anew_and_one_is_late():
    done = torchrun("tests.train.second_life", restarts=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(done.stdout.split("\n"))[-2:] == [f"rank {rank} of 2 in life 2: sum 3" for rank in range(2)]
