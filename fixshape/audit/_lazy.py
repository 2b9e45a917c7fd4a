"""Which graphs would a lazy device compile for this step? The prediction for XLA that :func:`fixshape.audit.predict` reads out.

A tensor that has not been computed yet has a number, made of its op's key and of the numbers of what went in; one that has been
computed counts as 0. A graph is the numbers of the tensors that are computed together.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Sequence

import torch

_COMPUTED = 0
_SAME_TENSOR = frozenset({"aten.detach.default", "aten.alias.default", "aten.lift_fresh.default"})


class LazyGraphs:
    """Numbers of the tensors of the open step that live and are not computed, and the graphs of all steps. Keeps no tensor."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self._compiles = 0
        self._seen: set[int] = set()
        self._pending: dict[int, tuple[weakref.ref[torch.Tensor], int]] = {}
        self._viewed: dict[int, tuple[weakref.ref[torch.Tensor], int]] = {}  # of a view: itself, identity of what it shows

    def read(self, tensors: Sequence[torch.Tensor]) -> None:
        """The host, or an op that runs there, asks for values: one graph, of what it takes to compute them."""
        numbers = [number for tensor in tensors if (number := self._number(tensor)) != _COMPUTED]
        self._compile(numbers)
        for tensor in tensors:
            self._pending.pop(id(tensor), None)

    def follow(
        self, name: str, key: Hashable, tensors: Sequence[torch.Tensor], results: Sequence[torch.Tensor], *, is_view: bool
    ) -> None:
        """Numbers what an op gives or writes; ``key`` says all of the call but which tensors went in."""
        if name in _SAME_TENSOR:
            numbers = [self._number(tensors[0])]
        else:
            together = hash((name, key, *[self._number(tensor) for tensor in tensors]))
            numbers = [hash((together, position)) for position in range(len(results))]
        for number, result in zip(numbers, results, strict=False):
            mine = id(result)
            whole = self._viewed.pop(mine, None)
            if is_view and tensors:
                above = self._viewed.get(id(tensors[0]))
                self._viewed[mine] = (
                    weakref.ref(result),
                    above[1] if above is not None and above[0]() is tensors[0] else id(tensors[0]),
                )
            elif whole is not None and whole[0]() is result:  # a write through a view changes what it is a view of
                self._viewed[mine] = whole
                entry = self._pending.get(whole[1])
                if entry is not None:
                    self._pending[whole[1]] = entry[0], hash((entry[1], number))
            self._pending.pop(mine, None)  # the order is that of making, whoever had the identity before
            if number != _COMPUTED:
                self._pending[mine] = weakref.ref(result), number

    def computed(self, results: Sequence[torch.Tensor]) -> None:
        """An op on the host gave them: they are there."""
        for result in results:
            self._pending.pop(id(result), None)
            self._viewed.pop(id(result), None)

    def close_step(self) -> None:
        self._compile(self._alive())
        self.steps.append(self._compiles)
        self._compiles = 0
        self._pending, self._viewed = {}, {}

    def open_step(self) -> int:
        """Compiles of the open step if it ended here."""
        numbers = self._alive()
        return self._compiles + (bool(numbers) and hash(tuple(numbers)) not in self._seen)

    def _alive(self) -> list[int]:
        return [number for tensor, number in self._pending.values() if tensor() is not None]

    def _number(self, tensor: torch.Tensor) -> int:
        entry = self._pending.get(id(tensor))
        return entry[1] if entry is not None and entry[0]() is tensor else _COMPUTED

    def _compile(self, numbers: Sequence[int]) -> None:
        graph = hash(tuple(numbers))
        if numbers and graph not in self._seen:
            self._seen.add(graph)
            self._compiles += 1
