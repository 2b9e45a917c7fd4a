"""The argument checks that every masked op shares."""

from __future__ import annotations

import torch
from torch import Tensor

from fixshape._check import check_shape
from fixshape.errors import DtypeError


def check_bool(where: str, name: str, value: Tensor) -> None:
    """Raises :class:`DtypeError` unless ``value`` is a bool tensor.

    A 0/1 integer mask would silently work in half of the operators and index rows in the others.
    """
    if value.dtype != torch.bool:
        raise DtypeError(f"{where}: {name} has dtype {value.dtype}, expected torch.bool. Use {name} != 0 or {name} > 0.")


def check_same_shape(where: str, name: str, value: Tensor, like_name: str, like: Tensor) -> None:
    """Raises :class:`ShapeError` unless ``value`` has the shape of ``like``; losses here do not broadcast their target."""
    check_shape(where, name, value.shape, like.shape, f"It must have the shape of {like_name}.")


def broadcast_valid(where: str, valid_mask: Tensor, input: Tensor) -> Tensor:
    """Checks that ``valid_mask`` covers the leading dimensions of ``input`` and gives it trailing dimensions of size 1."""
    check_bool(where, "valid_mask", valid_mask)
    leading = input.shape[: valid_mask.dim()]
    check_shape(where, "valid_mask", valid_mask.shape, leading, "It must cover the leading dimensions of the input.")
    return valid_mask.reshape(valid_mask.shape + (1,) * (input.dim() - valid_mask.dim()))
