"""torchvision's seven detection models, trained as they are: each dynamic op and host sync at its place, and none in their twins.

The tables were written from torchvision's source: file and function of each, which are the same in all versions that are tested,
and how often a step of two images does it. Line numbers are not.
"""

from collections import Counter

import pytest
import torch
import torchvision

from fixshape import Bucket, OpRecorder, PadToBucket, to_static
from fixshape.audit._judge import judge
from tests.detection import reduced, twins
from tests.detection.pairs import random_batch

STEPS = 3
IMAGES = 2
LEVELS = 4  # of the pyramid that boxes are pooled from
ONCE = 0  # at the first step alone

_CHOICE = {("FS201", "detection/transform.py", "GeneralizedRCNNTransform.torch_choice"): IMAGES}
_MATCHED = {**_CHOICE, ("FS101", "detection/_utils.py", "Matcher.set_low_quality_matches_"): IMAGES}
_SSD = {
    **_CHOICE,
    ("FS201", "detection/ssd.py", "SSD.forward"): IMAGES,
    ("FS101", "detection/ssd.py", "SSD.compute_loss"): IMAGES,
    ("FS102", "detection/ssd.py", "SSD.compute_loss"): 2,  # foreground and background, of the whole batch
    ("FS103", "detection/ssd.py", "SSD.compute_loss"): 2,  # their gradients
}
_RCNN = {
    **_MATCHED,
    ("FS201", "detection/generalized_rcnn.py", "GeneralizedRCNN.forward"): IMAGES,
    # Positives and negatives, of the RPN and of the box head.
    ("FS101", "detection/_utils.py", "BalancedPositiveNegativeSampler.__call__"): 2 * 2 * IMAGES,
    ("FS101", "ops/boxes.py", "remove_small_boxes"): IMAGES,
    ("FS101", "detection/rpn.py", "RegionProposalNetwork.filter_proposals"): IMAGES,
    ("FS110", "ops/boxes.py", "nms"): IMAGES,
    ("FS101", "detection/rpn.py", "RegionProposalNetwork.compute_loss"): 2,
    ("FS101", "detection/roi_heads.py", "RoIHeads.subsample"): IMAGES,
    ("FS101", "detection/roi_heads.py", "fastrcnn_loss"): 1,
    ("FS101", "ops/poolers.py", "_multiscale_roi_align"): LEVELS,
    ("FS201", "ops/poolers.py", "_infer_scale"): ONCE,
    ("FS201", "ops/poolers.py", "_setup_scales"): ONCE,
}
_BRANCH = {
    **_RCNN,
    ("FS101", "detection/roi_heads.py", "RoIHeads.forward"): IMAGES,
    ("FS101", "ops/poolers.py", "_multiscale_roi_align"): 2 * LEVELS,  # for the boxes and for the branch
}
EXPECTED = {
    "retinanet": {
        **_MATCHED,
        ("FS201", "detection/retinanet.py", "RetinaNet.forward"): IMAGES,
        ("FS103", "detection/retinanet.py", "RetinaNetClassificationHead.compute_loss"): 2 * IMAGES,  # one is a gradient
        ("FS102", "detection/retinanet.py", "RetinaNetClassificationHead.compute_loss"): 3 * IMAGES,
        ("FS201", "detection/retinanet.py", "RetinaNetClassificationHead.compute_loss"): IMAGES,
        ("FS101", "detection/retinanet.py", "RetinaNetRegressionHead.compute_loss"): IMAGES,
    },
    "fcos": {
        **_CHOICE,
        ("FS201", "detection/fcos.py", "FCOS.forward"): IMAGES,
        ("FS201", "detection/fcos.py", "FCOSHead.compute_loss"): 1,
        # A read and a write of classes, box regressions, two of centre-ness, of the whole batch; then gradients.
        ("FS102", "detection/fcos.py", "FCOSHead.compute_loss"): 5,
        ("FS103", "detection/fcos.py", "FCOSHead.compute_loss"): 3,
        ("FS102", "ops/_utils.py", "_loss_inter_union"): 5,
        ("FS103", "ops/_utils.py", "_loss_inter_union"): 5,
    },
    "fasterrcnn": _RCNN,
    "maskrcnn": _BRANCH,
    "keypointrcnn": {**_BRANCH, ("FS101", "detection/roi_heads.py", "keypointrcnn_loss"): 1},
    "ssdlite320_mobilenet_v3_large": _SSD,
    "ssd300_vgg16": _SSD,
}
SLOW = {"ssd300_vgg16"}
MODELS = [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in EXPECTED]


