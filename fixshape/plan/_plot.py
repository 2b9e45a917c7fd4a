"""The sizes, and the buckets drawn over them."""

from __future__ import annotations

import importlib
import io
import os
from pathlib import Path
from typing import Any

import numpy as np

from fixshape._files import write_atomic
from fixshape.errors import ExtraError, PlanError
from fixshape.plan._rows import Sizes, as_rows
from fixshape.plan._shape_plan import ShapePlan

FORMATS = (".png", ".svg")


def plot(plan: ShapePlan, sizes: Sizes, path: str | os.PathLike[str]) -> None:
    """Draws every distinct size as a dot, as large as it is frequent, and every bucket as the rectangle it covers.

    Samples that no bucket covers are drawn too. Needs matplotlib, and no display.

    Args:
        plan: the buckets.
        sizes: [N, 2] or [N, 3] whole numbers: (height, width[, boxes]) per sample, pixels after the host resize.
        path: the file to write, atomically; it ends in ``.png`` or ``.svg``.

    Raises:
        ExtraError: matplotlib is not installed.
        PlanError: there are no sizes, or the file's name has another ending.
        ShapeError: a row is not two or three whole numbers in range.
        OSError: the folder does not exist or cannot be written to.
    """
    rows = as_rows("plot", sizes)
    ending = Path(path).suffix.lower()
    if ending not in FORMATS:
        raise PlanError(f"plot: {os.fspath(path)} ends in {ending!r}, expected {' or '.join(FORMATS)}.")
    try:
        figure: Any = importlib.import_module("matplotlib.figure").Figure(figsize=(8, 7), layout="constrained")
        patch: Any = importlib.import_module("matplotlib.patches").Rectangle
    except ImportError:
        raise ExtraError("plot: matplotlib is not installed: python -m pip install 'fixshape[plot]'.") from None
    distinct, counts = np.unique(rows[:, :2], axis=0, return_counts=True)
    axes = figure.subplots()
    axes.scatter(distinct[:, 1], distinct[:, 0], s=4 + 200 * counts / counts.max(), alpha=0.4, linewidths=0, color="tab:blue")
    for index, bucket in enumerate(plan.shapes):
        style = "--" if index == len(plan.buckets) else "-"
        axes.add_patch(patch((0, 0), bucket.width, bucket.height, fill=False, linestyle=style, edgecolor="tab:red"))
        axes.annotate(f"{bucket.height}x{bucket.width}", (bucket.width, bucket.height), ha="right", va="bottom", fontsize=8)
    axes.set_xlim(0, 1.05 * max(int(distinct[:, 1].max()), *(bucket.width for bucket in plan.shapes)))
    axes.set_ylim(0, 1.05 * max(int(distinct[:, 0].max()), *(bucket.height for bucket in plan.shapes)))
    axes.set(xlabel="width (pixels)", ylabel="height (pixels)", title=str(plan.certificate or f"{len(plan.buckets)} buckets"))
    axes.set_aspect("equal")
    data = io.BytesIO()
    figure.savefig(data, format=ending[1:], metadata={"Date": None} if ending == ".svg" else None, dpi=120)
    write_atomic(path, data.getvalue())
