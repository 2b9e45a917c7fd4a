"""What a selection gives inside a block of static indexing: rows, a full-length tensor that knows which entries are real.

Shapes: ``R`` slots of a selected dimension, ``T...`` other dimensions.

A :class:`Rows` has, for each dimension, an *axis*: None where the dimension is an ordinary one, or the :class:`Selection` that
says which of its slots are real. Two rows meet where their axes are the same selection.

All rests on one invariant: the padding along an axis is a copy of a real row, the first one. Then no logarithm, root or
division goes wrong on padding where it would not on a real row, an index in the padding is in range, and a comparison of all
with all treats a padded pair as it treats a real one. Padding enters by ``torch.where`` and is cut off from the gradient there,
so that whatever comes back to it, NaN too, ends as exactly 0. An empty selection has no real row: its padding then is
a pattern of different numbers in (0, 1), increasing along a row, so that differences are not 0 and boxes have an area.
"""

from __future__ import annotations

from builtins import isinstance, len  # noqa: UP029  # a block puts slower ones in their place
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from fixshape.ops._rows_block import current
from fixshape.ops._rows_call import untracked
from fixshape.ops._rows_error import Refusal, refused, shown_shape
from fixshape.ops._select import first_true


class once:
    """A property that is worked out when first asked for; functools' own takes a lock, which torch.compile cannot follow."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self.make = make

    def __get__(self, instance: Any, owner: Any) -> Any:
        value = self.make(instance)
        instance.__dict__[self.make.__name__] = value
        return value


class Selection:
    """Which slots of a dimension are real; what follows from that is worked out once.

    Args:
        valid: [R] bool, True = real; R is ``slots``.
        parts: of a selection over several dimensions at once, their selections, or sizes where they are ordinary.
        mask: the number, whatever its shape, of the mask that it was made from.
    """

    def __init__(self, valid: Tensor, parts: Sequence[Any] = (), mask: Hashable = None) -> None:
        self.valid = valid
        self.slots = valid.shape[0]
        self.name = current().next()  # what stands for it in keys
        self.parts, self.mask = tuple(parts), mask
        #: Masks that were asked for their indices, those, and the numbers of all of them.
        self.sources: list[tuple[Tensor, list[Tensor], list[Any]]] = []
        self._views: dict[tuple[bool, int, int], Tensor] = {}

    @once
    def count(self) -> Tensor:
        """[] int64, how many slots are real."""
        return self.valid.sum()

    @once
    def padding(self) -> Tensor:
        """[R] bool, True = not real."""
        return ~self.valid

    def valid_at(self, d: int, ndim: int) -> Tensor:
        """[1, ..., R, ..., 1] bool, the real slots along dimension d of ndim."""
        return self._view(True, d, ndim)

    def padding_at(self, d: int, ndim: int) -> Tensor:
        """[1, ..., R, ..., 1] bool, the others."""
        return self._view(False, d, ndim)

    def _view(self, real: bool, d: int, ndim: int) -> Tensor:
        view = self._views.get((real, d, ndim))
        if view is None:
            view = self._views[real, d, ndim] = along(self.valid if real else self.padding, d, ndim)
        return view

    @once
    def any(self) -> Tensor:
        """[] bool, whether one slot is real."""
        return self.valid.any()

    @once
    def first(self) -> Tensor:
        """[1] int64, the first real slot; 0 where there is none."""
        return self.valid.to(torch.uint8).argmax().reshape(1)

    @once
    def rank(self) -> Tensor:
        """[R] int64, which of the real slots each one is; 0 in the padding, which is a copy of the first."""
        return torch.where(self.valid, self.valid.cumsum(0, dtype=torch.int64) - 1, 0)

    @once
    def positions(self) -> Tensor:
        """[R] int64, where the k-th real slot is; the padding, which comes last, repeats the first."""
        order, found = first_true(self.valid, self.slots)
        return torch.where(found, order, self.first) if self.slots else order

    @once
    def front(self) -> Selection:
        """The selection of as many slots, the first ones: that of rows in an order of their own."""
        front = Selection(torch.arange(self.slots, device=self.valid.device) < self.count)
        front.__dict__["front"] = front
        return front


Axes = tuple[Selection | None, ...]


def names_of(axes: Sequence[Any]) -> tuple[Any, ...]:
    """What stands for axes in a key; a size stands for itself, below 0 so that it is no selection's name."""
    return tuple([entry.name if isinstance(entry, Selection) else entry if entry is None else -entry for entry in axes])


