"""Products and layers on rows: matmul, einsum, linear and what treats each row for itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
import torchvision  # noqa: F401  # it registers roi_align
from torch import Tensor

from fixshape.ops._batch_norm import masked_batch_norm
from fixshape.ops._rows import Rows, Selection, axes_of, data_of, filled, settle, valid_of, wrap
from fixshape.ops._rows_count import Count
from fixshape.ops._rows_error import Refusal
from fixshape.ops._rows_registry import NO_HANDLER, functions, handles, name_of
from fixshape.ops._rows_select import at_rest, getitem
from fixshape.ops._rows_shape import listed, ordinary
from fixshape.ops._rows_through import elementwise, joined


def cut(data: Tensor, axes: Sequence[Selection | None]) -> Any:
    """Rows whose padding gives no gradient to what they were made from, weights among it."""
    if data.requires_grad:
        valid = valid_of(axes)
        data = data if valid is None else torch.where(valid, data, data.detach())
    return wrap(data, axes)


def fed(x: Any, *others: Any) -> Tensor:
    """The data of an operand, finite if another one has a gradient, which is a sum over the padding too: of 0 times that."""
    data: Tensor = data_of(x)
    if isinstance(x, Rows) and torch.is_grad_enabled() and any(data_of(y).requires_grad for y in others if y is not None):
        return filled(data, x._axes)
    return data


@handles("einsum")
def einsum(func: Any, equation: str, *operands: Any) -> Any:
    """A letter that stands for rows stands for the same rows everywhere; one that is summed over has no padding."""
    tensors = listed(operands)
    terms, arrow, output = equation.replace(" ", "").partition("->")
    letters = terms.split(",")
    if "." in equation or not arrow or not all(isinstance(t, (Rows, Tensor)) for t in tensors):
        raise Refusal("an equation with an ellipsis, or without an output, is not followed", 'Write all letters: "nd,md->nm".')
    axes: dict[str, Selection | None] = {}
    for term, tensor in zip(letters, tensors, strict=True):
        for letter, axis, length in zip(term, axes_of(tensor), data_of(tensor).shape, strict=True):
            if letter in axes and axes[letter] is not axis and length != 1:
                raise Refusal(f"the letter {letter!r} stands for rows of different selections", "Select all with the same mask.")
            axes[letter] = axis or axes.get(letter)
    inputs = []
    for term, tensor in zip(letters, tensors, strict=True):
        data = fed(tensor, *tensors)
        valid = valid_of(axes_of(tensor), [d for d, letter in enumerate(term) if letter not in output])
        inputs.append(data if valid is None else torch.where(valid, data, 0))
    return cut(torch.einsum(equation, *inputs), [axes[letter] for letter in output])


@handles("matmul", "mm", "bmm", "mv", "dot", "inner", "vdot")
def matmul(func: Any, a: Any, b: Any) -> Any:
    """By the rules of ``torch.matmul``."""
    if name_of(func) == "__rmatmul__":
        a, b = b, a
    if name_of(func) == "inner":
        if data_of(b).dim() > 2:
            raise Refusal("inner() of more than a matrix is not followed", 'Write it as an einsum: "nd,mkd->nmk".')
        b = wrap(data_of(b).mT, (*axes_of(b)[:-2], axes_of(b)[-1], axes_of(b)[-2])) if data_of(b).dim() > 1 else b
    at = -1 if data_of(b).dim() == 1 else -2
    if axes_of(a)[-1] is not axes_of(b)[at]:
        raise Refusal("a product sums over rows of one side that the other side does not have", "Select both with the same mask.")
    left, right = _without(a, data_of(a).dim() - 1, b), _without(b, data_of(b).dim() + at, a)
    leading = [wrap(data_of(t).flatten(-2)[..., 0], axes_of(t)[:-2]) for t in (a, b) if data_of(t).dim() > 2]
    axes: list[Selection | None] = list(joined(leading)) if leading else []
    axes += ([axes_of(a)[-2]] if data_of(a).dim() > 1 else []) + ([axes_of(b)[-1]] if data_of(b).dim() > 1 else [])
    return cut(torch.matmul(left, right), axes)


def _without(x: Any, d: int, other: Any) -> Tensor:
    """The data with 0 in the padding of a dimension that is summed over."""
    data, valid = fed(x, other), valid_of(axes_of(x), [d])
    return data if valid is None else torch.where(valid, data, 0)


@handles("outer", "ger")
def outer(func: Any, a: Any, b: Any) -> Any:
    """All with all."""
    return einsum(func, "i,j->ij", a, b)


@handles("addmm", "baddbmm", "addmv")
def addmm(func: Any, x: Any, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    """A product and a sum."""
    product = matmul(torch.matmul, a, b)
    return elementwise(torch.add, elementwise(torch.mul, x, beta), elementwise(torch.mul, product, alpha))


@handles("linear")
def linear(func: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    """On each row."""
    ordinary(x, -1)
    if isinstance(weight, Rows):
        result = matmul(torch.matmul, x, weight.t())
        return result if bias is None else elementwise(torch.add, result, bias)
    result = F.linear(fed(x, weight), weight, bias)
    return cut(result, x._axes[: result.dim()])  # a vector of weights leaves no last dimension


@handles("cdist")
def cdist(func: Any, a: Any, b: Any, p: float = 2.0, compute_mode: str = "use_mm_for_euclid_dist_if_necessary") -> Any:
    """The distance of each row to each."""
    if data_of(a).dim() != 2 or data_of(b).dim() != 2:
        raise Refusal("cdist() of batches has no static form", "Use (a.unsqueeze(-2) - b.unsqueeze(-3)).norm(dim=-1).")
    return cut(torch.cdist(fed(a, b), fed(b, a), p, compute_mode), [axes_of(a)[0], axes_of(b)[0]])


@handles("one_hot")
def one_hot(func: Any, x: Any, num_classes: Any = -1) -> Any:
    """With a given number of classes; labels out of range, where torch raises, give a row of zeros."""
    if isinstance(num_classes, Count) or num_classes < 0:
        raise Refusal("the number of classes is not given", "Write F.one_hot(labels, num_classes).")
    classes = torch.arange(num_classes, device=x._data.device)
    return wrap((x._data.unsqueeze(-1) == classes).long(), (*x._axes, None))


@handles("embedding")
def embedding(func: Any, x: Any, weight: Any, *args: Any, **kwargs: Any) -> Any:
    """A vector for each index."""
    if isinstance(weight, Rows):
        return getitem(func, weight, x)
    axes = (*axes_of(x), None)
    return wrap(settle(F.embedding(at_rest(x), weight, *args, **kwargs), axes), axes)


@handles("layer_norm", "rms_norm")
def layer_norm(func: Any, x: Any, normalized_shape: Sequence[int], *args: Any, **kwargs: Any) -> Any:
    """Over ordinary dimensions."""
    for d in range(1, len(normalized_shape) + 1):
        ordinary(x, -d)
    weights = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    return cut(func(fed(x, *weights), normalized_shape, *args, **kwargs), x._axes)


@handles("cosine_similarity")
def cosine_similarity(func: Any, x1: Any, x2: Any, dim: int = 1, eps: float = 1e-8) -> Any:
    """Along an ordinary dimension."""
    axes = joined([x1, x2])
    d = dim % len(axes)
    if axes[d] is not None:
        raise Refusal("the similarity is along the dimension of the selected rows", "Multiply the rows and sum them.")
    return cut(torch.cosine_similarity(fed(x1, x2), fed(x2, x1), d, eps), [axis for k, axis in enumerate(axes) if k != d])


@handles("pairwise_distance")
def pairwise_distance(func: Any, x1: Any, x2: Any, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Any:
    """Along the last dimension."""
    axes = joined([x1, x2])
    if axes[-1] is not None:
        raise Refusal("the distance is along the dimension of the selected rows", "Subtract the rows and use norm().")
    return cut(F.pairwise_distance(fed(x1, x2), fed(x2, x1), p, eps, keepdim), [*axes[:-1], None] if keepdim else axes[:-1])


#: What treats each entry of the first dimension for itself, by how many dimensions the input then has; with one fewer the
#: first are channels, which a convolution adds up.
_EACH = {
    "conv1d conv_transpose1d": (3,),
    "conv2d conv_transpose2d unfold": (4,),
    "conv3d conv_transpose3d": (5,),
    "max_pool1d avg_pool1d adaptive_avg_pool1d adaptive_max_pool1d lp_pool1d": (2, 3),
    "max_pool2d avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d lp_pool2d": (3, 4),
    "max_pool3d avg_pool3d adaptive_avg_pool3d adaptive_max_pool3d": (4, 5),
    "pixel_shuffle pixel_unshuffle": (4, 5, 6),
    "interpolate upsample instance_norm": (3, 4, 5),
    "grid_sample": (4, 5),
    "affine_grid": (3,),
    "group_norm bilinear": (2, 3, 4, 5),
    "scaled_dot_product_attention": (3, 4, 5),
}
_OF_SEVERAL = ("bilinear", "grid_sample", "scaled_dot_product_attention")
_DIMS = {function: dims for names, dims in _EACH.items() for name in names.split() for function in functions(name)}
_DIMS |= {torch._C._nn.avg_pool2d: (3, 4), torch._C._nn.avg_pool3d: (4, 5)}


@handles(*_DIMS)
def each(func: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """Its first dimension must be the rows, and the only ones; those of a second input too."""
    axis = axes_of(x)[0]
    beside = [value for value in (*args, *kwargs.values()) if isinstance(value, Rows)]
    alike = all(axes_of(value)[0] is axis and not any(axes_of(value)[1:]) for value in (x, *beside))
    if axis is None or not alike or (beside and name_of(func) not in _OF_SEVERAL):
        raise Refusal("the rows are not the first dimension of the input alone", NO_HANDLER)
    if x._data.dim() not in _DIMS[func]:
        raise Refusal(f"the first of {x._data.dim()} dimensions is not the one of the rows here", NO_HANDLER)
    weights = [value for value in (*args, *kwargs.values()) if isinstance(value, (Rows, Tensor))]

    def plain(value: Any) -> Any:
        if isinstance(value, Rows) and value.dtype == torch.bool:  # a mask of attention: of no rows all, and not none
            return torch.where(axis.any, value._data, True)
        return fed(value, x, *weights) if isinstance(value, Rows) else value

    result = func(fed(x, *weights), *map(plain, args), **{key: plain(value) for key, value in kwargs.items()})
    if not isinstance(result, Tensor):
        raise Refusal("an op with several results is not followed", NO_HANDLER)
    return cut(result, [axis] + [None] * (result.dim() - 1))


@handles("prelu")
def prelu(func: Any, x: Any, weight: Any) -> Any:
    """The slopes are those of dimension 1."""
    if data_of(weight).dim() == 1 and data_of(x).dim() > 1:
        weight = weight.reshape((-1,) + (1,) * (data_of(x).dim() - 2))
    return elementwise(torch.where, elementwise(torch.gt, x, 0), x, elementwise(torch.mul, x, weight))


@handles("pad")
def pad(func: Any, x: Any, pad: Sequence[int], mode: str = "constant", value: Any = None) -> Any:
    """Of ordinary dimensions."""
    for k in range(len(pad) // 2):
        if pad[2 * k] or pad[2 * k + 1]:
            ordinary(x, -1 - k)
    return cut(F.pad(x._data, list(pad), mode, value), x._axes)


@handles("batch_norm")
def batch_norm(func: Any, x: Any, running_mean: Any, running_var: Any, *args: Any, **kwargs: Any) -> Any:
    """Over the real rows; of no rows, where torch raises, the buffers stay what they were."""
    names = ("weight", "bias", "training", "momentum", "eps")
    options: dict[str, Any] = {"weight": None, "bias": None, "training": False, "momentum": 0.1, "eps": 1e-5}
    options |= dict(zip(names[: len(args)], args, strict=True)) | kwargs
    axis = x._axes[0]
    if axis is None or any(x._axes[1:]):
        raise Refusal("the rows are not the first dimension of the input alone", NO_HANDLER)
    result = masked_batch_norm(x._data, running_mean, running_var, valid_mask=axis.valid, **options)
    return wrap(settle(result, x._axes), x._axes)


@handles(torch.ops.torchvision.roi_align, torch.ops.torchvision.roi_align.default)
def roi_align(func: Any, input: Any, rois: Any, *args: Any) -> Any:
    """Boxes of rows on plain features; that of no row is of the first image."""
    if isinstance(input, Rows) or not isinstance(rois, Rows) or rois._axes[1] is not None:
        raise Refusal("the features, or the numbers of a box, are selected rows", "Select boxes alone.")
    return cut(func(input, filled(rois._data, rois._axes), *args), [rois._axes[0], None, None, None])
