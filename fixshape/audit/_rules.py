"""Which rule speaks of an operator? Those that are ruled, those that are ignored on purpose, and all others, which are unknown.

A rule is a code, the kind of event, the operators it speaks of, and sometimes a condition on the event. Codes are stable: one
that is given away is never given to something else. What a code means stands in ``_catalogue``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from fixshape.audit._report import Kind, Origin
from fixshape.audit._source import Line, read_line

Standing = Literal["ruled", "ignored", "unknown"]


@dataclass(frozen=True, slots=True)
class Rule:
    """A code for some operators.

    Args:
        code: ``"FS101"``; ``""`` for a rule that ignores on purpose.
        kind: of the event.
        operators: overloads it speaks of.
        when: further condition; None where the operator says it all.
        reason: why it is ignored, for a rule that does.
    """

    code: str
    kind: Kind
    operators: frozenset[str]
    when: Callable[[Origin], bool] | None = None
    reason: str = ""


def code_of(origin: Origin) -> str | None:
    """The code for what is no compile: ``""`` where it is ignored on purpose, None where no rule knows it."""
    for rule in RULES:
        if rule.kind == origin.kind and origin.op in rule.operators and (rule.when is None or rule.when(origin)):
            return rule.code
    return None


def device_code(op: str, shapes: Sequence[str]) -> str | None:
    """The FS4xx code for the launch of an op with such inputs, or None."""
    if op in NO_NPU_KERNEL and op not in _RULED:  # what has a rule of its own is told once
        return "FS402"
    text = " ".join(shapes)
    if _COMPLEX.search(text):
        return "FS403"
    return "FS401" if _DOUBLE.search(text) else None


def standing(op: str) -> Standing:
    """Which of the three lists an operator is on.

    What torch itself tags as dynamic or data-dependent is never taken for harmless: without a rule it is unknown. So is whatever
    belongs to a library that is not on the list.
    """
    if op in _RULED:
        return "ruled"
    if op in IGNORED:
        return "ignored"
    namespace, has_dot, _ = op.partition(".")
    if not has_dot:
        return "ignored" if hasattr(torch.ops.higher_order, op) else "unknown"
    return "ignored" if namespace in HARMLESS_NAMESPACES and not _is_tagged(op) else "unknown"


def _is_tagged(op: str) -> bool:
    namespace, _, rest = op.partition(".")
    name, _, overload = rest.partition(".")
    try:
        tags = getattr(getattr(getattr(torch.ops, namespace), name), overload or "default").tags
    except (AttributeError, RuntimeError):
        return False  # of another version of torch
    return torch.Tag.dynamic_output_shape in tags or torch.Tag.data_dependent_output in tags


def _one_hot_calls(line: Line | None) -> list[ast.Call]:
    calls = [node for node in (line.nodes if line else ()) if isinstance(node, ast.Call)]
    return [call for call in calls if called(call) == "one_hot"]


def _has_classes(call: ast.Call) -> bool:
    given = call.args[1:] + [keyword.value for keyword in call.keywords if keyword.arg == "num_classes"]
    return bool(given) and not (isinstance(given[0], ast.UnaryOp) and ast.unparse(given[0]) == "-1")


def called(call: ast.Call) -> str:
    """The last name of what is called: ``"nonzero"`` of ``torch.nonzero(x)`` and of ``x.nonzero()``."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else call.func.id if isinstance(call.func, ast.Name) else ""


def _counts_classes(origin: Origin) -> bool:
    return any(not _has_classes(call) for call in _one_hot_calls(read_line(origin.site)))


def _checks_classes(origin: Origin) -> bool:
    line = read_line(origin.site)
    reads = {"item", "int", "float", "bool", "tolist"}
    others = any(isinstance(node, ast.Call) and called(node) in reads for node in (line.nodes if line else ()))
    return bool(_one_hot_calls(line)) and not others


def _is_step_of_optimizer(origin: Origin) -> bool:
    line = read_line(origin.site)
    calls = [node for node in (line.nodes if line else ()) if isinstance(node, ast.Call)]
    # timm's optimisers read theirs in a function that has the name of torch's.
    reads = origin.site is not None and origin.site.function == "_get_value"
    return origin.phase == "optimizer" and (reads or any(called(call) == "step" for call in calls))


def _of(*names: str) -> frozenset[str]:
    return frozenset(names)


_SCALAR_READS = _of("aten._local_scalar_dense.default", "aten.item.default")
_DOUBLE = re.compile(r"f64\[[^\]]")  # one of no dimension is a Python number that torch wrapped
_COMPLEX = re.compile(r"\bc(64|128)\[")

