"""Static: one graph, no recompile, fake tensors, and padding that reaches nothing."""

import copy

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fixshape import OpRecorder
from tests.detection.twins import SIZES, build, distance, drawn, make_twin, pad, step

SSDLITE, SSD300 = SIZES


@pytest.fixture(scope="module")
def ssdlite():
    return make_twin(build(SSDLITE))


def _fresh(model):
    """The same weights and buffers, untouched by an earlier step."""
    return copy.deepcopy(model)


@pytest.mark.parametrize("max_boxes", [10, 100])
def test_the_number_of_slots_changes_nothing(ssdlite, max_boxes):
    images, targets = drawn(SSDLITE, [7, 1], seed=1)
    tight, wide = step(_fresh(ssdlite), *pad(images, targets, 7)), step(_fresh(ssdlite), *pad(images, targets, max_boxes))
    for narrow, broad in zip(tight, wide, strict=True):
        assert distance(broad, narrow) <= 1e-12


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), -1e30, 7.0])
def test_garbage_in_the_padding_changes_nothing(ssdlite, garbage):
    images, targets = drawn(SSDLITE, [4, 0], seed=2)
    images, clean = pad(images, targets, 8)
    dirty = {key: value.clone() for key, value in clean.items()}
    padding = ~clean["valid_mask"]
    dirty["boxes"][padding] = garbage
    dirty["labels"][padding] = 10**9
    ours, theirs = step(_fresh(ssdlite), images, dirty), step(_fresh(ssdlite), images, clean)
    for mine, other in zip(ours, theirs, strict=True):
        assert distance(mine, other) == 0


def test_boxes_get_no_gradient_from_padding_and_no_nan(ssdlite):
    images, targets = drawn(SSDLITE, [3, 0], seed=3)
    images, targets = pad(images, targets, 5)
    targets["boxes"][~targets["valid_mask"]] = float("nan")
    targets["boxes"].requires_grad_()
    sum(_fresh(ssdlite)(images, targets).values()).backward()
    assert (targets["boxes"].grad[~targets["valid_mask"]] == 0).all()
    assert torch.isfinite(targets["boxes"].grad).all()


def test_permuted_rows_change_nothing(ssdlite):
    images, targets = drawn(SSDLITE, [9, 2], seed=4)
    images, targets = pad(images, targets, 12)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    shuffled = {key: value[:, order] if key in ("boxes", "labels", "valid_mask") else value for key, value in targets.items()}
    ours, theirs = step(_fresh(ssdlite), images, shuffled), step(_fresh(ssdlite), images, targets)
    for mine, other in zip(ours, theirs, strict=True):
        assert distance(mine, other) <= 1e-12


def test_a_filler_changes_nothing_in_the_model_without_batch_norm():
    model = make_twin(build(SSD300))
    images, targets = drawn(SSD300, [3], seed=5)
    images, targets = pad(images, targets, 4)
    filled = {key: torch.cat((value, torch.zeros_like(value))) for key, value in targets.items()}
    # Garbage pixels in the filler: image_sizes (0, 0) says that none of them is real.
    more = torch.cat((images, torch.full_like(images, float("nan"))))
    alone, beside = model(images, targets), model(more, filled)
    # The box loss has no share in a filler. The classification loss has none either: hard negatives are counted per image by
    # its foreground, which is nothing.
    assert distance({k: v.detach() for k, v in beside.items()}, {k: v.detach() for k, v in alone.items()}) <= 1e-9


@pytest.mark.parametrize("training", [True, False])
def test_runs_under_fake_tensors(ssdlite, training):
    """Exact where shapes or host reads depend on values: FakeTensorMode raises there."""
    model = _fresh(ssdlite).train(training)
    images, targets = pad(*drawn(SSDLITE, [3, 1]), 4)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        batch = (mode.from_tensor(images), {key: mode.from_tensor(value) for key, value in targets.items()})
        result = model(*batch)
    if training:
        assert {name: tuple(loss.shape) for name, loss in result.items()} == {"bbox_regression": (), "classification": ()}
    else:
        assert result.boxes.shape == (2, 300, 4)


@pytest.mark.parametrize("training", [True, False])
def test_one_graph_and_no_recompile_over_ten_batches(training):
    """fullgraph raises at a graph break, the stance at a recompile; content varies from no box to all slots."""
    torch._dynamo.reset()
    model = make_twin(build(SSDLITE, dtype=torch.float32)).train(training)
    graphs = []

    def count(graph, _):
        graphs.append(graph)
        return graph

    compiled = torch.compile(model, fullgraph=True, dynamic=False, backend=count)
    batches = [pad(*drawn(SSDLITE, [seed % 5, 4], seed=seed, dtype=torch.float32), 4) for seed in range(10)]
    with torch.set_grad_enabled(training):
        compiled(*batches[0])
        with torch.compiler.set_stance("fail_on_recompile"):
            for batch in batches[1:]:
                compiled(*batch)
    assert len(graphs) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_one_graph_through_aot_autograd_gives_the_same_losses_and_gradients(name):
    torch._dynamo.reset()
    model = make_twin(build(name))
    batches = [pad(*drawn(name, [3, 0], seed=seed), 4) for seed in range(2)]
    copied = copy.deepcopy(model)
    compiled = torch.compile(copied, fullgraph=True, dynamic=False, backend="aot_eager")
    for number, batch in enumerate(batches):
        with torch.compiler.set_stance("default" if number == 0 else "fail_on_recompile"):
            copied.zero_grad(set_to_none=True)
            losses = compiled(*batch)
            sum(losses.values()).backward()
        theirs, their_gradients, _ = step(model, *batch)
        assert distance({k: v.detach() for k, v in losses.items()}, theirs) <= 1e-9
        assert distance({name: p.grad for name, p in copied.named_parameters() if p.grad is not None}, their_gradients) <= 1e-9


@pytest.mark.parametrize("training", [True, False])
def test_our_own_recorder_finds_nothing(ssdlite, training):
    model = _fresh(ssdlite).train(training)
    images, targets = pad(*drawn(SSDLITE, [3, 1]), 4)
    with OpRecorder() as recorder, torch.set_grad_enabled(training):
        result = model(images, targets)
        if training:
            sum(result.values()).backward()
    counts = recorder.report().total()
    assert (counts.dynamic, counts.syncs) == (0, 0), [str(event) for event in recorder.report().events if event.kind != "compile"]
    assert counts.launches > 100


def test_the_recorder_would_find_it():
    """torchvision's own step, for comparison: the oracle of the test above can fail."""
    reference = build(SSDLITE)
    images, targets = drawn(SSDLITE, [3, 1])
    with OpRecorder() as recorder:
        sum(reference(images, targets).values()).backward()
    counts = recorder.report().total()
    assert counts.dynamic > 5
    assert counts.syncs > 0
