"""Every model's twin: the same parameters and keys, its anchors, and a refusal for parts that were changed."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torchvision.models.detection import _utils as det_utils
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNN
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import MultiScaleRoIAlign

from fixshape import Bucket, PadToBucket, to_static
from fixshape.detection._anchors import GridAnchors
from fixshape.errors import DtypeError, ModelError, ShapeError
from tests.detection import reduced


@pytest.fixture(scope="module", params=reduced.BUILDERS)
def model(request):
    return reduced.build(request.param, dtype=torch.float32)


@pytest.fixture
def faster():
    return reduced.build("fasterrcnn", dtype=torch.float32)


def test_parameters_are_shared_and_checkpoints_go_both_ways_strictly(model):
    static, other = to_static(copy.deepcopy(model)), copy.deepcopy(model)
    assert list(static.state_dict()) == list(model.state_dict())
    with torch.no_grad():
        for parameter in static.parameters():
            parameter.add_(1)
    other.load_state_dict(static.state_dict(), strict=True)
    static.load_state_dict(model.state_dict(), strict=True)
    assert all(torch.equal(static.state_dict()[key], value) for key, value in model.state_dict().items())
    shared = to_static(model)
    assert all(ours is theirs for ours, theirs in zip(shared.parameters(), model.parameters(), strict=True))
    assert to_static(shared) is shared


def test_parts_that_the_user_put_into_evaluation_stay_there(model):
    frozen = copy.deepcopy(model)
    frozen.backbone.eval()
    static = to_static(frozen)
    assert static.training
    assert not static.backbone.training


def test_a_deep_copy_and_a_pickle_are_whole(model):
    static = to_static(copy.deepcopy(model)).eval()
    image = torch.rand(1, 3, *reduced.CANVAS)
    with torch.no_grad():
        for again in (copy.deepcopy(static), pickle.loads(pickle.dumps(static))):
            assert torch.equal(again(image).scores, static(image).scores)


def test_num_classes_counts_the_background(model):
    assert to_static(copy.deepcopy(model)).num_classes in (2, reduced.CLASSES)


@pytest.mark.parametrize("canvas", [(128, 192), (128, 352), (96, 96)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_anchors_are_torchvisions_own_on_every_canvas_and_in_each_dtype(canvas, dtype):
    """Also where a stride is no whole number: 352 pixels on 3 columns."""
    generator = AnchorGenerator(((16, 20), (32, 40), (64, 80)), ((0.5, 1.0, 2.0),) * 3)
    features = [torch.empty(1, 1, -(-canvas[0] // step), -(-canvas[1] // step), dtype=dtype) for step in (8, 32, 128)]
    (theirs,) = generator(ImageList(torch.empty(1, 3, *canvas), [canvas]), features)
    ours = torch.cat(GridAnchors(generator, torch.empty(0, dtype=dtype))(features, canvas))
    assert ours.dtype == dtype
    assert torch.equal(ours, theirs)


def test_anchors_survive_sixteen_bits(model):
    """torchvision's generator keeps what it was cast to; these are made anew, and are never below float32."""
    static = to_static(copy.deepcopy(model))
    before = [buffer.clone() for buffer in static.anchors.buffers()]
    static.bfloat16()
    assert {buffer.dtype for buffer in static.anchors.buffers()} == {torch.float32}
    assert static.mean.dtype == torch.float32
    static.double()
    assert all(torch.equal(after, buffer.double()) for after, buffer in zip(static.anchors.buffers(), before, strict=True))


# -- parts that are not understood --------------------------------------------------------------------------------------------


def test_a_subclass_of_a_model_is_refused():
    class Mine(MaskRCNN):
        pass

    mine = reduced.build("maskrcnn")
    mine.__class__ = Mine
    with pytest.raises(ModelError, match=r"Mine is a subclass of torchvision's MaskRCNN; what it changes would be lost"):
        to_static(mine)


class MyMatcher(det_utils.Matcher):
    pass


class MyPool(MultiScaleRoIAlign):
    pass


class MyHead(RetinaNetHead):
    pass


@pytest.mark.parametrize(
    ("name", "part", "changed"),
    [
        ("fasterrcnn", "rpn.proposal_matcher", MyMatcher(0.7, 0.3)),
        ("fasterrcnn", "roi_heads.fg_bg_sampler", object()),
        ("maskrcnn", "roi_heads.mask_roi_pool", MyPool(["0"], 14, 2)),
        ("keypointrcnn", "roi_heads.box_coder", det_utils.BoxLinearCoder()),
        ("retinanet", "head", MyHead(64, 9, 4)),
        ("fcos", "anchor_generator", nn.Identity()),
    ],
)
def test_a_replaced_part_is_refused_by_its_name(name, part, changed):
    model = reduced.build(name)
    owner, _, attribute = part.rpartition(".")
    setattr(model.get_submodule(owner), attribute, changed)
    with pytest.raises(ModelError, match=rf"^to_static: {part} is {type(changed).__name__}, expected torchvision's \w+ itself"):
        to_static(model)


@pytest.mark.parametrize("part", ["rpn.compute_loss", "roi_heads.postprocess_detections", "transform.batch_images"])
def test_a_replaced_method_is_refused_by_its_name(faster, part):
    owner, _, attribute = part.rpartition(".")
    setattr(faster.get_submodule(owner), attribute, lambda *_: None)
    with pytest.raises(ModelError, match=rf"^to_static: {part} was replaced on this model; .* \(del {part}\)"):
        to_static(faster)


