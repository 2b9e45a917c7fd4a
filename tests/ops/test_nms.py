"""NMS and class-aware NMS against torchvision's own, on drawn boxes and on those that break the usual static forms."""

from __future__ import annotations

import pytest
import torch
import torchvision.ops as tv
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops.boxes import _batched_nms_coordinate_trick, _batched_nms_vanilla

from fixshape.errors import DtypeError, ShapeError
from fixshape.ops import _nms_walk, batched_nms, nms
from fixshape.ops._box_iou import area_of, pairwise_iou
from fixshape.ops._nms import _round_down, _walk_as_one_node

THRESHOLDS = [0.3, 0.45, 0.5, 0.55, 0.6, 0.7]


def draw(seed, *shape, side=30, dtype=torch.float32):
    """Boxes on whole pixels of a small canvas: many overlaps, many that hit a threshold exactly, many equal scores."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 30, (*shape, 2), generator=generator)
    boxes = torch.cat([corner, corner + torch.randint(0, side, (*shape, 2), generator=generator)], dim=-1)
    return boxes.to(dtype), torch.randint(0, 20, shape, generator=generator).to(dtype) / 20


def dynamic_nms(boxes, scores, threshold, valid):
    """torchvision's indices for the real boxes of one set."""
    real = valid.nonzero()[:, 0]
    return real[tv.nms(boxes[real], scores[real], threshold)]


def dynamic_batched_nms(boxes, scores, idxs, threshold, valid):
    """The same class by class. Of equal scores the first box comes first, which torchvision's own sort does not promise."""
    kept = [dynamic_nms(boxes, scores, threshold, valid & (idxs == c)) for c in idxs.unique()]
    kept = torch.cat(kept).sort().values
    return kept[scores[kept].argsort(descending=True, stable=True)]


def check(boxes, scores, threshold, size, valid, idxs=None, nms=nms):
    """Asserts that each set of boxes is answered as torchvision answers it."""
    classes = () if idxs is None else (idxs,)
    indices, kept = nms(boxes, scores, *classes, threshold, size=size, valid_mask=valid)
    assert indices.shape == kept.shape == (*scores.shape[:-1], size)
    assert (indices.dtype, kept.dtype) == (torch.int64, torch.bool)
    tensors = (boxes, scores, valid, indices, kept, *classes)
    rows = zip(*(t.reshape(-1, *t.shape[scores.dim() - 1 :]) for t in tensors), strict=True)
    for row_boxes, row_scores, row_valid, row_indices, row_kept, *row_classes in rows:
        dynamic = dynamic_batched_nms if row_classes else dynamic_nms
        want = dynamic(row_boxes, row_scores, *row_classes, threshold, row_valid)[:size].tolist()
        assert row_indices.tolist() == want + [0] * (size - len(want))
        assert row_kept.tolist() == [True] * len(want) + [False] * (size - len(want))


def staircase(n):
    """Each box suppresses the next one only, so that whether the last stays depends on every one before it."""
    left = 4.0 * torch.arange(n)
    boxes = torch.stack([left, torch.zeros(n), left + 10, torch.ones(n)], dim=-1)
    return boxes, 1 - torch.arange(n) / n


def round_limited_nms(rounds):
    """A common static form: strike out whatever a kept box hits, again and again. Right only for chains of ``rounds``."""

    def broken(boxes, scores, threshold, *, size, valid_mask):
        order = scores.argsort(dim=-1, descending=True, stable=True)
        corners = boxes[order].mT
        hits = (pairwise_iou(corners, area_of(corners), corners, area_of(corners)) > threshold).triu(1)
        keep = valid_mask[order]
        for _ in range(rounds):
            keep = valid_mask[order] & ~(hits & keep[:, None]).any(0)
        kept = order[keep]
        padded = torch.cat([kept, torch.zeros(size, dtype=torch.int64)])[:size]
        return padded, torch.arange(size) < len(kept)

    return broken


