"""How many compiles will a step cost on each backend?

A device that compiles operators compiles each key once: these are the op compiles. A lazy device (XLA) gathers ops and compiles
when a value is asked for: then one graph, of all that the value depends on and that has not been computed before; and at the end
of the step one of all that is still to do for tensors that live. A graph that has been compiled before is not compiled again.
``torch.compile`` makes a graph of each piece of a function between two calls that it takes into none, and compiles each once.
"""

from __future__ import annotations

from collections.abc import Mapping

from fixshape.audit._recorder import OpRecorder
from fixshape.audit._report import AuditReport


def predict(record: AuditReport | OpRecorder) -> Mapping[str, tuple[int, ...]]:
    """Compiles of each step, for each backend, without the device.

    It says what a step that runs there as it ran here would compile; not how long that takes, and nothing of what a device's own
    cache on disk saves.

    ``"npu"`` is for devices that compile operators: one compile for each key not seen before. It is a proxy where a device
    has kernels for any shape (Ascend with ``jit_compile=False``).

    ``"xla"`` is for lazy devices: a graph is compiled where a value is read (``.item()``, ``.tolist()``, ``.cpu()``) or an op's
    output shape depends on values, and at the end of a step; each of them once. It differs from the device's own count where

    * a script keeps a tensor on the host and reads it there (AdamW's count of steps, a random number that torchvision draws an
      image size with): one compile in the first step here, none there;
    * a script does other things there than here: an optimiser with other defaults;
    * the device goes on with ``x`` alone, and no gradient, after ``x.cpu()``: on a CPU both are one tensor, and what is made of
      it until the step ends is taken for the host's;
    * a buffer is read that no op has written and nothing has moved, or a tensor is printed: a graph there, none here;
    * ``x[mask] = 0.0``: torch 2.9 hands the mask to the device, and XLA reads it, which is counted; torch 2.15 makes a
      ``masked_fill_`` of it on the host, where no read is seen;
    * an integer argument varies that XLA takes for data, ``x + n``: one compile each time here, none there;
    * one graph differs from another only in which of its inputs are the same tensor, or in a write through one view that
      another view reads: more compiles there.

    Counted by torch_xla 2.9 on a CPU against this: small models, static and with ``nonzero`` and masks, equal in each of six
    steps; torchvision's SSDlite 11, 11, 11 against 12, 11, 11 (images and boxes of random sizes; the first row above).

    ``"torch.compile"`` is for the step's forward pass and losses as one function under ``torch.compile(dynamic=False)``: all up
    to the last backward pass. Dynamo cuts the function where a value is read or an op's output shape depends on values, and its
    callers with it; a function that is cut in a loop runs as it is, and what it calls is compiled. Each piece is compiled once
    for each sequence of its ops: dtypes, shapes, whether gradients are wanted, arguments, Python floats too. The
    backward pass and the optimiser are not in it. Torch gives up on one function after ``recompile_limit`` (8) compiles and runs
    it as it is from then on; here it goes on. With ``dynamic=None``, torch's default, a piece is compiled a second time when a
    size varies, and then for most sizes: fewer compiles than are said here, and how many is not predicted. It differs from what
    Dynamo makes where

    * a number that was read is compared and no more: a guard on it, one compile for each value there, none here;
    * Dynamo goes no further for another reason than a value (``print``, Python that it does not know), or leaves a function to
      Python as it is cut in a ``try``;
    * ``assert`` of a tensor: Dynamo takes it into the graph, here it cuts;
    * ``rows[:n]`` with a tensor ``n``, or two cuts in one expression: graphs without an op, and functions left to Python, there;
    * a tensor whose size varies passes through a piece that does nothing with it: compiles anew there, not here.

    Counted with torch 2.15 against a backend that counts, three steps with images and boxes of random sizes and a small backbone:
    torchvision's RetinaNet 43 against 44, Faster R-CNN 63 against 69; FCOS 32 against 44: its generalised IoU has
    two cuts in one expression, and a call that logs its use, which Dynamo makes a graph of.

    Args:
        record: a recorder, or its report.

    Returns:
        For each backend, compiles of each step: ``{"npu": (582, 144, 0), "xla": (3, 1, 0), "torch.compile": (4, 2, 0)}``; only
        ``"npu"`` where the recorder did not follow tensors (``lines=False``).

    Example:
        >>> import torch
        >>> rows, bounds = torch.arange(6.0), torch.tensor([2.0, 3.0, 3.0])
        >>> recorder = OpRecorder()
        >>> for least in bounds:
        ...     with recorder:
        ...         kept = rows[rows >= least].exp()
        ...     recorder.step()
        >>> predict(recorder)
        {'npu': (3, 1, 0), 'xla': (2, 1, 0), 'torch.compile': (2, 1, 0)}
    """
    report = record.report() if isinstance(record, OpRecorder) else record
    compiles = {"npu": tuple(step.compiles for step in report.steps)}
    if len(report.graphs) == len(report.steps):
        compiles["xla"] = report.graphs
    if len(report.pieces) == len(report.steps):
        compiles["torch.compile"] = report.pieces
    return compiles
