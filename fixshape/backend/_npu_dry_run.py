"""Which operators would a training step launch and compile on an Ascend NPU? The real torch-npu tells, without an NPU.

It runs over a stand-in for CANN (``_cann.c``) that launches, counts, and computes nothing. A step with static shapes launches
the same operators whatever the values are, so that its counts are true. A step whose shapes follow from values is one that a
dry run cannot follow, and says so at the line that asks for a value.

What is counted. The key of an op compile is the operator's name in CANN, dtype and shape of each tensor that goes in or comes
out, and every int, bool, dtype and text that goes with them. With operators that come built (``set_compile_mode(online=False)``,
a 910B's own choice) the device compiles nothing at a new key: the host looks a kernel up and prepares it. With ``online=True``
each new key is a compile.

Against :class:`fixshape.OpRecorder`, which counts by the same rule one level above, in torch's operators: five steps in all,
torch-npu 2.9.0, all of it in the first two steps. "Level" is :meth:`NpuDryRun.torch_operators`: calls of torch's operators in
which something compiled.

    ======================  ========  ==================  ==================
    model, batch of 2       recorder  built: CANN, level  online: CANN, level
    ======================  ========  ==================  ==================
    SSDlite320                   714            814, 659            838, 621
    Faster R-CNN, small          844            907, 818           1099, 826
    RetinaNet, small             325            364, 309            411, 321
    FCOS, small                  373            426, 360            516, 367
    ======================  ========  ==================  ==================

CANN has more, as torch-npu makes several operators of one: a convolution's gradient is two or three (76 of SSDlite's 100 more), a
hardswish's looks for its kinks (18), and compiled online, a batch-norm is two and a copy of a slice is one. It has fewer where
one kernel serves several keys: ``clone`` of contiguous memory is a plain copy, and the number that ``>>`` shifts by is a tensor.
Level with level the two are apart by 2 to 8 %, and by 13 % for SSDlite online, where 92 keys of ``clone`` are plain copies.
"""

from __future__ import annotations

import os
import sys
from collections import Counter

import torch

from fixshape.backend import _npu
from fixshape.backend._cann import Counts, OpCount, StandIn, build
from fixshape.backend._npu_mode import DryRunMode
from fixshape.errors import BackendError

_started: tuple[StandIn, DryRunMode] | None = None


class NpuDryRun(_npu.NpuBackend):
    """See :class:`fixshape.backend.Backend`. Its tensors live on ``npu:0`` and have shapes, dtypes, strides, and no values.

    From here on, to the end of the process: reading a value of a tensor on the device is an error, unless the host put it there
    and nothing wrote to it since; launches are not queued, so that an error comes from its own line.

    Raises:
        BackendError: torch-npu is not installed, was made for another torch, or has been started on real devices in this
            process; the process has run a ``backward()``; or the stand-in cannot be built.
    """

    has_values = False

    def __init__(self) -> None:
        self._standin, self._mode = _start()
        super().__init__()
        self._before = self._standin.counts()
        self.steps: list[Counts] = []
        """What each step launched and compiled, by operator type; what was launched after the last step is in none."""

    def step(self) -> None:
        """Ends a step: one that launched something is added to :attr:`steps`."""
        now = self._standin.counts()
        step, self._before = now.since(self._before), now
        if step.launches:
            self.steps.append(step)

    def set_compile_mode(self, *, online: bool) -> None:
        """See :meth:`fixshape.backend._npu.NpuBackend.set_compile_mode`; a dry run begins without."""
        super().set_compile_mode(online=online)
        self._mode.online = online

    def grad_scaler(self, *, enabled: bool = True) -> torch.amp.GradScaler:
        """Always a disabled one: an enabled one asks the device for overflows at each step."""
        return super().grad_scaler(enabled=False)

    def compiles(self) -> int:
        """Op compiles of this process so far: launches with a key that was not seen before."""
        return self._standin.totals().compiles

    def counts(self) -> Counts:
        """All counts of this process so far, by operator type."""
        return self._standin.counts()

    def torch_operators(self) -> dict[str, OpCount]:
        """The same launches and compiles by torch's operators, one level above: what compares with ``OpRecorder``.

        Returns:
            By operator (``aten.convolution_backward.default``), how often it was called and launched something, and in how many
            of these calls something compiled, once or more.
        """
        calls, compiling = self._mode.calls, self._mode.compiling_calls
        return {str(func): OpCount(calls[func], compiling[func]) for func in calls if calls[func]}

    def fallbacks(self) -> dict[str, int]:
        return dict(sorted(self._mode.fallbacks.items()))

    def waits(self) -> dict[str, int]:
        """How often torch-npu's own way of computing an operator asked for a value, and made the host wait, by operator.

        Such an operator is no fall-back, and torch says nothing of it: ``aten::hardswish_backward`` of torch-npu 2.9 looks for
        the places where its input is 3. What it launches after the first such value is in no count.
        """
        return dict(sorted(self._mode.waits.items()))

    def slow_forms(self) -> dict[str, int]:
        """What torch-npu warns of: how often an operator was called in a form of which it says that another one is faster.

        torch-npu says so once in a process. The form is then known by operator and dtypes, and each call counts.

        Returns:
            Counts by ``"aten.gather.default (f32, i64): The oprator of gather is executed, ..."``, the text being torch-npu's.
        """
        return dict(Counter(self._mode.slow_forms))


def _start() -> tuple[StandIn, DryRunMode]:
    global _started
    if _started is None:
        reason = _npu.unavailable_package()
        if reason is not None:
            raise BackendError(f"get_backend: a dry run of 'npu' cannot be made here: {reason}.")
        if "torch_npu" in sys.modules:
            raise BackendError(
                "get_backend: torch_npu has been imported in this process, and runs on what it found then. Ask for the dry run"
                " before it is imported; TORCH_DEVICE_BACKEND_AUTOLOAD=0 keeps torch from importing it."
            )
        if torch.cuda.is_available():
            raise BackendError(
                "get_backend: torch-npu does not share a process with CUDA. Hide the GPUs from it:"
                " CUDA_VISIBLE_DEVICES='' in front of the command."
            )
        standin = StandIn(build(_npu.package_folder(), _npu.package_version()))
        os.environ["TASK_QUEUE_ENABLE"] = "0"
        try:
            _npu.start(dry=True)
        except Exception as error:  # whatever a vendor's start-up raises is the reason
            said = " ".join(str(error).split())[:300]
            raise BackendError(
                f"get_backend: torch-npu {_npu.package_version()} does not start on the CANN stand-in: {type(error).__name__}:"
                f" {said}. It is tested with torch-npu 2.9.0."
            ) from error
        _check_autograd()
        mode = DryRunMode(standin)
        mode.__enter__()  # type: ignore[no-untyped-call]
        _started = standin, mode
    return _started


def _check_autograd() -> None:
    """Autograd counts the device types when it first runs: the NPU's must have been there."""
    # A view's gradient launches nothing: an operator would settle the compile mode of autograd's thread.
    value = torch.empty(1, device="npu", requires_grad=True)
    try:
        torch.autograd.grad(value.view(1, 1), value, torch.empty(1, 1, device="npu"))
    except RuntimeError as error:
        if "device_ready_queues_" not in str(error):
            raise
        raise BackendError("get_backend: ask for the dry run before the first backward() of the process.") from None