@given(st.integers(1, 40), st.integers(1, 45), st.integers(0, 2**31), st.sampled_from(THRESHOLDS), st.floats(0, 1))
def test_keeps_what_torchvision_keeps(n, size, seed, threshold, share):
    boxes, scores = draw(seed, n)
    check(boxes, scores, threshold, size, torch.rand(n, generator=torch.Generator().manual_seed(seed)) < share)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_many_sets_at_once_with_ties_in_score_and_overlap(threshold, dtype):
    boxes, scores = draw(3, 2, 20, 61, dtype=dtype)
    check(boxes, scores, threshold, 61, torch.rand(2, 20, 61) < 0.8)


def test_sets_are_walked_a_few_at_a_time(monkeypatch):
    boxes, scores = draw(4, 7, 130)
    monkeypatch.setattr(_nms_walk, "_CACHED_PAIRS", 2 * 56 * 168)
    check(boxes, scores, 0.5, 130, torch.rand(7, 130) < 0.9)


def test_no_set_at_all():
    indices, kept = nms(torch.zeros(0, 5, 4), torch.zeros(0, 5), 0.5, size=3)
    assert indices.shape == kept.shape == (0, 3)


@pytest.mark.parametrize("n", [2, 6, 7, 8, 14, 15, 55, 56, 57, 100, 112, 257])
def test_a_chain_through_all_boxes_runs_and_tiles(n):
    boxes, scores = staircase(n)
    check(boxes, scores, 0.4, n, torch.ones(n, dtype=torch.bool))
    assert nms(boxes, scores, 0.4, size=n).indices[: (n + 1) // 2].tolist() == list(range(0, n, 2))


def test_a_chain_that_dead_boxes_and_shuffled_rows_run_through():
    boxes, scores = staircase(150)
    shuffled = torch.randperm(150, generator=torch.Generator().manual_seed(0))
    valid = torch.arange(150) % 11 != 3
    check(boxes[shuffled], scores[shuffled], 0.4, 150, valid[shuffled])


def test_the_comparison_fails_for_two_fixed_rounds():
    """The oracle at work: a form that is exact for short chains only does not pass it."""
    boxes, scores = staircase(9)
    everything = torch.ones(9, dtype=torch.bool)
    check(boxes, scores, 0.4, 9, everything, nms=round_limited_nms(9))
    with pytest.raises(AssertionError):
        check(boxes, scores, 0.4, 9, everything, nms=round_limited_nms(2))


@pytest.mark.parametrize(("threshold", "inside"), [(0.3, 3), (0.45, 9), (0.5, 5), (0.55, 11), (0.6, 6), (0.7, 7)])
def test_an_overlap_of_exactly_the_threshold(threshold, inside):
    """A box inside another overlaps by the ratio of their areas: the float32 next to the threshold, above it or below."""
    whole = 10 if inside / 10 == threshold else 20
    boxes = torch.tensor([[0.0, 0.0, whole, 1.0], [0.0, 0.0, inside, 1.0]])
    assert tv.box_iou(boxes[:1], boxes[1:]).item() == torch.tensor(threshold).item()
    check(boxes, torch.tensor([0.9, 0.8]), threshold, 2, torch.tensor([True, True]))


@given(st.floats(allow_nan=False, allow_infinity=False, width=64, min_value=-2, max_value=2))
def test_thresholds_are_rounded_down_to_float32(threshold):
    down = _round_down(threshold, torch.float32)
    assert _round_down(threshold, torch.float64) == threshold
    if abs(threshold) > 1e-30:
        assert torch.tensor(down, dtype=torch.float32).item() == down <= threshold
        up = torch.nextafter(torch.tensor(down), torch.tensor(torch.inf)).item()
        assert up > threshold


@pytest.mark.parametrize("threshold", [-0.1, 0.0, 1.0, 1.5, float("inf")])
def test_thresholds_that_drop_everything_or_nothing(threshold):
    boxes, scores = draw(5, 30)
    check(boxes, scores, threshold, 30, torch.ones(30, dtype=torch.bool))


def test_boxes_of_no_area_drop_nobody_as_in_torchvision():
    check(torch.ones(9, 4), torch.rand(9), 0.5, 9, torch.ones(9, dtype=torch.bool))


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_padding_may_hold_anything(garbage):
    boxes, scores = draw(7, 3, 21)
    valid = torch.rand(3, 21, generator=torch.Generator().manual_seed(1)) < 0.6
    clean = nms(boxes, scores, 0.5, size=21, valid_mask=valid)
    poisoned = nms(
        boxes.masked_fill(~valid[..., None], garbage), scores.masked_fill(~valid, garbage), 0.5, size=21, valid_mask=valid
    )
    assert torch.equal(poisoned.indices, clean.indices) and torch.equal(poisoned.valid_mask, clean.valid_mask)


def test_scores_of_minus_infinity_are_scores():
    boxes, scores = draw(8, 12, side=4)
    scores[::2] = -torch.inf
    check(boxes, scores, 0.5, 12, torch.arange(12) % 3 != 0)


def test_nothing_valid_keeps_nothing():
    boxes, scores = draw(9, 2, 10)
    indices, kept = nms(boxes, scores, 0.5, size=4, valid_mask=torch.zeros(2, 10, dtype=torch.bool))
    assert (indices == 0).all() and not kept.any()


def test_half_precision_is_computed_in_float32():
    boxes, scores = draw(10, 40)
    half = nms(boxes.half(), scores.half(), 0.5, size=40)
    assert torch.equal(half.indices, nms(boxes, scores.half(), 0.5, size=40).indices)


def test_no_gradient_passes():
    boxes, scores = draw(11, 6)
    result = nms(boxes.requires_grad_(), scores.requires_grad_(), 0.5, size=6)
    assert not result.indices.requires_grad and not result.valid_mask.requires_grad


# -- many classes -------------------------------------------------------------------------------------------------------------


def draw_classes(seed, *shape, numbers=(0, -1, 2**62, 2**62 + 1, -(2**62))):
    """Classes that floating point cannot hold among them."""
    which = torch.randint(0, len(numbers), shape, generator=torch.Generator().manual_seed(seed))
    return torch.tensor(numbers)[which]


@given(st.integers(1, 70), st.integers(1, 75), st.integers(0, 2**31), st.sampled_from([-0.1, *THRESHOLDS]), st.floats(0, 1))
def test_classes_keep_what_torchvision_keeps_class_by_class(n, size, seed, threshold, share):
    boxes, scores = draw(seed, n)
    valid = torch.rand(n, generator=torch.Generator().manual_seed(seed)) < share
    check(boxes, scores, threshold, size, valid, draw_classes(seed, n), batched_nms)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [torch.int64, torch.int32, torch.uint8])
