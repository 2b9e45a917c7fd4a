"""``fixshape train``: the main job, end to end."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fixshape.cli import _train_arguments
from fixshape.cli._exit import ExitCode
from fixshape.cli._train_result import as_json, as_text
from fixshape.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from torch import nn

    from fixshape.backend import Backend
    from fixshape.plan import ShapePlan

_DRAWN_SIDE = 320  # pixels that drawn shapes are resized to: their own size is 160 to 480


def add_parser(commands: Any) -> None:
    """Adds the subcommand."""
    parser = _train_arguments.add_parser(commands)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> ExitCode:
    """Runs the subcommand."""
    _check(arguments)
    # The backend first: torch_xla and torch-npu must be there before autograd first runs.
    from fixshape.backend import get_backend

    backend = get_backend(arguments.backend, dry_run=arguments.dry_run)

    from fixshape.train import joined

    with joined(backend) as (rank, ranks):
        return _run(arguments, backend, rank, ranks)


def _run(arguments: argparse.Namespace, backend: Backend, rank: int, ranks: int) -> ExitCode:
    import torch

    from fixshape.cli._train_data import load
    from fixshape.collate import BucketLoader
    from fixshape.detection import to_static
    from fixshape.train import CompileGuard, fit, replicate
    from fixshape.train._distributed import gathered, local_rank

    if arguments.dynamic and ranks > 1:
        raise UsageError(f"train: --dynamic is for one process, to compare with, but torchrun started {ranks}.")
    torch.manual_seed(arguments.seed)
    model = _build(arguments)
    loader, plan = load(arguments, model)
    measured: dict[str, float] = {}
    evaluate = None
    device = backend.device(local_rank() if backend.name in ("cuda", "npu") else 0)
    if arguments.val_annotations and rank == 0:  # the others wait for it at their next step
        from fixshape.cli._train_evaluate import evaluation

        of_coco = evaluation(arguments, model, device)

        def evaluate(evaluated: nn.Module) -> dict[str, float]:
            measured.update(of_coco(evaluated if ranks == 1 else evaluated.get_submodule("module")))
            return measured

    trained = (model if arguments.dynamic else to_static(model)).to(device)
    replicated = replicate(trained, device)
    summary = fit(
        replicated,
        loader,
        torch.optim.SGD(trained.parameters(), lr=arguments.lr, momentum=0.9),
        steps=arguments.steps,
        checkpoint=arguments.checkpoint,
        checkpoint_every=arguments.checkpoint_every,
        resume=arguments.resume,
        evaluate=evaluate,
        backend=backend,
        guard=CompileGuard(arguments.guard) if arguments.guard else None,
        # Where the device counts by itself, its count is the truth, and the recorder would change its graphs.
        predict=arguments.count_compiles or (backend.compiles() is None and (arguments.json or arguments.data == "shapes")),
        progress=rank == 0,
        # One shape is warm after the first two steps; of several, some come late.
        warm_up=loader.one_of_each() if isinstance(loader, BucketLoader) and len(loader.batch_sampler.plan.shapes) > 1 else None,
    )
    result = as_json(arguments, backend, gathered(summary), measured, ranks)
    if rank == 0:
        if arguments.output:
            _write(Path(arguments.output), trained if backend.has_values else None, plan, result)
        print(json.dumps(result) if arguments.json else as_text(result))
    return ExitCode.CLEAN


def _check(arguments: argparse.Namespace) -> None:
    """What argparse cannot: options that need one another."""
    given = [name for name in ("annotations", "images") if getattr(arguments, name) is not None]
    if arguments.data == "coco" and len(given) < 2:
        raise UsageError("train: --data coco needs --annotations A.json and --images DIR.")
    if arguments.data != "coco" and given:
        raise UsageError(f"train: --{given[0]} is for --data coco, but --data is {arguments.data!r}.")
    validation = [name for name in ("val_annotations", "val_images") if getattr(arguments, name) is not None]
    if len(validation) == 1 or (validation and arguments.data != "coco"):
        raise UsageError("train: --val-annotations A.json and --val-images DIR go together, with --data coco.")
    if validation and (arguments.dynamic or arguments.dry_run):
        raise UsageError(f"train: --val-annotations is not for --{'dynamic' if arguments.dynamic else 'dry-run'}.")
    if arguments.dynamic and (arguments.plan or arguments.buckets > 1):
        raise UsageError(f"train: --dynamic does not pad: it cannot be used with --{'plan' if arguments.plan else 'buckets'}.")
    if arguments.dry_run and arguments.backend != "npu":
        raise UsageError(f"train: --dry-run is for --backend npu, but --backend is {arguments.backend}.")
    if arguments.dry_run and arguments.dynamic:
        raise UsageError("train: a dry run has no values, and --dynamic makes its shapes of them: leave one of the two out.")
    if arguments.checkpoint is None and (arguments.resume or arguments.checkpoint_every):
        raise UsageError(f"train: --{'resume' if arguments.resume else 'checkpoint-every'} needs --checkpoint DIR.")
    if arguments.checkpoint and (arguments.dynamic or arguments.dry_run):
        raise UsageError(f"train: --checkpoint is not for --{'dynamic' if arguments.dynamic else 'dry-run'}.")
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


def _write(folder: Path, model: nn.Module | None, plan: ShapePlan | None, result: dict[str, Any]) -> None:
    import io

    import torch

    from fixshape._files import write_atomic

    if model is not None:
        weights = io.BytesIO()
        torch.save({name: tensor.cpu() for name, tensor in model.state_dict().items()}, weights)
        write_atomic(folder / "model.pt", weights.getvalue())
    write_atomic(folder / "summary.json", (json.dumps(result, indent=2) + "\n").encode())
    if plan is not None:
        plan.save(folder / "plan.json")
