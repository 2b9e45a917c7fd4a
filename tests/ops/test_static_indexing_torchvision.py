"""torchvision's own losses, unmodified, inside ``static_indexing``: equal numbers, or the line that cannot be followed.

    runs                  SSD, RetinaNetHead, FCOSHead, fastrcnn_loss, RegionProposalNetwork after its sampler, Matcher
    randperm(count)       BalancedPositiveNegativeSampler, and with it the losses of RPN and RoIHeads that call it
    count == 0            keypointrcnn_loss, in an ``if``

FCOSHead has no dynamic-shape op left, but asks the host for a plain sum (``.item()``): one sync a batch, which no rewrite of
selections can take away. All of those that cannot be followed run with ``strict=False``, where the count is read on the host.

Shapes: A anchors, C classes, M boxes of a target, N images.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import _utils, fcos, retinanet, roi_heads, rpn, ssd

from fixshape.audit import OpRecorder
from fixshape.errors import StaticIndexingError
from fixshape.ops import static_indexing

IMAGES, ANCHORS, BOXES, CLASSES = 2, 12, 3, 4
KINDS = ("random", "empty", "full", "single")
PREDICTED = ("cls_logits", "bbox_regression", "class_boxes", "bbox_ctrness", "objectness", "keypoint_logits")
Tensors = dict[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Case:
    """A function of torchvision, called on what it reads.

    Args:
        name: as the table above has it.
        loss: from the tensors of :func:`_inputs` and ``matched`` to numbers.
        stops_at: text of the line that cannot be followed, ``""`` where the function runs.
        syncs: values that it reads on the host, of an image or of a batch.
        lowest: what ``matched`` says of an anchor without a box: -1, or down to -2 for one between the thresholds.
    """

    name: str
    loss: Callable[[Tensors, Tensor], Tensor]
    stops_at: str = ""
    syncs: int = 0
    lowest: int = -1


def _boxes(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    corner = torch.rand(*shape, 2, generator=generator, dtype=torch.float64) * 60
    return torch.cat([corner, corner + 5 + torch.rand(*shape, 2, generator=generator, dtype=torch.float64) * 35], -1)


def _inputs(seed: int) -> Tensors:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(IMAGES, ANCHORS, *shape, generator=generator, dtype=torch.float64)

    return {
        "cls_logits": normal(CLASSES),
        "bbox_regression": normal(4),
        "class_boxes": normal(CLASSES * 4),
        "bbox_ctrness": normal(1),
        "objectness": normal(),
        "keypoint_logits": normal(5, 7, 7),
        "anchors": _boxes((IMAGES, ANCHORS), generator),
        "boxes": _boxes((IMAGES, BOXES), generator),
        "labels": torch.randint(1, CLASSES, (IMAGES, BOXES), generator=generator),
        "keypoints": torch.rand(IMAGES, BOXES, 5, 3, generator=generator, dtype=torch.float64) * 60,
    }


def _matched(kind: str, seed: int, lowest: int) -> Tensor:
    """The box that each anchor is matched to, or a negative number."""
    generator = torch.Generator().manual_seed(100 + seed)
    found = torch.randint(0, BOXES, (IMAGES, ANCHORS), generator=generator)
    without = torch.randint(lowest, 0, (IMAGES, ANCHORS), generator=generator)
    single = torch.zeros(IMAGES, ANCHORS, dtype=torch.bool)
    single[:, 5] = True
    foreground = {
        "random": torch.rand(IMAGES, ANCHORS, generator=generator) < 0.4,
        "empty": torch.zeros_like(single),
        "full": torch.ones_like(single),
        "single": single,
    }[kind]
    return torch.where(foreground, found, without)


def _targets(t: Tensors) -> list[Tensors]:
    return [{"boxes": b, "labels": c} for b, c in zip(t["boxes"], t["labels"], strict=True)]


def _lists(t: Tensors, matched: Tensor) -> tuple[list[Tensors], Tensors, list[Tensor], list[Tensor]]:
    return _targets(t), t, list(t["anchors"]), list(matched)


def _together(losses: Tensors) -> Tensor:
    return torch.stack(list(losses.values()))


def _ssd(t: Tensors, matched: Tensor) -> Tensor:
    model = SimpleNamespace(box_coder=_utils.BoxCoder(weights=(10.0, 10.0, 5.0, 5.0)), neg_to_pos_ratio=3.0)
    return _together(ssd.SSD.compute_loss(model, *_lists(t, matched)))


def _retinanet(t: Tensors, matched: Tensor) -> Tensor:
    return _together(retinanet.RetinaNetHead(2, 1, CLASSES).compute_loss(*_lists(t, matched)))


def _retinanet_classes(t: Tensors, matched: Tensor) -> Tensor:
    return retinanet.RetinaNetClassificationHead(2, 1, CLASSES).compute_loss(_targets(t), t, list(matched))


def _retinanet_boxes(kind: str) -> Callable[[Tensors, Tensor], Tensor]:
    def loss(t: Tensors, matched: Tensor) -> Tensor:
        head = retinanet.RetinaNetRegressionHead(2, 1)
        head._loss_type = kind
        return head.compute_loss(*_lists(t, matched))

    return loss


def _box_loss(kind: str) -> Callable[[Tensors, Tensor], Tensor]:
    """What ``RetinaNetRegressionHead`` computes up to its division by the count."""

    def loss(t: Tensors, matched: Tensor) -> Tensor:
        rows = torch.where(matched[0] >= 0)[0]
        chosen = (t["anchors"][0][rows, :], t["boxes"][0][matched[0][rows]], t["bbox_regression"][0][rows, :])
        return _utils._box_loss(kind, _utils.BoxCoder(weights=(1.0, 1.0, 1.0, 1.0)), *chosen)

    return loss


def _fcos(t: Tensors, matched: Tensor) -> Tensor:
    """Anchors stand inside the box that they are matched to; of the others the target is the root of a negative number, NaN."""
    of_anchor = t["boxes"].gather(1, matched.clamp(min=0)[..., None].expand(-1, -1, 4))
    lower, upper = of_anchor.chunk(2, -1)
    centre = torch.where(matched[..., None] >= 0, lower.lerp(upper, 0.1 + t["anchors"][..., :2] / 75), 200.0)
    anchors = torch.cat([centre - 4, centre + 4], -1)
    return _together(fcos.FCOSHead(32, 1, CLASSES, num_convs=0).compute_loss(_targets(t), t, list(anchors), list(matched)))


def _labels(t: Tensors, matched: Tensor) -> list[Tensor]:
    return [torch.where(m >= 0, c[m.clamp(min=0)], 0) for c, m in zip(t["labels"], matched, strict=True)]


def _fast_rcnn(t: Tensors, matched: Tensor) -> Tensor:
    return torch.stack(
        roi_heads.fastrcnn_loss(
            t["cls_logits"].flatten(0, 1), t["class_boxes"].flatten(0, 1), _labels(t, matched), list(t["bbox_regression"])
        )
    )


def _rpn(sampler: Callable[[list[Tensor]], object]) -> Callable[[Tensors, Tensor], Tensor]:
    def loss(t: Tensors, matched: Tensor) -> Tensor:
        model = SimpleNamespace(fg_bg_sampler=sampler)
        labels = [(m >= 0).double() for m in matched]
        deltas, wanted = t["bbox_regression"].flatten(0, 1), list(t["anchors"] / 50)
        return torch.stack(rpn.RegionProposalNetwork.compute_loss(model, t["objectness"], deltas, labels, wanted))

    return loss


def _every_second(labels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """A sampler of fixed shapes: uint8 masks of the positives and negatives, as torchvision's gives them."""
    even = [torch.arange(len(x), device=x.device) % 2 == 1 for x in labels]
    chosen = list(zip(labels, even, strict=True))
    return [((x == 1) & e).byte() for x, e in chosen], [((x == 0) & e).byte() for x, e in chosen]


