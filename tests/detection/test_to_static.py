"""Same parameters, same keys, and clear words for whatever cannot be made static."""

import copy
import pickle

import pytest
import torch
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from fixshape import to_static
from fixshape.detection import HostTransform, host_transform, to_list
from fixshape.errors import DtypeError, ModelError, ShapeError
from tests.detection.twins import SIZES, build, drawn, make_twin, pad

SSDLITE, SSD300 = SIZES


@pytest.fixture(scope="module", params=SIZES)
def model(request):
    return build(request.param, dtype=torch.float32)


def test_parameters_are_shared_not_copied(model):
    static = to_static(model)
    assert [name for name, _ in static.named_parameters()] == [name for name, _ in model.named_parameters()]
    assert all(ours is theirs for ours, theirs in zip(static.parameters(), model.parameters(), strict=True))
    assert to_static(static) is static


def test_checkpoints_go_both_ways_strictly(model):
    static, other = to_static(copy.deepcopy(model)), copy.deepcopy(model)
    with torch.no_grad():
        for parameter in static.parameters():
            parameter.add_(1)
    assert list(static.state_dict()) == list(model.state_dict())
    other.load_state_dict(static.state_dict(), strict=True)
    static.load_state_dict(model.state_dict(), strict=True)
    assert all(torch.equal(static.state_dict()[key], value) for key, value in model.state_dict().items())


def test_mode_is_kept(model):
    assert to_static(copy.deepcopy(model).eval()).training is False
    assert to_static(model).training is True


def test_anchors_are_torchvisions_own_in_each_dtype(model):
    static = to_static(copy.deepcopy(model))
    for dtype, expected in ((torch.float32, torch.float32), (torch.float64, torch.float64), (torch.float16, torch.float32)):
        static.to(dtype)
        features = [torch.empty(1, 1, *grid, dtype=expected) for grid in static._grids]
        (theirs,) = model.anchor_generator(ImageList(torch.empty(1, 3, *static.canvas), [static.canvas]), features)
        assert static.anchors.dtype == expected
        assert torch.equal(static.anchors, theirs)
    # Cast instead of made anew, they would be off: the reason for the rebuild.
    assert (to_static(model).anchors.double() - theirs.to(static.anchors.dtype)).abs().max() < 1e-3


def test_a_deep_copy_and_a_pickle_are_whole(model):
    static = to_static(model).eval()
    image = torch.rand(1, 3, *static.canvas)
    with torch.no_grad():
        for again in (copy.deepcopy(static), pickle.loads(pickle.dumps(static))):
            assert torch.equal(again(image).scores, static(image).scores)
    static.train()


