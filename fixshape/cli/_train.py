"""``fixshape train``: the main job, end to end."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fixshape.cli import _train_arguments
from fixshape.cli._exit import ExitCode
from fixshape.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from torch import nn

    from fixshape.backend import Backend
    from fixshape.plan import ShapePlan
    from fixshape.train import TrainSummary

SCHEMA_VERSION = 1
_DRAWN_SIDE = 320  # pixels that drawn shapes are resized to: their own size is 160 to 480


def add_parser(commands: Any) -> None:
    """Adds the subcommand."""
    parser = _train_arguments.add_parser(commands)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> ExitCode:
    """Runs the subcommand."""
    _check(arguments)
    # The backend first: torch_xla must be there before autograd first runs.
    from fixshape.backend import get_backend

    backend = get_backend(arguments.backend)

    import torch

    from fixshape.cli._train_data import load
    from fixshape.collate import BucketLoader
    from fixshape.detection import to_static
    from fixshape.train import CompileGuard, fit

    torch.manual_seed(arguments.seed)
    model = _build(arguments)
    loader, plan = load(arguments, model)
    trained = (model if arguments.dynamic else to_static(model)).to(backend.device())
    summary = fit(
        trained,
        loader,
        torch.optim.SGD(trained.parameters(), lr=arguments.lr, momentum=0.9),
        steps=arguments.steps,
        backend=backend,
        guard=CompileGuard(arguments.guard) if arguments.guard else None,
        # Where the device counts by itself, its count is the truth, and the recorder would change its graphs.
        predict=arguments.count_compiles or (backend.compiles() is None and (arguments.json or arguments.data == "shapes")),
        # One shape is warm after the first two steps; of several, some come late.
        warm_up=loader.one_of_each() if isinstance(loader, BucketLoader) and len(loader.batch_sampler.plan.shapes) > 1 else None,
    )
    result = _as_json(arguments, backend, summary)
    if arguments.output:
        _write(Path(arguments.output), trained, plan, result)
    print(json.dumps(result) if arguments.json else _as_text(result))
    return ExitCode.CLEAN


def _check(arguments: argparse.Namespace) -> None:
    """What argparse cannot: options that need one another."""
    given = [name for name in ("annotations", "images") if getattr(arguments, name) is not None]
    if arguments.data == "coco" and len(given) < 2:
        raise UsageError("train: --data coco needs --annotations A.json and --images DIR.")
    if arguments.data != "coco" and given:
        raise UsageError(f"train: --{given[0]} is for --data coco, but --data is {arguments.data!r}.")
    if arguments.dynamic and (arguments.plan or arguments.buckets > 1):
        raise UsageError(f"train: --dynamic does not pad: it cannot be used with --{'plan' if arguments.plan else 'buckets'}.")
    if arguments.output:
        os.makedirs(arguments.output, exist_ok=True)  # now, not after an hour of training


def _build(arguments: argparse.Namespace) -> nn.Module:
    import torch
    from torchvision.models import detection

    from fixshape.detection import DrawnShapes

    drawn = arguments.data == "shapes"
    options: dict[str, Any] = {"num_classes": DrawnShapes.num_classes if drawn else 91}
    if "keypoint" in arguments.model:
        options = {"num_classes": 2, "num_keypoints": DrawnShapes.num_keypoints if drawn else 17}
    if drawn and "ssd" not in arguments.model:
        options.update(min_size=_DRAWN_SIDE, max_size=_DRAWN_SIDE)
    model: nn.Module = getattr(detection, arguments.model)(weights=None, weights_backbone=None, **options)
    if arguments.weights:
        where = f"train: --weights {arguments.weights}"
        try:
            state = torch.load(arguments.weights, map_location="cpu", weights_only=True)
            model.load_state_dict(state)
        except FileNotFoundError:
            raise CheckpointError(f"{where}: there is no such file.") from None
        except Exception as error:  # a hostile or broken file may raise anything
            reason = f"{type(error).__name__}: {' '.join(str(error).split()):.300}"
            raise CheckpointError(
                f"{where}: not a state_dict of {arguments.model} with {options['num_classes']} classes ({reason})."
            ) from None
    return model.train()


def _as_json(arguments: argparse.Namespace, backend: Backend, summary: TrainSummary) -> dict[str, Any]:
    def fraction(real: int, total: int) -> float | None:
        return 1 - real / total if total else None

    warmup, steady = summary.seconds_per_step()
    graphs = [record.graph_compiles for record in summary.steps]
    return {
        "schema_version": SCHEMA_VERSION,
        "model": arguments.model,
        "backend": backend.name,
        "dynamic": arguments.dynamic,
        "steps": len(summary.steps),
        "losses": list(summary.losses),
        "warmup": {"steps": summary.warmup_steps, "compiles": summary.warmup_compiles},
        "op_compiles_per_step": [record.op_compiles for record in summary.steps],
        "graph_compiles_per_step": None if None in graphs else graphs,
        "compiles_after_step": summary.quiet_after,
        "fallbacks": backend.fallbacks(),
        "seconds_per_step": {"warmup": warmup, "steady": steady},
        "shapes": summary.shapes,
        "padding": {
            "pixels": fraction(summary.real_pixels, summary.total_pixels),
            "slots": fraction(summary.real_slots, summary.total_slots),
        },
        "boxes_dropped": summary.boxes_dropped,
        "peak_memory_mb": round(summary.peak_memory / 2**20, 1),
    }


def _as_text(result: dict[str, Any]) -> str:
    def seconds(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{value:.1%}"

    losses, shapes = result["losses"], result["shapes"]
    shown = [f"{text} ({steps} steps)" for text, steps in list(shapes.items())[:4]]
    if len(shapes) > 4:
        shown.append(f"and {len(shapes) - 4} more")
    counted = [count for count in result["op_compiles_per_step"] if count is not None]
    quiet_after = result["compiles_after_step"]
    lines = [
        ("model", f"{result['model']} on {result['backend']}{', dynamic' if result['dynamic'] else ''}"),
        ("steps", str(result["steps"])),
        ("loss", f"{_mean(losses[:10]):.4g} (first 10 steps) -> {_mean(losses[-10:]):.4g} (last 10)"),
        (f"shapes used: {len(shapes)}", "; ".join(shown)),
        ("padding", f"{percent(result['padding']['pixels'])} of pixels, {percent(result['padding']['slots'])} of box slots"),
        ("boxes dropped", str(result["boxes_dropped"])),
        ("op compiles per step", f"{', '.join(map(str, counted))} (predicted)" if counted else "not counted: --count-compiles"),
    ]
    if result["warmup"]["steps"]:
        compiles = result["warmup"]["compiles"]
        told = "" if compiles is None else f", {compiles} compiles"
        lines.insert(-1, ("warm-up", f"{result['warmup']['steps']} steps before the first{told}"))
    if result["graph_compiles_per_step"] is not None:
        lines.append(("graph compiles per step", ", ".join(map(str, result["graph_compiles_per_step"]))))
    if result["fallbacks"]:
        lines.append(("ran on the host", ", ".join(f"{op} ({count})" for op, count in result["fallbacks"].items())))
    if counted or result["graph_compiles_per_step"] is not None:
        at_rest = str(quiet_after) if quiet_after is not None else "never: it was still compiling when last counted"
        lines.append(("nothing compiled after step", at_rest))
    warmup, steady = (seconds(result["seconds_per_step"][name]) for name in ("warmup", "steady"))
    lines.append(("seconds per step", f"{warmup} in the warm-up, {steady} after it"))
    lines.append(("peak memory", f"{result['peak_memory_mb']} MB"))
    return "\n".join(f"{name:<28} {value}" for name, value in lines)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _write(folder: Path, model: nn.Module, plan: ShapePlan | None, result: dict[str, Any]) -> None:
    import io

    import torch

    from fixshape._files import write_atomic

    weights = io.BytesIO()
    torch.save({name: tensor.cpu() for name, tensor in model.state_dict().items()}, weights)
    write_atomic(folder / "model.pt", weights.getvalue())
    write_atomic(folder / "summary.json", (json.dumps(result, indent=2) + "\n").encode())
    if plan is not None:
        plan.save(folder / "plan.json")
