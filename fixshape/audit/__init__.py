"""What is dynamic, where, and what does it cost? Record what a step does (judging and rendering build on the report)."""

from fixshape.audit._recorder import OpRecorder
from fixshape.audit._report import AuditReport, Location, OpEvent, Origin, PhaseCounts, StepCounts

__all__ = ["AuditReport", "Location", "OpEvent", "OpRecorder", "Origin", "PhaseCounts", "StepCounts"]