class Rows:
    """Selected rows: the operators, methods and attributes of a tensor, answered by the handlers of the registry.

    Not a ``torch.Tensor``, though a block's ``isinstance`` says so to user code. What is not reduced to a tensor must not leave
    the block.
    """

    __slots__ = ("__weakref__", "_axes", "_data")
    _writable = True

    def __init__(self, data: Tensor, axes: Axes) -> None:
        self._data, self._axes = data, axes

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return untracked(func, args, kwargs or {})

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"selected rows, as torch.Tensor, have no attribute {name!r}")

    def _stands_for(self) -> type:
        """What plain code has in its place."""
        return Tensor

    def __iter__(self) -> Iterator[Any]:
        return iter(untracked(Tensor.unbind, (self,), {}))

    def __len__(self) -> int:
        # The builtin len insists on an int; inside a block it is another one, which does not come here.
        return int(self.shape[0])

    def __repr__(self) -> str:
        return f"Rows({shown_shape(self)}, {self._data.dtype})"

    def __bool__(self) -> bool:
        return bool(untracked(Tensor.__bool__, (self,), {}))

    def __hash__(self) -> int:
        return id(self)

    def _at_front(self) -> Rows:
        """These rows among the first slots, where there are such; themselves where not."""
        data, axes = self._data, list(self._axes)
        for d, axis in enumerate(axes):
            if axis is not None and "front" in axis.__dict__ and axis.front is not axis:
                axes[d] = axis.front
                data = settle(data.index_select(d, axis.positions), axes, [d])
        return self if tuple(axes) == self._axes else Rows(data, tuple(axes))

    def _dense(self) -> Tensor:
        """The tensor of plain code."""
        data = self._data
        for d, axis in enumerate(self._axes):
            if axis is not None:
                data = data.index_select(d, axis.valid.nonzero().squeeze(1))
        return data


class Part(Rows):
    """A slice of rows: in plain code a view, here a copy, which must not be written to."""

    __slots__ = ()
    _writable = False


#: What a tensor has, as it was when this was imported: a recorder may put its own functions there for a while.
_ATTRIBUTES = {name: getattr(Tensor, name) for name in dir(Tensor) if hasattr(Tensor, name)}


def _method(name: str) -> Any:
    def method(self: Rows, *args: Any, **kwargs: Any) -> Any:
        # Not a function in a closure: torch.compile would take one of Python for another.
        return untracked(_ATTRIBUTES[name], (self, *args), kwargs)

    method.__name__ = method.__qualname__ = name
    return method


def _attribute(name: str) -> Any:
    def read(self: Rows) -> Any:
        return untracked(_ATTRIBUTES[name].__get__, (self,), {})

    def write(self: Rows, value: Any) -> None:
        raise refused(f"{name} =", [self], Refusal("attributes of selected rows cannot be set", "Set it on the tensor."))

    return property(read, write)


def _add_what_a_tensor_has() -> None:
    comparisons = {f"__{name}__" for name in ("eq", "ne", "lt", "le", "gt", "ge")}
    for name in (set(_ATTRIBUTES) - set(dir(object)) - set(vars(Rows))) | comparisons:
        if callable(_ATTRIBUTES[name]):
            setattr(Rows, name, _method(name))
        elif hasattr(_ATTRIBUTES[name], "__get__"):
            setattr(Rows, name, _attribute(name))


_add_what_a_tensor_has()


def _reversed(func: Any) -> Any:
    def operator(self: Rows, other: Any) -> Any:
        return untracked(func, (other, self), {})

    return operator


