"""Which model does ``fixshape export`` mean? A builder of torchvision, or what a function of the user's own gives."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from fixshape.errors import CheckpointError, UsageError
from fixshape.export._export_line import blamed

if TYPE_CHECKING:
    from torch import nn


_MOST_CLASSES = 1 << 20


def build(name: str, weights: str | None) -> tuple[nn.Module, Any]:
    """The model in evaluation mode, and the function that makes its inputs, where its factory gives one.

    Args:
        name: of a builder in ``torchvision.models``, or ``package.module:factory``.
        weights: a file of ``torch.save(model.state_dict())``. A model of torchvision gets as many classes as they are for.

    Raises:
        UsageError: there is no such builder, module or factory, or it gives no module.
        CheckpointError: the weights cannot be read, or belong to another model.
    """
    import torch

    torch.manual_seed(0)  # without weights, two exports are the same file
    state = {} if weights is None else _read(weights)
    made = _from_factory(name) if ":" in name else _from_torchvision(name, state)
    model, make_inputs = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, torch.nn.Module) or not (make_inputs is None or callable(make_inputs)):
        raise UsageError(
            f"export: {name} gives {type(made).__name__}, expected a torch.nn.Module, or a pair of one and a function that makes"
            " its inputs from their shapes."
        )
    if weights is not None:
        _load(model, state, weights, name)
    return model.eval(), make_inputs


def _from_torchvision(name: str, state: dict[str, Any]) -> Any:
    from torchvision import models

    detection = models.list_models(module=models.detection)
    segmentation = models.list_models(module=models.segmentation)
    video = models.list_models(module=models.video)
    known = [*models.list_models(module=models), *segmentation, *detection, *video]
    if name not in known:
        raise UsageError(
            f"export: there is no model {name!r} in torchvision.models, its segmentation, detection or video."
            f"{_near(name, known)} A model of your own is package.module:factory."
        )
    builder = models.get_model_builder(name)
    taken = inspect.signature(builder).parameters
    options: dict[str, Any] = {key: None for key in ("weights", "weights_backbone") if key in taken}
    model = builder(**options)
    usual = {**dict.fromkeys(segmentation, 21), **dict.fromkeys(detection, 91), **dict.fromkeys(video, 400)}.get(name, 1000)
    usual = 2 if "keypoint" in name else usual
    classes = _classes(model, state, usual)
    if classes is not None:
        model = builder(**options, num_classes=classes)
    if name not in detection:
        return model
    from fixshape.detection import to_static

    return to_static(model)


def _classes(model: nn.Module, state: dict[str, Any], usual: int) -> int | None:
    """How many classes weights are for that do not fit a model of the usual number: all that differs grows with them."""
    own = model.state_dict()
    shapes = [(tuple(value.shape), tuple(own[key].shape)) for key, value in state.items() if key in own]
    ratios = {Fraction(theirs[0], ours[0]) * usual for theirs, ours in shapes if theirs != ours and theirs and ours and ours[0]}
    found = ratios.pop() if len(ratios) == 1 else None
    return int(found) if found is not None and found.denominator == 1 and 1 <= found <= _MOST_CLASSES else None


def _from_factory(name: str) -> Any:
    module_name, _, attribute = name.rpartition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), *attribute.split("."))):
        raise UsageError(
            f"export: {name!r} is not package.module:factory, as Python imports it: a dot between the names, no path and no .py."
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as python -m has it
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UsageError(
            f"export: {module_name!r} cannot be imported ({error}): expected package.module:factory, with the package in this"
            " folder or installed."
        ) from error
    except (Exception, SystemExit) as error:
        raise UsageError(f"export: {module_name!r} raises at its import: {blamed(error)}.") from error
    factory = module
    for part in attribute.split("."):
        if not hasattr(factory, part):
            raise UsageError(f"export: {module_name} has no {attribute!r}.{_near(attribute, vars(module))}")
        factory = getattr(factory, part)
    if not callable(factory) or _is_module(factory):
        return factory
    try:
        return factory()
    except (Exception, SystemExit) as error:
        raise UsageError(f"export: {name} raises {blamed(error)}. It is called without arguments.") from error


def _is_module(value: object) -> bool:
    import torch

    return isinstance(value, torch.nn.Module)


def _read(weights: str) -> dict[str, Any]:
    """The tensors of a state_dict."""
    import torch

    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"export: --weights {weights}: {error.strerror or error}. Give a file of torch.save.") from None
    except Exception as error:  # a hostile file may raise anything, and runs nothing
        raise CheckpointError(
            f"export: --weights {weights}: it does not load with weights_only=True ({type(error).__name__}), expected a"
            " state_dict: torch.save(model.state_dict(), file)."
        ) from None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise CheckpointError(
            f"export: --weights {weights}: it holds {type(state).__name__}, expected a state_dict of tensors alone:"
            " torch.save(model.state_dict(), file)."
        )
    return state


def _load(model: nn.Module, state: dict[str, Any], weights: str, name: str) -> None:
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        first = " ".join(str(error).split())
        raise CheckpointError(
            f"export: --weights {weights} is not of {name}: {first[:200]}. Give a factory that builds the model as it was"
            " trained."
        ) from None


def _near(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, [entry for entry in known if not entry.startswith("_")], 1, 0.5)
    return f" Did you mean {near[0]!r}?" if near else ""
