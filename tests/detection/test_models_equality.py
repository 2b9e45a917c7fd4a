"""Same training: losses, gradients and buffers of every static model are torchvision's, in float64 to 1e-9 relative.

Small models (see ``reduced``), at every state of the reference's own training; the full ones, once each, are marked slow.
"""

import copy

import pytest
import torch
from torchvision.models import detection

from fixshape.detection import SUPPORTED
from tests.detection import reduced
from tests.detection.pairs import EXACT, Pair, drawn_samples, label_in_double, random_batch, real_samples
from tests.detection.twins import assert_equal, distance, make_twin, step


@pytest.fixture(scope="module", params=reduced.BUILDERS)
def pair(request):
    return Pair(request.param)


def test_no_box_and_some(pair):
    pair.compare(*pair.random([0, 5], seed=1), slots=12)


def test_every_slot_taken(pair):
    losses = pair.compare(*pair.random([12, 12], seed=2), slots=12)
    assert all(loss > 0 for loss in losses.values())


def test_not_one_box_in_the_batch(pair):
    losses = pair.compare(*pair.random([0, 0], seed=3), slots=4)
    assert losses.keys() & {"bbox_regression", "loss_box_reg"}
    for name in ("bbox_regression", "bbox_ctrness", "loss_box_reg", "loss_rpn_box_reg", "loss_mask", "loss_keypoint"):
        assert losses.get(name, 0) == 0  # and not NaN


def test_crowded_with_equal_boxes(pair):
    """Ground truth on top of other ground truth, more of it than the sampler takes positives."""
    images, targets = pair.random([40, 3], seed=4)
    targets[0]["boxes"][20:] = targets[0]["boxes"][:20] + 1
    pair.compare(images, targets)


def test_float32_boxes_in_a_float64_model(pair):
    """Boxes as data sets give them: what torchvision computes of them in float32, the static model computes in float32."""
    images, targets = pair.random([6, 2], seed=5)
    pair.compare(images, [{**target, "boxes": target["boxes"].float()} for target in targets])


@pytest.mark.parametrize("name", reduced.with_slow_variants())
def test_every_state_of_a_10_step_trajectory(name):
    """Of drawn batches."""
    pair = Pair(name)
    samples = drawn_samples(20)
    optimizer = torch.optim.SGD(pair.reference.parameters(), lr=5e-3, momentum=0.9)
    before = copy.deepcopy(pair.reference.state_dict())
    for number in range(10):
        batch = [pair.fitted(samples[2 * number + index]) for index in range(2)]
        images, targets = (list(part) for part in zip(*batch, strict=True))
        pair.compare(images, targets, slots=12)
        torch.nn.utils.clip_grad_norm_(pair.reference.parameters(), 10.0)
        optimizer.step()
    assert distance(pair.reference.state_dict(), before) > 0.01, "it does not train: all states are the first one"


def test_real_images(pair, data_folder):
    """Photographs, one of them without a box; masks from polygons and persons' keypoints."""
    keypoints = 17 if pair.name == "keypointrcnn" else 0
    samples = real_samples(pair.name, data_folder)
    counts = {index: len(samples[index][1]["boxes"]) for index in range(min(24, len(samples)))}
    full = max(counts, key=counts.__getitem__)
    few = next(index for index, count in counts.items() if 0 < count < counts[full])
    images, targets = zip(*(pair.fitted(samples[index], keypoints=reduced.KEYPOINTS) for index in (few, full)), strict=True)
    assert not keypoints or all(target["keypoints"].shape[1] == reduced.KEYPOINTS for target in targets)
    pair.compare(list(images), list(targets))
    empty = {key: value[:0] for key, value in targets[0].items()}
    pair.compare([images[1], images[0]], [targets[1], empty])


