"""On a device, with none at hand: a whole step on the meta device, whose tensors hold no values.

A tensor that is made on the host and moved to the device in a step would break the capture of a CUDA graph; one whose shape or
path depends on a value would raise here.
"""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.detection import reduced
from tests.detection.pairs import Pair


class OnHost(TorchDispatchMode):
    """The operators that take or give a tensor on the host."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.found = 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.calls += 1
        if any(isinstance(leaf, Tensor) and leaf.device.type == "cpu" for leaf in tree_leaves((args, kwargs, result))):
            self.found.append(str(func))
        return result


def _on_meta(value: Tensor) -> Tensor:
    dtype = torch.float32 if value.is_floating_point() else value.dtype
    made = torch.empty(value.shape, dtype=dtype, device="meta")
    return made.requires_grad_(value.requires_grad)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", reduced.BUILDERS)
def test_a_step_makes_nothing_on_the_host(name, training):
    pair = Pair(name)
    model = pair.twin.train(training)
    model.sampling_keys = None
    images, targets = pair.pad(*pair.random([3, 1]), 4)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    state = {name: _on_meta(tensor) for name, tensor in tensors.items()}
    batch = _on_meta(images), {key: _on_meta(value) for key, value in targets.items()}
    with OnHost() as mode, torch.set_grad_enabled(training):
        result = torch.func.functional_call(model, state, batch)
        if training:
            learned = [tensor for tensor in state.values() if tensor.requires_grad]
            gradients = torch.autograd.grad(sum(result.values()), learned)
            assert {gradient.device.type for gradient in gradients} == {"meta"}
    assert mode.calls > 300
    assert mode.found == []


def test_the_mode_would_find_it():
    """The oracle at work."""
    with OnHost() as mode:
        torch.tensor([1.0, 2.0]).to("meta")
    assert mode.found
