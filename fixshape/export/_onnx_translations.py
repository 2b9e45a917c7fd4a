"""Which ONNX operators stand for the torch operators that torch's exporter does not know, or translates inexactly?

What the exporter does of itself is in onnxscript (0.7.2), ``function_libs/torch_lib/ops/core.py``. What the operators of ONNX
mean is in onnx's ``docs/Operators.md``.

Shapes: ``L...`` and ``R...`` any dimensions before and after the one that is sorted, of ``n`` elements.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from fixshape.export._onnx_run import need

# The numbers of the dtypes in onnx.proto, TensorProto.DataType.
_FLOAT, _UINT8, _INT8, _UINT16, _INT16, _INT32, _BOOL, _FLOAT16, _BFLOAT16 = 1, 2, 3, 4, 5, 6, 9, 10, 16
# What onnxruntime's TopK does not take on a CPU is sorted as something that is in the same order.
_SORTED_AS = {dtype: _INT32 for dtype in (_UINT8, _INT8, _UINT16, _INT16, _BOOL)} | {_FLOAT16: _FLOAT, _BFLOAT16: _FLOAT}


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """The ``custom_translation_table`` of ``torch.onnx.export`` that the static models need, for opset 18.

    * ``aten.sort.stable``, which the exporter does not know: a ``TopK`` of all elements. Of equal elements the first comes
      first, in either direction, as ONNX defines it. Floats that are NaN are the largest, above infinity, as in torch.
    * ``aten.div.Tensor_mode``, which is ``x.div(y, rounding_mode=...)``, of whole numbers stays in whole numbers. The exporter's
      goes through float32, and gives other numbers beyond 2^24 in silence.
    * ``aten.__rshift__.Scalar`` in two operators, where the exporter's takes ten and unsigned integers on the way.
    * ``aten._adaptive_avg_pool2d`` and ``3d``, as a matrix for each axis, made of its size. The exporter writes torch's own
      decomposition (torch/_decomp/decompositions.py), which branches on whether the example's size is a multiple of the
      output's, and for other sizes computes another mean, in silence.

    It does not promise that onnxruntime has a kernel for each dtype that torch has.

    Returns:
        For each overload of a torch operator the function that emits its ONNX form.

    Raises:
        ExtraError: onnxscript is not installed.

    Example:
        >>> torch.ops.aten.sort.stable in translations()
        True
    """
    need("onnxscript")
    return {
        torch.ops.aten.sort.stable: _sort,
        torch.ops.aten.div.Tensor_mode: _divide,
        torch.ops.aten.__rshift__.Scalar: _shift_right,
        torch.ops.aten._adaptive_avg_pool2d.default: _adaptive_mean,
        torch.ops.aten._adaptive_avg_pool3d.default: _adaptive_mean,
    }


def _sort(self: Any, *, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
    """Values and indices [L..., n, R...] of sort.stable(Tensor self, *, bool? stable, int dim, bool descending)."""
    op = need("onnxscript").opset18
    if not self.shape:
        return op.Identity(self), op.Constant(value_int=0)
    axis, dtype = dim % len(self.shape), int(self.dtype)
    length = self.shape[axis]
    # A number where it is one: a TopK whose count another operator computes is of no fixed shape to a compiler.
    count = op.Constant(value_ints=[length]) if isinstance(length, int) else op.Shape(self, start=axis, end=axis + 1)

    def places_of(keys: Any) -> Any:
        return op.TopK(keys, count, axis=axis, largest=int(descending), sorted=1)[1]

    keys = op.Cast(self, to=_SORTED_AS[dtype]) if dtype in _SORTED_AS else self
    if not self.dtype.is_floating_point():
        places = places_of(keys)
    else:
        # TopK says nothing of NaN: those are sorted as infinity, and behind it, which is one more sort that moves nothing else.
        is_nan = op.IsNaN(keys)
        infinity = op.CastLike(op.Constant(value_float=float("inf")), keys)
        places = places_of(op.Where(is_nan, infinity, keys))
        places = op.GatherElements(places, places_of(op.GatherElements(op.Cast(is_nan, to=_INT32), places, axis=axis)), axis=axis)
    return op.GatherElements(self, places, axis=axis), places


def _divide(self: Any, other: Any, rounding_mode: str | None = None) -> Any:
    """div.Tensor_mode(Tensor self, Tensor other, *, str? rounding_mode); ``other`` may be a Python number."""
    op, ir = need("onnxscript").opset18, need("onnxscript.ir")
    whole = self.dtype.is_integer() and (isinstance(other, int) or (hasattr(other, "dtype") and other.dtype == self.dtype))
    if not whole or rounding_mode is None:
        core = need("onnxscript.function_libs.torch_lib.ops.core")
        return core.aten_div_mode(self, other, rounding_mode=rounding_mode)
    if isinstance(other, int):
        other = op.Constant(value=ir.tensor(other, dtype=self.dtype))
    quotient = op.Div(self, other)  # towards zero
    if rounding_mode == "trunc":
        return quotient
    # Mod's rest has the sign of the divisor: where it is not what the quotient leaves, rounding down goes one further. The other
    # rest is not Mod's with fmod=1, which onnxruntime computes in doubles.
    same = op.Equal(op.Sub(self, op.Mul(quotient, other)), op.Mod(self, other))
    return op.Sub(quotient, op.Cast(op.Not(same), to=int(self.dtype)))


def _shift_right(self: Any, other: int) -> Any:
    """__rshift__.Scalar(Tensor self, Scalar other) of whole numbers: it rounds down, as a shift does."""
    op, ir = need("onnxscript").opset18, need("onnxscript.ir")

    def constant(number: int) -> Any:
        return op.Constant(value=ir.tensor(number, dtype=self.dtype))

    if not self.dtype.is_signed():
        return op.Div(self, constant(1 << other)) if other < self.dtype.bitwidth else op.Mul(self, constant(0))
    if other >= self.dtype.bitwidth - 1:  # nothing is left but the sign
        return op.Where(op.Less(self, constant(0)), constant(-1), constant(0))
    # Without the bits that fall out the division has no rest, and there is nothing that it could round towards zero.
    return op.Div(op.BitwiseAnd(self, constant(-(1 << other))), constant(1 << other))


def _adaptive_mean(self: Any, output_size: Sequence[Any]) -> Any:
    """_adaptive_avg_pool2d(Tensor self, SymInt[2] output_size), and 3d: of an axis of n, cell i of ``size`` is the mean of
    floor(i * n / size) up to, and without, ceil((i + 1) * n / size).
    """
    op, ir = need("onnxscript").opset18, need("onnxscript.ir")
    rank, dtype = len(self.shape), int(self.dtype)
    axes = range(rank - len(output_size), rank)
    if all(isinstance(size, int) and size == 1 for size in output_size):
        return op.ReduceMean(self, op.Constant(value_ints=list(axes)), keepdims=1)
    sizes = [(self.shape[axis], size) for axis, size in zip(axes, output_size, strict=True)]
    if all(isinstance(length, int) and isinstance(size, int) and length % size == 0 for length, size in sizes):
        steps = [length // size for length, size in sizes]
        return op.AveragePool(self, kernel_shape=steps, strides=steps)
    zero, one = op.Constant(value_int=0), op.Constant(value_int=1)
    pooled = self
    for axis, (_, size) in zip(axes, sizes, strict=True):
        length = op.Squeeze(op.Shape(self, start=axis, end=axis + 1))
        count = op.Constant(value=ir.tensor(size, dtype=ir.DataType.INT64)) if isinstance(size, int) else size
        cells = op.Unsqueeze(op.Range(zero, count, one), op.Constant(value_ints=[0]))  # [1, size]
        places = op.Unsqueeze(op.Range(zero, length, one), op.Constant(value_ints=[1]))  # [n, 1]
        first = op.Div(op.Mul(cells, length), count)
        behind = op.Div(op.Add(op.Mul(op.Add(cells, one), length), op.Sub(count, one)), count)
        inside = op.And(op.GreaterOrEqual(places, first), op.Less(places, behind))
        weights = op.Div(op.Cast(inside, to=dtype), op.Cast(op.Sub(behind, first), to=dtype))  # [n, size]
        # The axis goes to the end and, as cells, back to its place.
        to_end = [*(other for other in range(rank) if other != axis), axis]
        back = [*range(axis), rank - 1, *range(axis, rank - 1)]
        last = axis == rank - 1
        pooled = op.MatMul(pooled if last else op.Transpose(pooled, perm=to_end), weights)
        pooled = pooled if last else op.Transpose(pooled, perm=back)
    return pooled