def _keypoints(t: Tensors, matched: Tensor) -> Tensor:
    visible = t["keypoints"] * torch.where(matched.amax(1) >= 0, 1.0, 0.0)[:, None, None, None]
    logits = t["keypoint_logits"].flatten(0, 1)
    return roi_heads.keypointrcnn_loss(logits, list(t["anchors"]), list(visible), list(matched.clamp(min=0)))


def _matcher(t: Tensors, matched: Tensor) -> Tensor:
    """Overlaps that tie, so that two boxes claim one anchor and one box claims two."""
    overlaps = (t["cls_logits"][0].T.sigmoid() * 4).round() / 4
    overlaps = torch.where(matched[0] >= 0, overlaps, 0.125)
    return _utils.Matcher(0.7, 0.3, allow_low_quality_matches=True)(overlaps).double()


_SAMPLER = _utils.BalancedPositiveNegativeSampler(8, 0.5)
RUN = [
    Case("FCOSHead", _fcos, syncs=1),
    Case("RetinaNetClassificationHead", _retinanet_classes, lowest=-2),
    Case("SSD", _ssd),
    *(
        Case(f"RetinaNetRegressionHead-{kind}", _retinanet_boxes(kind), lowest=-2)
        for kind in ("l1", "smooth_l1", "giou", "diou", "ciou")
    ),
    Case("RetinaNetHead", _retinanet, lowest=-2),
    *(Case(f"_box_loss-{kind}", _box_loss(kind), lowest=-2) for kind in ("l1", "smooth_l1", "giou", "diou", "ciou")),
    Case("fastrcnn_loss", _fast_rcnn),
    Case("RegionProposalNetwork-sampled", _rpn(_every_second)),
    Case("Matcher", _matcher),
]
STOP = [
    Case("RegionProposalNetwork", _rpn(_SAMPLER), "torch.randperm(positive.numel()"),
    Case("keypointrcnn_loss", _keypoints, "len(valid) == 0"),
]
run = pytest.mark.parametrize("case", RUN, ids=lambda case: case.name)
stop = pytest.mark.parametrize("case", STOP, ids=lambda case: case.name)