def test_classes_of_many_sets_at_once(classes, dtype):
    boxes, scores = draw(3, 2, 5, 130, dtype=dtype)
    idxs = draw_classes(0, 2, 5, 130, numbers=range(200, 204)).to(classes)
    check(boxes, scores, 0.5, 130, torch.rand(2, 5, 130) < 0.8, idxs, batched_nms)


def test_torchvisions_own_form_for_many_boxes():
    boxes, _ = draw(5, 300, side=10)
    scores, idxs = torch.randperm(300).float(), draw_classes(1, 300)
    got = batched_nms(boxes, scores, idxs, 0.5, size=300)
    assert torch.equal(got.indices[got.valid_mask], _batched_nms_vanilla(boxes, scores, idxs, 0.5))


def test_the_comparison_fails_for_the_offset_that_rounds_and_for_no_classes():
    """The oracle at work; torchvision's own shorter way is one that does not pass it where the class numbers are large."""

    def offset(boxes, scores, idxs, threshold, *, size, valid_mask):
        kept = _batched_nms_coordinate_trick(boxes, scores, idxs, threshold)
        return torch.cat([kept, torch.zeros(size, dtype=torch.int64)])[:size], torch.arange(size) < len(kept)

    def without(boxes, scores, idxs, threshold, *, size, valid_mask):
        return nms(boxes, scores, threshold, size=size, valid_mask=valid_mask)

    boxes, scores = draw(6, 200)
    everything, idxs = torch.ones(200, dtype=torch.bool), draw_classes(6, 200, numbers=(0, 1))
    check(boxes, scores, 0.5, 200, everything, idxs, offset)
    check(boxes, scores, 0.5, 200, everything, idxs * 10**6, batched_nms)
    with pytest.raises(AssertionError):
        check(boxes, scores, 0.5, 200, everything, idxs * 10**6, offset)
    with pytest.raises(AssertionError):
        check(boxes, scores, 0.5, 200, everything, idxs, without)


