"""Static: one graph, no recompile, fake tensors, nothing for the recorder to find, and padding that reaches nothing."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fixshape import OpRecorder
from tests.detection import reduced
from tests.detection.pairs import Pair, fresh
from tests.detection.twins import distance, step

PER_BOX = ("boxes", "labels", "masks", "keypoints")


class FixedKeys:
    """The same random choice at each step, for any number of slots: keys by place, ground truth counted from its first slot."""

    def __init__(self, slots: int) -> None:
        self.slots = slots

    def __call__(self, stage: str, labels: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(len(stage))
        keys = torch.rand(2, 20_000, generator=generator, dtype=torch.float64)
        if stage == "rpn":
            return keys[: len(labels), : labels.shape[1]]
        first = labels.shape[1] - self.slots
        return torch.cat((keys[: len(labels), :first], keys[: len(labels), 10_000 : 10_000 + self.slots]), 1)


@pytest.fixture(scope="module", params=reduced.BUILDERS)
def pair(request):
    return Pair(request.param)


def _step(pair, images, targets):
    model = fresh(pair.twin)
    model.sampling_keys = FixedKeys(targets["valid_mask"].shape[1])
    return step(model, images, targets)


def _in_single(batch):
    images, targets = batch
    return images.float(), {key: value.float() if value.is_floating_point() else value for key, value in targets.items()}


def _same(ours, theirs, tolerance):
    for mine, other in zip(ours, theirs, strict=True):
        if other:
            assert distance(mine, other) <= tolerance


@pytest.mark.parametrize("max_boxes", [9, 40])
def test_the_number_of_slots_changes_nothing(pair, max_boxes):
    images, targets = pair.random([7, 1], seed=1)
    _same(_step(pair, *pair.pad(images, targets, max_boxes)), _step(pair, *pair.pad(images, targets, 7)), 1e-11)


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), -1e30])
def test_garbage_in_the_padding_changes_nothing(pair, garbage):
    images, clean = pair.pad(*pair.random([4, 0], seed=2), 6)
    dirty = {key: value.clone() for key, value in clean.items()}
    padding = ~clean["valid_mask"]
    for key in PER_BOX:
        if key in dirty:
            dirty[key][padding] = garbage if dirty[key].is_floating_point() else 10**9 if key == "labels" else 255
    dirty_images = images.clone()
    for row, (height, width) in zip(dirty_images, clean["image_sizes"].tolist(), strict=True):
        row[:, height:] = garbage
        row[:, :, width:] = garbage
    _same(_step(pair, dirty_images, dirty), _step(pair, images, clean), 0)


def test_padding_gets_no_gradient_and_no_nan(pair):
    images, targets = pair.pad(*pair.random([3, 0], seed=3), 5)
    targets["boxes"][~targets["valid_mask"]] = float("nan")
    targets["boxes"].requires_grad_()
    images.requires_grad_()
    sum(fresh(pair.twin)(images, targets).values()).backward()
    if targets["boxes"].grad is not None:
        assert (targets["boxes"].grad[~targets["valid_mask"]] == 0).all()
        assert torch.isfinite(targets["boxes"].grad).all()
    assert torch.isfinite(images.grad).all()
    for image, (height, width) in zip(images.grad, targets["image_sizes"].tolist(), strict=True):
        assert (image[:, height:] == 0).all()
        assert (image[:, :, width:] == 0).all()


def test_permuted_rows_change_nothing(pair):
    """All slots but the keys move: what a ground truth is chosen by must move with it."""
    images, targets = pair.pad(*pair.random([9, 2], seed=4), 12)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    shuffled = {key: value[:, order] if key in (*PER_BOX, "valid_mask") else value for key, value in targets.items()}
    models = fresh(pair.twin), fresh(pair.twin)
    keys = FixedKeys(12)

    def permuted(stage, labels):
        drawn = keys(stage, labels)
        return drawn if stage == "rpn" else torch.cat((drawn[:, :-12], drawn[:, -12:][:, order]), 1)

    models[0].sampling_keys, models[1].sampling_keys = keys, permuted
    _same(step(models[1], images, shuffled), step(models[0], images, targets), 1e-11)


def test_a_filler_changes_nothing_without_live_batch_norm(pair):
    if any(isinstance(module, torch.nn.BatchNorm2d) for module in pair.twin.modules()):
        with_filler = "its statistics see every image: training with fillers and live batch-norm is not promised"
        assert pair.name.endswith("_v2"), with_filler
        return
    images, targets = pair.pad(*pair.random([3], seed=5), 4)
    filled = {key: torch.cat((value, torch.zeros_like(value))) for key, value in targets.items()}
    more = torch.cat((images, torch.full_like(images, float("nan"))))
    _same(_step(pair, more, filled), _step(pair, images, targets), 1e-9)


@pytest.mark.parametrize("training", [True, False])
def test_runs_under_fake_tensors(pair, training):
    """Exact where shapes or host reads depend on values: FakeTensorMode raises there."""
    model = fresh(pair.twin).train(training)
    model.sampling_keys = None
    images, targets = pair.pad(*pair.random([3, 1]), 4)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        batch = (mode.from_tensor(images), {key: mode.from_tensor(value) for key, value in targets.items()})
        result = model(*batch)
    if training:
        assert {tuple(loss.shape) for loss in result.values()} == {()}
    else:
        size = 20 if pair.shared else 300 if "retina" in pair.name else 100
        assert result.boxes.shape == (2, size, 4)
        assert (result.masks is not None) == ("mask" in pair.name)
        assert (result.keypoints is not None) == ("keypoint" in pair.name)


def test_one_graph_and_no_recompile_over_ten_batches(pair):
    """fullgraph raises at a graph break, the stance at a recompile; content varies from no box to all slots."""
    torch._dynamo.reset()
    model = fresh(pair.twin).float().train()
    model.sampling_keys = None
    graphs = []

    def count(graph, _):
        graphs.append(graph)
        return graph

    compiled = torch.compile(model, fullgraph=True, dynamic=False, backend=count)
    batches = [_in_single(pair.pad(*pair.random([seed % 5, 4], seed=seed), 4)) for seed in range(10)]
    compiled(*batches[0])
    with torch.compiler.set_stance("fail_on_recompile"):
        for batch in batches[1:]:
            compiled(*batch)
    assert len(graphs) == 1
    torch._dynamo.reset()


def test_our_own_recorder_finds_nothing_and_nothing_compiles_after_the_warm_up(pair):
    model = fresh(pair.twin).float().train()
    model.sampling_keys = None
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    varied = ([3, 1], [0, 4], [4, 4], [0, 0], [2, 3])
    batches = [_in_single(pair.pad(*pair.random(counts, seed=seed), 4)) for seed, counts in enumerate(varied)]
    compiles = []
    with OpRecorder() as recorder:
        for batch in batches:
            optimizer.zero_grad(set_to_none=True)
            sum(model(*batch).values()).backward()
            optimizer.step()
            compiles.append(recorder.current.compiles)
            recorder.step()
    total = recorder.report().total()
    assert (total.dynamic, total.syncs) == (0, 0), [str(event) for event in recorder.report().events if event.kind != "compile"]
    assert compiles[0] > 100
    assert compiles[2:] == [0, 0, 0]


def test_evaluation_has_nothing_for_the_recorder_either(pair):
    model = fresh(pair.twin).float().eval()
    images, targets = pair.pad(*pair.random([3, 1]), 4)
    with OpRecorder() as recorder, torch.no_grad():
        model(images.float(), targets)
    total = recorder.report().total()
    assert (total.dynamic, total.syncs) == (0, 0), [str(event) for event in recorder.report().events if event.kind != "compile"]


def test_the_recorder_would_find_it():
    """torchvision's own step, for comparison: the oracle of the tests above can fail."""
    pair = Pair("maskrcnn")
    images, targets = pair.random([3, 1])
    pair.shared.expect([3, 1], 4)
    with torch.no_grad():
        pair.twin(*pair.pad(images, targets, 4))
    with OpRecorder() as recorder:
        sum(pair.reference(images, targets).values()).backward()
    counts = recorder.report().total()
    assert counts.dynamic > 30
    assert counts.syncs > 0
