"""How does a torch model become an ONNX file in which exactly the gears' axes are dynamic?

Shapes: ``N`` batch, ``H``, ``W`` pixels, any other symbol as the inputs name it.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fixshape.errors import ExportError, UsageError
from fixshape.export._export_asked import Shape, asked_against_got
from fixshape.export._export_eager import (
    device_of,
    dynamic_symbols,
    evaluating,
    example_gear,
    gear_text,
    inputs_of,
    other_gears,
    run_model,
)
from fixshape.export._export_line import blamed, called_at, causes
from fixshape.export._gears import Gears
from fixshape.export._onnx_header import OnnxHeader, read_header
from fixshape.export._onnx_passes import clean_up
from fixshape.export._onnx_run import need

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import Tensor, nn

    from fixshape.export._export_eager import MakeInputs, Outputs

# As torch's messages name an axis of an argument, with and without torch.compile's front end.
_AXIS = re.compile(r"L\['(\w+)'\]\.size\(\)\[(\d+)\]|inputs\[(\d+)\]\.shape\[(\d+)\]")
_PACKED = re.compile(r"__torch__\.torch\.classes\.([\w.]+)")
OPSET = 18  # the highest that ATC documents, and the lowest that torch's exporter writes


def export_onnx(
    model: nn.Module,
    gears: Gears,
    path: str | os.PathLike[str],
    *,
    make_inputs: MakeInputs | None = None,
    output_names: Sequence[str] | None = None,
    opset: int = OPSET,
    data_dependent: bool = False,
    custom_translation_table: Mapping[Callable[..., Any], Callable[..., Any]] | None = None,
) -> OnnxHeader:
    """Writes a model as ONNX, with the gears' symbols as its dynamic axes, or says which line of it is in the way.

    The symbols that have one size in all gears are fixed to it. The model is captured in evaluation mode with one gear, by
    ``torch.onnx.export(dynamo=True)``; then the graph's inputs, outputs and opset are compared with what was asked, and its
    output axes with what the model itself gives in gears that differ. It does not promise equal numbers:
    :func:`fixshape.export.verify_onnx` runs every gear.

    A TorchScript module is written by torch's older exporter, the only one that takes it. It keeps what a trace has frozen; that
    its batch was frozen is found out, the rest is for ``verify_onnx`` against the module that it was traced from.

    The file appears when all is as asked, in one step, and never otherwise. Weights of more than 2 GB stand beside it, in
    ``path + ".data"``.

    Args:
        model: any module whose arguments are tensors, given by position in the order of ``gears.inputs``, and whose outputs are
            tensors, alone or in tuples, dictionaries or named tuples.
        gears: names and dims of the inputs, and the sizes of their symbols.
        path: the file; its folder must exist.
        make_inputs: gives the inputs of a gear from their shapes by name: ``lambda shapes: (torch.zeros(shapes["x"]), ...)``.
            ``None`` draws normal float32; an input [N, 2] beside images [N, C, H, W] is int64, the size of the whole canvas.
        output_names: one for each output tensor; ``None`` takes keys and field names as the model gives them, ``"output"`` for
            a tensor alone.
        opset: of the default domain.
        data_dependent: whether sizes may follow from data, which onnxruntime runs and targets with fixed shapes do not.
        custom_translation_table: more translations of torch operators, as ``torch.onnx.export`` takes them; they go before
            fixshape's own (``export/_onnx_translations.py``).

    Returns:
        The file's inputs, outputs, opsets and nodes.

    Raises:
        ExportError: the model refuses a gear, cannot be captured, or its graph is not what was asked for: an axis became static,
            an output lost its symbol, a size depends on data, or the opset is another. Nothing has been written.
        UsageError: names are not as many as outputs, or come twice; there is no such opset; ``make_inputs`` gives other than one
            tensor per input.
        ExtraError: onnx or onnxscript is not installed.

    Example:
        >>> import os, tempfile, torch
        >>> from fixshape.export import Gears, parse_inputs
        >>> gears = Gears(parse_inputs("tokens:N,8"), ({"N": 1}, {"N": 4}))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     header = export_onnx(torch.nn.Linear(8, 2), gears, os.path.join(folder, "model.onnx"))
        >>> [(port.name, port.dims) for port in header.inputs + header.outputs]
        [('tokens', ('N', 8)), ('output', ('N', 2))]
    """
    import torch

    from fixshape.export._onnx_translations import translations

    onnx = need("onnx")
    need("onnxscript")
    highest = onnx.defs.onnx_opset_version()
    if isinstance(opset, bool) or not isinstance(opset, int) or not 1 <= opset <= highest:
        raise UsageError(f"export_onnx: there is no opset {opset!r}: expected 1 to {highest}, and {OPSET} for ATC.")
    target = Path(path)
    check_folder(target, "export_onnx")
    with evaluating(model), tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        first = example_gear(gears)
        ran = {first: _run(model, gears, first, make_inputs)}
        names = _names(gears, ran[first][1], output_names)
        for index in other_gears(gears, first):
            ran[index] = _run(model, gears, index, make_inputs)
        shapes = [
            {name: tuple(value.shape) for name, value in zip(names, outputs.values(), strict=True)} for _, outputs in ran.values()
        ]
        written = Path(folder) / target.name
        scripted = isinstance(model, torch.jit.ScriptModule)
        if scripted:
            _check_batch(model, gears, make_inputs)
        table = {**translations(), **(custom_translation_table or {})}
        _capture(model, ran[first][0], gears, names, opset, written, None if scripted else table)
        graph = onnx.load(written, load_external_data=False)
        if _label(graph, [gears.values[index] for index in ran], shapes, scripted):
            onnx.save(graph, written)
        wrong = asked_against_got(graph, gears, opset=opset, outputs=shapes, data_dependent=data_dependent)
        if wrong:
            raise ExportError("\n".join([f"export_onnx: {target.name} is not written.", *wrong]))
        move(folder, [target])
    return read_header(target)


def check_folder(target: Path, caller: str) -> None:
    """A file can only be written into a folder that is there."""
    if not target.parent.is_dir():
        raise UsageError(f"{caller}: the folder {target.parent} does not exist. Make it, or write elsewhere.")


def move(folder: str, targets: Sequence[Path]) -> None:
    """Puts finished models and their data beside one another, the data before what names it."""
    names = {target.name for target in targets}
    for file in sorted(Path(folder).iterdir(), key=lambda file: file.name in names):
        os.replace(file, targets[0].parent / file.name)


def _run(model: nn.Module, gears: Gears, index: int, make_inputs: MakeInputs | None) -> tuple[tuple[Tensor, ...], Outputs]:
    inputs = inputs_of(gears, index, make_inputs, device_of(model))
    return inputs, run_model(model, inputs, gear_text(gears, index))


def _names(gears: Gears, outputs: Outputs, names: Sequence[str] | None) -> list[str]:
    chosen = list(outputs) if names is None else list(names)
    if len(chosen) != len(outputs):
        raise UsageError(
            f"export_onnx: got {len(chosen)} output names ({', '.join(chosen)}), but the model gives {len(outputs)} tensors:"
            f" {', '.join(outputs)}. Give one name for each."
        )
    taken = [entry.name for entry in gears.inputs] + chosen
    twice = sorted({name for name in taken if taken.count(name) > 1})
    if twice:
        raise UsageError(f"export_onnx: {', '.join(twice)} is the name of two inputs or outputs: rename one by output_names.")
    return chosen


def _capture(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    gears: Gears,
    names: list[str],
    opset: int,
    path: Path,
    table: dict[Callable[..., Any], Callable[..., Any]] | None,
) -> None:
    """Writes the file; the older exporter does where there is no table."""
    import torch

    dynamic = dynamic_symbols(gears)
    axes = [
        {axis: dim for axis, dim in enumerate(entry.dims) if isinstance(dim, str) and dim in dynamic} for entry in gears.inputs
    ]
    common: dict[str, Any] = {
        "input_names": [entry.name for entry in gears.inputs],
        "output_names": names,
        "opset_version": opset,
    }
    try:
        with _quiet():
            if table is None:
                labelled = {entry.name: of_input for entry, of_input in zip(gears.inputs, axes, strict=True)}
                torch.onnx.export(model, inputs, os.fspath(path), dynamo=False, dynamic_axes=labelled, **common)
                return
            # A name alone, not Dim(name): an axis that the capture cannot keep is then tried again with torch.compile's front
            # end, which keeps int(x.shape[0]) symbolic, instead of being made static.
            program = torch.onnx.export(
                model,
                inputs,
                dynamo=True,
                dynamic_shapes=_of_arguments(model, axes),
                custom_translation_table=table,
                verbose=False,
                optimize=False,
                **common,
            )
            assert program is not None
            clean_up(program.model)
            _name_ports(program.model.graph, common["input_names"], names)
            program.save(os.fspath(path))
    except ExportError:
        raise
    except Exception as error:
        told = _packed(error, model, inputs) or _captured(error, model, gears)
        raise ExportError(f"export_onnx: the model cannot be captured: {told}") from error


def _of_arguments(model: nn.Module, axes: list[dict[int, str]]) -> tuple[Any, ...]:
    """As torch.export wants them: what goes into ``*args`` is one argument, as of a model that torch.compile has wrapped."""
    parameters = list(inspect.signature(model.forward).parameters.values())
    gathers = next((place for place, one in enumerate(parameters) if one.kind is inspect.Parameter.VAR_POSITIONAL), None)
    return tuple(axes) if gathers is None or gathers >= len(axes) else (*axes[:gathers], tuple(axes[gathers:]))


def _name_ports(graph: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """An output that is an input, or another output, is one value to torch's exporter, which names it for the last of them."""
    for values, names in ((graph.inputs, inputs), (graph.outputs, outputs)):
        if len(values) == len(names) and len({id(value) for value in values}) == len(names):
            for place, value in enumerate(values):
                value.name = f"{place}."  # no port has this name: two may have changed places
            for value, name in zip(values, names, strict=True):
                value.name = name


