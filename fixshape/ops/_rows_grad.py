"""Gradients asked for inside a block: ``torch.autograd.grad`` of rows, or towards rows, as a gradient penalty takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fixshape.ops._rows import axes_of, data_of, settle, valid_of, wrap
from fixshape.ops._rows_error import Refusal
from fixshape.ops._rows_registry import handles


@handles(torch.autograd.grad)
def grad(func: Any, outputs: Sequence[Any], inputs: Sequence[Any], grad_outputs: Any = None, **options: Any) -> Any:
    """Of the real rows of the outputs; the gradient towards rows is rows."""
    weights = [None] * len(outputs) if grad_outputs is None else grad_outputs
    weights = list(weights) if isinstance(weights, (list, tuple)) else [weights]
    for k, (output, weight) in enumerate(zip(outputs, weights, strict=True)):
        valid = valid_of(axes_of(output))
        if weight is not None and axes_of(weight) != axes_of(output):
            raise Refusal("grad_outputs are not of the rows of the outputs", "Write torch.ones_like(outputs).")
        weights[k] = data_of(weight) if valid is None or weight is None else torch.where(valid, data_of(weight), 0)
    found = func([data_of(x) for x in outputs], [data_of(x) for x in inputs], weights, **options)
    return tuple(
        part if part is None else wrap(settle(part, axes_of(x)), axes_of(x)) for part, x in zip(found, inputs, strict=True)
    )
