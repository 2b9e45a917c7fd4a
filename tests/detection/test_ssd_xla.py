"""Evaluation on XLA: candidates, NMS and all in one graph, nothing on the host, the host's own detections.

Fed with the heads' outputs, in float64: XLA on the CPU takes most of a minute for float64 convolutions, and in float32 rounding
reorders scores that nearly tie. With the convolutions, after a short training, scores differed by 1e-13.
"""

import pytest
import torch

from fixshape import get_backend
from tests.detection.twins import SIZES, build, make_twin

pytestmark = pytest.mark.xla


class Given(torch.nn.Module):
    """A head that says what it is given."""

    def forward(self, features):
        return {"cls_logits": features[0], "bbox_regression": features[1]}


def _detect(twin, logits, regression, sizes):
    return twin._detect({"logits": logits, "regression": regression}, twin.canvas, sizes)


def test_detections_are_those_of_the_cpu_from_one_graph():
    backend = get_backend("xla")
    device = backend.device()
    twin = make_twin(build(next(iter(SIZES)))).eval()
    generator = torch.Generator().manual_seed(0)
    anchors = len(twin.anchors)
    sizes = torch.tensor([[320, 320], [200, 320]])
    outputs = [
        (
            torch.randn(2, anchors, 4, generator=generator, dtype=torch.float64),
            torch.randn(2, anchors, 4, generator=generator, dtype=torch.float64),
        )
        for _ in range(3)
    ]
    twin.head = Given()
    expected = [_detect(twin, *given, sizes) for given in outputs]
    twin.to(device)
    backend.step()
    compiles, fallbacks = backend.compiles(), backend.fallbacks()
    for (logits, regression), theirs in zip(outputs, expected, strict=True):
        found = _detect(twin, logits.to(device), regression.to(device), sizes.to(device))
        backend.step()
        assert theirs.valid_mask.sum() > 100
        for ours, other in zip(found[:4], theirs[:4], strict=True):
            torch.testing.assert_close(ours.cpu(), other, rtol=1e-9, atol=1e-9)
    assert backend.compiles() - compiles == 1
    assert backend.fallbacks() == fallbacks
