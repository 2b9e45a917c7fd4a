"""Evaluation: after a short training, in float64, the static detections are torchvision's, one to one."""

import pytest
import torch

from fixshape.detection import DrawnShapes, host_transform, to_list
from tests.detection.twins import SIZES, build, make_twin, pad, step

SSDLITE, SSD300 = SIZES


def _trained(name: str, steps: int, batch_size: int):
    """A model that has seen enough for its scores to differ: random weights tie nearly all of them."""
    model = build(name)
    transform = host_transform(model, dtype=torch.float64)
    samples = DrawnShapes(batch_size * steps, seed=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01 if name == SSDLITE else 2e-4, momentum=0.9)
    for number in range(steps):
        pairs = [transform(*samples[batch_size * number + index]) for index in range(batch_size)]
        step(model, [image for image, _ in pairs], [target for _, target in pairs])
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize(("name", "steps", "batch_size"), [(SSDLITE, 12, 2), pytest.param(SSD300, 2, 1, marks=pytest.mark.slow)])
def test_detections_are_torchvisions_one_to_one(name, steps, batch_size):
    model = _trained(name, steps, batch_size)
    twin = make_twin(model)
    assert not twin.training
    transform = host_transform(model, dtype=torch.float64)
    raw = [DrawnShapes(8, seed=9)[index] for index in range(2)]
    pairs = [transform(*sample) for sample in raw]
    images, targets = pad([image for image, _ in pairs], [target for _, target in pairs], 12)
    with torch.no_grad():
        ours = to_list(twin(images), targets)
        # The resized images, so that both see the same pixels; then torchvision's own way back to the original coordinates.
        theirs = model([image for image, _ in pairs])
        theirs = model.transform.postprocess(
            theirs, [tuple(image.shape[-2:]) for image, _ in pairs], [target["orig_size"] for _, target in pairs]
        )
    assert len(ours) == len(theirs) == 2
    assert sum(len(found["scores"]) for found in theirs) > 20
    for mine, other in zip(ours, theirs, strict=True):
        assert len(other["scores"].unique()) == len(other["scores"]), "scores tie: the order is then nobody's promise"
        assert torch.equal(mine["labels"], other["labels"])
        torch.testing.assert_close(mine["scores"], other["scores"], rtol=1e-12, atol=0)
        torch.testing.assert_close(mine["boxes"], other["boxes"], rtol=1e-9, atol=1e-9)


def test_slots_beyond_what_is_found_are_zero_and_not_valid():
    twin = make_twin(build(SSDLITE)).eval()
    twin._score_thresh = 2.0  # nothing reaches it
    with torch.no_grad():
        found = twin(torch.rand(2, 3, 320, 320, dtype=torch.float64))
    assert not found.valid_mask.any()
    for part in (found.boxes, found.scores, found.labels):
        assert (part == 0).all()
    assert found.boxes.shape == (2, 300, 4)
    assert (found.masks, found.keypoints) == (None, None)


def test_a_filler_is_left_out_of_the_list_and_boxes_stay_in_the_image():
    twin = make_twin(build(SSDLITE, dtype=torch.float32)).eval()
    images, targets = pad([torch.rand(3, 320, 320)], [{}], 4)
    targets = {key: torch.cat((value, torch.zeros_like(value))) for key, value in targets.items()}
    with torch.no_grad():
        found = twin(torch.cat((images, images)), targets)
    (only,) = to_list(found, targets)
    assert only["boxes"].min() >= 0
    assert only["boxes"].max() <= 320
    assert (found.boxes[1] == 0).all()  # clipped to an image of no size
