"""Masks and keypoints of a fixed number of slots become what torchvision's own models return, bit for bit."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.detection.roi_heads import keypointrcnn_inference, maskrcnn_inference
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from fixshape.detection import Detections, to_list
from fixshape.errors import ShapeError

SIZES = ((60, 80), (96, 50), (32, 32))  # of the images on their canvas; the last is of a filler
ORIGINALS = ((45, 60), (131, 67), (32, 32))
CLASSES, KEYPOINTS = 4, 3


def _targets(count=3):
    return {
        "image_sizes": torch.tensor(SIZES[:count]),
        "orig_sizes": torch.tensor(ORIGINALS[:count]),
        "image_valid": torch.tensor([True, True, False][:count]),
    }


def _heads(seed, slots=6):
    """Boxes within, at and beyond the border, the outputs of the heads for each slot, and which slots hold a detection."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(3, slots, 2, generator=generator) * 70 - 10
    boxes = torch.cat([low, low + torch.rand(3, slots, 2, generator=generator) ** 2 * 60], dim=-1)
    scores = torch.rand(3, slots, generator=generator).sort(descending=True).values
    labels = torch.randint(1, CLASSES, (3, slots), generator=generator)
    valid = torch.rand(3, slots, generator=generator) < 0.6
    mask_logits = torch.randn(3, slots, CLASSES, 28, 28, generator=generator)
    heatmaps = torch.randn(3, slots, KEYPOINTS, 56, 56, generator=generator)
    return boxes, scores, labels, valid, mask_logits, heatmaps


def _detections(boxes, scores, labels, valid, mask_logits, heatmaps):
    masks = mask_logits.sigmoid().take_along_dim(labels[..., None, None, None], dim=2)
    garbage = ~valid[..., None, None, None]
    return Detections(
        boxes.masked_fill(garbage[..., 0, 0], torch.nan),
        scores,
        labels,
        valid,
        masks.masked_fill(garbage, torch.nan),
        heatmaps.masked_fill(garbage, torch.inf),
    )


def _of_torchvision(boxes, scores, labels, valid, mask_logits, heatmaps):
    """The end of RoIHeads.forward in evaluation, and of GeneralizedRCNN.forward, on the slots that hold a detection."""
    real = range(2)
    proposals = [boxes[image][valid[image]] for image in real]
    classes = [labels[image][valid[image]] for image in real]
    masks = maskrcnn_inference(torch.cat([mask_logits[image][valid[image]] for image in real]), classes)
    keypoints, keypoint_scores = keypointrcnn_inference(torch.cat([heatmaps[image][valid[image]] for image in real]), proposals)
    result = [
        {
            "boxes": proposals[image],
            "labels": classes[image],
            "scores": scores[image][valid[image]],
            "masks": masks[image],
            "keypoints": keypoints[image],
            "keypoints_scores": keypoint_scores[image],
        }
        for image in real
    ]
    transform = GeneralizedRCNNTransform(800, 1333, [0.0] * 3, [1.0] * 3).eval()
    return transform.postprocess(result, SIZES[:2], ORIGINALS[:2])


def _assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            assert one[key].dtype == other[key].dtype and torch.equal(one[key], other[key]), key


@pytest.mark.parametrize("seed", range(4))
def test_masks_and_keypoints_are_torchvisions_to_the_bit(seed):
    heads = _heads(seed)
    ours = to_list(_detections(*heads), _targets())
    _assert_same(ours, _of_torchvision(*heads))
    counts = heads[3][:2].sum(1).tolist()
    assert [tuple(one["masks"].shape) for one in ours] == [(n, 1, *size) for n, size in zip(counts, ORIGINALS, strict=False)]
    assert [tuple(one["keypoints"].shape) for one in ours] == [(n, KEYPOINTS, 3) for n in counts]


@pytest.mark.parametrize("field", ["masks", "keypoints"])
def test_the_oracle_sees_what_lies_a_pixel_off(field):
    heads = _heads(0)
    found = _detections(*heads)
    rolled = found._replace(**{field: getattr(found, field).roll(1, -1)})
    with pytest.raises(AssertionError, match=field):
        _assert_same(to_list(rolled, _targets()), _of_torchvision(*heads))


def test_no_detection_gives_no_mask_and_no_keypoint_of_the_right_shape():
    heads = _heads(0)
    heads[3].fill_(False)
    ours = to_list(_detections(*heads), _targets())
    _assert_same(ours, _of_torchvision(*heads))
    assert ours[1]["masks"].shape == (0, 1, 131, 67)
    assert ours[1]["keypoints"].shape == (0, KEYPOINTS, 3) and ours[1]["keypoints_scores"].shape == (0, KEYPOINTS)


def test_models_without_masks_and_keypoints_give_neither():
    found = _detections(*_heads(0))._replace(masks=None, keypoints=None)
    assert all(one.keys() == {"boxes", "scores", "labels"} for one in to_list(found, _targets()))


@pytest.mark.parametrize(
    ("field", "shape", "text"),
    [
        ("masks", (3, 6, 4, 28, 28), r"detections\.masks has shape \(3, 6, 4, 28, 28\), expected \(3, 6, 1, 28, 28\)\."),
        ("masks", (3, 5, 1, 28, 28), r"detections\.masks has shape \(3, 5, 1, 28, 28\), expected \(3, 6, 1, 28, 28\)\."),
        ("masks", (), r"detections\.masks has shape \(\), expected \(3, 6, 1, m, m\)\."),
        ("keypoints", (3, 6, 3, 56, 55), r"detections\.keypoints has shape .*, expected \(3, 6, K, 55, 55\)\."),
        ("keypoints", (3, 6, 17, 3), r"detections\.keypoints has shape \(3, 6, 17, 3\), expected \(3, 6, K, 3, 3\)\."),
    ],
)
def test_other_shapes_are_refused(field, shape, text):
    found = _detections(*_heads(0))._replace(**{field: torch.zeros(shape)})
    with pytest.raises(ShapeError, match=f"^to_list: {text}"):
        to_list(found, _targets())
