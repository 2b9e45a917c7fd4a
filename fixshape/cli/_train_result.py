"""What does ``fixshape train`` say at its end: one object for programs, a few lines for people?"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fixshape.backend import Backend
    from fixshape.train import TrainSummary

SCHEMA_VERSION = 1


def as_json(
    arguments: argparse.Namespace, backend: Backend, summary: TrainSummary, measured: Mapping[str, float], ranks: int
) -> dict[str, Any]:
    """The object of ``--json``; of a dry run without what it does not know: losses and times."""

    def fraction(real: int, total: int) -> float | None:
        return 1 - real / total if total else None

    warmup, steady = summary.seconds_per_step()
    operators: list[int | None] = [record.op_compiles for record in summary.steps]
    graphs: list[int | None] = [record.graph_compiles for record in summary.steps]
    if arguments.dry_run:  # there the device's own count is of operators
        operators = [record.native_op_compiles for record in summary.steps]
    return {
        "schema_version": SCHEMA_VERSION,
        "model": arguments.model,
        "backend": backend.name,
        "ranks": ranks,
        "dynamic": arguments.dynamic,
        "steps": len(summary.steps),
        "resumed_at": summary.resumed_at,
        "losses": list(summary.losses) if backend.has_values else None,
        "evaluation": dict(measured) or None,
        "warmup": {"steps": summary.warmup_steps, "compiles": summary.warmup_compiles},
        "op_compiles_per_step": operators,
        "graph_compiles_per_step": None if None in graphs else graphs,
        "compiles_after_step": summary.quiet_after,
        "fallbacks": backend.fallbacks(),
        "seconds_per_step": {"warmup": warmup, "steady": steady} if backend.has_values else None,
        "shapes": summary.shapes,
        "padding": {
            "pixels": fraction(summary.real_pixels, summary.total_pixels),
            "slots": fraction(summary.real_slots, summary.total_slots),
        },
        "boxes_dropped": summary.boxes_dropped,
        "peak_memory_mb": round(summary.peak_memory / 2**20, 1),
        "dry_run": _as_counted(backend, len(summary.steps)) if arguments.dry_run else None,
    }


def _as_counted(backend: Any, steps: int) -> dict[str, Any]:
    return {
        "launches_per_step": [step.launches for step in backend.steps[-steps:]],
        "waits": backend.waits(),
        "slow_forms": backend.slow_forms(),
    }


def as_text(result: dict[str, Any]) -> str:
    """The same as lines."""

    def seconds(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{value:.1%}"

    losses, shapes, dry_run = result["losses"], result["shapes"], result["dry_run"]
    shown = [f"{text} ({steps} steps)" for text, steps in list(shapes.items())[:4]]
    if len(shapes) > 4:
        shown.append(f"and {len(shapes) - 4} more")
    counted = [count for count in result["op_compiles_per_step"] if count is not None]
    quiet_after = result["compiles_after_step"]
    how = "counted over a stand-in for CANN" if dry_run else "predicted"
    kind = ", dynamic" if result["dynamic"] else ", dry run" if dry_run else ""
    ranks = f", {result['ranks']} ranks" if result["ranks"] > 1 else ""
    lines = [("model", f"{result['model']} on {result['backend']}{kind}{ranks}"), ("steps", str(result["steps"]))]
    if result["resumed_at"]:
        lines.append(("resumed at step", str(result["resumed_at"])))
    if losses:
        lines.append(("loss", f"{_mean(losses[:10]):.4g} (first 10 steps) -> {_mean(losses[-10:]):.4g} (last 10)"))
    if result["evaluation"]:
        lines.append(("evaluation", ", ".join(f"{name} {value:.3f}" for name, value in result["evaluation"].items())))
    lines += [
        (f"shapes used: {len(shapes)}", "; ".join(shown)),
        ("padding", f"{percent(result['padding']['pixels'])} of pixels, {percent(result['padding']['slots'])} of box slots"),
        ("boxes dropped", str(result["boxes_dropped"])),
    ]
    if result["warmup"]["steps"]:
        compiles = result["warmup"]["compiles"]
        told = "" if compiles is None else f", {compiles} compiles"
        lines.append(("warm-up", f"{result['warmup']['steps']} steps before the first{told}"))
    if dry_run:
        lines.append(("launches per step", ", ".join(map(str, dry_run["launches_per_step"]))))
    lines.append(
        ("op compiles per step", f"{', '.join(map(str, counted))} ({how})" if counted else "not counted: --count-compiles")
    )
    if result["graph_compiles_per_step"] is not None:
        lines.append(("graph compiles per step", ", ".join(map(str, result["graph_compiles_per_step"]))))
    if result["fallbacks"]:
        lines.append(("ran on the host", _listed(result["fallbacks"])))
    if dry_run and dry_run["waits"]:
        lines.append(("waited for a value", _listed(dry_run["waits"])))
    if dry_run:
        lines += [("slow form", f"{text} ({count} times)") for text, count in dry_run["slow_forms"].items()]
    if counted or result["graph_compiles_per_step"] is not None:
        at_rest = str(quiet_after) if quiet_after is not None else "never: it was still compiling when last counted"
        lines.append(("nothing compiled after step", at_rest))
    if result["seconds_per_step"] is not None:
        warmup, steady = (seconds(result["seconds_per_step"][name]) for name in ("warmup", "steady"))
        lines.append(("seconds per step", f"{warmup} in the warm-up, {steady} after it"))
    lines.append(("peak memory", f"{result['peak_memory_mb']} MB"))
    return "\n".join(f"{name:<28} {value}" for name, value in lines)


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{op} ({count})" for op, count in counts.items())


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
