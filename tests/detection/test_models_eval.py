"""Evaluation: after a short training, in float64, what every static model finds is what torchvision finds, one to one."""

import pytest
import torch

from fixshape.detection import to_list
from tests.detection import reduced
from tests.detection.pairs import Pair, drawn_samples
from tests.detection.twins import make_twin, step

ORIGINAL = [(300, 350), (200, 384)]  # sizes that the images are said to have had before the resize


@pytest.fixture(scope="module", params=reduced.with_slow_variants())
def trained(request):
    """A pair that has seen enough for its scores to differ; the twin made of the trained model, both in evaluation."""
    pair = Pair(request.param)
    # All weights: the frozen statistics of random batch-norms do not hold the signal up.
    optimizer = torch.optim.SGD(pair.reference.parameters(), lr=5e-3, momentum=0.9)
    samples = drawn_samples(24, seed=3)
    for number in range(12):
        images, targets = zip(*(pair.fitted(samples[2 * number + index]) for index in range(2)), strict=True)
        if pair.shared:
            pair.shared.expect([len(target["boxes"]) for target in targets], 12)
            with torch.no_grad():  # draws the keys that the reference is to look up
                pair.twin(*pair.pad(list(images), list(targets), 12))
        step(pair.reference, list(images), list(targets))
        torch.nn.utils.clip_grad_norm_(pair.reference.parameters(), 10.0)
        optimizer.step()
    pair.reference.eval()
    pair.twin.load_state_dict(pair.reference.state_dict())
    pair.twin.eval()
    return pair


def test_detections_are_torchvisions_one_to_one(trained):
    images, targets = trained.random([3, 1], seed=1)
    for target, size in zip(targets, ORIGINAL, strict=True):
        target["orig_size"] = size
    padded, padded_targets = trained.pad(images, targets, 4)
    postprocess = trained.reference.transform.postprocess
    sizes = [tuple(image.shape[-2:]) for image in images]
    # The reference gets resized images and has to scale to the original ones.
    trained.reference.transform.postprocess = lambda result, *_: postprocess(result, sizes, ORIGINAL)
    with torch.no_grad():
        ours = to_list(trained.twin(padded, padded_targets), padded_targets)
        theirs = trained.reference([image.clone() for image in images])
    del trained.reference.transform.postprocess
    assert sum(len(found["scores"]) for found in theirs) > 10, "too few to compare"
    for mine, other in zip(ours, theirs, strict=True):
        assert len(other["scores"].unique()) == len(other["scores"]), "scores tie: the order is then nobody's promise"
        assert mine.keys() == other.keys()
        assert torch.equal(mine["labels"], other["labels"])
        torch.testing.assert_close(mine["scores"], other["scores"], rtol=1e-9, atol=0)
        torch.testing.assert_close(mine["boxes"], other["boxes"], rtol=1e-9, atol=1e-9)
        for key in ("masks", "keypoints", "keypoints_scores"):
            if key in other:
                assert mine[key].dtype == other[key].dtype
                torch.testing.assert_close(mine[key], other[key], rtol=1e-7, atol=1e-7)


def test_a_filler_finds_nothing(trained):
    if not trained.shared:
        return _boxes_of_no_size(trained)
    images, targets = trained.pad(*trained.random([1], seed=4), 4)
    targets = {key: torch.cat((value, torch.zeros_like(value))) for key, value in targets.items()}
    with torch.no_grad():
        found = trained.twin(torch.cat((images, images)), targets)
    assert found.valid_mask[0].any()
    assert not found.valid_mask[1].any()
    assert len(to_list(found, targets)) == 1


def _boxes_of_no_size(trained):
    """RetinaNet and FCOS keep boxes of no size, as torchvision does; they are cut to an image of no size."""
    images, targets = trained.pad(*trained.random([1], seed=4), 4)
    targets = {key: torch.cat((value, torch.zeros_like(value))) for key, value in targets.items()}
    with torch.no_grad():
        found = trained.twin(torch.cat((images, images)), targets)
    assert (found.boxes[1] == 0).all()
    assert len(to_list(found, targets)) == 1


def test_a_twin_of_the_trained_model_is_in_evaluation():
    reference = reduced.build("fasterrcnn").eval()
    assert not make_twin(reference).training
