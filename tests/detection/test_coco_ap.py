"""COCO's measure of what a static model finds: perfect where it finds the truth, and worse where it does not."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from fixshape.collate import PadToBucket
from fixshape.detection import CocoSamples, Detections, HostTransform, coco_ap
from fixshape.errors import DatasetError
from fixshape.plan import Bucket

IMAGES, ROWS = 24, 5


class Oracle(nn.Module):
    """Finds the boxes of the batches that it was made from, moved by a share of their width."""

    def __init__(self, loader, moved=0.0, every=1):
        super().__init__()
        self.targets = iter([targets for _, targets in loader])
        self.moved, self.every = moved, every

    def forward(self, images, targets=None, image_sizes=None):
        truth = next(self.targets)
        assert torch.equal(truth["image_sizes"], image_sizes)
        boxes = truth["boxes"].clone()
        boxes[..., 0::2] += self.moved * (boxes[..., 2:3] - boxes[..., 0:1])
        valid = truth["valid_mask"].clone()
        valid[:, 1 :: self.every] &= self.every == 1
        return Detections(boxes, torch.rand(boxes.shape[:2]), truth["labels"], valid)


@pytest.fixture(scope="module")
def loader(data_folder):
    folder = data_folder / "coco_permissive"
    samples = CocoSamples(folder / "images", folder / "instances.json")
    transform = HostTransform([96], 160, None)
    padded = PadToBucket(Bucket(160, 160, 100), batch_size=ROWS, invalid="drop")
    read = [transform(*samples[index]) for index in range(IMAGES)]
    return [padded(read[first : first + ROWS]) for first in range(0, IMAGES, ROWS)]


@pytest.fixture(scope="module")
def annotations(data_folder):
    return data_folder / "coco_permissive" / "instances.json"


def test_the_truth_is_perfect(loader, annotations):
    assert len(loader) * ROWS > IMAGES, "the last batch has a filler"
    assert coco_ap(Oracle(loader), loader, annotations) == pytest.approx({"AP": 1.0, "AP50": 1.0, "AP75": 1.0})


def test_boxes_that_are_off_are_worse_at_a_higher_overlap(loader, annotations):
    measured = coco_ap(Oracle(loader, moved=0.2), loader, annotations)  # an overlap of 0.8 / 1.2
    assert measured["AP50"] == pytest.approx(1.0, abs=0.02) and measured["AP75"] < 0.1
    assert 0.3 < measured["AP"] < 0.45  # four of ten thresholds


def test_what_is_missed_counts(loader, annotations):
    assert 0.3 < coco_ap(Oracle(loader, every=2), loader, annotations)["AP50"] < 0.95


def test_nothing_found_is_nothing(loader, annotations):
    class Nothing(Oracle):
        def forward(self, *arguments, **options):
            found = super().forward(*arguments, **options)
            return found._replace(valid_mask=torch.zeros_like(found.valid_mask))

    assert coco_ap(Nothing(loader), loader, annotations) == {"AP": 0.0, "AP50": 0.0, "AP75": 0.0}


def test_images_of_another_file_are_refused(loader, annotations, tmp_path):
    content = json.loads(annotations.read_text())
    content["images"] = content["images"][:3]
    (tmp_path / "few.json").write_text(json.dumps(content))
    with pytest.raises(
        DatasetError, match=r"coco_ap: the loader gave image \d+, which .*few.json does not list. Evaluate on the"
    ):
        coco_ap(Oracle(loader), loader, tmp_path / "few.json")
    with pytest.raises(DatasetError, match="coco_ap: the loader gave no image."):
        coco_ap(Oracle([]), [], annotations)
    without = [(images, {key: value for key, value in targets.items() if key != "image_id"}) for images, targets in loader]
    with pytest.raises(DatasetError, match="coco_ap: the targets have no image_id"):
        coco_ap(Oracle(without), without, annotations)
