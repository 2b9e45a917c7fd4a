"""Can a loss that selects with masks keep its shapes without being rewritten?"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from torch import nn

from fixshape.ops import (  # noqa: F401  # they register handlers
    _rows_ends,
    _rows_expand,
    _rows_grad,
    _rows_join,
    _rows_layers,
    _rows_losses,
    _rows_make,
    _rows_matrices,
    _rows_order,
    _rows_select,
    _rows_shape,
    _rows_write,
)
from fixshape.ops._rows import Rows
from fixshape.ops._rows_block import Block, current, open_block, opened
from fixshape.ops._rows_builtins import replace_builtins, restore_builtins
from fixshape.ops._rows_call import dense
from fixshape.ops._rows_count import Count
from fixshape.ops._rows_error import Refusal, foreign, refused
from fixshape.ops._rows_mode import RowsMode


class static_indexing:  # it is used as a function
    """A block in which ``x[mask]``, ``nonzero`` and their like keep their shapes; as a decorator, a loss that is one.

    Plain code selects what counts, ``pred[pos]``, and computes with a shorter tensor, as long as there are positives. In the
    block a selection gives *rows*: the full-length tensor, with the knowledge which entries are real. Rows go through elementwise
    code, views, products, layers and the losses of torch and torchvision, and end in a reduction over the real entries. Value
    and gradients are those of plain code, and nothing depends on how many are selected: no host sync, no shape, no compile.
    Rows are not a ``torch.Tensor``, but have its operators, methods and attributes.

    ``len(rows)``, ``rows.shape[0]`` and ``rows.numel()`` are a count on the device, for arithmetic, comparison, ``clamp`` and
    division. Python's ``len`` insists on an int, and ``max(1, n)`` on an answer: while a block is open, in any thread, the
    builtins ``len``, ``max`` and ``min`` are replaced by ones that answer for rows and counts, the latter two also for whole
    numbers on the device as ``pos.sum()``, and are the old ones for all else. So is ``isinstance``, to which rows are a
    ``torch.Tensor``, and a count is an ``int``; ``type`` and ``match`` are not. ``torch.compile``, which makes the block one
    graph with the code around it, does not see any of that: there write ``rows.shape[0]``, ``n.clamp(min=1)``,
    ``torch.where`` for ``x[mask] = rows``, and do not ask what is a tensor.

    What is different from plain code:

    * The sum of nothing is 0 and its mean NaN, as in torch; the largest of nothing, an error in torch, is the lowest number, and
      ``x[mask][k]`` and ``topk`` do not tell when there are too few rows.
    * Where a count is a size it is the count as it is, not reckoned from: ``torch.zeros(n, 4)``, and not ``n + 1``.
    * Random numbers on rows are drawn for every slot: other numbers than plain code draws from the same seed.
    * Sorting is stable, and distances of ``cdist`` are never taken by a product of matrices.
    * What was selected is remembered until the block ends: open it around the loss, and not around the loop.
    * Two selections are the same if made from the same mask, or from masks that the same ops made of the same tensors. What is
      written to a tensor past autograd's eyes (``.data``, numpy) is not seen.

    What cannot be followed is an error that names the op, the shapes, the line and what to write instead: a branch on a count,
    ``range(n)``, rows of two different masks side by side, ``unique`` and other ops without a form of fixed shape.

    Args:
        function: a function or a module to decorate; None for a block or a decorator with options. A module stays one, with the
            same parameters.
        strict: False takes, where the block cannot follow, the dynamic form of that op and of what follows from it, as plain
            code would; the audit sees it. Rows in what the decorated function returns then become tensors too.

    Returns:
        A context manager, which is a decorator too; or the decorated function, or module. A count that a decorated function
        returns becomes a tensor.

    Raises:
        StaticIndexingError: an op cannot be followed, a count is needed in Python, rows are returned by the decorated function,
            or rows or counts are used after the block.

    Example:
        >>> import torch
        >>> pred, target = torch.tensor([0.5, float("nan"), 2.0]), torch.tensor([1.0, 0.0, 2.0])
        >>> pos = torch.tensor([True, False, True])
        >>> with static_indexing():
        ...     loss = (pred[pos] - target[pos]).abs().sum() / len(pred[pos])
        >>> loss
        tensor(0.2500)
        >>> @static_indexing
        ... def largest_error(pred, target, pos):
        ...     return (pred[pos] - target[pos]).abs().max()
        >>> largest_error(pred, target, pos)
        tensor(0.5000)
    """

    def __new__(cls, function: Callable[..., Any] | None = None, *, strict: bool = True) -> Any:
        block = super().__new__(cls)
        block._strict = strict
        block._modes = []
        return block if function is None else block(function)

    _strict: bool
    _modes: list[RowsMode]

    def __call__(self, function: Callable[..., Any]) -> Any:
        """The function, or module, with its calls in a block of their own."""
        if isinstance(function, nn.Module):
            kind = type(function)
            module = copy.copy(function)  # with the parameters themselves
            module.__class__ = type(kind.__name__, (kind,), {"forward": self(kind.forward), "__doc__": kind.__doc__})
            return module
        strict = self._strict

        @functools.wraps(function)
        def inside(*args: Any, **kwargs: Any) -> Any:
            with static_indexing(strict=strict):
                return _handed_out(function(*args, **kwargs), strict)

        return inside

    def __enter__(self) -> None:
        block = opened() or Block()
        open_block(block)
        block.strict.append(self._strict)
        mode = RowsMode()
        mode.__enter__()  # type: ignore[no-untyped-call]
        self._modes.append(mode)
        replace_builtins()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        restore_builtins()
        self._modes.pop().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        block = current()
        block.strict.pop()
        if not block.strict:
            open_block(None)
        told = foreign(error)
        if told is not None:
            raise told from error


def _handed_out(result: Any, strict: bool) -> Any:
    """What a decorated function returned, with tensors for counts, and for rows if not strict."""
    if isinstance(result, Count):
        return result._value
    if isinstance(result, Rows):
        if not strict:
            with torch._C.DisableTorchFunction():
                return dense(result)
        raise refused(
            "return",
            [result],
            Refusal(
                "selected rows leave their block",
                "Return what is reduced: rows.sum(); or the full-length tensor: torch.zeros_like(x).masked_scatter(mask, rows).",
            ),
        )
    if isinstance(result, dict):
        return {key: _handed_out(value, strict) for key, value in result.items()} if _has_rows(result) else result
    if isinstance(result, (tuple, list)) and _has_rows(result):
        parts = [_handed_out(value, strict) for value in result]
        return type(result)(*parts) if hasattr(result, "_fields") else type(result)(parts)
    return result


def _has_rows(result: Any) -> bool:
    if isinstance(result, dict):
        return any(_has_rows(value) for value in result.values())
    if isinstance(result, (tuple, list)):
        return any(_has_rows(value) for value in result)
    return isinstance(result, (Rows, Count))
