"""Argument checks that more than one layer needs, with messages that name the bound sizes.

Torch-free: a shape here is any sequence of ints.
"""

from __future__ import annotations

from collections.abc import Sequence

from fixshape.errors import ShapeError


def check_shape(where: str, name: str, shape: Sequence[int], expected: Sequence[int | str], way_out: str = "") -> None:
    """Raises :class:`ShapeError` unless ``shape`` is ``expected``.

    Args:
        where: the public function that was called, for the message.
        name: the argument's name, for the message.
        shape: the sizes that were got.
        expected: the sizes that are right; a string stands for a dimension of any size and names it in the message.
        way_out: one sentence that says what to do about it.

    Example:
        >>> check_shape("masked_mean", "valid_mask", (8, 120), ("B", 120))
        >>> check_shape("masked_mean", "valid_mask", (8, 120), (8, 128), "Pad both to the same bucket.")
        Traceback (most recent call last):
            ...
        fixshape.errors.ShapeError: masked_mean: valid_mask has shape (8, 120), expected (8, 128). Pad both to the same bucket.
    """
    fits = len(shape) == len(expected)
    if fits:
        for got, want in zip(shape, expected, strict=True):
            fits = fits and (isinstance(want, str) or got == want)
    if not fits:
        wanted = ", ".join(str(size) for size in expected) + ("," if len(expected) == 1 else "")
        message = f"{where}: {name} has shape {tuple(shape)}, expected ({wanted})."
        raise ShapeError(f"{message} {way_out}" if way_out else message)


def check_at_least(where: str, name: str, value: object, least: int) -> int:
    """Raises :class:`ShapeError` unless ``value`` is a whole number that is ``least`` or more; returns it as an int.

    numpy integers pass, ``bool`` does not.

    Example:
        >>> check_at_least("Bucket", "height", 320, 1)
        320
        >>> check_at_least("Bucket", "height", 0, 1)
        Traceback (most recent call last):
            ...
        fixshape.errors.ShapeError: Bucket: height is 0, expected a whole number of at least 1.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__") or value.__index__() < least:
        raise ShapeError(f"{where}: {name} is {value!r}, expected a whole number of at least {least}.")
    return int(value.__index__())


def shown(value: object) -> str:
    """A value of unknown size, short enough for a message.

    Example:
        >>> shown("a" * 100)[-6:]
        'aaa...'
    """
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def check_choice(where: str, name: str, value: object, choices: Sequence[str]) -> None:
    """Raises :class:`ShapeError` unless ``value`` is one of ``choices``.

    Example:
        >>> check_choice("masked_mse_loss", "reduction", "avg", ("none", "mean", "sum"))
        Traceback (most recent call last):
            ...
        fixshape.errors.ShapeError: masked_mse_loss: reduction is 'avg', expected one of 'none', 'mean', 'sum'.
    """
    if value not in choices:
        raise ShapeError(f"{where}: {name} is {value!r}, expected one of {', '.join(map(repr, choices))}.")
