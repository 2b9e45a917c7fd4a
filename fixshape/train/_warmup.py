"""All compiles before the training begins: each bucket is stepped through twice, and nothing of it remains in the weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fixshape._check import check_at_least
from fixshape.backend import Backend, get_backend
from fixshape.collate import PadToBucket
from fixshape.plan import ShapePlan
from fixshape.train._batch import to_device
from fixshape.train._records import WARMUP_STEPS


def warmup(
    step_fn: Callable[..., Any],
    plan: ShapePlan | Iterable[Any],
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch_size: int | None = None,
    channels: int = 3,
    dtype: torch.dtype = torch.float32,
    backend: str | Backend = "auto",
) -> int:
    """Calls a training step on one batch of every bucket, so that all compiles lie behind you when training begins.

    Parameters, buffers, gradients, the optimiser and torch's generator on the host are put back to what they were. Nothing else
    is: leave the step of a schedule or of a gradient scaler, and generators of your own, out of ``step_fn``. Made-up batches have
    none of the keys that only your data set has: where yours hold masks or keypoints, give real batches. On a device that
    compiles whole graphs, a new optimiser's first step is a graph of its own, made in the first bucket here only: it compiles
    once more if training begins in another.

    Args:
        step_fn: one whole training step, ``step_fn(images, targets)``, the optimiser's step included.
        plan: a plan, whose buckets are stepped through on made-up batches from the largest, so that too little memory shows first
            (not its fallback, which is for what seldom or never comes); or real batches, one of each shape, in your order.
        model: whose state is put back.
        optimizer: whose state is put back.
        batch_size: B of the made-up batches, where the plan has none of its own for a bucket.
        channels: of the made-up images.
        dtype: of the made-up images.
        backend: where the batches go, and whose step is ended.

    Returns:
        How many steps were made: two for each bucket.

    Raises:
        ShapeError: a plan was given, and ``batch_size`` or ``channels`` is not a whole number of at least 1.
        BackendError: the backend is not there.

    Example:
        >>> from fixshape.plan import Bucket
        >>> model = nn.Conv2d(3, 1, 3)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> before = model.weight.detach().clone()
        >>> def step(images, targets):
        ...     model(images).mean().backward()
        ...     optimizer.step()
        >>> warmup(step, ShapePlan([Bucket(8, 8, 2)]), batch_size=2, model=model, optimizer=optimizer, backend="cpu")
        2
        >>> bool((model.weight == before).all())
        True
    """
    chosen = get_backend(backend)
    batches = _made_up(plan, batch_size, channels, dtype) if isinstance(plan, ShapePlan) else plan
    steps = 0
    with _put_back(model, optimizer, chosen):
        for batch in batches:
            for _ in range(WARMUP_STEPS):
                step_fn(*to_device(batch, chosen.device()))
                chosen.step()
                steps += 1
    return steps


def _made_up(
    plan: ShapePlan, batch_size: int | None, channels: int, dtype: torch.dtype
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    rows = check_at_least("warmup", "batch_size", batch_size, 1)
    check_at_least("warmup", "channels", channels, 1)
    for bucket in reversed(plan.buckets):
        image = torch.zeros(channels, bucket.height, bucket.width, dtype=dtype)
        box = torch.tensor([[0.0, 0.0, bucket.width, bucket.height]])
        target = {"boxes": box, "labels": torch.tensor([1]), "area": box[:, 2] * box[:, 3], "iscrowd": [0], "image_id": 0}
        yield PadToBucket(bucket)([(image, target)] * rows)


@contextmanager
def _put_back(model: nn.Module, optimizer: torch.optim.Optimizer, backend: Backend) -> Iterator[None]:
    """Puts values back in place: the model's tensors keep their identity, so that what was compiled for them stays good."""
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    tensors = [*model.parameters(), *model.buffers(), *(gradient for _, gradient in gradients if gradient is not None)]
    saved = [tensor.detach().clone() for tensor in tensors]
    # Not load_state_dict: it casts state to the parameters' dtype, and replaces the groups that a schedule may hold.
    state = {parameter: copy.deepcopy(entries) for parameter, entries in optimizer.state.items()}
    options = [copy.deepcopy({**group, "params": None}) for group in optimizer.param_groups]
    generator = torch.get_rng_state()
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, saved, strict=True):
                tensor.copy_(value)
        for parameter, gradient in gradients:
            parameter.grad = gradient
        optimizer.state.clear()
        optimizer.state.update(state)
        for group, option in zip(optimizer.param_groups, options, strict=True):
            group.update({**option, "params": group["params"]})
        torch.set_rng_state(generator)
        backend.step()
