"""What listens while a block of static indexing is open: every op of torch."""

from __future__ import annotations

from builtins import isinstance  # noqa: UP029  # a block puts slower ones in their place
from typing import Any

from torch.overrides import TorchFunctionMode

from fixshape.ops._rows import Rows
from fixshape.ops._rows_block import current
from fixshape.ops._rows_call import call
from fixshape.ops._rows_count import Count
from fixshape.ops._rows_number import NUMBERED, derive
from fixshape.ops._rows_registry import SOURCES, WRITING

_LISTS = (list, tuple)


class RowsMode(TorchFunctionMode):
    """Hands an op to the registry where it meets rows, or may make them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in SOURCES or meets_rows(args) or (kwargs and meets_rows(kwargs.values())):
            return call(func, args, kwargs or {})
        result = func(*args, **kwargs) if kwargs else func(*args)
        if func in NUMBERED:
            derive(func, args, kwargs, result)
        elif func in WRITING:
            current().wrote(args[0])
        return result


def meets_rows(values: Any) -> bool:
    """Whether rows or a count are among the arguments, or in a list among them."""
    for value in values:
        if isinstance(value, (Rows, Count)) or (type(value) in _LISTS and meets_rows(value)):
            return True
    return False
