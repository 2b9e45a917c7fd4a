"""A training that can be ended at any moment: all of its state in one file, written in one step, and put back bit for bit."""

from __future__ import annotations

import io
import os
import re
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from fixshape._check import check_at_least, shown
from fixshape._files import read_limited, write_atomic
from fixshape.backend import Backend, get_backend
from fixshape.backend._ranks import rank_and_world_size
from fixshape.errors import CheckpointError, NonFiniteLossError
from fixshape.train._generators import generators_state, set_generators

_FORMAT = "fixshape checkpoint"
_VERSION = 1
_NAME = "step-{:08d}.pt"
_NAMES = re.compile(r"step-(\d{8,})\.pt")
_KEPT = 2  # the newest, and the one before, should a disk damage it
_FIELDS = ("step", "notes", "plan", "model", "optimizer", "optimizer_kind", "scheduler", "scaler", "ema", "loader", "generators")
_WEIGHTS_BYTES = 16  # times the model: what an optimiser and averaged weights may take
_SPARE_BYTES = 64 * 2**20


class Loaded(NamedTuple):
    """What :meth:`Checkpoint.load` found.

    Attributes:
        step: that it was saved with.
        notes: that it was saved with.
        generators: states of the random generators. They were put back; what was drawn since can be undone with
            :meth:`Checkpoint.restore_generators`.
    """

    step: int
    notes: Mapping[str, Any]
    generators: Mapping[str, Any]