def test_a_similarity_of_the_users_own_is_refused(faster):
    faster.rpn.box_similarity = lambda a, b: a @ b.T
    with pytest.raises(ModelError, match=r"rpn\.box_similarity is <lambda>, expected torchvision\.ops\.box_iou"):
        to_static(faster)


def test_a_hook_that_would_not_run_is_refused_and_one_that_does_is_kept(faster):
    called = []
    faster.rpn.head.register_forward_hook(lambda *_: called.append("rpn.head"))
    faster.backbone.register_forward_hook(lambda *_: called.append("backbone"))
    faster.eval()
    with torch.no_grad():
        to_static(faster)(torch.rand(1, 3, *reduced.CANVAS))
    assert called == ["backbone", "rpn.head"]
    faster.rpn.register_forward_hook(lambda *_: None)
    with pytest.raises(ModelError, match=r"^to_static: rpn has a hook, which would not run"):
        to_static(faster)


def test_a_batch_norm_that_cannot_be_told_which_rows_are_real_is_refused(faster):
    class Head(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.norm = inner, nn.BatchNorm1d(1024)

        def forward(self, x):
            return self.norm(self.inner(x))

    faster.roi_heads.box_head = Head(faster.roi_heads.box_head)
    with pytest.raises(ModelError, match=r"roi_heads\.box_head is a Head with a batch norm in it"):
        to_static(faster)


def test_other_heads_and_backbones_are_taken_as_they_are(faster):
    """What is only called may be anything that keeps the interface."""
    faster.roi_heads.box_head = nn.Sequential(nn.Flatten(), nn.Linear(64 * 49, 1024), nn.ReLU())
    losses = to_static(faster)(*_batch())
    assert all(torch.isfinite(loss) for loss in losses.values())


# -- bad batches --------------------------------------------------------------------------------------------------------------


def _batch(**rows):
    image = torch.rand(3, 100, 150)
    target = {"boxes": torch.tensor([[10.0, 20.0, 60.0, 80.0]]), "labels": torch.tensor([1]), **rows}
    return PadToBucket(Bucket(*reduced.CANVAS, 3))([(image, target)])


def test_a_canvas_that_torchvision_would_not_pad_to_is_refused(faster):
    images, targets = _batch()
    with pytest.raises(ShapeError, match=r"the canvas is 120 x 192 .*expected multiples of 32, .*Pad to 128 x 192"):
        to_static(faster)(images[:, :, :120], targets)


def test_errors_of_a_step_say_what_to_do(faster):
    static = to_static(faster)
    images, targets = _batch()
    with pytest.raises(DtypeError, match="images are torch.int64, expected floating"):
        static(images.long(), targets)
    with pytest.raises(ModelError, match=r"training needs targets: model\(images, targets\)"):
        static(images)
    with pytest.raises(ShapeError, match=r"targets\['labels'\] has shape \(1, 2\), expected \(1, 3\)"):
        static(images, {**targets, "labels": targets["labels"][:, :2]})
    with pytest.raises(ShapeError, match=r"targets\['image_valid'\] has shape \(2,\), expected \(1,\)"):
        static(images, {**targets, "image_valid": torch.ones(2, dtype=torch.bool)})


def test_targets_without_masks_or_keypoints_are_named():
    images, targets = _batch()
    with pytest.raises(
        ModelError, match=r"the model learns masks, but the targets have none \(keys: boxes, .*'masks' \[n, H, W\]"
    ):
        to_static(reduced.build("maskrcnn", dtype=torch.float32))(images, targets)
    with pytest.raises(ModelError, match=r"the model learns keypoints, but the targets have none .*'keypoints' \[n, K, 3\]"):
        to_static(reduced.build("keypointrcnn", dtype=torch.float32))(images, targets)
    masks = torch.zeros(1, 100, 150, dtype=torch.uint8)
    images, targets = _batch(masks=masks)
    with pytest.raises(ShapeError, match=r"targets\['masks'\] has shape \(1, 3, 64, 64\), expected \(1, 3, 128, 192\)"):
        to_static(reduced.build("maskrcnn", dtype=torch.float32))(images, {**targets, "masks": targets["masks"][..., :64, :64]})


def test_box_masks_train_mask_rcnn_and_come_near_to_full_masks():
    """The cheaper stored form: the losses are close, and not equal."""
    static = to_static(reduced.build("maskrcnn", dtype=torch.float32))
    image = torch.rand(3, 100, 150)
    y, x = torch.meshgrid(torch.arange(100), torch.arange(150), indexing="ij")
    masks = (((x - 35) / 25) ** 2 + ((y - 50) / 30) ** 2 <= 1).to(torch.uint8)[None]
    target = {"boxes": torch.tensor([[10.0, 20.0, 60.0, 80.0]]), "labels": torch.tensor([1]), "masks": masks}
    losses = []
    for size in (None, 56):
        torch.manual_seed(0)
        batch = PadToBucket(Bucket(*reduced.CANVAS, 3), mask_size=size)([(image, target)])
        losses.append(copy.deepcopy(static)(*batch)["loss_mask"].item())
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
