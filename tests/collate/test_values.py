"""The values of a target: however they come, they come out as plain tensors, or an error says what is wrong with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from fixshape.collate import PadToBucket
from fixshape.errors import DtypeError, ShapeError, TargetError
from fixshape.plan import Bucket
from tests.collate.samples import EVERYTHING, assert_is_padded, make_sample

PAD = PadToBucket(Bucket(24, 32, 4))
IMAGE, TARGET = make_sample(keys=EVERYTHING)


def _as_tv_tensors(target):
    boxes = tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=(20, 30))
    return {**target, "boxes": boxes, "masks": tv_tensors.Mask(target["masks"])}


def _as_arrays(target):
    return {key: value.numpy() for key, value in target.items()}


def _as_lists(target):
    return {**{key: value.tolist() for key, value in target.items()}, "masks": target["masks"]}


@pytest.mark.parametrize("convert", [_as_tv_tensors, _as_arrays, _as_lists])
def test_every_kind_of_value_makes_the_same_plain_batch(convert):
    wanted_images, wanted = PAD([(IMAGE, TARGET)])
    images, targets = PAD([(tv_tensors.Image(IMAGE), convert(TARGET))])
    assert type(images) is torch.Tensor and torch.equal(images, wanted_images)
    for key, value in targets.items():
        assert type(value) is torch.Tensor and value.dtype == wanted[key].dtype and torch.equal(value, wanted[key]), key


def test_float64_boxes_are_kept_and_promote_the_batch():
    double = make_sample(box_dtype=torch.float64, keys=("area",))
    assert_is_padded(PAD, [double], 24, 32, 4)
    _, targets = PAD([make_sample(keys=("area",)), double])
    assert targets["boxes"].dtype == targets["area"].dtype == torch.float64


def test_an_empty_array_does_not_promote_the_batch():
    empty = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0), "area": np.zeros(0)}
    _, targets = PAD([(IMAGE, empty), make_sample(keys=("area",))])
    assert targets["boxes"].dtype == targets["area"].dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.int64, torch.int32])
def test_other_box_dtypes_become_float32(dtype):
    boxes = torch.tensor([[1, 2, 8, 9]], dtype=dtype)
    _, targets = PAD([(IMAGE, {"boxes": boxes, "labels": [1]})])
    assert targets["boxes"].dtype == torch.float32 and targets["boxes"][0, 0].tolist() == [1, 2, 8, 9]


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.uint8])
def test_labels_of_any_whole_number_type_become_int64(dtype):
    _, targets = PAD([(IMAGE, {**TARGET, "labels": np.array([3, 200], dtype)})])
    assert targets["labels"].dtype == torch.int64 and targets["labels"].tolist() == [[3, 200, 0, 0]]


def test_bool_masks_and_iscrowd_become_numbers():
    target = {**TARGET, "masks": TARGET["masks"] > 1, "iscrowd": TARGET["iscrowd"].bool()}
    _, targets = PAD([(IMAGE, target)])
    assert targets["masks"].dtype == torch.uint8 and torch.equal(targets["masks"][0, :2, :20, :30], (TARGET["masks"] > 1).byte())
    assert targets["iscrowd"].dtype == torch.int64 and targets["iscrowd"][0, :2].tolist() == TARGET["iscrowd"].tolist()


NO_BOXES = [
    {},
    {"boxes": None, "labels": None},
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    {"boxes": [], "labels": [], "area": [], "iscrowd": [], "masks": [], "keypoints": []},
    {"boxes": np.zeros((0, 4)), "labels": np.zeros(0), "masks": np.zeros((0, 20, 30), np.uint8)},
]


@pytest.mark.parametrize("target", NO_BOXES)
def test_an_image_without_boxes_is_kept(target):
    _, targets = PAD([(IMAGE, target), (IMAGE, TARGET)])
    assert targets["valid_mask"].sum(1).tolist() == [0, 2]
    assert targets["image_valid"].all()
    assert not targets["boxes"][0].any()
    assert all(not targets[key][0].any() for key in EVERYTHING)


@pytest.mark.parametrize("target", NO_BOXES)
def test_a_batch_without_any_box_has_its_fixed_shape_too(target):
    images, targets = PAD([(IMAGE, target)])
    assert images.shape == (1, 3, 24, 32)
    assert targets["boxes"].shape == (1, 4, 4) and targets["labels"].shape == (1, 4) and not targets["valid_mask"].any()


@pytest.mark.parametrize("image_id", [7, torch.tensor(7), torch.tensor([7]), np.int32(7), np.array(7)])
def test_an_image_id_is_a_number_in_any_wrapping(image_id):
    assert PAD([(IMAGE, {"image_id": image_id}), (IMAGE, {})])[1]["image_id"].tolist() == [7, -1]


@pytest.mark.parametrize("orig_size", [(480, 640), [480, 640], torch.tensor([480, 640]), np.array([480, 640])])
def test_the_original_size_is_what_the_host_transform_wrote_or_else_the_image_s_own(orig_size):
    _, targets = PAD([(IMAGE, {"orig_size": orig_size}), (IMAGE, {})])
    assert targets["orig_sizes"].tolist() == [[480, 640], [20, 30]]
    assert targets["image_sizes"].tolist() == [[20, 30], [20, 30]]


def test_keys_that_are_not_known_are_not_read():
    _, targets = PAD([(IMAGE, {**TARGET, "segmentation": object(), "caption": "a cat"})])
    assert "segmentation" not in targets and "caption" not in targets


XYWH = tv_tensors.BoundingBoxes([[1, 1, 5, 5], [2, 2, 5, 5]], format="XYWH", canvas_size=(20, 30))
WRONG = [
    ({"labels": None}, TargetError, r"the target has boxes but no labels, expected both; neither where there are no boxes\."),
    ({"boxes": None}, TargetError, r"the target has labels but no boxes, expected both"),
    (
        {"labels": [1]},
        TargetError,
        r"labels has shape \(1,\) for 2 boxes, expected \[2\]: one entry per box, in the order of the boxes",
    ),
    ({"labels": [[1], [2]]}, TargetError, r"labels has shape \(2, 1\) for 2 boxes, expected \[2\]"),
    ({"labels": [1.0, 2.0]}, DtypeError, r"labels are float32, expected whole numbers \(int64\)\."),
    (
        {"labels": ["cat", "dog"]},
        DtypeError,
        r"labels is a list that does not make a tensor \(.*\), expected a tensor, an array or",
    ),
    ({"boxes": torch.ones(2, 5)}, ShapeError, r"boxes have shape \(2, 5\), expected \[n, 4\]: x1, y1, x2, y2 in pixels\."),
    ({"boxes": torch.ones(4)}, ShapeError, r"boxes have shape \(4,\), expected \[n, 4\]"),
    ({"boxes": XYWH}, TargetError, r"boxes are XYWH, expected XYXY\. Convert them .*ConvertBoundingBoxFormat\(\"XYXY\"\)\."),
    ({"area": [1.0]}, TargetError, r"area has shape \(1,\) for 2 boxes, expected \[2\]"),
    ({"iscrowd": [0, 0, 0]}, TargetError, r"iscrowd has shape \(3,\) for 2 boxes, expected \[2\]"),
    ({"iscrowd": [0.5, 0.0]}, DtypeError, r"iscrowd are float32, expected whole numbers"),
    ({"masks": torch.ones(1, 20, 30).bool()}, TargetError, r"masks has shape \(1, 20, 30\) for 2 boxes, expected \[2, H, W\]"),
    ({"masks": torch.ones(2, 20, 30)}, DtypeError, r"masks are float32, expected bool or uint8 \[n, H, W\]\."),
    (
        {"masks": torch.ones(2, 21, 30).bool()},
        TargetError,
        r"masks are 21x30, the image is 20x30 \(height x width\)\. Resize both",
    ),
    ({"masks": [{"counts": "abc"}] * 2}, DtypeError, r"masks is a list that does not make a tensor"),
    (
        {"keypoints": torch.ones(2, 5, 2)},
        TargetError,
        r"keypoints have shape \(2, 5, 2\), expected \[n, K, 3\]: x, y, visibility\.",
    ),
    ({"keypoints": torch.ones(3, 5, 3)}, TargetError, r"keypoints has shape \(3, 5, 3\) for 2 boxes, expected \[2, K, 3\]"),
    ({"orig_size": 480}, TargetError, r"orig_size is 480, expected \(height, width\)\."),
    ({"orig_size": (0, 640)}, ShapeError, r"orig_size is 0, expected a whole number of at least 1\."),
]


@pytest.mark.parametrize(("change", "error", "message"), WRONG)
def test_a_wrong_value_is_named_with_its_sample(change, error, message):
    target = {**TARGET, "image_id": 3, **change}
    with pytest.raises(error, match=rf"^PadToBucket: sample 1 \(image_id 3\): {message}"):
        PAD([(IMAGE, TARGET), (IMAGE, target)])


@pytest.mark.parametrize("image_id", ["000012.jpg", 1.5, True, torch.tensor([1, 2])])
def test_an_image_id_that_is_no_number_is_an_error(image_id):
    with pytest.raises(TargetError, match=r"^PadToBucket: sample 0: image_id is .*, expected a whole number\."):
        PAD([(IMAGE, {"image_id": image_id})])