class Checkpoint:
    """All that a training is, saved to a folder and loaded into the same objects: for your own loop, and used by ``fit``.

    A file ``step-00000120.pt`` is written beside its name and moved there whole, so that a process killed at any point leaves
    the last one as it was. The newest two are kept. They are read with ``torch.load(weights_only=True)`` alone: a hostile file
    can run nothing.

    On the CPU a training that goes on from it has bit for bit the losses of one that was never ended, if its steps are the same
    from there on. Generators are restored for torch (host and device; not XLA's), numpy and Python in this process; not those of
    ``DataLoader`` workers, nor your own. In your own loop, an epoch that is resumed in its middle draws one number more than it
    did, as a ``DataLoader`` begins each iteration with a draw from torch's generator: :func:`fixshape.fit` undoes that. Under
    ``torch.distributed`` the first rank writes, all of them load, and generators are restored on the first alone.

    Args:
        folder: where the files are; made when the first is written. One training's alone.
        model: its parameters and buffers.
        optimizer: its state and options.
        scheduler: likewise.
        scaler: likewise.
        ema: likewise, with its averaged weights.
        loader: has ``state_dict`` and ``load_state_dict``, as :func:`fixshape.make_loader`'s and
            :class:`fixshape.BucketBatchSampler` have.
        backend: whose generator is saved too, and which is told that a graph ends before values are read.

    Raises:
        BackendError: the backend is not there.

    Example:
        >>> import tempfile
        >>> model = nn.Linear(2, 1)
        >>> optimizer = torch.optim.AdamW(model.parameters())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     state = Checkpoint(folder, model=model, optimizer=optimizer, backend="cpu")
        ...     path = state.save(120)
        ...     first = state.load().step + 1
        >>> path.name, first
        ('step-00000120.pt', 121)
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: LRScheduler | None = None,
        scaler: torch.amp.GradScaler | None = None,
        ema: AveragedModel | None = None,
        loader: Any = None,
        backend: str | Backend = "auto",
    ) -> None:
        self.folder = Path(folder)
        self._model = model
        self._optimizer = optimizer
        self._parts = {"scheduler": scheduler, "scaler": scaler, "ema": ema, "loader": loader}
        self._backend = get_backend(backend)

    def newest(self) -> Path | None:
        """The file with the highest step, or ``None``."""
        return max(self._files(), key=_step_of, default=None)

    def save(self, step: int, *, place: Mapping[str, Any] | None = None, notes: Mapping[str, Any] | None = None) -> Path:
        """Writes the state as it is now, between two steps.

        Args:
            step: how many steps it has; names the file.
            place: the loader's state, where it is ahead of the training by now. ``None``: ``loader.state_dict()``.
            notes: numbers, texts, lists and dicts of your own.

        Returns:
            The file.

        Raises:
            CheckpointError: the disk is full, or the folder cannot be written to: the last file is as it was. Or a state holds
                an object that ``weights_only=True`` would not load.
            NonFiniteLossError: a parameter is NaN or infinite: nothing is written.
            ShapeError: ``step`` is not a whole number of at least 0.
        """
        check_at_least("Checkpoint.save", "step", step, 0)
        path = self.folder / _NAME.format(step)
        if not _is_first_rank():
            return path
        self._backend.step()
        states = {name: None if part is None else part.state_dict() for name, part in self._parts.items()}
        if place is not None:
            states["loader"] = dict(place)
        content: dict[str, Any] = {
            "format": _FORMAT,
            "version": _VERSION,
            "step": step,
            "notes": dict(notes or {}),
            "plan": _digest_of(self._parts["loader"]),
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "optimizer_kind": type(self._optimizer).__name__,
            **states,
            "generators": generators_state(self._backend.device()),
        }
        content = {name: _plain(value, name) for name, value in content.items()}
        self._require_finite(content["model"], step)
        data = io.BytesIO()
        torch.save(content, data)
        before = self.newest()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(path, data.getvalue())
        except OSError as error:
            kept = f"The last one, {before}, is as it was." if before else "There is none before it."
            raise CheckpointError(
                f"Checkpoint.save: step {step} could not be written to {self.folder} ({len(data.getvalue()) / 2**20:,.1f} MiB):"
                f" {error.strerror or error}. {kept} Make room, or give another folder, and resume."
            ) from error
        self._clear(path)
        return path

    def load(self, path: str | os.PathLike[str] | None = None) -> Loaded:
        """Puts a saved state back into the model, the optimiser and the rest, in place.

        Everything is checked before the first is changed.

        Args:
            path: a file. ``None``: the newest in the folder.

        Returns:
            A :class:`Loaded`.

        Raises:
            CheckpointError: there is no file; it is truncated, damaged or no checkpoint; or of another model, optimiser, plan
                or run.
        """
        found = self.newest() if path is None else Path(path)
        if found is None:
            raise CheckpointError(f"Checkpoint.load: there is no checkpoint (step-*.pt) in {self.folder}.")
        content = self._read(found)
        self._check(content, found)
        self._model.load_state_dict(content["model"])
        _load_optimizer(self._optimizer, content["optimizer"])
        for name, part in self._parts.items():
            if part is not None and name != "loader" and content[name]:
                part.load_state_dict(content[name])
        self.restore_generators(content["generators"])
        return Loaded(content["step"], content["notes"], content["generators"])

    def restore_generators(self, generators: Mapping[str, Any]) -> None:
        """Puts the random generators back to where the checkpoint was made.

        Args:
            generators: of :class:`Loaded`.
        """
        if _is_first_rank():
            set_generators(generators, self._backend.device())

    def clear_unfinished(self) -> None:
        """Removes what processes that were killed while they wrote have left. Call it where no other process writes."""
        for path in self.folder.glob(".step-*.pt.*") if _is_first_rank() else ():
            path.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return [path for path in self.folder.glob("step-*.pt") if _NAMES.fullmatch(path.name)]

    def _clear(self, written: Path) -> None:
        older = sorted((path for path in self._files() if _step_of(path) < _step_of(written)), key=_step_of)
        for path in older[: max(len(older) - (_KEPT - 1), 0)]:
            path.unlink(missing_ok=True)

    def _require_finite(self, weights: Mapping[str, Tensor], step: int) -> None:
        names = [name for name, _ in self._model.named_parameters()]
        for name in names:
            if name in weights and not bool(torch.isfinite(weights[name]).all()):
                newest = self.newest()
                raise NonFiniteLossError(
                    f"Checkpoint.save: parameter {name} is not finite after step {step}, and nothing was written."
                    f" {f'The last good one is {newest}.' if newest else 'There is none before it.'} Lower the learning rate,"
                    " clip the gradients, or look for a gradient that is not finite."
                )

    def _read(self, path: Path) -> dict[str, Any]:
        where = f"Checkpoint.load: {path}"
        own = sum(
            value.numel() * value.element_size() for value in self._model.state_dict().values() if isinstance(value, Tensor)
        )
        limit = _WEIGHTS_BYTES * own + _SPARE_BYTES
        others = [other for other in self._files() if other != path]
        way_out = f" Delete it to go on from {max(others, key=_step_of)}." if others else ""
        try:
            data = read_limited(path, limit)
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                if sum(entry.file_size for entry in archive.infolist()) > limit:
                    raise ValueError(f"it unpacks to more than {limit:,} bytes")
                damaged = archive.testzip()
            if damaged is not None:
                raise ValueError(f"{damaged} is damaged")
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise CheckpointError(f"{where}: there is no such file.{way_out}") from None
        except zipfile.BadZipFile:
            raise CheckpointError(f"{where}: truncated, or no checkpoint.{way_out}") from None
        except Exception as error:  # a hostile or broken file may raise anything
            reason = f"{type(error).__name__}: {' '.join(str(error).split()):.300}"
            raise CheckpointError(f"{where}: it cannot be read ({reason}).{way_out}") from None
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise CheckpointError(f"{where}: not a checkpoint of fixshape, but {shown(type(content).__name__)}.{way_out}")
        if content.get("version") != _VERSION:
            raise CheckpointError(f"{where}: its version is {shown(content.get('version'))}, this one reads {_VERSION}.{way_out}")
        missing = [name for name in _FIELDS if name not in content]
        if missing:
            raise CheckpointError(f"{where}: it has no {', '.join(missing)}: it was changed.{way_out}")
        return content

    def _check(self, content: Mapping[str, Any], path: Path) -> None:
        """Whether it is of this training. The loader's state goes in last: it is the one that checks itself."""
        where = f"Checkpoint.load: {path}"
        plan = _digest_of(self._parts["loader"])
        if content["plan"] != plan:
            raise CheckpointError(
                f"{where}: it was trained with plan {shown(content['plan'])}, here {shown(plan)}. Load that plan, or begin anew"
                " from the weights."
            )
        _check_shapes(where, "model", content["model"], self._model.state_dict())
        kind = type(self._optimizer).__name__
        saved, here = content["optimizer"], self._optimizer.state_dict()
        sizes = [[len(group["params"]) for group in state["param_groups"]] for state in (saved, here)]
        if content["optimizer_kind"] != kind or sizes[0] != sizes[1]:
            raise CheckpointError(
                f"{where}: the optimiser was {shown(content['optimizer_kind'])} with groups of {sizes[0]} parameters, here"
                f" {kind} with {sizes[1]}. Build it as it was."
            )
        for name, part in self._parts.items():
            if (content[name] is None) != (part is None):
                states = ("without", "with")
                raise CheckpointError(
                    f"{where}: it was saved {states[content[name] is not None]} {name}, here the training is"
                    f" {states[part is not None]} one. Give the same."
                )
        if self._parts["ema"] is not None:
            _check_shapes(where, "ema", content["ema"], self._parts["ema"].state_dict())
        if self._parts["loader"] is not None:
            self._parts["loader"].load_state_dict(content["loader"])