def test_free_running_for_three_steps(pair):
    """Each model goes its own way and stays within 1e-10 of the other."""
    twin, reference = pair.twin, pair.reference
    twin.load_state_dict(reference.state_dict())
    optimizers = [torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9) for model in (twin, reference)]
    for number in range(3):
        images, targets = pair.random([4, 2], seed=20 + number)
        if pair.shared:
            pair.shared.expect([4, 2], 6)
        step(twin, *pair.pad(images, targets, 6))
        step(reference, images, targets)
        for optimizer in optimizers:
            optimizer.step()
    assert distance(twin.state_dict(), reference.state_dict()) <= 1e-10


def test_float32_losses_to_1e_4(pair):
    reference, twin = copy.deepcopy(pair.reference).float(), copy.deepcopy(pair.twin).float()
    images, targets = random_batch(
        [5, 3],
        seed=8,
        classes=2 if pair.name == "keypointrcnn" else reduced.CLASSES,
        masks="mask" in pair.name,
        keypoints=reduced.KEYPOINTS * ("key" in pair.name),
        dtype=torch.float32,
    )
    if pair.shared:  # the copies' samplers and keys belong to one another no more
        pair.shared.__init__(reference, twin)
        pair.shared.expect([5, 3], 6)
    ours, theirs = step(twin, *pair.pad(images, targets, 6)), step(reference, images, targets)
    if pair.shared:
        pair.shared.__init__(pair.reference, pair.twin)
    assert distance(ours[0], theirs[0]) <= 1e-4


def test_the_oracle_fails_on_a_loss_that_is_a_millionth_too_large(pair):
    """So small an error must not pass for equal."""
    broken = Pair(pair.name)
    right = broken.twin._losses
    broken.twin._losses = lambda *batch: {key: loss * 1.000001 for key, loss in right(*batch).items()}
    with pytest.raises(AssertionError, match=r"losses differ by 1\.00e-06"):
        broken.compare(*pair.random([2, 1], seed=10))


@pytest.mark.parametrize("name", reduced.RCNNS)
def test_no_score_tie_decides(name):
    """Equal scores may go either way in torchvision; on the batches above there are none among the proposals."""
    pair = Pair(name)
    filter_proposals = pair.reference.rpn.filter_proposals

    def check(proposals, objectness, *rest):
        boxes, scores = filter_proposals(proposals, objectness, *rest)
        for values in (*scores, *objectness.reshape(len(scores), -1)):
            assert len(values.unique()) == len(values)
        return boxes, scores

    pair.reference.rpn.filter_proposals = check
    for seed, counts in enumerate(([0, 5], [12, 12], [0, 0]), start=1):
        pair.compare(*pair.random(counts, seed=seed), slots=12)


def test_torchvisions_float32_labels_cost_its_objectness_loss_its_last_digits():
    """Without them made float64, the two losses agree to single precision and the gradients to 1e-9 all the same."""
    pair = Pair("fasterrcnn")
    del pair.reference.rpn.compute_loss
    ours, theirs = pair.step_both(*pair.random([3, 2], seed=11))
    assert 1e-12 < distance({"": ours[0]["loss_objectness"]}, {"": theirs[0]["loss_objectness"]}) < 1e-6
    assert distance(ours[1], theirs[1]) <= EXACT["gradients"]


# -- torchvision's own builders, whole ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SUPPORTED if not name.startswith("ssd")])
def test_the_full_model(name):
    """Each builder's model as it is, 91 classes and all, on a small canvas: one step with drawn boxes."""
    torch.manual_seed(0)
    canvas = (192, 256)
    reference = getattr(detection, name)(weights=None, weights_backbone=None, _skip_resize=True).double().train()
    twin = make_twin(reference)
    reduced.on_canvas(reference, canvas)
    keypoints = 17 if "keypoint" in name else 0
    counts = [4, 1]
    images, targets = random_batch(counts, seed=0, classes=2 if keypoints else 91, masks="mask" in name, keypoints=keypoints)
    if hasattr(reference, "rpn"):
        reduced.SharedKeys(reference, twin).expect(counts, 4)
        label_in_double(reference)
    pair = Pair.__new__(Pair)
    pair.canvas = canvas
    ours = step(twin, *pair.pad(images, targets, 4))
    theirs = step(reference, images, targets)
    assert_equal(ours, theirs, **EXACT)
