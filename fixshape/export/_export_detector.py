"""How does a static detection model become ONNX: which inputs and outputs, and how many files?

One file for each canvas of the plan, with the batch as its one dynamic axis. Height and width cannot be dynamic: anchors, the
number of candidates of a level and the steps of the suppression follow from the canvas in Python, and so are constants of the
graph. A file per canvas is also what a device with fixed shapes runs.

Shapes: ``N`` images, ``H``, ``W`` pixels of the canvas, ``D`` detections of an image.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fixshape.export._export_eager import device_of, evaluating, gear_text
from fixshape.export._export_onnx import OPSET, check_folder, export_onnx, move
from fixshape.export._gears import Gears, parse_inputs, plan_gears
from fixshape.export._onnx_header import OnnxHeader
from fixshape.export._onnx_run import Arrays
from fixshape.export._verify import Verification, VerifiedGear, is_blind, verified_gear
from fixshape.export._verify_decisions import Compared, FileRuns
from fixshape.export._verify_detections import different_detections
from fixshape.plan import ShapePlan

if TYPE_CHECKING:
    from torch import Tensor, nn

_INPUTS = "images:N,3,H,W;image_sizes:N,2"


@dataclass(frozen=True, slots=True)
class CanvasFile:
    """A file that :func:`export_detector` wrote.

    Args:
        path: of the file.
        canvas: (H, W) of its images.
        gears: the inputs ``images`` [N, 3, H, W] and ``image_sizes`` [N, 2], at each batch size.
        header: its inputs, outputs, opsets and nodes.
    """

    path: Path
    canvas: tuple[int, int]
    gears: Gears
    header: OnnxHeader


def export_detector(
    model: nn.Module,
    plan: ShapePlan,
    path: str | os.PathLike[str],
    *,
    batch_sizes: Sequence[int],
    opset: int = OPSET,
) -> tuple[CanvasFile, ...]:
    """Writes a static detection model as ONNX, one file for each canvas of a plan.

    The suppression of overlapping boxes is in the graph, and no operator in it has a shape that depends on data. A file takes
    ``images`` float32 [N, 3, H, W] in [0, 1], not normalised, and ``image_sizes`` int64 [N, 2], the (h, w) of each image at the
    top left of the canvas; it gives ``boxes`` [N, D, 4] XYXY in pixels of the canvas, ``scores`` [N, D], ``labels`` [N, D],
    ``valid_mask`` [N, D], and ``masks`` or ``keypoints`` where the model has them.

    The files appear together when all are as asked, and never otherwise. It does not promise equal numbers:
    :func:`verify_detector` runs every file at every batch size. Nor is it quick: suppression is written out tile by tile, and a
    model with thousands of candidates takes about a minute.

    Args:
        model: by :func:`fixshape.to_static`, or anything that is called as that, ``model(images, None, image_sizes)``,
            and gives a named tuple of tensors.
        plan: the plan that the model was trained with; box slots do not matter here.
        path: ``"detector.onnx"`` for ``detector_320x480.onnx`` and the like, height first; the folder must exist.
        batch_sizes: the batch is dynamic where there are two or more, and fixed to the only one else.
        opset: of the files.

    Returns:
        What was written, in the order of the plan's canvases.

    Raises:
        ExportError: the model refuses a canvas (an SSD has one alone), or a graph is not what was asked for. Nothing has been
            written.
        UsageError: there is no batch size, no such opset, or no such folder.
        ExtraError: onnx or onnxscript is not installed.
    """
    deployed = deployed_detector(model)
    target, files = Path(path), []
    canvases = _each_canvas(plan_gears(plan, parse_inputs(_INPUTS), batch_sizes=batch_sizes))
    check_folder(target, "export_detector")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        for gears in canvases:
            height, width = gears.values[0]["H"], gears.values[0]["W"]
            file = target.with_name(f"{target.stem}_{height}x{width}{target.suffix or '.onnx'}")
            header = export_onnx(deployed, gears, Path(folder) / file.name, make_inputs=_draw, opset=opset)
            files.append(CanvasFile(file, (height, width), gears, header))
        move(folder, [file.path for file in files])
    return tuple(files)


def verify_detector(model: nn.Module, files: Sequence[CanvasFile], *, rtol: float = 1e-4, atol: float = 1e-4) -> Verification:
    """Runs the files of :func:`export_detector` in onnxruntime, and the model in torch, at every canvas and batch size.

    Two batches are run at each: images that fill the canvas, and images of half its sides and more, with noise in the padding of
    what the file gets and nothing in that of what torch gets, so that padding which reaches a result is found. Torch
    runs on the same canvas: on another one torchvision's models themselves give other numbers, since what lies beyond an image
    comes back into it by the biases of the layers.

    Detections whose scores are equal but for rounding may change places; see ``_verify_detections``. Where rounding decides for
    another box, as it does for most weights that were never trained, torch decides on the file's numbers, and must come to the
    file's detections; see ``_verify_decisions``. A row says so (``followed``).

    Args:
        model: the one that was exported.
        files: what was written.
        rtol: relative to torch's scores, masks and heat maps.
        atol: for those, and a hundred times as much, in pixels, for boxes.

    Returns:
        A row for each canvas and batch size; ``image`` there is the smallest image that was padded. It does not raise where they
        differ.

    Raises:
        ExportError: onnxruntime refuses a file.
        OnnxFileError: a file is no ONNX file.
        ExtraError: onnxruntime is not installed.
    """
    deployed = deployed_detector(model)
    with evaluating(deployed):
        rows = tuple(row for file in files for row in _verified(deployed, file, rtol, atol))
        first = [value.to(device_of(deployed)) for value in _draw(files[0].gears.shapes(0))] if files else []
        return Verification(rows, is_blind(deployed, first, "other images"))


def deployed_detector(model: nn.Module) -> nn.Module:
    """The model with its two inputs by position, and its outputs by name."""
    from torch import nn

    class Deployed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Tensor, image_sizes: Tensor) -> dict[str, Tensor]:
            found = self.model(images, None, image_sizes)
            return {name: value for name, value in found._asdict().items() if value is not None}

    return Deployed()


def _each_canvas(gears: Gears) -> list[Gears]:
    """The gears of each canvas by themselves, so that its height and width are numbers in the graph."""
    canvases = dict.fromkeys((gear["H"], gear["W"]) for gear in gears.values)
    return [Gears(gears.inputs, tuple(gear for gear in gears.values if (gear["H"], gear["W"]) == canvas)) for canvas in canvases]


def _draw(shapes: dict[str, tuple[int, ...]]) -> tuple[Tensor, Tensor]:
    """Noise that fills the canvas."""
    import torch

    generator = torch.Generator().manual_seed(shapes["images"][0])
    batch, *_, height, width = shapes["images"]
    return torch.rand(shapes["images"], generator=generator), torch.tensor([[height, width]]).repeat(batch, 1)


def _shrink(images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """The same noise as smaller images: their sizes, and the batch with nothing in the padding."""
    import torch

    generator = torch.Generator().manual_seed(len(images))
    share = 0.5 + 0.5 * torch.rand(sizes.shape, generator=generator)
    smaller = (sizes * share).long()
    clean = torch.zeros_like(images)
    for row, image, (height, width) in zip(clean, images, smaller.tolist(), strict=True):
        row[:, :height, :width] = image[:, :height, :width]
    return clean, smaller


def _verified(model: nn.Module, file: CanvasFile, rtol: float, atol: float) -> list[VerifiedGear]:
    runs, rows = FileRuns(file.path), []

    def compare(said: str, of_torch: tuple[Tensor, Tensor], of_onnx: tuple[Tensor, Tensor]) -> Compared:
        inputs = [value.to(device_of(model)) for value in of_torch]
        feeds = {name: value.numpy() for name, value in zip(("images", "image_sizes"), of_onnx, strict=True)}

        def differ(got: Arrays, expected: dict[str, Tensor]) -> tuple[tuple[str, ...], float | None]:
            return different_detections(got, {name: value.numpy() for name, value in expected.items()}, rtol=rtol, atol=atol)

        return runs.compare(model, inputs, feeds, said, differ)

    for index in range(len(file.gears)):
        images, sizes = _draw(file.gears.shapes(index))
        clean, smaller = _shrink(images, sizes)
        said = gear_text(file.gears, index)
        whole = compare(said, (images, sizes), (images, sizes))
        part = compare(said, (clean, smaller), (images, smaller))
        height, width = (int(side) for side in smaller[int(smaller.prod(1).argmin())])
        rows.append(verified_gear(file.gears.shapes(index), whole, (height, width), part))
    return rows