def _build(name):
    if name in twins.SIZES:
        return twins.build(name, dtype=torch.float32)
    model = reduced.build(name, dtype=torch.float32)
    # As torchvision's own builders have it, at the size of the reduced models.
    model.transform._skip_resize = False
    model.transform.min_size, model.transform.max_size = (reduced.CANVAS[0],), reduced.CANVAS[1]
    return model


def _batch(name, seed):
    counts = [3 + seed, 5]
    if name in twins.SIZES:
        return twins.drawn(name, counts, seed=seed, dtype=torch.float32)
    keypoints = reduced.KEYPOINTS * ("key" in name)
    classes = 2 if keypoints else reduced.CLASSES
    return random_batch(counts, seed=seed, classes=classes, masks="mask" in name, keypoints=keypoints, dtype=torch.float32)


def _trained(model, batches):
    optimizer, recorder = torch.optim.SGD(model.parameters(), lr=1e-4), OpRecorder()
    for batch in batches:
        with recorder:
            optimizer.zero_grad()
            sum(model(*batch).values()).backward()
            optimizer.step()
        recorder.step()
    return recorder.report()


def _where(finding):
    file = finding.site.file.replace("\\", "/")
    return finding.code, "/".join(file.split("/")[-2:]), finding.site.function


def _ruled(findings):
    return [finding for finding in findings if finding.code[:3] in ("FS1", "FS2")]


def _drift(findings):
    return sum(finding.compiles for finding in findings)


@pytest.mark.parametrize("name", MODELS)
def test_every_dynamic_op_and_host_sync_is_found_and_nothing_else(name):
    report = _trained(_build(name), [_batch(name, seed) for seed in range(STEPS)])
    findings, unknown = judge(report)
    assert _drift(findings) == sum(step.compiles for step in report.steps[2:])  # each is told, and once
    found, once = Counter(), set()
    for finding in _ruled(findings):
        assert "/torchvision/" in finding.site.file.replace("\\", "/")
        assert finding.caller.function == "_trained"
        assert finding.suggestion.startswith("model = fixshape.to_static(model)")
        if finding.code == "FS109":  # told by its lengths, and those may come twice
            assert _where(finding)[1:] == ("detection/_utils.py", "BalancedPositiveNegativeSampler.__call__")
            continue
        found[_where(finding)] += finding.count
        if finding.steps == 1:
            once.add(_where(finding))
    assert once == {where for where, count in EXPECTED[name].items() if count == ONCE}
    per_step = {where: count / STEPS for where, count in found.items() if where not in once}
    assert per_step == {where: count for where, count in EXPECTED[name].items() if count != ONCE}
    assert ("FS109" in {finding.code for finding in findings}) == ("rcnn" in name)
    assert unknown == {}


@pytest.mark.parametrize("name", MODELS)
def test_the_static_version_has_nothing_to_find(name):
    model = twins.make_twin(_build(name))
    height, width = [twins.SIZES[name]] * 2 if name in twins.SIZES else reduced.CANVAS
    pad = PadToBucket(Bucket(height, width, 8))
    report = _trained(model, [pad(list(zip(*_batch(name, seed), strict=True))) for seed in range(STEPS + 1)])
    findings, unknown = judge(report)
    assert [(finding.code, finding.op, str(finding.site)) for finding in findings] == []
    assert unknown == {}
    assert sum(step.launches for step in report.steps) > 1000


def test_a_batch_of_another_size_is_told_as_the_input_it_is():
    model = to_static(reduced.build("retinanet", dtype=torch.float32))
    batches = [list(zip(*_batch("retinanet", seed), strict=True)) for seed in range(STEPS)]
    slots = [8, 8, 9]
    report = _trained(model, [PadToBucket(Bucket(*reduced.CANVAS, n))(b) for n, b in zip(slots, batches, strict=True)])
    findings, _ = judge(report)
    assert _ruled(findings) == []
    first, *rest = findings
    assert first.code == "FS302"
    assert first.compiles > sum(finding.compiles for finding in rest)
    assert _drift(findings) == report.steps[-1].compiles > 0


def test_suppression_of_many_boxes_class_by_class():
    """Above 1000 boxes torchvision goes from class to class (on the CPU)."""
    corners = torch.rand(1100, 2) * 50
    boxes, recorder = torch.cat((corners, corners + 9), 1), OpRecorder()
    with recorder:
        torchvision.ops.batched_nms(boxes, torch.rand(1100), torch.arange(1100) % 3, 0.5)
    found: Counter = Counter()
    for finding in judge(recorder.report())[0]:
        found[_where(finding)] += finding.count
    assert found == {
        ("FS105", "ops/boxes.py", "_batched_nms_vanilla"): 1,
        ("FS101", "ops/boxes.py", "_batched_nms_vanilla"): 4,  # the boxes of each class, and those that are kept
        ("FS110", "ops/boxes.py", "nms"): 3,
    }