RULES: tuple[Rule, ...] = (
    Rule("FS101", "dynamic", _of("aten.nonzero.default", "aten.nonzero.out", "aten.argwhere.default")),
    Rule("FS102", "dynamic", _of("aten.index.Tensor", "aten.index.Tensor_out")),
    Rule(
        "FS103",
        "dynamic",
        _of("aten.index_put.default", "aten.index_put_.default", "aten.index_put.out", "aten._index_put_impl_.default"),
    ),
    Rule("FS104", "dynamic", _of("aten.masked_select.default", "aten.masked_select.out")),
    Rule(
        "FS105",
        "dynamic",
        _of(
            "aten._unique.default",
            "aten._unique2.default",
            "aten.unique_dim.default",
            "aten.unique_consecutive.default",
            "aten.unique_dim_consecutive.default",
        ),
    ),
    Rule("FS106", "dynamic", _of("aten.repeat_interleave.Tensor")),
    Rule("FS107", "dynamic", _of("aten.bincount.default")),
    Rule("FS108", "dynamic", _of("aten.one_hot.default")),
    Rule("FS108", "sync", _SCALAR_READS, _counts_classes),
    Rule("FS110", "dynamic", _of("torchvision.nms.default", "torchvision.qnms.default")),
    Rule("FS111", "dynamic", _of("aten.masked_scatter_backward.default")),
    Rule("FS112", "dynamic", _of("aten._coalesce.default", "aten._to_sparse.default", "aten._to_sparse.sparse_dim")),
    Rule("FS113", "dynamic", _of("aten._pack_padded_sequence.default")),
    Rule("FS114", "dynamic", _of("aten._ctc_loss.Tensor")),
    Rule("FS115", "dynamic", _of("aten.linalg_lstsq.default", "aten.linalg_lstsq.out")),
    Rule("", "sync", _SCALAR_READS, _checks_classes, "one_hot with a number of classes compares with it on a CPU only"),
    Rule("", "sync", _SCALAR_READS, _is_step_of_optimizer, "optimisers keep their step counters on the host"),
    Rule("FS201", "sync", _SCALAR_READS | _of("Tensor.tolist")),
    Rule("FS202", "sync", _of("aten._to_copy.default", "aten.copy_.default", "Tensor.cpu", "Tensor.numpy")),
    Rule("FS302", "input", _of("")),
    Rule("FS204", "sync", _of("aten.equal.default", "aten.allclose.default")),
)

DRAWS = _of("aten.randperm.default", "aten.randperm.generator")  # FS109: the length is an argument, which has to be seen to vary

IGNORED = {
    "aten._ctc_loss.default": "tagged as dynamic, but its lengths are Python ints",
    "aten.nonzero_static.default": "its number of rows is an argument",
    "npu._npu_dtype_cast.default": "a cast, as torch-npu writes it",
    "npu._npu_dtype_cast_backward.default": "a cast, as torch-npu writes it",
    "npu.npu_dtype_cast.default": "a cast, as torch-npu writes it",
    "npu.npu_dtype_cast_backward.default": "a cast, as torch-npu writes it",
    "aten._assert_async.default": "it reads a value and gives no tensor",
    "aten._assert_async.msg": "it reads a value and gives no tensor",
}

HARMLESS_NAMESPACES = {
    "aten": "torch tags what depends on values; what it forgets has a rule above",
    "prims": "the parts that torch takes aten apart into; each computes its shape",
    "torchvision": "all but nms give one row for each box or region that goes in",
    "fixshape": "static by construction, and tested to be",
    "c10d": "collectives: the caller gives the tensors to fill",
    "_c10d_functional": "collectives: sizes are arguments",
    "_c10d_functional_autograd": "collectives: sizes are arguments",
    "inductor": "compiled for the shapes it was traced with",
    "mkldnn": "the CPU's forms of convolution and linear layers",
    "mkl": "the CPU's forms of convolution and linear layers",
    "quantized": "shapes as those of the forms without quantisation",
    "quantization": "shapes as those of the forms without quantisation",
    "profiler": "marks for a profiler; no tensor",
}

# Asked of the dispatcher of torch 2.9 with torch-npu 2.9: these have no kernel for the NPU there, and torch-npu runs them on the
# host, with a copy there and one back.
NO_NPU_KERNEL = _of(
    *("aten._embedding_bag_dense_backward.default", "aten._logcumsumexp.default", "aten._weight_norm_interface.default"),
    *("aten._pdist_backward.default", "aten._sample_dirichlet.default", "aten._standard_gamma.default", "aten._int_mm.default"),
    *("aten.binomial.default", "aten.cauchy_.default", "aten.geometric_.default", "aten.log_normal_.default"),
    *("aten.poisson.default", "aten.cholesky.default", "aten.cholesky_inverse.default", "aten.geqrf.default"),
    *("aten.linalg_eig.default", "aten.linalg_householder_product.default", "aten.linalg_matrix_exp.default"),
    *("aten.ormqr.default", "aten.histogram.bin_ct", "aten.histogram.bins_tensor", "aten.huber_loss.default"),
    *("aten.mode.default", "aten.multi_margin_loss.default", "aten.nonzero_static.default", "aten.segment_reduce.default"),
    *("torchvision.deform_conv2d.default", "torchvision._deform_conv2d_backward.default"),
    *("torchvision.ps_roi_align.default", "torchvision._ps_roi_align_backward.default"),
    *("torchvision.ps_roi_pool.default", "torchvision._ps_roi_pool_backward.default"),
    *("torchvision.roi_align.default", "torchvision._roi_align_backward.default"),
    *("torchvision.roi_pool.default", "torchvision._roi_pool_backward.default"),
)

_RULED = frozenset(op for rule in RULES for op in rule.operators)
