"""What stands between a training step and the dry-run device: no value is read, and what has no kernel there is told.

The stand-in refuses reads itself, wherever they come from. Here they get a line of the user's, and the exception: a tensor that
the host filled, and nothing wrote to since, may be read.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from fixshape.backend._cann import StandIn
from fixshape.errors import BackendError

_HERE = str(Path(__file__).parents[1]) + os.sep
_LIBRARIES = ("/torch/", "/torchvision/", "/torch_npu/")
_WARNING = re.compile(r"^\[W.*?\] Warning: (?:Warning: )?(.*?)(?: \(function .*\))?$")
_KERNELS = ("PrivateUse1", "CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional", "CompositeImplicitAutograd")
_COPIES = ("aten._to_copy.default", "aten.copy_.default")
_MOST_KNOWN = 100_000


class DryRunMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Passes each op on to torch-npu, but for those without a kernel there, and watches what comes of it."""

    supports_higher_order_operators = True

    def __init__(self, standin: StandIn) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._standin = standin
        self._process = os.getpid()
        self.online = False  # whether operators are compiled online: each way has slow forms of its own
        self._known: dict[int, StorageWeakRef] = {}  # storages with the values that the host put there
        self._kernels: dict[Any, bool] = {}
        self._warned: dict[Any, str | None] = {}  # by form: what torch-npu said at its first call
        self.fallbacks: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.calls: Counter[Any] = Counter()  # of torch's operators, that launched something
        self.compiling_calls: Counter[Any] = Counter()  # those of them in which something compiled
        self.slow_forms: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not isinstance(func, torch._ops.OpOverload) or os.getpid() != self._process:
            return func(*args, **kwargs)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        device: Any = next((tensor.device for tensor in tensors if tensor.device.type == "npu"), kwargs.get("device"))
        if device is None or torch.device(device).type != "npu":
            return func(*args, **kwargs)
        if _reads(func, args, kwargs):
            if not self._is_known(tensors[-1]):
                raise _no_value(func)
            with self._standin.reads_allowed():
                return func(*args, **kwargs)
        if self._has_kernel(func):
            result = self._launch(func, args, kwargs, tensors, device)
        else:
            self.fallbacks[func._schema.name] += 1
            result = _shapes_alone(func, args, kwargs, device)
        self._remember(func, args, kwargs, result)
        return result

    def _launch(self, func: Any, args: Any, kwargs: Any, tensors: Sequence[Tensor], device: Any) -> Any:
        launches, compiles, refused = self._standin.totals()
        result = None
        try:
            result = self._watched(func, args, kwargs, tensors)
        except RuntimeError:
            if self._standin.totals().refused == refused:
                raise
        after = self._standin.totals()
        self.calls[func] += after.launches > launches
        self.compiling_calls[func] += after.compiles > compiles
        if after.refused > refused:
            # torch-npu's own way of computing it asks for a value. What it launches after that cannot be known, the result can.
            result = _shapes_alone(func, args, kwargs, device)
            self.waits[func._schema.name] += 1
        return result

    def _watched(self, func: Any, args: Any, kwargs: Any, tensors: Sequence[Tensor]) -> Any:
        """Runs it, and keeps what torch-npu says of it the first time."""
        form = (self.online, func, *[tensor.dtype for tensor in tensors])
        if form in self._warned:
            result = func(*args, **kwargs)
        else:
            with _warnings_of_the_process() as said:
                result = func(*args, **kwargs)
            self._warned[form] = f"{func} ({_dtypes(tensors)}): {said[0]}" if said else None
        slow = self._warned[form]
        if slow is not None:
            self.slow_forms[slow] += 1
        return result

    def _has_kernel(self, func: Any) -> bool:
        found = self._kernels.get(func)
        if found is None:
            has = torch._C._dispatch_has_kernel_for_dispatch_key
            overload = func._schema.overload_name
            name = func._schema.name + (f".{overload}" if overload else "")
            found = self._kernels[func] = any(has(name, key) for key in _KERNELS)
        return found

    def _remember(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> None:
        """Keeps book of the storages on the device that have the host's values."""
        for tensor in _written(func, args, kwargs):
            self._known.pop(tensor.untyped_storage()._cdata, None)
        if str(func) in _COPIES and isinstance(result, Tensor) and result.device.type == "npu":
            source = args[1] if func is torch.ops.aten.copy_.default else args[0]
            storage = result.untyped_storage()
            whole = result.is_contiguous() and result.numel() * result.element_size() == storage.nbytes()
            if source.device.type == "cpu" and source.dtype == result.dtype and source.is_contiguous() and whole:
                self._known[storage._cdata] = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
        if len(self._known) > _MOST_KNOWN:
            self._known = {key: held for key, held in self._known.items() if not _is_gone(held)}

    def _is_known(self, tensor: Tensor) -> bool:
        if tensor.device.type != "npu" or not tensor.is_contiguous():
            return False
        held = self._known.get(tensor.untyped_storage()._cdata)
        return held is not None and not _is_gone(held)


def _is_gone(held: StorageWeakRef) -> bool:
    return bool(held.expired())  # type: ignore[no-untyped-call]


def _reads(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether the call is for the values of a tensor of the device, and for nothing else."""
    match str(func):
        case "aten._local_scalar_dense.default":
            return True
        case "aten._to_copy.default":
            return torch.device(kwargs.get("device") or "npu").type == "cpu"
        case "aten.copy_.default":
            return bool(args[0].device.type == "cpu")
    return False


def _written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Tensors that the call may write to. A batch-norm's schema does not say so of the running statistics."""
    silent = func.namespace != "aten" or "batch_norm" in func._schema.name
    written: list[Tensor] = []
    for position, argument in enumerate(func._schema.arguments):
        if silent or (argument.alias_info is not None and argument.alias_info.is_write):
            value = args[position] if position < len(args) else kwargs.get(argument.name)
            written += [tensor for tensor in tree_leaves(value) if isinstance(tensor, Tensor)]
    return written


def _dtypes(tensors: Sequence[Tensor]) -> str:
    return ", ".join(str(tensor.dtype).removeprefix("torch.") for tensor in tensors)


def _shapes_alone(func: Any, args: Any, kwargs: Any, device: Any) -> Any:
    """What an op that torch-npu would run on the host gives: on the device, shapes and no values."""
    originals: dict[int, tuple[Tensor, Tensor]] = {}

    def shape_of(tensor: Tensor) -> Tensor:
        shape = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        originals[id(shape)] = shape, tensor
        return shape

    def on_device(shape: Tensor) -> Tensor:
        if id(shape) in originals:
            return originals[id(shape)][1]
        return torch.empty_strided(shape.shape, shape.stride(), dtype=shape.dtype, device=device)

    shapes, named = tree_map_only(Tensor, shape_of, (args, dict(kwargs)))
    if "device" in named:
        named["device"] = torch.device("meta")
    try:
        result = func(*shapes, **named)
    except Exception:  # torch says in many ways that a shape follows from values
        raise _no_value(func) from None
    return tree_map_only(Tensor, on_device, result)


@contextmanager
def _warnings_of_the_process() -> Iterator[list[str]]:
    """Collects what torch-npu warns of, which it writes to the process's own stderr; whatever else comes there is passed on."""
    said: list[str] = []
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        stderr = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield said
        finally:
            os.dup2(stderr, 2)
            file.seek(0)
            for line in file:
                found = _WARNING.match(line.decode(errors="replace").rstrip())
                if found:
                    said.append(found[1])
                else:
                    os.write(stderr, line)
            os.close(stderr)


def _no_value(func: Any) -> BackendError:
    return BackendError(
        f"dry run: {func} at {_caller()} asks for a value, or for a shape that follows from values, and a dry run has no values."
        " A static step needs none: keep reads, such as that of the loss, behind 'if backend.has_values'."
    )


def _caller() -> str:
    """The innermost line outside of torch, torchvision and fixshape; in a backward pass there may be none."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith((_HERE, "<")) and not any(library in file for library in _LIBRARIES):
            return f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return "a line of the backward pass"
