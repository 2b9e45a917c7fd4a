"""Which shapes? Torch-free: sizes in, a :class:`ShapePlan` out, JSON on disk."""

from fixshape.plan._bucket import Bucket
from fixshape.plan._resize import resized_size
from fixshape.plan._shape_plan import ShapePlan, cover_all

__all__ = ["Bucket", "ShapePlan", "cover_all", "resized_size"]