def _label(graph: ModelProto, values: Sequence[Mapping[str, int]], shapes: Sequence[Mapping[str, Shape]], every: bool) -> bool:
    """Gives outputs the dims that the model's runs show, where the exporter's say nothing; whether it changed any.

    The older exporter makes up a name for each axis, and that of torch 2.9 gives the last states of an LSTM an axis too many.
    """
    changed = False
    for port in graph.graph.output:
        got = port.type.tensor_type.shape
        of_port = [of_run[port.name] for of_run in shapes if port.name in of_run]
        if not of_port or not (every or len(got.dim) != len(of_port[0])):
            continue
        dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in got.dim]
        if len(dims) != len(of_port[0]):
            dims = [sizes[0] if len(set(sizes)) == 1 else None for sizes in zip(*of_port, strict=True)]
        del got.dim[:]
        for dim, sizes in zip(dims, zip(*of_port, strict=True), strict=True):
            symbols = [symbol for symbol in values[0] if tuple(gear[symbol] for gear in values) == sizes]
            entry = got.dim.add()
            if dim is not None:
                entry.dim_value = dim
            elif len(set(sizes)) > 1 and symbols:
                entry.dim_param = symbols[0]
        changed = True
    return changed


def _captured(error: Exception, model: nn.Module, gears: Gears) -> str:
    import torch

    told = blamed(error)
    kinds = {type(cause).__name__ for cause in causes(error)}
    if "GuardOnDataDependentSymNode" in kinds:
        way_out = (
            "A branch or a loop asks for a number that only the data has: use torch.where, or a fixed number of rounds and a mask"
        )
    elif "DispatchError" in kinds:
        way_out = "There is no ONNX form of this operator: give one in custom_translation_table (examples/upsample_onnx.py does)"
    elif "Constraints violated" in str(error) or "inferred a static shape" in str(error):
        found = (
            (argument or gears.inputs[int(index)].name, axis or other)
            for argument, axis, index, other in _AXIS.findall(str(error))
        )
        axes = ", ".join(dict.fromkeys(f"axis {axis} of {name}" for name, axis in found))
        told = f"{axes or 'an axis'} is made a Python number, and cannot be dynamic"
        recurrent = [name for name, module in model.named_modules() if isinstance(module, torch.nn.RNNBase)]
        way_out = (
            f"This torch writes out each step of {', '.join(recurrent)}: write the length itself instead of its symbol, one file"
            " for each length, or export with a newer torch"
            if recurrent
            else "fixshape export --check-trace names the lines"
        )
    else:
        way_out = "fixshape export --check-trace and fixshape audit name the lines that depend on shapes or data"
    return f"{told}. {way_out}."


