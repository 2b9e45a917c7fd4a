"""Does the ONNX file compute what the torch model computes, in every gear, and is padding without effect in it?

Shapes: ``N`` batch, ``H``, ``W`` pixels of the canvas, ``h``, ``w`` of the image at its top left.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fixshape.errors import ExportError, UsageError
from fixshape.export._export_eager import device_of, evaluating, gear_text, inputs_of, run_model, sizes_input
from fixshape.export._gears import HEIGHT, WIDTH, Gears
from fixshape.export._onnx_header import read_header
from fixshape.export._onnx_run import Arrays, differences
from fixshape.export._verify_decisions import Compared, FileRuns

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fixshape.export._export_eager import MakeInputs


@dataclass(frozen=True, slots=True)
class VerifiedGear:
    """One gear of a :class:`Verification`.

    Args:
        shapes: of the inputs, by name.
        differences: where onnxruntime differs from torch, a sentence each; or why one of the two does not run. None is good.
        largest: the largest difference of a number, ``None`` where the two could not be compared.
        image: (h, w) of the smaller image that was padded to this gear's canvas; ``None`` where none was.
        padded: where onnxruntime, on the padded image, differs from torch on the image alone.
        padded_largest: the largest difference there.
        followed: where the results are equal because torch took its decisions on the file's numbers, as rounding would have
            decided between others: the largest distance of such a number from torch's own, relative to the largest of its tensor.
            ``None`` where there was no need.
        padded_followed: the same, of the padded image.
    """

    shapes: Mapping[str, tuple[int, ...]]
    differences: tuple[str, ...]
    largest: float | None
    image: tuple[int, int] | None = None
    padded: tuple[str, ...] = ()
    padded_largest: float | None = None
    followed: float | None = None
    padded_followed: float | None = None

    @property
    def ok(self) -> bool:
        """Nothing differs."""
        return not self.differences and not self.padded


@dataclass(frozen=True, slots=True)
class Verification:
    """What :func:`verify_onnx` found.

    Args:
        rows: one for each gear, in the gears' order.
        blind: the model gives the same for other inputs, bit by bit, as some do with random weights: then what was compared says
            little of the layers.
    """

    rows: tuple[VerifiedGear, ...]
    blind: bool = False

    @property
    def ok(self) -> bool:
        """Whether every gear is equal."""
        return all(row.ok for row in self.rows)

    def __str__(self) -> str:
        lines = []
        for row in self.rows:
            shapes = ", ".join(f"{name} {list(shape)}" for name, shape in row.shapes.items())
            told = _told(row.differences, row.largest, row.followed)
            if row.image is not None:
                told += f"; {row.image[0]}x{row.image[1]} padded: {_told(row.padded, row.padded_largest, row.padded_followed)}"
            lines.append(f"{shapes}: {told}")
            lines += [f"    {sentence}" for sentence in (*row.differences, *(f"padded: {text}" for text in row.padded))]
        if not self.ok and any(row.ok for row in self.rows):
            lines.append(
                "some gears are equal and others are not: most likely the graph holds what belongs to the size of its example."
                " fixshape export --check-trace names the lines; or write a file for each canvas"
            )
        if self.blind:
            lines.append(
                "the model gives the same for other inputs too, so that this says little of its layers: give trained weights"
            )
        return "\n".join(lines)


def _told(differences: tuple[str, ...], largest: float | None, followed: float | None) -> str:
    if differences:
        return "differs"
    where = "" if followed is None else f" where torch decides on the file's numbers, {followed:.1e} from its own"
    return f"equal to {largest:.1e}{where}"


def verify_onnx(
    model: nn.Module,
    path: str | os.PathLike[str],
    gears: Gears,
    *,
    make_inputs: MakeInputs | None = None,
    compare_padded: bool | None = None,
    rtol: float = 1e-3,
    atol: float = 1e-4,
) -> Verification:
    """Runs an ONNX file in onnxruntime and the model in torch, in every gear, and compares shapes and numbers.

    Where the model takes image sizes (an input [N, 2] beside images [N, C, H, W]), an image of the largest smaller canvas of the
    gears is padded to each canvas too: what the file gives for it is compared with what torch gives for the image alone. Of an
    output that is larger on the larger canvas its top left counts, which is the valid region of whatever keeps to the pixels'
    places.

    A model that selects, as the best scores, may select another box where rounding decides between two. Where the results differ,
    it is run once more: at each decision the numbers of torch and of the file must be equal but for rounding, and on the file's
    numbers torch must come to the file's results. A row says so (``followed``).

    It does not promise equality between the gears, and not on a device: onnxruntime runs on the CPU.

    Args:
        model: the torch model, whatever the file was made of or by.
        path: the file; its outputs are in the order of the model's, under any name.
        gears: names and dims of the inputs, and the sizes of their symbols.
        make_inputs: as for :func:`fixshape.export.export_onnx`.
        compare_padded: also without image sizes, or not with them; ``None`` goes by the inputs.
        rtol: relative to torch's number; whole numbers and bools are equal or not.
        atol: relative to the largest number of the output.

    Returns:
        A row for each gear. It does not raise where they differ.

    Raises:
        UsageError: the file has other inputs than the gears; or ``compare_padded`` is True and no input has the axes H and W.
        ExportError: onnxruntime refuses the file.
        OnnxFileError: it is no ONNX file.
        ExtraError: onnx or onnxruntime is not installed.

    Example:
        >>> import os, tempfile, torch
        >>> from fixshape.export import Gears, export_onnx, parse_inputs
        >>> gears, model = Gears(parse_inputs("x:N,8"), ({"N": 1}, {"N": 4})), torch.nn.ReLU()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "model.onnx")
        ...     _ = export_onnx(model, gears, path)
        ...     print(verify_onnx(model, path, gears))
        x [1, 8]: equal to 0.0e+00
        x [4, 8]: equal to 0.0e+00
    """
    read_header(path)  # what is no ONNX file is told as such
    file = FileRuns(path)
    known, asked = {port.name for port in file.session.get_inputs()}, {entry.name for entry in gears.inputs}
    if known != asked:
        raise UsageError(
            f"verify_onnx: {os.fspath(path)} has inputs {', '.join(sorted(known))}, expected {', '.join(sorted(asked))}."
        )
    images = [index for index, entry in enumerate(gears.inputs) if entry.dims[-2:] == (HEIGHT, WIDTH)]
    pads = (
        sizes_input({entry.name: entry.dims for entry in gears.inputs}) is not None if compare_padded is None else compare_padded
    )
    if pads and not images and compare_padded:
        raise UsageError(f"verify_onnx: no input has the axes {HEIGHT}, {WIDTH} at its end: there is nothing to pad.")
    with evaluating(model):
        rows = tuple(
            _gear(model, file, gears, index, make_inputs, images if pads else [], rtol, atol) for index in range(len(gears))
        )
        first = inputs_of(gears, 0, make_inputs, device_of(model))
        return Verification(rows, is_blind(model, first, gear_text(gears, 0)))


def is_blind(model: nn.Module, inputs: Sequence[Tensor], said: str) -> bool:
    """Whether a model gives the same, bit by bit, for other numbers; one that takes no floating point is not asked."""
    import torch

    if not any(value.is_floating_point() for value in inputs):
        return False
    others = [0.75 - value if value.is_floating_point() else value for value in inputs]
    try:
        one, other = run_model(model, inputs, said), run_model(model, others, said)
    except ExportError:
        return False  # told of the gear already
    return all(torch.equal(value, other[name]) for name, value in one.items())


def verified_gear(
    shapes: Mapping[str, tuple[int, ...]], whole: Compared, image: tuple[int, int] | None = None, padded: Compared | None = None
) -> VerifiedGear:
    """The row of a gear, and of an image that was padded to it."""
    part = padded or Compared((), None)
    return VerifiedGear(
        shapes, whole.told, whole.largest, image, part.told, part.largest, followed=whole.followed, padded_followed=part.followed
    )


def _gear(
    model: nn.Module,
    file: FileRuns,
    gears: Gears,
    index: int,
    make_inputs: MakeInputs | None,
    images: Sequence[int],
    rtol: float,
    atol: float,
) -> VerifiedGear:
    shapes = gears.shapes(index)
    inputs = inputs_of(gears, index, make_inputs, device_of(model))
    alike = _compare(model, file, gears, inputs, inputs, gear_text(gears, index), rtol, atol)
    image = _smaller(gears, index) if images else None
    if image is None:
        return verified_gear(shapes, alike)
    alone, on_canvas = list(inputs), list(inputs)
    for position, entry in enumerate(gears.inputs):
        if position in images:
            alone[position] = inputs[position][..., : image[0], : image[1]].contiguous()
            on_canvas[position] = inputs[position].new_zeros(inputs[position].shape)
            on_canvas[position][..., : image[0], : image[1]] = alone[position]
        elif entry.name == sizes_input(shapes):
            alone[position] = on_canvas[position] = inputs[position].new_tensor(image).expand_as(inputs[position])
    said = f"an image of {image[0]}x{image[1]} alone"
    return verified_gear(shapes, alike, image, _compare(model, file, gears, alone, on_canvas, said, rtol, atol))


def _compare(
    model: nn.Module,
    file: FileRuns,
    gears: Gears,
    of_torch: Sequence[Tensor],
    of_onnx: Sequence[Tensor],
    said: str,
    rtol: float,
    atol: float,
) -> Compared:
    feeds = {entry.name: value.cpu().numpy() for entry, value in zip(gears.inputs, of_onnx, strict=True)}

    def compare(got: Arrays, expected: Mapping[str, Tensor]) -> tuple[tuple[str, ...], float | None]:
        if len(got) != len(expected):
            raise ExportError(f"the file has {len(got)} outputs ({', '.join(got)}), the model gives {len(expected)}.")
        wanted = {name: value.numpy() for name, value in zip(got, expected.values(), strict=True)}
        if of_torch is not of_onnx:
            got = {name: _top_left(value, wanted[name].shape) for name, value in got.items()}
        told = []
        for name, value in wanted.items():
            # Rounding is relative to what was added up, which the largest number tells of; not to 1.
            most = float(np.abs(value[np.isfinite(value)]).max(initial=0.0)) if value.dtype.kind == "f" else 1.0
            told += differences({name: got[name]}, {name: value}, rtol=rtol, atol=atol * most)
        return tuple(told), _largest(got, wanted)

    return file.compare(model, of_torch, feeds, said, compare)


def _top_left(value: Any, shape: tuple[int, ...]) -> Any:
    return value[tuple(slice(size) for size in shape)] if value.ndim == len(shape) else value


def _largest(got: Arrays, expected: Arrays) -> float | None:
    found = 0.0
    for name, value in got.items():
        other = expected[name]
        if value.shape != other.shape:
            return None
        with np.errstate(invalid="ignore"):
            distance = np.abs(value.astype(np.float64) - other.astype(np.float64))
        both = (value == other) | ((value != value) & (other != other))  # infinities that are equal, and NaN
        found = max(found, float(np.where(both, 0.0, distance).max(initial=0.0)))
    return found


def _smaller(gears: Gears, index: int) -> tuple[int, int] | None:
    """The largest canvas of another gear that fits in this one's, and is not it."""
    here = gears.values[index][HEIGHT], gears.values[index][WIDTH]
    canvases = {(gear[HEIGHT], gear[WIDTH]) for gear in gears.values} - {here}
    fitting = [(height, width) for height, width in canvases if height <= here[0] and width <= here[1]]
    return max(fitting, key=lambda size: (size[0] * size[1], size), default=None)
