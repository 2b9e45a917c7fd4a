"""A bar that is drawn while its loop waits for a step to end: from a thread of its own, which does nothing else."""

from __future__ import annotations

import atexit
import functools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

INTERVAL = 1.0
"""Seconds from beat to beat."""

drawing = threading.RLock()
"""Held while the thread draws. Reentrant: the garbage collector may end a loop anywhere."""

_beating: dict[threading.Thread, threading.Event] = {}
"""The threads that run, and what ends each."""


@contextmanager
def heartbeat(bar: tqdm[Any], is_due: Callable[[], bool]) -> Iterator[None]:
    """Inside, ``bar`` is drawn at each beat at which ``is_due()``, unless a bar of what runs in the step is below it.

    The thread keeps no process alive, and neither the end of the process nor a fork comes in the middle of a drawing.
    """
    if bar.disable:
        yield
        return
    _prepare()
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(INTERVAL):
            with drawing:
                if not ended.is_set() and is_due() and _is_lowest(bar):
                    # Without tqdm's lock, which the loop may hold while it forks; a waiting loop draws nothing.
                    bar.refresh(nolock=True)
        _beating.pop(threading.current_thread(), None)

    thread = threading.Thread(target=beat, name="fixshape-heartbeat", daemon=True)
    _beating[thread] = ended
    thread.start()
    try:
        yield
    finally:
        with drawing:  # nothing is drawn from here on; the thread ends by itself
            ended.set()


@functools.cache
def _prepare() -> None:
    """A child forked in the middle of a drawing would inherit the stream's lock, taken for ever."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=drawing.acquire, after_in_parent=drawing.release, after_in_child=drawing.release)
    atexit.register(_end_all)


def _end_all() -> None:
    """Before the interpreter ends: it stops a daemon thread wherever that is, and a lock that it holds is then never released.

    A loop that was not left is closed after that, and would wait for it.
    """
    threads = list(_beating.items())
    for _, ended in threads:
        ended.set()
    for thread, _ in threads:
        thread.join(5.0)


def _is_lowest(bar: Any) -> bool:
    others = [reference() for reference in list(bar._instances.data)]  # list() of a set: no thread comes in between
    return all(abs(getattr(other, "pos", 0)) <= abs(bar.pos) for other in others)
