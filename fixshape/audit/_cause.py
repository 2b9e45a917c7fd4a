"""Why does an op compile anew? Which dynamic op, or which input that varies, its shapes descend from.

Followed is each *dimension*, from the op or input that gives it a new size, from tensor to tensor:

    boxes [N, 4], N varies     boxes[keep] -> [k, 4], k by the mask     cat([N, 4], [k, 4]) -> [N + k, 4], N and k

A dimension of an output descends from the dimensions of that size that went in. A size that none of them has (a convolution's, a
``cat``'s) descends from those that went in and did not come out, unless an integer argument gives it now and gave it to this
operator in the step before. Gradients descend from what their forward op had to do with. Dimensions are compared by size, so
that a chance equality may join or part two chains for one step. A size that Python reads and makes a tensor with is not followed.

Tensors are known by identity and none is kept alive. All is forgotten at the end of a step but the shapes of its inputs.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from fixshape.audit._backward import ForwardOp
from fixshape.audit._frames import Place
from fixshape.audit._report import Origin

_Sources = int  # a set of causes of the open step: bit n for the n-th that came up
_NONE: dict[int, int] = {}
# Dynamic inside, with an output of the input's shape.
_NO_NEW_SIZE = ("index_put", "masked_scatter_backward", "_ctc_loss")


class Causes:
    """Follows sizes through the open step, and counts the compiles of all steps that follow from each cause."""

    def __init__(self) -> None:
        self.counts: Counter[Origin] = Counter()
        self._causes: list[Origin] = []
        self._bits: dict[Origin, int] = {}
        self._met: dict[int, weakref.ref[torch.Tensor]] = {}  # a new tensor may have the identity of one that is gone
        self._dims: dict[int, tuple[weakref.ref[torch.Tensor], tuple[_Sources, ...]]] = {}  # of tensors that have a cause
        self._inputs: dict[
            tuple[Any, ...], tuple[tuple[int, ...], frozenset[int]]
        ] = {}  # last shape, dimensions that ever varied
        self._nth: Counter[tuple[Any, ...]] = Counter()
        self._ints: dict[Any, set[int]] = {}
        self._ints_before: dict[Any, set[int]] = {}

    def forget(self) -> None:
        """Ends a step."""
        self._causes, self._bits = [], {}
        self._met, self._dims = {}, {}
        self._nth.clear()
        self._ints_before, self._ints = self._ints, {}

    def unmet(self, tensors: Sequence[torch.Tensor]) -> list[tuple[int, torch.Tensor]]:
        """Tensors that no op of this step has made or had, with their positions; parameters are never told."""
        met = self._met
        found = []
        for position, tensor in enumerate(tensors):
            known = met.get(id(tensor))
            if known is None or known() is not tensor:
                met[id(tensor)] = weakref.ref(tensor)
                if not isinstance(tensor, torch.nn.Parameter):
                    found.append((position, tensor))
        return found

    def varies(self, name: str, place: Place, position: int, tensor: torch.Tensor) -> Origin | None:
        """The cause that a tensor is which comes into the step here, if what came in here before ever had another shape."""
        shape = _shape(tensor)
        if shape is None:
            return None
        where: tuple[Any, ...] = (name, place.site, place.caller, place.module, position)
        self._nth[where] += 1
        where = (*where, self._nth[where])
        before, varied = self._inputs.get(where, (shape, frozenset()))
        if len(before) != len(shape):
            varied = frozenset(range(len(shape)))
        elif before != shape:
            varied |= {index for index, (a, b) in enumerate(zip(before, shape, strict=True)) if a != b}
        self._inputs[where] = shape, varied
        if not varied:
            return None
        origin = Origin(kind="input", op="", phase="forward", site=place.caller, caller=place.caller)
        bit = self._bit(origin)
        self._set(tensor, tuple(bit if index in varied else 0 for index in range(len(shape))))
        return origin

    def sizes_in(self, tensors: Sequence[torch.Tensor], forward: ForwardOp | None) -> dict[int, _Sources]:
        """Sizes that have a cause among those of the tensors that go in; of a gradient also those of its forward op."""
        inherited = forward.sizes if forward is not None else _NONE
        if not (self._dims or inherited):
            return _NONE
        sizes: dict[int, _Sources] = {}
        for tensor in tensors:
            entry = self._dims.get(id(tensor))
            if entry is not None and entry[0]() is tensor:
                for size, sources in zip(tensor.shape, entry[1], strict=False):
                    if sources:
                        sizes[size] = sizes.get(size, 0) | sources
        for size, sources in inherited.items():
            sizes[size] = sizes.get(size, 0) | sources
        return sizes

    def cause(self, sizes: Mapping[int, _Sources]) -> Origin | None:
        """The first cause that came up of those of ``sizes``."""
        together = 0
        for sources in sizes.values():
            together |= sources
        return self._causes[(together & -together).bit_length() - 1] if together else None

    def follow(
        self,
        func: Any,
        args: Sequence[Any],
        tensors: Sequence[torch.Tensor],
        results: Sequence[torch.Tensor],
        sizes: Mapping[int, _Sources],
        dynamic: Origin | None,
    ) -> dict[int, _Sources]:
        """Hands the causes of ``sizes`` on to what came out; ``dynamic`` is the cause that the op itself is. Gives sizes out."""
        for result in results:
            self._met[id(result)] = weakref.ref(result)
        if dynamic is not None and any(part in dynamic.op for part in _NO_NEW_SIZE):
            dynamic = None
        if not sizes and dynamic is None:
            for result in results if self._dims else ():
                if not any(result is tensor for tensor in tensors):
                    self._dims.pop(id(result), None)  # another tensor had its place in memory
            return _NONE
        out: dict[int, _Sources] = {}
        for number, result in enumerate(results):
            shape = _shape(result)
            if shape is None or any(result is tensor for tensor in tensors):
                continue
            sources = self._descend(func, args, tensors, shape, sizes)
            if dynamic is not None and shape and (number == 0 or shape != _shape(tensors[0])):
                position = min(_new_dimension(args), len(shape) - 1)
                sources = (*sources[:position], self._bit(dynamic), *sources[position + 1 :])
            if any(sources):
                self._set(result, sources)
                for size, source in zip(shape, sources, strict=True):
                    if source:
                        out[size] = out.get(size, 0) | source
            else:
                self._dims.pop(id(result), None)
        return out

    def _descend(
        self,
        func: Any,
        args: Sequence[Any],
        tensors: Sequence[torch.Tensor],
        shape: tuple[int, ...],
        sizes: Mapping[int, _Sources],
    ) -> tuple[_Sources, ...]:
        sources = tuple(sizes.get(size, 0) for size in shape)
        left = 0
        for size, source in sizes.items():
            if size not in shape:
                left |= source
        if not left:
            return sources
        given = set(_ints(args))
        self._ints.setdefault(func, set()).update(given)
        steady = given & self._ints_before.get(func, set())
        others = {1} | {size for tensor in tensors for size in tensor.shape if size not in sizes}
        grid = tensors[0].shape if tensors and tensors[0].dim() == len(shape) >= 4 else ()
        return tuple(
            source
            or (
                0
                if size in steady or size == 1 or (size in others and not (index >= 2 and grid and grid[index] in sizes))
                else left
            )
            for index, (size, source) in enumerate(zip(shape, sources, strict=True))
        )

    def _bit(self, origin: Origin) -> _Sources:
        bit = self._bits.get(origin)
        if bit is None:
            bit = self._bits[origin] = 1 << len(self._causes)
            self._causes.append(origin)
        return bit

    def _set(self, tensor: torch.Tensor, sources: tuple[_Sources, ...]) -> None:
        self._dims[id(tensor)] = weakref.ref(tensor), sources


def _shape(tensor: torch.Tensor) -> tuple[int, ...] | None:
    # A strided nested tensor has none, and symbolic sizes must not be compared: that would be a guard.
    if tensor.is_nested or any(type(size) is not int for size in tensor.shape):
        return None
    return tuple(tensor.shape)


def _new_dimension(args: Sequence[Any]) -> int:
    if len(args) > 1 and isinstance(args[1], (list, tuple)):  # index by masks: where the first is
        for position, index in enumerate(args[1]):
            if isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8):
                return position
    return 0


def _ints(values: Sequence[Any]) -> Iterator[int]:
    for value in values:
        if type(value) is int:
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _ints(value)
