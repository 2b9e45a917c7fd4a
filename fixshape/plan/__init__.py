"""Which shapes? Torch-free: sizes in, a :class:`ShapePlan` out, JSON on disk."""

from fixshape.plan._bucket import Bucket
from fixshape.plan._certificate import Certificate
from fixshape.plan._lengths import plan_lengths
from fixshape.plan._plan_buckets import plan_buckets
from fixshape.plan._plot import plot
from fixshape.plan._price import frontier, plan_by_cost
from fixshape.plan._report import BucketReport, PlanReport, as_json, as_text, describe
from fixshape.plan._resize import resize_sizes, resized_size
from fixshape.plan._shape_plan import ShapePlan, cover_all

__all__ = [
    "Bucket",
    "BucketReport",
    "Certificate",
    "PlanReport",
    "ShapePlan",
    "as_json",
    "as_text",
    "cover_all",
    "describe",
    "frontier",
    "plan_buckets",
    "plan_by_cost",
    "plan_lengths",
    "plot",
    "resize_sizes",
    "resized_size",
]
