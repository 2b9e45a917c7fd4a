"""Which clean-up does an exported graph get?

That of torch's exporter without one rule (onnxscript 0.7.2, ``optimizer/_optimizer.py``): ``SlicesSplit`` tries each ``Slice`` of
the graph with each other one, for a pair that halves an axis. A suppression of overlaps has hundreds, and it takes minutes.
"""

from __future__ import annotations

import re
from typing import Any

from fixshape.errors import ExportError
from fixshape.export._export_line import causes, innermost, said
from fixshape.export._onnx_run import need

_NODE = re.compile(r"node '([^']+)'")  # as onnxscript's errors name one
_ROUNDS = 2  # constants that the rules bring about are folded too
# Of onnxscript.rewriter.rules.common: the default ones that there can be work for in a graph that torch wrote.
_RULES = (
    "mul_by_1_rule", "add_0_rule", "sub_0_rule", "div_by_1_rule", "dropout_zero_rule", "dropout_inference_rule",
    "one_reshape_matmul_reshape_rule", "two_reshapes_matmul_reshape_rule", "materialize_reshape_shape_rule",
    "cast_constant_of_shape_rule", "cast_constant_of_shape_without_value_rule", "collapse_slice_rule", "collapse_slice2_rule",
    "min_min_rule", "max_max_rule", "min_max_rule", "max_min_rule",
    "successive_clip_relu_rule", "successive_relu_clip_rule", "successive_relu_rule", "successive_clip_rule",
    "cast_cast_rule", "no_op_cast_rule", "no_op_expand_rule", "flatten_to_reshape_rule", "reshape_reshape_rule",
    "no_op_transpose_rule", "transpose_transpose_rule", "unsqueeze_unsqueeze_rule", "squeeze_reshape_1d_rule",
    "no_op_dynamic_scatter_nd_rule", "no_op_static_scatter_nd_rule", "normalize_pad_format_conv_rule", "fuse_pad_into_conv_rule",
    "fuse_batchnorm_into_conv_rule", "fuse_batchnorm_into_conv_transpose_rule", "fuse_batchnorm_into_gemm_rule",
    "remove_optional_bias_from_conv_rule", "remove_optional_bias_from_conv_transpose_rule", "remove_optional_bias_from_gemm_rule",
)  # fmt: skip


def clean_up(model: Any) -> None:
    """Folds constants, simplifies, and removes what is unused or there twice, in place.

    Args:
        model: an ``onnx_ir.Model``, as ``torch.onnx.export(optimize=False)`` gives it in ``ONNXProgram.model``. Names of inputs
            and outputs stay.

    Raises:
        ExportError: onnxscript fails at an operator; it is named, with the line of the model that it is from.
        ExtraError: onnxscript is not installed.
    """
    optimizer, rewriter = need("onnxscript.optimizer"), need("onnxscript.rewriter")
    common, passes = need("onnxscript.rewriter.rules.common"), need("onnx_ir.passes.common")
    try:
        optimizer.inline(model)
        for _ in range(_ROUNDS):
            optimizer.fold_constants(model, onnx_shape_inference=True)
            rewriter.rewrite(
                model, [getattr(common, name) for name in _RULES if hasattr(common, name)]
            )  # another release may lack one
        for last in (
            passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
            passes.LiftSubgraphInitializersToMainGraphPass(),
            passes.DeduplicateInitializersPass(),
            passes.CommonSubexpressionEliminationPass(),
            passes.OutputFixPass(),
            passes.NameFixPass(),
        ):
            last(model)
    except Exception as error:
        raise ExportError(f"export_onnx: the graph cannot be simplified: {_failed(model, error)}.") from error


def _failed(model: Any, error: Exception) -> str:
    """What was said; of a node that is named in it, its operator in torch, the line of the model, and the way out."""
    told = said(causes(error)[0])
    named = next((name for cause in causes(error) if (name := _NODE.search(str(cause)))), None)
    node = next((node for node in model.graph.all_nodes() if named and node.name == named[1]), None)
    if node is None:
        return told
    operator = node.metadata_props.get("namespace", "").rpartition(": ")[2]
    line = innermost(node.metadata_props.get("pkg.torch.onnx.stack_trace", ""))
    return (
        f"{node.op_type} {node.name!r} ({', '.join(filter(None, (operator, line))) or 'of no line'}): {told}. onnxscript has no"
        " rule for this operator as it is used there, most often since an axis that it takes apart is dynamic: write that line in"
        " another way, or give the axis one size (a single batch size, or a single canvas)"
    )
