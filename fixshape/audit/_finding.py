"""What an audit says: findings in the order of what mending them saves, and what they were found in. Torch-free, plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from fixshape.audit._report import AuditReport, Location, Phase

Status = Literal["running", "finished", "stopped", "exited", "raised", "interrupted", "terminated"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of code that does one thing which a static-shape device cannot do well.

    Args:
        code: of the rule, ``"FS101"``; ``fixshape explain FS101`` says what it is.
        op: the operator overload, ``"aten.nonzero.default"``, or ``""`` where it is no operator (an input that varies).
        phase: ``"forward"``, ``"backward"`` or ``"optimizer"``.
        site: innermost line outside torch.
        caller: innermost line outside torch, torchvision and fixshape.
        module: path of the module that was running, ``"roi_heads.box_head"``; ``""`` where none was.
        count: how often it happened, in all steps together.
        steps: in how many steps it happened.
        compiles: op compiles after the warm-up that follow from it, its own included: what mending it saves.
        shapes: dtype and shape of each tensor that went in, of the first time.
        suggestion: the rewrite that fits the call, one line of Python or a sentence; ``""`` where the rule knows none.
    """

    code: str
    op: str
    phase: Phase
    site: Location | None = None
    caller: Location | None = None
    module: str = ""
    count: int = 1
    steps: int = 1
    compiles: int = 0
    shapes: tuple[str, ...] = ()
    suggestion: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """What a device's own dispatcher counted while the script ran on it without computing.

    Args:
        backend: ``"npu"``.
        launches: of each step, operators; the first holds what moved the model to the device.
        compiles: of each step, launches with a key not seen before.
        fallbacks: operators that the device has no kernel for and that ran on the host, and how often each did.
        waits: operators whose own code waited for a value, and how often each did.
        slow_forms: what the vendor's package warned of, and how often an operator was called so.
    """

    backend: str
    launches: tuple[int, ...] = ()
    compiles: tuple[int, ...] = ()
    fallbacks: Mapping[str, int] = field(default_factory=dict)
    waits: Mapping[str, int] = field(default_factory=dict)
    slow_forms: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """A judged recording.

    Args:
        report: the recording.
        findings: what its rules found, what saves most first.
        unknown: operators that no rule knows and that are not on the list of harmless ones, and how often each ran.
        predicted: for each backend, compiles of each step: ``{"npu": (582, 144, 0), "xla": (1, 1, 0)}``.
        inputs: for each key of the loader's batches, how often each shape came: ``{"images[0]": {"f32[3, 480, 640]": 2}}``.
        status: how the recording ended: ``"finished"`` after its steps or with the script, ``"stopped"`` by the number of
            steps, ``"exited"`` or ``"raised"`` by the script itself, ``"interrupted"`` (SIGINT), ``"terminated"`` (SIGTERM);
            ``"running"`` in what is written after each step, which stays where the process ends without a word.
        exit_code: of the script, where it exited or raised.
        command: what was audited, ``"train.py --lr 0.01"``.
        versions: of python, torch and what else matters.
        dry_run: what the device's own dispatcher counted, where the script ran in a dry run; of several ranks the first's.
    """

    report: AuditReport
    findings: tuple[Finding, ...] = ()
    unknown: Mapping[str, int] = field(default_factory=dict)
    predicted: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    inputs: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    status: Status = "finished"
    exit_code: int | None = None
    command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    dry_run: DryRun | None = None
