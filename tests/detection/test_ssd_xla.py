"""Evaluation on XLA: NMS and all, one graph, nothing on the host, the host's own detections.

In float32, where rounding decides an overlap at the threshold now and then and one box stays instead of another: nearly all slots
are compared as equal. (In float64, where a step takes XLA on the CPU most of a minute, scores differ by 1e-13.)
"""

import pytest
import torch

from fixshape import PadToBucket, fit, get_backend, to_static
from fixshape.detection import DrawnShapes, host_transform
from tests.detection.twins import SIZES, build

pytestmark = pytest.mark.xla


def test_detections_are_those_of_the_cpu_from_one_graph():
    backend = get_backend("xla")  # before the first backward of the process
    model = build(next(iter(SIZES)), dtype=torch.float32)
    transform = host_transform(model)
    samples = [transform(*sample) for sample in map(DrawnShapes(24, seed=4).__getitem__, range(24))]
    collate = PadToBucket((320, 320), max_boxes=12)
    batches = [collate(samples[start : start + 4]) for start in range(0, 24, 4)]
    static = to_static(model)
    optimizer = torch.optim.SGD(static.parameters(), lr=0.02, momentum=0.9)
    fit(static, batches, optimizer, steps=8, backend="cpu", progress=False)  # random weights tie nearly all scores
    static.eval()
    with torch.no_grad():
        expected = [static(images[:2]) for images, _ in batches[:3]]
        static.to(backend.device())
        backend.step()
        compiles, fallbacks = backend.compiles(), backend.fallbacks()
        for (images, _), theirs in zip(batches[:3], expected, strict=True):
            on_device = static(images[:2].to(backend.device()))
            backend.step()
            ours = [part.cpu() for part in on_device[:4]]
            alike = torch.isclose(ours[1], theirs.scores, rtol=1e-3, atol=1e-4) & (ours[3] == theirs.valid_mask)
            assert alike.double().mean() > 0.9
            # A wrong answer would not be alike: the scores of the other images of the batch, say.
            assert torch.isclose(ours[1].flip(0), theirs.scores, rtol=1e-3, atol=1e-4).double().mean() < 0.5
    assert backend.compiles() - compiles <= 2
    assert backend.fallbacks() == fallbacks
