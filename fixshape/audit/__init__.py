"""What is dynamic, where, and what does it cost? Record what a step does (judging and rendering build on the report)."""

from fixshape.audit._finding import Audit, Finding
from fixshape.audit._inputs import inputs
from fixshape.audit._merge import merge
from fixshape.audit._predict import predict
from fixshape.audit._recorder import OpRecorder
from fixshape.audit._report import AuditReport, Location, OpEvent, Origin, PhaseCounts, StepCounts
from fixshape.audit._run import run
from fixshape.audit._stopping import step

__all__ = [
    "Audit",
    "AuditReport",
    "Finding",
    "Location",
    "OpEvent",
    "OpRecorder",
    "Origin",
    "PhaseCounts",
    "StepCounts",
    "inputs",
    "merge",
    "predict",
    "run",
    "step",
]
