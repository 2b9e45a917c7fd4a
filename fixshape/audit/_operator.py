"""What an operator is: does it launch work, is its output shape dynamic, does it make the host wait?

Read from what torch itself says of an overload (schema, alias annotations, tags). The tables below hold only what torch does not
say, each row with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Condition = Callable[[Sequence[Any], Mapping[str, Any]], bool]


@dataclass(frozen=True, slots=True)
class Operator:
    """What the recorder has to know of an overload.

    Args:
        name: ``"aten.add.Tensor"``.
        launches: it does work on data.
        syncs: it makes the host wait for a value.
        copies: it may carry data from one device to another, and is then judged by where to.
        is_view: it gives another view of the data that goes in.
        dynamic: tells of one call whether its output shape depends on tensor values; ``None`` where none can.
    """

    name: str
    launches: bool
    syncs: bool
    copies: bool
    is_view: bool
    dynamic: Condition | None

    @property
    def idle(self) -> bool:
        """Nothing of it is counted."""
        return not (self.launches or self.syncs or self.copies or self.dynamic)


def classify(func: Any) -> Operator:
    """What the overload ``func`` is. A higher-order operator has no schema: it counts as one launch."""
    name = str(func)
    if not isinstance(func, torch._ops.OpOverload):
        return Operator(name, launches=True, syncs=False, copies=False, is_view=False, dynamic=None)
    return Operator(
        name,
        launches=_launches(func, name),
        syncs=torch.Tag.data_dependent_output in func.tags,
        copies=name in _COPIES,
        is_view=func.is_view,
        dynamic=_DYNAMIC.get(name, _always if torch.Tag.dynamic_output_shape in func.tags else None),
    )


def leaves_device(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[bool, bool]:
    """Of a call of a copying op: ``(it goes from one kind of device to another, the host waits for it)``."""
    if len(args) > 1 and isinstance(args[1], torch.Tensor):  # copy_(target, source, non_blocking)
        target, source = args[0].device.type, args[1].device.type
        blocks = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
    else:  # _to_copy(source, *, device, non_blocking)
        source = args[0].device.type
        device = kwargs.get("device")
        target = source if device is None else torch.device(device).type
        blocks = not kwargs.get("non_blocking", False)
    return target != source, target != source and target == "cpu" and blocks


def _launches(func: torch._ops.OpOverload[..., Any], name: str) -> bool:
    if name in _NO_WORK or func.is_view or torch.Tag.inplace_view in func.tags:
        return False
    # Size queries, profiler marks and the like give no tensor back and write to none.
    gives_tensor = any("Tensor" in str(result.type) for result in func._schema.returns)
    return gives_tensor or func._schema.is_mutable or torch.Tag.data_dependent_output in func.tags


def _always(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    return True


def _never(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    return False


def _masks(indices: Sequence[Any]) -> list[torch.Tensor]:
    return [index for index in indices if index is not None and index.dtype in (torch.bool, torch.uint8)]


def _reads_by_mask(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    return bool(_masks(args[1]))


def _writes_by_mask(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    masks = _masks(args[1])
    if not masks:
        return False
    adds = args[3] if len(args) > 3 else kwargs.get("accumulate", False)
    # One value through one mask is a masked_fill, which torch itself makes of it inside the kernel.
    is_fill = args[2].numel() == 1 and not adds and len(masks) == 1 and sum(index is not None for index in args[1]) == 1
    return not is_fill


def _has_no_output_size(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    return kwargs.get("output_size") is None


_NO_WORK = frozenset(
    {
        # They reserve memory and fill nothing.
        "aten.empty.memory_format",
        "aten.empty.names",
        "aten.empty_like.default",
        "aten.empty_permuted.default",
        "aten.empty_strided.default",
        "aten.new_empty.default",
        "aten.new_empty_strided.default",
        # A view in all but its schema.
        "aten._unsafe_view.default",
        # They change sizes or bookkeeping, not data, and have no tag that says so.
        "aten._resize_output_.default",
        "aten.record_stream.default",
        # The value is copied to the host; no kernel runs. The wait is counted.
        "aten._local_scalar_dense.default",
        "aten.item.default",
    }
)

_COPIES = frozenset({"aten._to_copy.default", "aten.copy_.default"})

_DYNAMIC: dict[str, Condition] = {
    # Tagged as dynamic whatever the indices are; with integer ones the shape follows from theirs.
    "aten.index.Tensor": _reads_by_mask,
    "aten.repeat_interleave.Tensor": _has_no_output_size,
    # Tagged, but its lengths are Python ints: the shape follows from the arguments.
    "aten._ctc_loss.default": _never,
    # Not tagged, unlike the form without out=.
    "aten.index.Tensor_out": _reads_by_mask,
    # Not tagged, as the output has the input's shape; the kernel makes integer indices of the mask first, which is a nonzero.
    "aten._index_put_impl_.default": _writes_by_mask,
    "aten.index_put.default": _writes_by_mask,
    "aten.index_put.out": _writes_by_mask,
    "aten.index_put_.default": _writes_by_mask,
    # Not tagged; the gradient is read by mask inside the kernel.
    "aten.masked_scatter_backward.default": _always,
    # Not tagged; the output is as long as the lengths' values say.
    "aten._pack_padded_sequence.default": _always,
    # Not tagged; as many entries as there are values other than zero, or pairs of indices that differ.
    "aten._coalesce.default": _always,
    "aten._to_sparse.default": _always,
    "aten._to_sparse.sparse_dim": _always,
    # Not tagged in torch 2.9.
    "aten._unique.default": _always,
    # Of torchvision, which tags nothing: as many indices as boxes are kept.
    "torchvision.nms.default": _always,
}
