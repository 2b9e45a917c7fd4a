"""How many compiles will a step cost on each kind of device?

A device that compiles operators compiles each key once: these are the op compiles. A lazy device (XLA) gathers ops and compiles
when a value is asked for: then one graph, of all that the value depends on and that has not been computed before; and at the end
of the step one of all that is still to do for tensors that live. A graph that has been compiled before is not compiled again.
"""

from __future__ import annotations

from collections.abc import Mapping

from fixshape.audit._recorder import OpRecorder
from fixshape.audit._report import AuditReport


def predict(record: AuditReport | OpRecorder) -> Mapping[str, tuple[int, ...]]:
    """Compiles of each step, for each kind of device, without the device.

    It says what a step that runs there as it ran here would compile; not how long that takes, and nothing of what a device's own
    cache on disk saves. For ``torch.compile`` there is no prediction: what it compiles anew depends on guards and on which
    sizes it takes for dynamic, and neither can be seen from the ops.

    ``"npu"`` is for devices that compile operators: one compile for each key not seen before. It is a proxy where a device
    has kernels for any shape (Ascend with ``jit_compile=False``).

    ``"xla"`` is for lazy devices: a graph is compiled where a value is read (``.item()``) or an op's output shape depends on
    values, and at the end of a step; each of them once. It differs from the device's own count where

    * a script keeps a tensor on the host and reads it there (AdamW's count of steps, a random number that torchvision draws an
      image size with): one compile in the first step here, none there;
    * a script does other things there than here: an optimiser with other defaults, or ``.cpu()`` and ``.tolist()``, which between
      tensors of the host are no op and cut nothing;
    * ``x[mask] = 0.0``: torch 2.9 hands the mask to the device, and XLA reads it, which is counted; torch 2.15 makes a
      ``masked_fill_`` of it on the host, where no read is seen;
    * an integer argument varies that XLA takes for data, ``x + n``: one compile each time here, none there;
    * one graph differs from another only in which of its inputs are the same tensor, or in a write through one view that
      another view reads: more compiles there.

    Counted by torch_xla 2.9 on a CPU against this: small models, static and with ``nonzero`` and masks, equal in each of six
    steps; torchvision's SSDlite 11, 11, 11 against 12, 11, 11 (images and boxes of random sizes; the first row above).

    Args:
        record: a recorder, or its report.

    Returns:
        For each kind of device, compiles of each step: ``{"npu": (582, 144, 0), "xla": (3, 1, 0)}``; ``"xla"`` is left out where
        the recorder did not follow tensors (``lines=False``).

    Example:
        >>> import torch
        >>> rows, bounds = torch.arange(6.0), torch.tensor([2.0, 3.0, 3.0])
        >>> recorder = OpRecorder()
        >>> for least in bounds:
        ...     with recorder:
        ...         kept = rows[rows >= least].exp()
        ...     recorder.step()
        >>> predict(recorder)
        {'npu': (3, 1, 0), 'xla': (2, 1, 0)}
    """
    report = record.report() if isinstance(record, OpRecorder) else record
    compiles = {"npu": tuple(step.compiles for step in report.steps)}
    if len(report.graphs) == len(report.steps):
        compiles["xla"] = report.graphs
    return compiles