def _value_and_gradients(case: Case, tensors: Tensors, matched: Tensor, *, strict: bool | None) -> tuple[Tensor, list[Tensor]]:
    """``strict=None``: as torchvision has it, outside of any block."""
    leaves = {k: v.detach().clone().requires_grad_(k in PREDICTED) for k, v in tensors.items()}
    torch.manual_seed(0)  # torchvision's sampler draws
    if strict is None:
        value = case.loss(leaves, matched)
    else:
        with static_indexing(strict=strict):
            value = case.loss(leaves, matched)
    if value.requires_grad:
        (value * torch.arange(1, value.numel() + 1).view_as(value)).sum().backward()
    return value.detach(), [leaf.grad for leaf in leaves.values() if leaf.requires_grad]


def _check(case: Case, kind: str, *, strict: bool, seed: int = 0) -> None:
    tensors, matched = _inputs(seed), _matched(kind, seed, case.lowest)
    got = _value_and_gradients(case, tensors, matched, strict=strict)
    want = _value_and_gradients(case, tensors, matched, strict=None)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12, equal_nan=True)


@run
@pytest.mark.parametrize("kind", KINDS)
def test_it_runs_as_it_is_with_the_same_numbers_and_gradients(case, kind):
    _check(case, kind, strict=True)


@pytest.mark.parametrize("case", [case for case in RUN if case.name != "Matcher"], ids=lambda case: case.name)  # reads no deltas
def test_garbage_in_rows_without_a_box_changes_nothing(case):
    tensors, matched = _inputs(1), _matched("random", 1, case.lowest)
    without = (matched < 0)[..., None]
    garbage = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e300], dtype=torch.float64)
    poisoned = {**tensors, "bbox_regression": torch.where(without, garbage, tensors["bbox_regression"])}
    got = _value_and_gradients(case, poisoned, matched, strict=True)
    torch.testing.assert_close(got, _value_and_gradients(case, tensors, matched, strict=True), rtol=0, atol=0)


@run
def test_no_op_of_it_has_a_shape_that_depends_on_values(case):
    tensors, found = _inputs(2), {}
    for strict in (None, True):
        with OpRecorder() as recorder:
            _value_and_gradients(case, tensors, _matched("random", 2, case.lowest), strict=strict)
        found[strict] = recorder.report().total()
    assert found[None].dynamic > 0
    assert (found[True].dynamic, found[True].syncs) == (0, case.syncs)


@stop
def test_the_line_that_cannot_be_followed_is_named(case):
    with pytest.raises(StaticIndexingError, match=rf"detection/\w+\.py:\d+: .*{re.escape(case.stops_at)}"):
        _value_and_gradients(case, _inputs(0), _matched("random", 0, case.lowest), strict=True)


@stop
@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_followed_runs_where_that_is_asked_for(case, kind):
    _check(case, kind, strict=False)


def test_another_selection_is_told_from_it():
    """The oracle at work: one anchor more in the foreground is another number."""
    tensors, matched = _inputs(0), _matched("random", 0, -1)
    other = torch.where((matched < 0).cumsum(1) == 1, 0, matched)
    got = _value_and_gradients(RUN[0], tensors, other, strict=True)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(got, _value_and_gradients(RUN[0], tensors, matched, strict=None), rtol=1e-12, atol=1e-12)
