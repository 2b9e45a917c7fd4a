"""Every error that fixshape raises.

Each derives from :class:`FixshapeError` and from the builtin that fits, so that ``except ValueError`` around a data loader
goes on working. A message says what was got, what was expected, where, and the way out.
"""

from __future__ import annotations


class FixshapeError(Exception):
    """The root: ``except fixshape.FixshapeError`` catches whatever fixshape raises on purpose."""


class ShapeError(FixshapeError, ValueError):
    """A tensor or an argument has the wrong shape, size or range."""


class DtypeError(FixshapeError, TypeError):
    """A tensor or an argument has the wrong type."""


class BucketError(FixshapeError, ValueError):
    """No bucket of the plan holds a sample: its image is too large or it has too many boxes."""


class TargetError(FixshapeError, ValueError):
    """A target holds values that cannot be trained on: degenerate boxes, labels out of range, unequal lengths."""


class PlanError(FixshapeError, ValueError):
    """A plan, or a plan file, is missing, broken, or newer than this version."""


class DatasetError(FixshapeError, ValueError):
    """An annotation file or an image is missing, broken, or not what its name says."""


class CheckpointError(FixshapeError, ValueError):
    """Saved weights, or a saved state, are missing, broken, or belong to another model or run."""


class ModelError(FixshapeError, TypeError):
    """The model is not one that can be made static, or is not built as torchvision builds it."""


class BackendError(FixshapeError, RuntimeError):
    """The device family that was asked for is not there."""


class AuditError(FixshapeError, ValueError):
    """An audit file is broken, or not what ``fixshape audit`` writes."""


class ExportError(FixshapeError, ValueError):
    """An exported graph is not what was asked for, or a file cannot be rewritten so that it stays the same function."""


class OnnxFileError(FixshapeError, ValueError):
    """An ONNX file is missing, broken, or not one."""


class UsageError(FixshapeError, ValueError):
    """Options of the command line that do not go together."""


class ShapeDriftError(FixshapeError, RuntimeError):
    """Something compiled after the warm-up while the guard was set to ``"error"``."""


class StaticIndexingError(FixshapeError, RuntimeError):
    """Selected rows met something that has no form of fixed shape, or left their block."""


class ExtraError(FixshapeError, ImportError):
    """An optional package is needed and not installed; the message has the command that installs it."""


class NonFiniteLossError(FixshapeError, ArithmeticError):
    """The loss, or a weight, became NaN or infinite."""


class OutOfMemoryError(FixshapeError, RuntimeError):
    """A training step asked for more memory than there is."""


class WorkerError(FixshapeError, RuntimeError):
    """A worker process of a DataLoader died."""


class FixshapeWarning(UserWarning):
    """Every warning that fixshape gives, so that one filter reaches them all."""