def test_chains_of_two_classes_in_one_place():
    boxes, scores = staircase(100)
    boxes, scores = boxes.repeat_interleave(2, dim=0), scores.repeat_interleave(2)
    idxs = torch.arange(200) % 2
    check(boxes, scores, 0.4, 200, torch.ones(200, dtype=torch.bool), idxs, batched_nms)
    kept = batched_nms(boxes, scores, idxs, 0.4, size=200)
    assert kept.indices[:100].tolist() == [i for i in range(200) if i % 4 < 2] and kept.valid_mask.sum() == 100


def test_one_class_is_nms_and_a_class_for_each_box_drops_nothing():
    boxes, scores = draw(12, 3, 60)
    one = batched_nms(boxes, scores, torch.full((3, 60), -3), 0.3, size=60)
    assert all(map(torch.equal, one, nms(boxes, scores, 0.3, size=60)))
    assert batched_nms(boxes, scores, torch.arange(60).expand(3, 60), 0.3, size=60).valid_mask.all()


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 1e30])
def test_padding_of_any_class_may_hold_anything(garbage):
    boxes, scores = draw(7, 3, 21)
    idxs = draw_classes(7, 3, 21)
    valid = torch.rand(3, 21, generator=torch.Generator().manual_seed(1)) < 0.6
    clean = batched_nms(boxes, scores, idxs, 0.5, size=21, valid_mask=valid)
    boxes, scores = boxes.masked_fill(~valid[..., None], garbage), scores.masked_fill(~valid, garbage)
    for number in (0, 7, -(2**63), 2**63 - 1):
        poisoned = batched_nms(boxes, scores, idxs.masked_fill(~valid, number), 0.5, size=21, valid_mask=valid)
        assert all(map(torch.equal, poisoned, clean))


# -- graphs -------------------------------------------------------------------------------------------------------------------


def test_a_compiled_graph_has_the_same_few_nodes_for_any_number_of_boxes():
    lengths = []

    def count(graph, _):
        lengths.append(len(graph.graph.nodes))
        return graph

    for n in (60, 600):
        boxes, scores = draw(13, n)
        compiled = torch.compile(lambda b, s: nms(b, s, 0.5, size=9), backend=count, fullgraph=True, dynamic=False)
        assert all(map(torch.equal, compiled(boxes, scores), nms(boxes, scores, 0.5, size=9)))
    torch._dynamo.reset()
    assert lengths[0] == lengths[1] < 80


def test_the_node_of_a_compiled_graph_is_an_operator_by_the_rules():
    planes = _nms_walk.make_planes(draw(14, 3, 60)[0], None)
    torch.library.opcheck(_walk_as_one_node, (planes, torch.rand(3, 60) < 0.9, 0.5))


def test_an_exported_graph_has_ops_of_torch_only():
    class Module(torch.nn.Module):
        def forward(self, boxes, scores, idxs):
            return tuple(batched_nms(boxes, scores, idxs, 0.5, size=9))

    arguments = (*draw(15, 2, 70), draw_classes(15, 2, 70))
    exported = torch.export.export(Module(), arguments, strict=False)
    called = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    assert len(called) > 10 and all(name.startswith(("aten.", "<built-in function getitem>")) for name in called)
    other = (*draw(16, 2, 70), draw_classes(16, 2, 70))
    assert all(map(torch.equal, exported.module()(*other), Module()(*other)))


@pytest.mark.xla
def test_on_xla_a_chain_is_exact_and_part_of_the_graph_around_it():
    import torch_xla
    import torch_xla.debug.metrics as metrics

    def compiles():
        return (metrics.metric_data("CompileTime") or [0])[0]

    def indices(boxes, scores, shift):
        boxes, scores = (t.to(torch_xla.device()) for t in (boxes, scores))
        torch_xla.sync()
        before = compiles()
        result = nms(boxes + shift, scores * 2, 0.4, size=150)
        total = result.indices + result.valid_mask
        return total.cpu(), compiles() - before

    boxes, scores = staircase(150)
    other = torch.randperm(150)
    first, first_compiles = indices(boxes, scores, 1.0)
    second, second_compiles = indices(boxes[other], scores[other], 1.0)
    assert (first_compiles, second_compiles) == (1, 0)
    assert first[:75].tolist() == list(range(1, 151, 2)) and not first[75:].any()
    want = nms(boxes[other], scores[other], 0.4, size=150)
    assert torch.equal(second, want.indices + want.valid_mask)


