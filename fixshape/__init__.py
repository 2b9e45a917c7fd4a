"""fixshape: static-shape training in PyTorch for devices that compile per shape.

The names below are resolved when they are first used, so that ``import fixshape`` costs nothing and ``fixshape.plan`` works
where torch is not installed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fixshape import audit, backend, collate, detection, errors, export, ops, plan, train
    from fixshape.audit import OpRecorder
    from fixshape.backend import get_backend
    from fixshape.collate import BucketBatchSampler, PadToBucket, make_loader
    from fixshape.detection import Detections, to_static
    from fixshape.errors import FixshapeError, FixshapeWarning
    from fixshape.ops import static_indexing
    from fixshape.plan import Bucket, ShapePlan, plan_buckets
    from fixshape.train import CompileGuard, fit, warmup, watch

__version__ = "0.1.0"

_HOME = {
    "Bucket": "plan",
    "BucketBatchSampler": "collate",
    "CompileGuard": "train",
    "Detections": "detection",
    "FixshapeError": "errors",
    "FixshapeWarning": "errors",
    "OpRecorder": "audit",
    "PadToBucket": "collate",
    "ShapePlan": "plan",
    "fit": "train",
    "get_backend": "backend",
    "make_loader": "collate",
    "plan_buckets": "plan",
    "static_indexing": "ops",
    "to_static": "detection",
    "warmup": "train",
    "watch": "train",
}
_PACKAGES = ("audit", "backend", "collate", "detection", "errors", "export", "ops", "plan", "train")

__all__ = [
    "Bucket",
    "BucketBatchSampler",
    "CompileGuard",
    "Detections",
    "FixshapeError",
    "FixshapeWarning",
    "OpRecorder",
    "PadToBucket",
    "ShapePlan",
    "__version__",
    "audit",
    "backend",
    "collate",
    "detection",
    "errors",
    "export",
    "fit",
    "get_backend",
    "make_loader",
    "ops",
    "plan",
    "plan_buckets",
    "static_indexing",
    "to_static",
    "train",
    "warmup",
    "watch",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f"fixshape.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    if name in _PACKAGES:
        return importlib.import_module(f"fixshape.{name}")
    raise AttributeError(f"module 'fixshape' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
