"""The loop: watch it, guard it, warm it up, or have it run for you."""

from fixshape.train._checkpoint import Checkpoint, Loaded
from fixshape.train._distributed import joined, replicate
from fixshape.train._fit import fit
from fixshape.train._guard import CompileGuard
from fixshape.train._records import StepRecord, TrainSummary
from fixshape.train._warmup import warmup
from fixshape.train._watch import Watch, watch

__all__ = [
    "Checkpoint",
    "CompileGuard",
    "Loaded",
    "StepRecord",
    "TrainSummary",
    "Watch",
    "fit",
    "joined",
    "replicate",
    "warmup",
    "watch",
]
