"""What a block of static indexing remembers: which selections are one, and whether it is strict.

Two selections are the same when they were made from the same mask, unchanged in between, or from masks that the same ops made
of the same tensors. For that each tensor has a number, which it shares only with tensors that hold the same for sure.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from fixshape.errors import StaticIndexingError
from fixshape.ops._rows_error import users_line


class Block:
    """The memory of the outermost ``with static_indexing()``; blocks inside it share it and may differ in ``strict``."""

    def __init__(self) -> None:
        self.strict: list[bool] = []  # one entry for each block that is open; the last one counts
        self._made: dict[Hashable, Any] = {}
        self._numbers: dict[int, tuple[weakref.ref[Tensor], int, Hashable]] = {}
        self._untold: list[tuple[Tensor, Hashable, bool]] = []  # of tensors that do not tell when they are written to
        self._flat: dict[Hashable, Hashable] = {}
        self._narrow: dict[Hashable, Tensor] = {}
        self._last = 0

    def next(self) -> int:
        """Another number each time."""
        self._last += 1
        return self._last

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What ``make`` gave when it was first called for ``key``."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def number(self, tensor: Tensor) -> Hashable:
        """The number of a tensor: a new one if it was never seen, or was written to since."""
        number = self._number(tensor)
        return self._assign(tensor, self.next(), derived=False) if number is None else number

    def _number(self, tensor: Tensor) -> Hashable:
        if _tells_nothing(tensor):
            for known, number, _ in self._untold:
                if known is tensor:
                    return number
            return None
        seen = self._numbers.get(id(tensor))
        return seen[2] if seen is not None and seen[0]() is tensor and seen[1] == tensor._version else None

    def derive(self, tensor: Tensor, *key: Hashable) -> None:
        """Gives a tensor, where it has none, the number that stands for a key: how it was made from tensors of other numbers."""
        if self._number(tensor) is None:
            self._assign(tensor, self.once(("number", *key), self.next), derived=True)

    def derive_same(self, tensor: Tensor, base: Tensor) -> None:
        """Gives a tensor that is a copy of another one its number."""
        number = self.number(base)
        if self._number(tensor) is None:
            self._assign(tensor, number, derived=True)

    def derive_view(self, tensor: Tensor, base: Tensor) -> None:
        """Gives a tensor that has the entries of another, in order but in another shape, a number that tells so."""
        number = self.number(base)
        flat = self._flat.setdefault(number, number)
        self.once(("number", "view", flat, tuple(base.shape)), lambda: number)
        self._derive_flat(tensor, flat)

    def derive_cat(self, tensor: Tensor, parts: Sequence[Tensor]) -> None:
        """Gives a tensor that has the entries of several others, one after another, a number that tells so."""
        self._derive_flat(tensor, self.flat_number_of_cat(map(self.flat_number, parts)))

    def flat_number_of_cat(self, flat_numbers: Iterable[Hashable]) -> Hashable:
        """The number, whatever the shape, of what has the entries of several tensors."""
        return self.once(("number", "cat", *flat_numbers), self.next)  # type: ignore[no-any-return]

    def _derive_flat(self, tensor: Tensor, flat: Hashable) -> None:
        self.derive(tensor, "view", flat, tuple(tensor.shape))
        self._flat[self.number(tensor)] = flat

    def flat_number(self, tensor: Tensor) -> Hashable:
        """A number that does not depend on the shape."""
        number = self.number(tensor)
        return self._flat.get(number, number)

    def derive_wide(self, tensor: Tensor, base: Tensor) -> None:
        """Remembers that a mask is an expanded one."""
        self._narrow[self.number(tensor)] = base

    def narrow(self, mask: Tensor) -> Tensor:
        """The mask that this one was expanded from; itself if it was not."""
        return self._narrow.get(self.number(mask), mask) if self._narrow else mask

    def _assign(self, tensor: Tensor, number: Hashable, derived: bool) -> Hashable:
        """Gives a tensor a number, which it keeps until somebody writes to it."""
        if _tells_nothing(tensor):
            self._untold.append((tensor, number, derived))
        else:
            self._numbers[id(tensor)] = (weakref.ref(tensor), tensor._version, number)
        return number

    def wrote(self, target: Any) -> None:
        """Forgets, of tensors that do not tell, what may have changed when this was written to."""
        if self._untold:
            dtype = getattr(target, "_data", target).dtype
            self._untold = [seen for seen in self._untold if not seen[2] and seen[0].dtype != dtype]


def _tells_nothing(tensor: Tensor) -> bool:
    """Whether a tensor has no count of what was written to it: in inference mode, and where torch.compile traces."""
    return torch.compiler.is_compiling() or tensor.is_inference()


class _Open(threading.local):
    """The open block of each thread."""

    block: Block | None = None


class _Traced:
    """The block opened last in any thread, for torch.compile, which cannot follow what belongs to one."""

    block: Block | None = None


_open, _traced = _Open(), _Traced()
_traced.block = None  # torch.compile looks whether the attribute is there


def opened() -> Block | None:
    """The open block of this thread."""
    return _traced.block if torch.compiler.is_compiling() else _open.block


def open_block(block: Block | None) -> None:
    """Makes a block the open one, or none."""
    _traced.block = block
    if not torch.compiler.is_compiling():
        _open.block = block


def current() -> Block:
    """The open block of this thread.

    Raises:
        StaticIndexingError: there is none: rows have left their block.
    """
    block = opened()
    if block is None:
        raise StaticIndexingError(
            f"static_indexing: selected rows, or their count, are used outside of the block that made them ({users_line()}). "
            "Their number is not known without a look at the device. Reduce them inside the block, make a count a tensor "
            "there with torch.as_tensor(n), or widen the block."
        )
    return block
