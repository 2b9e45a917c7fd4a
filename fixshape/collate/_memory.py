"""Where a batch is allocated: the page faults of a fresh batch of 100 MB cost more than its copies.

Three kinds of memory, and why:

* From a DataLoader worker a batch leaves through shared memory. It is built there, which saves the copy that the queue makes
  otherwise.
* In the main process a large batch comes new from the system each time, whichever allocator is asked: glibc gives blocks above
  32 MiB back when they are freed. Asked for in huge pages it costs a fault per 2 MiB and not per 4 KiB.
* Everything else is torch's: its allocator hands out warm memory again.

New memory of the system is zero, and is not touched until it is used.
"""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.multiprocessing import get_sharing_strategy
from torch.utils.data import get_worker_info

# The largest block that glibc's malloc keeps for the next caller (its mmap threshold grows no further).
LARGE = 32 << 20
_HUGE_PAGES = hasattr(mmap, "MADV_HUGEPAGE")  # Linux only


def empty(shape: Sequence[int], dtype: torch.dtype) -> tuple[Tensor, bool]:
    """A contiguous CPU tensor, and whether it is zero already; otherwise it may hold anything."""
    large = _bytes(shape, dtype) > LARGE and _HUGE_PAGES
    return (_new(shape, dtype), True) if large else (torch.empty(*shape, dtype=dtype), False)


def zeros(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A contiguous CPU tensor of zeros; in a DataLoader worker it lies in shared memory."""
    if get_worker_info() is not None:
        return shared_zeros(shape, dtype)[0]
    memory, is_zero = empty(shape, dtype)
    return memory if is_zero else memory.zero_()


def shared_zeros(shape: Sequence[int], dtype: torch.dtype) -> tuple[Tensor, int | None]:
    """The same in shared memory, and the descriptor of the file behind it where the system's sharing strategy has one.

    The descriptor belongs to the tensor and is closed with it.
    """
    size = _bytes(shape, dtype)
    if size == 0:
        return torch.zeros(*shape, dtype=dtype), None
    # torch's default_collate allocates so; the public ways allocate elsewhere first and copy.
    storage: torch.UntypedStorage = torch.UntypedStorage._new_shared(size)  # type: ignore[no-untyped-call]
    has_file = get_sharing_strategy() == "file_descriptor"  # type: ignore[no-untyped-call]
    file = storage._share_fd_cpu_()[0] if has_file else None
    return torch.empty(0, dtype=dtype).set_(storage).view(*shape), file


def _new(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    pages = mmap.mmap(-1, _bytes(shape, dtype), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel built without huge pages: the memory is good all the same
        pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(pages, dtype=dtype).view(*shape)


def _bytes(shape: Sequence[int], dtype: torch.dtype) -> int:
    return math.prod(shape) * dtype.itemsize
