"""What does the torch model itself compute in one gear? The inputs it is given, and its outputs with a name for each.

Shapes: ``N`` images, ``H``, ``W`` pixels of the canvas.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from fixshape._check import shown
from fixshape.errors import ExportError, ShapeError, UsageError
from fixshape.export._export_line import blamed
from fixshape.export._gears import Gears

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    MakeInputs = Callable[[dict[str, tuple[int, ...]]], Sequence[Tensor]]
    Outputs = dict[str, Tensor]


def draw_inputs(shapes: Mapping[str, tuple[int, ...]]) -> tuple[Tensor, ...]:
    """What a model is given when nobody says otherwise: normal float32; image sizes are those of the whole canvas."""
    import torch

    generator = torch.Generator().manual_seed(prod(shape[0] for shape in shapes.values() if shape))
    canvas = next((shape[-2:] for shape in shapes.values() if len(shape) == 4), None)
    sizes = sizes_input(shapes)
    return tuple(
        torch.tensor([canvas] * shape[0]) if name == sizes else torch.randn(shape, generator=generator)
        for name, shape in shapes.items()
    )


def sizes_input(shapes: Mapping[str, Sequence[object]]) -> str | None:
    """The input that says how large each image is on its canvas: [N, 2] beside images [N, C, H, W], under any name."""
    if not any(len(shape) == 4 for shape in shapes.values()):
        return None
    return next((name for name, shape in shapes.items() if len(shape) == 2 and shape[1] == 2), None)


def inputs_of(gears: Gears, index: int, make_inputs: MakeInputs | None, device: torch.device) -> tuple[Tensor, ...]:
    """The inputs of one gear, on the device.

    Raises:
        UsageError: ``make_inputs`` raises, or gives other than one tensor per input.
        ShapeError: one has another shape than the gear says.
    """
    from torch import Tensor

    shapes = gears.shapes(index)
    try:
        made = (make_inputs or draw_inputs)(shapes)
    except Exception as error:
        raise UsageError(f"make_inputs: for {gear_text(gears, index)} it raises {blamed(error)}.") from error
    if not isinstance(made, (tuple, list)) or len(made) != len(shapes) or not all(isinstance(value, Tensor) for value in made):
        got = f"{len(made)} values" if isinstance(made, (tuple, list)) else type(made).__name__
        raise UsageError(f"make_inputs: got {got}, expected a tuple of {len(shapes)} tensors: {', '.join(shapes)}.")
    for (name, shape), value in zip(shapes.items(), made, strict=True):
        if tuple(value.shape) != shape:
            raise ShapeError(
                f"make_inputs: {name} has shape {tuple(value.shape)}, expected {shape} in gear {gear_text(gears, index)}."
            )
    return tuple(value.to(device) for value in made)


def call_model(model: nn.Module, inputs: Sequence[Tensor], said: str) -> object:
    """What a model in evaluation mode gives.

    Args:
        model: in evaluation mode.
        inputs: its arguments, in order.
        said: the inputs as a message shall tell them.

    Raises:
        ExportError: the model raises.
    """
    import torch

    copies = [value.clone() for value in inputs]  # one that writes into its inputs shall not change the next run
    try:
        with torch.no_grad():
            return model(*copies)
    except (Exception, SystemExit) as error:
        raise ExportError(
            f"the model refuses {said}: {blamed(error)}. Is it the model that the plan was made for? Give a plan, or --inputs,"
            " with channels and canvases that it takes, or a function that makes its inputs where they are not float32."
        ) from error


def run_model(model: nn.Module, inputs: Sequence[Tensor], said: str) -> Outputs:
    """The outputs by name, on the CPU; None is left out.

    Raises:
        ExportError: the model raises, or an output is no tensor.
    """
    import torch
    from torch.utils import _pytree as pytree

    given = call_model(model, inputs, said)
    leaves = [(path, leaf) for path, leaf in pytree.tree_flatten_with_path(given)[0] if leaf is not None]
    outputs: Outputs = {}
    for path, leaf in leaves:
        name = "_".join(_part(key) for key in path) or "output"
        if not isinstance(leaf, torch.Tensor):
            raise ExportError(
                f"the model gives {shown(leaf)} ({type(leaf).__name__}) as {name}, expected tensors: a graph would keep the"
                " value of the example. Return torch tensors, or leave it out."
            )
        if leaf.is_meta:
            raise ExportError(
                f"the model gives {name} on the meta device, where tensors have no numbers. Load its weights first."
            )
        if leaf.is_complex() or leaf.layout != torch.strided:
            kind = leaf.dtype if leaf.is_complex() else leaf.layout
            raise ExportError(
                f"the model gives {name} as {kind}, which ONNX has no tensors of. Return torch.view_as_real(...), or a dense one."
            )
        outputs[name] = leaf.detach().cpu()
    if not outputs:
        raise ExportError(f"the model gives {shown(given)} for {said}, expected at least one tensor.")
    return outputs


def device_of(model: nn.Module) -> torch.device:
    """Where its first parameter or buffer is."""
    import torch

    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In evaluation mode for a while."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def gear_text(gears: Gears, index: int) -> str:
    """``"images [4, 3, 320, 320], image_sizes [4, 2]"``."""
    return ", ".join(f"{name} {list(shape)}" for name, shape in gears.shapes(index).items())


def dynamic_symbols(gears: Gears) -> tuple[str, ...]:
    """The symbols with more than one size: the others are fixed in the graph, as one gear is a fixed shape."""
    return tuple(symbol for symbol in gears.symbols if len({gear[symbol] for gear in gears.values}) > 1)


def example_gear(gears: Gears) -> int:
    """The gear to capture with: one with few sizes of 1 and equal sizes, which captures take for constants; then the smallest."""
    symbols = dynamic_symbols(gears)

    def price(index: int) -> tuple[int, int, int]:
        sizes = [gears.values[index][symbol] for symbol in symbols]
        return (sizes.count(1), len(sizes) - len(set(sizes)), sum(prod(shape) for shape in gears.shapes(index).values()))

    return min(range(len(gears)), key=price)


def other_gears(gears: Gears, first: int) -> list[int]:
    """Few gears in which each dynamic symbol has another size than in ``first``, small ones first."""
    left = set(dynamic_symbols(gears))
    order = sorted(range(len(gears)), key=lambda index: sum(prod(shape) for shape in gears.shapes(index).values()))
    found = []
    while left:
        differing = {index: {s for s in left if gears.values[index][s] != gears.values[first][s]} for index in order}
        best = max(order, key=lambda index: len(differing[index]))
        found.append(best)
        left -= differing[best]
    return found


def _part(key: Any) -> str:
    for name in ("key", "name"):
        if hasattr(key, name):
            return str(getattr(key, name))
    return f"output_{key.idx}" if hasattr(key, "idx") else "output"
