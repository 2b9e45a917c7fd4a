"""A step as one CUDA graph: on a GPU the real thing, everywhere else the bookkeeping around a stand-in for torch's capture."""

import contextlib
import copy
from typing import ClassVar

import pytest
import torch
from torch import nn

from fixshape.errors import BackendError
from fixshape.train import _cuda_graph, fit
from fixshape.train._cuda_graph import EAGER_STEPS, GraphedStep, check_capturable


class StandInGraph:
    """What torch's CUDA graph does, as far as a host can: what a capture calls is not done then, but at each replay."""

    captured: ClassVar["list[StandInGraph]"] = []

    def __init__(self):
        self.replays = 0

    def pool(self):
        return "pool"

    def replay(self):
        self.replays += 1
        self.loss.copy_(self.step(self.inputs))


@pytest.fixture
def stand_in(monkeypatch):
    """The capture of torch.cuda, on the host."""
    StandInGraph.captured = []
    pools = []

    @contextlib.contextmanager
    def capture(graph, pool=None):
        pools.append(pool)
        StandInGraph.captured.append(graph)
        yield

    class Stream:
        def __init__(self, device=None):
            pass

        def wait_stream(self, other):
            pass

    monkeypatch.setattr(torch.cuda, "CUDAGraph", StandInGraph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    return pools


class Step:
    """A training step whose capture the stand-in can replay."""

    def __init__(self):
        torch.manual_seed(0)
        self.model = nn.Linear(3, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)

    def now(self, batch):
        loss = (self.model(batch["x"]) - batch["y"]).square().mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def __call__(self, batch):
        if StandInGraph.captured and not hasattr(StandInGraph.captured[-1], "inputs"):
            graph = StandInGraph.captured[-1]  # inside of a capture
            graph.inputs, graph.step, graph.loss = batch, self.now, torch.zeros(())
            return graph.loss
        return self.now(batch)


def batches(rows, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        {"x": torch.randn(rows, 3, generator=generator), "y": torch.randn(rows, 1, generator=generator)} for _ in range(count)
    ]


def test_it_is_the_same_training_step_for_step(stand_in):
    graphed, eager = Step(), Step()
    run = GraphedStep(graphed, torch.device("cpu"))
    given = batches(4, 8)
    kept = copy.deepcopy(given)
    losses = [run(batch) for batch in given]
    expected = [eager.now(batch) for batch in kept]
    assert torch.equal(torch.stack(losses), torch.stack(expected))
    assert torch.equal(graphed.model.weight, eager.model.weight)
    assert [graph.replays for graph in StandInGraph.captured] == [8 - EAGER_STEPS]
    assert all(torch.equal(batch["x"], same["x"]) for batch, same in zip(given, kept, strict=True)), "it wrote into a batch"


def test_each_shape_has_its_graph_and_they_share_memory(stand_in):
    run = GraphedStep(Step(), torch.device("cpu"))
    for few, many in zip(batches(2, 6), batches(5, 6), strict=True):
        run(few)
        run(many)
    assert [graph.replays for graph in StandInGraph.captured] == [6 - EAGER_STEPS] * 2
    assert stand_in == [None, "pool"]


def test_other_devices_are_refused():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(BackendError, match=r"cuda_graph=True on the cpu backend, expected cuda\. Leave it out there\."):
        fit(model, [], optimizer, backend="cpu", cuda_graph=True)


def test_optimisers_that_count_on_the_host_are_refused():
    weights = [nn.Parameter(torch.zeros(2))]
    with pytest.raises(BackendError, match=r"group 0 of AdamW counts its steps on the host .*AdamW\(\.\.\., capturable=True\)"):
        check_capturable(torch.optim.AdamW(weights), scheduled=False)
    check_capturable(torch.optim.SGD(weights, lr=0.1, momentum=0.9), scheduled=False)


def test_a_schedule_needs_a_rate_on_the_device():
    weights = [nn.Parameter(torch.zeros(2))]
    with pytest.raises(BackendError, match=r"the learning rate of parameter group 0 of SGD is a number, .* and fused=True\.$"):
        check_capturable(torch.optim.SGD(weights, lr=0.1), scheduled=True)
    check_capturable(torch.optim.SGD(weights, lr=torch.tensor(0.1), fused=True), scheduled=True)


def test_three_steps_come_before_a_capture():
    """torch's own recipe asks for some, so that libraries have chosen their kernels; the number is in fit's docstring."""
    assert _cuda_graph.EAGER_STEPS == 3
    assert "after three eager ones" in fit.__doc__


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["retinanet", "fcos", "fasterrcnn", "maskrcnn", "keypointrcnn"])
def test_a_whole_step_in_one_graph_gives_the_losses_of_the_eager_one(name):
    from tests.detection.pairs import Pair
    from tests.detection.test_models_static import FixedKeys, _in_single

    pair = Pair(name)
    given = [_in_single(pair.pad(*pair.random(counts, seed=seed), 4)) for seed, counts in enumerate([[3, 1], [0, 4]] * 5)]
    losses = []
    for cuda_graph in (False, True):
        model = copy.deepcopy(pair.twin).float().cuda()
        keys = {stage: None for stage in ("rpn", "roi_heads")}

        def draw(stage, labels, keys=keys):  # made once, outside of the capture
            if keys[stage] is None:
                keys[stage] = FixedKeys(4)(stage, labels).to(labels.device)
            return keys[stage]

        model.sampling_keys = draw
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
        summary = fit(model, given, optimizer, backend="cuda", progress=False, cuda_graph=cuda_graph)
        losses.append(summary.losses)
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