# With a number in front: Tensor's own are wrapped, and torch.compile does not know them for what they are.
setattr(Rows, "__rsub__", lambda self, other: untracked(torch.rsub, (self, other), {}))  # noqa: B010
setattr(Rows, "__rtruediv__", lambda self, other: self.reciprocal() * other)  # noqa: B010
for _name, _func in {
    "pow": torch.pow, "floordiv": torch.floor_divide, "mod": torch.remainder, "matmul": torch.matmul, "and": torch.bitwise_and,
    "or": torch.bitwise_or, "xor": torch.bitwise_xor, "lshift": torch.bitwise_left_shift, "rshift": torch.bitwise_right_shift,
}.items():  # fmt: skip
    setattr(Rows, f"__r{_name}__", _reversed(_func))


def axes_of(value: Any) -> Axes:
    """The axes of rows; of a plain tensor, as many None as it has dimensions."""
    return value._axes if isinstance(value, Rows) else (None,) * value.dim()


def data_of(value: Any) -> Any:
    """The full-length tensor of rows; anything else as it is."""
    return value._data if isinstance(value, Rows) else value


def wrap(data: Tensor, axes: Sequence[Selection | None]) -> Any:
    """Rows, or a plain tensor where no axis is left."""
    if len(axes) != data.dim():
        raise AssertionError(f"{len(axes)} axes for shape {tuple(data.shape)}")
    for axis in axes:
        if axis is not None:
            return Rows(data, tuple(axes))
    return data


def along(vector: Tensor, d: int, ndim: int) -> Tensor:
    """[R] as [1, ..., R, ..., 1] with R at dimension d of ndim."""
    return vector.reshape((1,) * d + (-1,) + (1,) * (ndim - d - 1))


def valid_of(axes: Sequence[Selection | None], dims: Sequence[int] | None = None) -> Tensor | None:
    """The entries that are real along the given dimensions, broadcastable; None where all are."""
    valid = None
    for d, axis in enumerate(axes):
        if axis is not None and (dims is None or d in dims):
            this = axis.valid_at(d, len(axes))
            valid = this if valid is None else valid & this
    return valid


def settle(data: Tensor, axes: Sequence[Selection | None], dims: Sequence[int] | None = None) -> Tensor:
    """The data with a copy of the first real row in the padding of each axis, cut off from the gradient."""
    for d, axis in enumerate(axes):
        if axis is not None and axis.slots and (dims is None or d in dims):
            row = data.detach().index_select(d, axis.first)
            row = torch.where(axis.any, row, _pattern(row))
            data = torch.where(axis.valid_at(d, data.dim()), data, row)
    return data


def filled(data: Tensor, axes: Sequence[Selection | None]) -> Tensor:
    """The data, finite where there is no real row: what has become of the pattern, as the mean of nothing, may be NaN."""
    for d, axis in enumerate(axes):
        if axis is not None and axis.slots:
            data = torch.where(axis.any, data, _pattern(data.detach().narrow(d, 0, 1)))
    return data


def _pattern(row: Tensor) -> Tensor:
    """What stands for a row where there is none: other numbers in (0, 1) each time, increasing; 0 or False if not floating."""
    block, shape, dtype, device = current(), row.shape, row.dtype, row.device
    if not (dtype.is_floating_point or dtype.is_complex):
        return block.once(("zero", dtype, device), lambda: torch.zeros((), dtype=dtype, device=device))  # type: ignore[no-any-return]
    width = shape.numel()

    def make() -> Tensor:
        steps = torch.arange(width, device=device, dtype=torch.float32)
        return ((steps + 1) / (width + 2)).to(dtype).reshape(shape)

    offset = block.next() * 0.6180339887498949 % 1.0
    return block.once(("pattern", shape, dtype, device), make) + offset / (width + 2)  # type: ignore[no-any-return]


def guard(value: Tensor, axes: Sequence[Selection | None], missing: Sequence[int]) -> Tensor:
    """A tensor that is broadcast along the missing axes, such that no gradient comes to it from their padding."""
    if not value.requires_grad or not torch.is_grad_enabled():
        return value
    for d in missing:
        axis = axes[d]
        assert axis is not None
        value = torch.where(axis.valid_at(d, len(axes)), value, value.detach())
    return value