def _packed(error: Exception, model: nn.Module, inputs: tuple[Tensor, ...]) -> str | None:
    """Of a quantised model: the first module whose weights torch has packed, and the line that calls it."""
    import torch

    kind = next((found[1] for cause in causes(error) if (found := _PACKED.search(str(cause)))), None)
    holders = [name for name, module in model.named_modules() if torch.ScriptObject in map(type, vars(module).values())]
    if kind is None or not holders:
        return None
    name = holders[0].removesuffix("._packed_params")  # a quantised Linear keeps them in a module of their own
    module = model.get_submodule(name)
    with torch.no_grad():
        line = called_at(module, lambda: model(*inputs))
    first = f", as the first of {len(holders)} modules," if len(holders) > 1 else ""
    called = module._get_name()  # type: ignore[no-untyped-call]
    return (
        f"{name or 'the model'} ({called}{f', called at {line}' if line else ''}){first} holds weights packed for"
        f" torch's own operators ({kind}), which torch.export does not take. Export the float model and quantise the file; or"
        " export torch.jit.trace(model, inputs), where int8 numbers may differ from torch's by a step of their scale."
    )


def _check_batch(model: nn.Module, gears: Gears, make_inputs: MakeInputs | None) -> None:
    """A TorchScript module cannot be asked what it has frozen, but for its batch: no output follows it."""
    batch = gears.inputs[0].dims[0] if gears.inputs[0].dims else None
    if batch not in dynamic_symbols(gears):
        return
    rest = [{symbol: size for symbol, size in gear.items() if symbol != batch} for gear in gears.values]
    alike = [index for index, sizes in enumerate(rest) if sizes == rest[0]]
    first, second = (_run(model, gears, index, make_inputs)[1] for index in (alike[0], alike[-1]))
    if alike[0] != alike[-1] and all(value.shape[:1] == second[name].shape[:1] for name, value in first.items()):
        given = ", ".join(f"{name} {list(value.shape)}" for name, value in first.items())
        raise ExportError(
            f"export_onnx: the TorchScript module gives {given} for {batch} = {gears.values[alike[0]][batch]} and"
            f" {gears.values[alike[-1]][batch]}: it was traced, and kept the size of its example. Give the module that it was"
            " made of, or make it with torch.jit.script."
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's progress and warnings: what matters in them is found out afterwards, and is an error."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
