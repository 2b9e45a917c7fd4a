"""The table of ops that the tests of this folder run over.

``masked`` ops have a dynamic form, ``op(x[valid_mask])``, that they must agree with. ``static`` ones are all public ops: whatever
the tensors hold, they must be the same program.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest
import torch
import torch.nn.functional as F
import torchvision.ops as tv
from torch import Tensor

from fixshape import ops

# A busy machine is no reason to fail.
hypothesis.settings.register_profile("no_deadline", deadline=None)
hypothesis.settings.load_profile("no_deadline")

GARBAGE = (float("nan"), float("inf"), -float("inf"), 1e30)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors: more threads only disturb the other tests of the machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def boxes(shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype = torch.float64) -> Tensor:
    """Boxes of a canvas of 100 x 100 that overlap a good deal."""
    corner = torch.rand(*shape, 2, generator=generator, dtype=dtype) * 60
    return torch.cat([corner, corner + 5 + torch.rand(*shape, 2, generator=generator, dtype=dtype) * 35], dim=-1)


@dataclasses.dataclass(frozen=True)
class Masked:
    """A masked op beside its dynamic form."""

    name: str
    op: Callable[..., Tensor]
    dynamic: Callable[..., Tensor]
    make: Callable[[torch.Generator], tuple[Tensor, ...]]
    options: dict[str, Any]
    shape: tuple[int, ...] = (5, 4)
    class_dim: int | None = None  # of the first argument, where it stands between the dimensions of valid_mask

    @property
    def reduction(self) -> str:
        return str(self.options.get("reduction", "mean"))

    def arguments(self, seed: int) -> tuple[Tensor, ...]:
        return self.make(torch.Generator().manual_seed(seed))

    def valid(self, seed: int) -> Tensor:
        return torch.rand(self.shape, generator=torch.Generator().manual_seed(1000 + seed)) < 0.6

    def __call__(self, *arguments: Tensor, valid_mask: Tensor) -> Tensor:
        options = {k: v.to(valid_mask.device) if isinstance(v, Tensor) else v for k, v in self.options.items()}
        return self.op(*arguments, **options, valid_mask=valid_mask)

    def reference(self, *arguments: Tensor, valid_mask: Tensor) -> Tensor:
        """The dynamic form on the real rows; 0 in the padding for "none", 0 for a mean over nothing."""
        rows = [self.rows(k, argument)[valid_mask] for k, argument in enumerate(arguments)]
        result = self.dynamic(*rows, **self.options)
        if self.reduction == "none":
            full = torch.zeros(self.shape + result.shape[1:], dtype=result.dtype)
            return full.index_put((valid_mask,), result)
        return result if valid_mask.any() else 0 * sum(row.sum() for row in rows if row.is_floating_point())

    def rows(self, index: int, argument: Tensor) -> Tensor:
        """The argument with its rows in the dimensions of ``valid_mask``."""
        return argument.movedim(self.class_dim, -1) if index == 0 and self.class_dim is not None else argument

    def poison(self, arguments: tuple[Tensor, ...], valid_mask: Tensor) -> tuple[Tensor, ...]:
        """The arguments with garbage in the padding: NaN, both infinities and a large number in turn, or senseless integers."""
        poisoned = []
        for k, argument in enumerate(arguments):
            argument = argument.detach().clone()
            rows = self.rows(k, argument)
            garbage = torch.tensor(GARBAGE if argument.is_floating_point() else (-7, 10**9, -100, 255), dtype=argument.dtype)
            padding = (~valid_mask).reshape(valid_mask.shape + (1,) * (rows.dim() - valid_mask.dim())).expand_as(rows)
            rows[padding] = garbage.repeat(rows.numel())[: int(padding.sum())]
            poisoned.append(argument)
        return tuple(poisoned)

    def value_and_gradients(self, function: Callable[..., Tensor], arguments: tuple[Tensor, ...], valid_mask: Tensor) -> Any:
        leaves = tuple(a.detach().clone().requires_grad_(a.is_floating_point()) for a in arguments)
        result = function(*leaves, valid_mask=valid_mask)
        # A different factor for each entry, or a gradient in the wrong row would go unseen.
        (result * torch.arange(1, result.numel() + 1, dtype=result.dtype).reshape(result.shape)).sum().backward()
        return result.detach(), [leaf.grad for leaf in leaves if leaf.requires_grad]

    def check_against_dynamic(self, seed: int, valid_mask: Tensor) -> None:
        """Asserts that values and gradients are those of the dynamic form to 1e-9."""
        arguments = self.arguments(seed)
        got, got_gradients = self.value_and_gradients(self, arguments, valid_mask)
        want, want_gradients = self.value_and_gradients(self.reference, arguments, valid_mask)
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(got_gradients, want_gradients, rtol=1e-9, atol=1e-12)


def _numbers(generator: torch.Generator) -> tuple[Tensor]:
    return (torch.randn(5, 4, 3, generator=generator, dtype=torch.float64),)


def _pairs(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return _numbers(generator) + _numbers(generator)


def _logits(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return *_numbers(generator), torch.rand(5, 4, 3, generator=generator, dtype=torch.float64)


def _box_pairs(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return boxes((5, 4), generator), boxes((5, 4), generator)


def _classes(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randn(5, 6, 4, generator=generator, dtype=torch.float64), torch.randint(0, 6, (5, 4), generator=generator)


def _classes_and_ignored(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    logits, labels = _classes(generator)
    return logits, torch.where(labels == 5, -100, labels)


_WEIGHT = torch.tensor([0.5, 2.0, 1.0, 0.1, 3.0, 0.7], dtype=torch.float64)
_LOSSES: list[tuple[Callable[..., Tensor], Callable[..., Tensor], Any, dict[str, Any]]] = [
    (ops.masked_l1_loss, F.l1_loss, _pairs, {}),
    (ops.masked_mse_loss, F.mse_loss, _pairs, {}),
    (ops.masked_smooth_l1_loss, F.smooth_l1_loss, _pairs, {"beta": 0.7}),
    (ops.masked_binary_cross_entropy_with_logits, F.binary_cross_entropy_with_logits, _logits, {}),
    (
        ops.masked_binary_cross_entropy_with_logits,
        F.binary_cross_entropy_with_logits,
        _logits,
        {"weight": _WEIGHT[:3], "pos_weight": _WEIGHT[3:]},
    ),
    (ops.masked_sigmoid_focal_loss, tv.sigmoid_focal_loss, _logits, {"alpha": 0.3, "gamma": 1.5}),
    (ops.masked_sigmoid_focal_loss, tv.sigmoid_focal_loss, _logits, {"alpha": -1}),
    (ops.masked_generalized_box_iou_loss, tv.generalized_box_iou_loss, _box_pairs, {}),
    (ops.masked_distance_box_iou_loss, tv.distance_box_iou_loss, _box_pairs, {"eps": 1e-3}),
    (ops.masked_complete_box_iou_loss, tv.complete_box_iou_loss, _box_pairs, {"eps": 1e-3}),
    (ops.masked_cross_entropy, F.cross_entropy, _classes_and_ignored, {}),
    (ops.masked_cross_entropy, F.cross_entropy, _classes, {"weight": _WEIGHT, "label_smoothing": 0.1, "ignore_index": 2}),
]
MASKED = [
    Masked("masked_sum", ops.masked_sum, torch.sum, _numbers, {}),
    Masked("masked_mean", ops.masked_mean, torch.mean, _numbers, {}),
]
for _op, _dynamic, _make, _options in _LOSSES:
    for _reduction in ("none", "mean", "sum"):
        _name = "-".join([_op.__name__, *_options, _reduction])
        _class_dim = 1 if _op is ops.masked_cross_entropy else None
        MASKED.append(Masked(_name, _op, _dynamic, _make, {**_options, "reduction": _reduction}, class_dim=_class_dim))


@dataclasses.dataclass(frozen=True)
class Static:
    """Any public op, with arguments whose shapes do not depend on the seed but whose content does."""

    name: str
    op: Callable[..., Any]
    make: Callable[[int], tuple[Tensor, ...]]
    on_host_of_xla: frozenset[str] = frozenset()  # what torch_xla has no lowering for, as the op's docstring says


def _static_of(case: Masked) -> Static:
    def op(*arguments: Tensor) -> Tensor:
        return case(*arguments[:-1], valid_mask=arguments[-1])

    return Static(case.name, op, lambda seed: (*case.arguments(seed), case.valid(seed)))


def _padded_boxes(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return boxes((2, 19), generator), torch.rand(2, 19, generator=generator), torch.rand(2, 19, generator=generator) < 0.8


def _overlaps(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, 5, 40, generator=generator), torch.rand(2, 5, generator=generator) < 0.6


def _pyramid(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    fine, coarse = (torch.randn(2, 3, side, side, generator=generator) for side in (16, 8))
    box, _, keep = _padded_boxes(seed)
    return fine, coarse, box.float(), keep


def _masks(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    box, _, keep = _padded_boxes(seed)
    masks = torch.rand(2, 4, 90, 110, generator=generator) < 0.5
    return masks, box, torch.randint(0, 4, keep.shape, generator=generator), keep


def _box_masks(seed: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    _, box, matches, keep = _masks(seed)
    stored = torch.randint(0, 256, (2, 4, 9, 9), generator=generator, dtype=torch.uint8)
    return stored, boxes((2, 4), generator).to(box.dtype), box, matches, keep


def _matching(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return boxes((2, 5), generator), boxes((40,), generator), torch.rand(2, 5, generator=generator) < 0.6


def _keyed_labels(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1, 3, (2, 40), generator=generator)
    return labels, torch.rand(2, 40, generator=generator), torch.rand(2, 40, generator=generator) < 0.8


def _rows(seed: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    per_channel = (torch.rand(3, generator=generator) for _ in range(4))
    return torch.randn(8, 3, 4, 5, generator=generator), *per_channel, torch.rand(8, generator=generator) < 0.6


def _norm(training: bool) -> Callable[..., tuple[Tensor, ...]]:
    def op(x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, valid: Tensor) -> tuple[Tensor, ...]:
        mean, variance = mean.detach(), variance.detach()  # the tests ask gradients of every argument
        return ops.masked_batch_norm(x, mean, variance, weight, bias, training, valid_mask=valid), mean, variance

    return op


def _anchors(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1, 3, (2, 20), generator=generator)
    return torch.randn(2, 20, 3, generator=generator), torch.randn(2, 20, 4, generator=generator), labels


def _anchor_loss(scores: Tensor, offsets: Tensor, labels: Tensor) -> Tensor:
    """A loss as people write it: the dynamic form, made static by a decorator."""
    positive = labels > 0
    loss = F.smooth_l1_loss(offsets[positive], offsets.detach()[positive] + 0.3, reduction="sum") / (
        offsets[positive].shape[0] + 1
    )
    return loss + F.cross_entropy(scores[labels >= 0], labels[labels >= 0])


STATIC = [
    *(_static_of(case) for case in MASKED if case.reduction == "mean"),
    Static("masked_batch_norm-training", _norm(True), _rows),
    Static("masked_batch_norm-evaluation", _norm(False), _rows),
    Static("fixed_nonzero", lambda x: ops.fixed_nonzero(x, size=9, fill_value=-1), lambda seed: (_overlaps(seed)[0][0] > 0.9,)),
    Static("box_iou", lambda b, s, v: ops.box_iou(b, b, valid_mask1=v, valid_mask2=v), _padded_boxes),
    Static("nms", lambda b, s, v: ops.nms(b, s, 0.3, size=12, valid_mask=v), _padded_boxes),
    Static(
        "batched_nms",
        lambda b, s, v: ops.batched_nms(b, s, (s.detach() * 1e3).long() % 3, 0.3, size=12, valid_mask=v),
        _padded_boxes,
    ),
    Static("ssd_match", lambda iou, v: ops.ssd_match(iou, valid_mask=v, threshold=0.5), _overlaps),
    Static(
        "hard_negative_mining",
        lambda iou, v: ops.hard_negative_mining(iou[:, 0], iou[:, 1] > 0.8, negative_ratio=3.0),
        _overlaps,
    ),
    Static(
        "match",
        lambda b, a, v: ops.match(b, a, valid_mask=v, high_threshold=0.5, low_threshold=0.4, allow_low_quality_matches=True),
        _matching,
    ),
    Static("fcos_match", lambda b, a, v: ops.fcos_match(b, a, [30, 10], valid_mask=v), _matching),
    Static("balanced_sample", lambda x, k, v: ops.balanced_sample(x, 12, 0.5, valid_mask=v, keys=k), _keyed_labels),
    Static("project_masks_on_boxes", lambda m, b, k, v: ops.project_masks_on_boxes(m, b, k, 7, valid_mask=v), _masks),
    Static(
        "project_box_masks_on_boxes",
        lambda m, t, b, k, v: ops.project_box_masks_on_boxes(m, t, b, k, 7, valid_mask=v),
        _box_masks,
    ),
    Static("static_indexing", ops.static_indexing(_anchor_loss), _anchors),
    Static(
        "multiscale_roi_align",
        lambda fine, coarse, b, v: ops.multiscale_roi_align((fine, coarse), b, 3, scales=[1 / 4, 1 / 8], valid_mask=v),
        _pyramid,
    ),
]


@pytest.fixture(params=MASKED, ids=lambda case: case.name)
def masked(request: pytest.FixtureRequest) -> Masked:
    """Each masked op with each reduction."""
    return request.param


@pytest.fixture(params=[case for case in MASKED if "reduction" in case.options], ids=lambda case: case.name)
def loss(request: pytest.FixtureRequest) -> Masked:
    """Each masked loss with each reduction."""
    return request.param


@pytest.fixture(params=STATIC, ids=lambda case: case.name)
def static(request: pytest.FixtureRequest) -> Static:
    """Each public op."""
    return request.param