@pytest.mark.xla
def test_on_xla_the_graph_does_not_grow_with_the_number_of_boxes():
    import torch_xla

    lines = []
    for n in (112, 560):
        boxes, scores = (t.to(torch_xla.device()) for t in draw(17, n))
        graph = torch_xla._XLAC._get_xla_tensors_hlo(list(nms(boxes, scores, 0.5, size=9)))
        lines.append(graph.count("\n"))
    assert lines[0] == lines[1]


@pytest.mark.xla
def test_on_xla_classes_keep_what_they_keep_elsewhere():
    import torch_xla

    boxes, scores = draw(18, 2, 3, 200)
    valid, idxs = torch.rand(2, 3, 200) < 0.8, draw_classes(18, 2, 3, 200)
    for threshold in THRESHOLDS:
        want = batched_nms(boxes, scores, idxs, threshold, size=200, valid_mask=valid)
        on_device = (t.to(torch_xla.device()) for t in (boxes, scores, idxs))
        got = batched_nms(*on_device, threshold, size=200, valid_mask=valid.to(torch_xla.device()))
        assert all(torch.equal(g.cpu(), w) for g, w in zip(got, want, strict=True))


# -- errors -------------------------------------------------------------------------------------------------------------------


def test_wrong_arguments_are_named():
    boxes, scores = torch.zeros(3, 4), torch.zeros(3)
    with pytest.raises(ShapeError, match=r"^nms: boxes has shape \(3, 5\), expected \(N, 4\)\.$"):
        nms(torch.zeros(3, 5), scores, 0.5, size=3)
    with pytest.raises(ShapeError, match=r"^nms: N is 0, expected a whole number of at least 1\.$"):
        nms(boxes[:0], scores[:0], 0.5, size=3)
    with pytest.raises(ShapeError, match=r"^nms: scores has shape \(2,\), expected \(3,\)\. One score per box\.$"):
        nms(boxes, scores[:2], 0.5, size=3)
    with pytest.raises(ShapeError, match=r"^nms: size is 0, expected a whole number of at least 1\.$"):
        nms(boxes, scores, 0.5, size=0)
    with pytest.raises(ShapeError, match=r"^nms: valid_mask has shape \(2,\), expected \(3,\)\. One entry per box\.$"):
        nms(boxes, scores, 0.5, size=3, valid_mask=torch.ones(2, dtype=torch.bool))
    with pytest.raises(DtypeError, match=r"^nms: valid_mask has dtype torch\.int64, expected torch\.bool\."):
        nms(boxes, scores, 0.5, size=3, valid_mask=torch.ones(3, dtype=torch.int64))


def test_wrong_classes_are_named():
    boxes, scores, idxs = torch.zeros(3, 4), torch.zeros(3), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ShapeError, match=r"^batched_nms: idxs has shape \(2,\), expected \(3,\)\. One class per box\.$"):
        batched_nms(boxes, scores, idxs[:2], 0.5, size=3)
    for wrong in (torch.float32, torch.bool, torch.complex64):
        with pytest.raises(DtypeError, match=rf"^batched_nms: idxs has dtype {wrong}, expected integers\. Use idxs\.long\(\)\.$"):
            batched_nms(boxes, scores, idxs.to(wrong), 0.5, size=3)
    with pytest.raises(ShapeError, match=r"^batched_nms: scores has shape \(2,\), expected \(3,\)\."):
        batched_nms(boxes, scores[:2], idxs, 0.5, size=3)
    with pytest.raises(ShapeError, match=r"^batched_nms: boxes has shape \(3, 5\), expected \(N, 4\)\.$"):
        batched_nms(torch.zeros(3, 5), scores, idxs, 0.5, size=3)
