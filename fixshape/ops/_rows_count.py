"""How many rows a selection has, as a number on the device that takes part in arithmetic and is never looked at."""

from __future__ import annotations

import functools
from builtins import isinstance  # noqa: UP029  # a block puts slower ones in their place
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fixshape.ops._rows import Rows, Selection
from fixshape.ops._rows_block import current
from fixshape.ops._rows_call import untracked
from fixshape.ops._rows_error import Refusal, refused
from fixshape.ops._rows_registry import HANDLERS
from fixshape.ops._rows_torchvision import zero_of_nothing

_WAY_OUT = (
    "Write torch.where(n > 0, a, b) for a branch, or drop the branch: the sum of nothing is 0, with zero gradients. "
    "Under torch.compile write n.clamp(min=1) for max(1, n)."
)


class Count:
    """What ``len(rows)``, ``rows.shape[0]`` and ``rows.numel()`` give: a number of no dimension, int64 at first.

    It behaves as the Python number of plain code in arithmetic, comparisons, ``clamp`` and division. Whatever needs its value in
    Python, ``if n == 0``, ``range(n)``, ``int(n)``, raises.

    Args:
        value: [] the number.
        axis: the selection whose length it is, where it is just that.
    """

    __slots__ = ("__weakref__", "_axis", "_value")

    def __init__(self, value: Tensor, axis: Selection | None = None) -> None:
        self._value, self._axis = value, axis

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """To C++, which reads the sizes of ``torch.zeros(n, 4)`` before it asks a mode, a number of torch's not known yet.

        With a ``__torch_function__`` it would be no number there.
        """
        return torch.SymInt

    @property
    def node(self) -> Any:
        """Where C++ looks for the number."""
        return self._number("a count as a size")

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(Tensor, name, None)
        if not callable(attribute) or name == "__torch_function__":
            raise AttributeError(f"a count of selected rows has no attribute {name!r}")
        return functools.partial(_on_count, attribute, self)

    def _like(self, operands: Sequence[Any]) -> Tensor:
        """The value in the dtype that a Python number would take beside these operands."""
        dtypes = [(operand._data if isinstance(operand, Rows) else operand).dtype for operand in operands]
        dtype, value = functools.reduce(torch.promote_types, dtypes), self._value
        if value.is_floating_point() and not (dtype.is_floating_point or dtype.is_complex):
            return value.to(torch.get_default_dtype())
        if torch.bool in (dtype, value.dtype):
            return value
        return value.to(dtype)

    def _stands_for(self) -> type:
        """What plain code has in its place."""
        return bool if self._value.dtype == torch.bool else float if self._value.is_floating_point() else int

    def _number(self, what: str, way_out: str = _WAY_OUT) -> Any:
        if not current().strict[-1]:
            return self._value.item()
        raise refused(
            what,
            [],
            Refusal("the number of selected rows is not known in Python", way_out),
        )

    def _dense(self) -> Any:
        return self._value.item()

    def __bool__(self) -> bool:
        return zero_of_nothing() or bool(self._number("bool() of a count"))

    def __int__(self) -> int:
        return int(self._number("int() of a count"))

    def __index__(self) -> int:
        return int(self._number("a count as an index"))

    def __float__(self) -> float:
        return float(self._number("float() of a count", "Use it as it is, n / 2, or an operator: n**0.5 for math.sqrt(n)."))

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __round__(self, digits: int | None = None) -> Any:
        rounded = self._value.round() if digits is None else self._value.round(decimals=digits)
        return Count(rounded.long() if digits is None else rounded)

    def __ceil__(self) -> Any:
        return Count(self._value.ceil().long())

    def __floor__(self) -> Any:
        return Count(self._value.floor().long())

    def __trunc__(self) -> Any:
        return Count(self._value.trunc().long())

    def item(self) -> Any:
        """Raises, as it is a look at the device; the number under ``strict=False``."""
        return self._number("item() of a count")

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return "Count()"


class Condition(Count):
    """What a comparison of counts gives: a condition for ``torch.where``."""

    __slots__ = ()

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return untracked(func, args, kwargs or {})


def counted(value: Tensor) -> Count:
    """A number on the device as what plain code has in its place."""
    return Condition(value) if value.dtype == torch.bool else Count(value)


def _on_count(func: Any, count: Count, /, *args: Any, **kwargs: Any) -> Any:
    # What is not elementwise takes the count as the tensor it is.
    if getattr(HANDLERS.get(func), "__name__", "") in ("elementwise", "cast"):
        return untracked(func, (count, *args), kwargs)
    return func(count._value, *args, **kwargs)


def _operator(name: str) -> Any:
    func = getattr(Tensor, name)
    certain = {"__eq__": True, "__le__": True, "__ge__": True, "__ne__": False, "__lt__": False, "__gt__": False}.get(name)
    divides = name in ("__truediv__", "__rtruediv__")

    def operator(self: Count, *others: Any) -> Any:
        other = others[0] if others else None
        if isinstance(other, Count) and self._axis is not None and self._axis is other._axis and certain is not None:
            return certain  # lengths of one selection: shapes can be compared
        if other is None and name in ("__eq__", "__ne__"):
            return name == "__ne__"
        if not isinstance(other, (Rows, Tensor)):
            # Python divides in double precision.
            self = Count(self._value.double()) if divides else self
        return untracked(func, (self, *others), {})

    return operator


_BINARY = "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift"
_OPERATORS = [
    *(f"__{prefix}{name}__" for name in _BINARY.split() for prefix in ("", "r")),
    *(f"__{name}__" for name in "eq ne lt le gt ge neg pos abs invert".split()),
]
for _name in _OPERATORS:
    if hasattr(Tensor, _name):
        setattr(Count, _name, _operator(_name))