def _step_of(path: Path) -> int:
    match = _NAMES.fullmatch(path.name)
    return -1 if match is None else int(match[1])


def _is_first_rank() -> bool:
    return rank_and_world_size()[0] == 0


def _digest_of(loader: Any) -> str | None:
    """Of the loader's plan, where it has one."""
    plan = getattr(getattr(loader, "batch_sampler", loader), "plan", None)
    return None if plan is None else str(plan.digest)


def _check_shapes(where: str, what: str, saved: Any, here: Mapping[str, Any]) -> None:
    if not isinstance(saved, Mapping) or set(saved) != set(here):
        names = sorted(set(saved) ^ set(here))[:3] if isinstance(saved, Mapping) else []
        raise CheckpointError(f"{where}: its {what} is another one: {', '.join(names) or 'no names'} are in one of them only.")
    for name, value in here.items():
        if isinstance(value, Tensor) and (not isinstance(saved[name], Tensor) or saved[name].shape != value.shape):
            got = tuple(saved[name].shape) if isinstance(saved[name], Tensor) else shown(saved[name])
            raise CheckpointError(f"{where}: its {what} is another one: {name} has shape {got}, here {tuple(value.shape)}.")


def _load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    rates = [group["lr"] for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        if isinstance(rate, Tensor):  # a schedule, or a captured graph, holds this very tensor
            rate.copy_(group["lr"])
            group["lr"] = rate


def _plain(value: Any, where: str) -> Any:
    """The same with tensors on the host; raises where ``weights_only=True`` would refuse to load it."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if value is None or type(value) in (bool, int, float, str, bytes, torch.Size, torch.dtype):
        return value
    if isinstance(value, Counter):
        return Counter({_plain(key, where): _plain(count, f"{where}[{key!r}]") for key, count in value.items()})
    if type(value) in (dict, OrderedDict):
        return type(value)((_plain(key, where), _plain(entry, f"{where}[{key!r}]")) for key, entry in value.items())
    if type(value) in (list, tuple):
        return type(value)(_plain(entry, f"{where}[{index}]") for index, entry in enumerate(value))
    raise CheckpointError(
        f"Checkpoint.save: {where} is {shown(value)}, of type {type(value).__name__}: only tensors, numbers, texts, lists and"
        " dicts can be loaded again without running what a file says. Turn it into one of these."
    )