def test_uint8_images_are_read_as_x_over_255():
    static = make_twin(build(SSDLITE)).eval()
    image = torch.randint(0, 256, (1, 3, 320, 320), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(static(image).scores, static(image.double() / 255).scores)


def test_other_models_are_named_with_what_is_supported():
    with pytest.raises(ModelError, match=r"got Linear, expected .* ssd300_vgg16, ssdlite320_mobilenet_v3_large, .*keypointrcnn_"):
        to_static(torch.nn.Linear(2, 2))


def test_a_subclass_is_refused(model):
    class Mine(SSD):
        pass

    mine = copy.deepcopy(model)
    mine.__class__ = Mine
    with pytest.raises(ModelError, match=r"Mine is a subclass of torchvision's SSD; what it changes would be lost"):
        to_static(mine)


def test_a_model_without_a_fixed_size_is_refused(model):
    other = copy.deepcopy(model)
    other.transform.fixed_size = None
    with pytest.raises(ModelError, match="no fixed size"):
        to_static(other)


def test_errors_of_a_step_say_what_to_do(model):
    static = to_static(copy.deepcopy(model))
    height, width = static.canvas
    images, targets = pad(*drawn(SSDLITE if height == 320 else SSD300, [2], dtype=torch.float32), 3)
    with pytest.raises(
        ShapeError, match=rf"images has shape \(1, 3, 64, 64\), expected \(B, 3, {height}, {width}\). Resize with"
    ):
        static(images[..., :64, :64], targets)
    with pytest.raises(DtypeError, match="images are torch.int64, expected floating"):
        static(images.long(), targets)
    with pytest.raises(ModelError, match=r"training needs targets: model\(images, targets\)"):
        static(images)
    with pytest.raises(ShapeError, match=r"targets\['labels'\] has shape \(1, 2\), expected \(1, 3\)"):
        static(images, {**targets, "labels": targets["labels"][:, :2]})
    with pytest.raises(ShapeError, match=r"image_sizes has shape \(2, 2\), expected \(1, 2\)"):
        static(images, targets, torch.zeros(2, 2, dtype=torch.int64))


def test_to_list_refuses_targets_of_another_batch():
    static = make_twin(build(SSDLITE, dtype=torch.float32)).eval()
    _, targets = pad(*drawn(SSDLITE, [2, 1], dtype=torch.float32), 3)
    with (
        torch.no_grad(),
        pytest.raises(ShapeError, match=r"to_list: targets\['image_sizes'\] has shape \(2, 2\), expected \(1, 2\)"),
    ):
        to_list(static(torch.rand(1, 3, 320, 320)), targets)


def test_host_transform_is_picklable_and_knows_its_sizes(model):
    transform = pickle.loads(pickle.dumps(host_transform(model)))
    side = SIZES[SSDLITE] if model.transform.fixed_size[0] == 320 else SIZES[SSD300]
    image, target = transform(torch.rand(3, 50, 70))
    assert tuple(image.shape[-2:]) == transform.size(50, 70) == (side, side)
    assert target == {"orig_size": (50, 70)}


def test_host_transform_knows_many_sizes_at_once(model):
    side = model.transform.fixed_size[0]
    assert host_transform(model).sizes([(50, 70, 3), (9, 9, 0)]).tolist() == [[side, side, 3], [side, side, 0]]
    drawn = HostTransform([64, 48], 100, None)
    rows = drawn.sizes([(50, 70), (50, 200)]).tolist()
    assert rows == [[64, 89], [48, 67], [25, 100], [25, 100]]
    assert rows[0] == list(drawn.size(50, 70))
    seen = {tuple(drawn(torch.rand(3, 50, 70))[0].shape[-2:]) for _ in range(40)}
    assert seen == {(64, 89), (48, 67)}
    # Not training, torchvision takes the last one, which need not be the largest.
    last = HostTransform([64, 48], 100, None, training=False)
    assert last.sizes([(50, 70)]).tolist() == [list(last(torch.rand(3, 50, 70))[0].shape[-2:])] == [[48, 67]]


def test_host_transform_takes_a_scale_that_was_drawn_elsewhere():
    transform = pickle.loads(pickle.dumps(HostTransform([64, 48], 100, None)))
    image, target = torch.rand(3, 50, 70), {"boxes": torch.tensor([[7.0, 5.0, 35.0, 25.0]])}
    for scale, size in ((80, (71, 100)), (30, (30, 42)), (64, (64, 89))):
        before = torch.get_rng_state()
        got, resized = transform(image, target, min_size=scale)
        assert torch.equal(torch.get_rng_state(), before)
        wanted, expected = GeneralizedRCNNTransform([scale], 100, [0.0], [1.0]).resize(image, dict(target))
        assert got.shape[-2:] == size and torch.equal(got, wanted) and torch.equal(resized["boxes"], expected["boxes"])
        assert transform(image, min_size=scale)[0].shape == got.shape
    with pytest.raises(ShapeError, match="host_transform: min_size is 0, expected a whole number of at least 1"):
        transform(image, min_size=0)
    with pytest.raises(
        ShapeError, match=r"got min_size=64, but every image becomes 20x30 \(height x width\)\. Leave scales= out"
    ):
        HostTransform([64], 100, (30, 20))(image, min_size=64)


def test_host_transform_resizes_all_that_has_coordinates(model):
    side = model.transform.fixed_size[0]
    boxes = torch.tensor([[0.0, 0.0, 35.0, 25.0]])
    target = {
        "boxes": boxes,
        "masks": torch.ones(1, 50, 70, dtype=torch.uint8),
        "keypoints": torch.tensor([[[70.0, 50.0, 1.0]]]),
        "labels": torch.tensor([2]),
    }
    _, resized = host_transform(model)(torch.rand(3, 50, 70), target)
    torch.testing.assert_close(resized["boxes"], torch.tensor([[0.0, 0.0, side / 2, side / 2]]))
    torch.testing.assert_close(resized["keypoints"], torch.tensor([[[float(side), float(side), 1.0]]]))
    assert resized["masks"].shape == (1, side, side)
    assert target["boxes"] is boxes and torch.equal(boxes, torch.tensor([[0.0, 0.0, 35.0, 25.0]]))  # the caller's are untouched


def test_host_transform_can_give_uint8(model):
    image, _ = host_transform(model, dtype=torch.uint8)(torch.full((3, 9, 9), 0.5))
    assert image.dtype == torch.uint8
    assert (image == 127).all()


def test_host_transform_refuses_what_has_no_transform(model):
    with pytest.raises(ModelError, match=r"Linear has no torchvision detection transform \(model.transform is NoneType\)"):
        host_transform(torch.nn.Linear(1, 1))
    with pytest.raises(DtypeError, match="dtype is torch.int64, expected a floating dtype or torch.uint8"):
        host_transform(model, dtype=torch.int64)
    with pytest.raises(ShapeError, match=r"the image has shape \(1, 1, 3, 4\), expected \[C, H, W\]"):
        host_transform(model)(torch.rand(1, 1, 3, 4))
