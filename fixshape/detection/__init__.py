"""torchvision's detection models, static, and what stands before and behind them on the host."""

from fixshape.detection._coco import CocoSamples
from fixshape.detection._coco_ap import coco_ap
from fixshape.detection._detections import Detections, to_list
from fixshape.detection._detector import StaticDetector
from fixshape.detection._drawn import DrawnShapes
from fixshape.detection._host_transform import HostTransform, host_transform
from fixshape.detection._static import SUPPORTED, to_static

__all__ = [
    "SUPPORTED",
    "CocoSamples",
    "Detections",
    "DrawnShapes",
    "HostTransform",
    "StaticDetector",
    "coco_ap",
    "host_transform",
    "to_list",
    "to_static",
]
