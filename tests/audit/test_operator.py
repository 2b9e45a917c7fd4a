"""What counts as a launch, a dynamic-shape op and a host sync: each form, and each form that only looks like it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch._subclasses.fake_tensor import FakeTensorMode

from fixshape.audit import OpRecorder, _mode
from fixshape.audit._operator import classify, leaves_device

# That form is deprecated and still in use.
pytestmark = pytest.mark.filterwarnings("ignore:indexing with dtype torch.uint8")

X = torch.arange(12.0).reshape(4, 3)
KEEP = torch.tensor([True, False, True, False])
COLUMNS = torch.tensor([True, False, True])
ROWS = torch.tensor([0, 2])
COUNTS = torch.tensor([1, 2, 0, 1])
BOXES = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 5.0], [8.0, 8.0, 9.0, 9.0]])


def _written(index: Any, value: Any) -> torch.Tensor:
    target = X.clone()
    target[index] = value
    return target


def _through(select: Callable[[torch.Tensor], torch.Tensor]) -> None:
    select(X.clone().requires_grad_()).sum().backward()


def _scattered() -> None:
    source = torch.zeros(6, requires_grad=True)
    X.masked_scatter(KEEP[:, None], source).sum().backward()


def _packed() -> Any:
    return torch.nn.utils.rnn.pack_padded_sequence(X[:, :, None], torch.tensor([3, 2, 1, 1]), batch_first=True)


def _ctc(input_lengths: Any, target_lengths: Any) -> torch.Tensor:
    log_probs = torch.zeros(5, 2, 4).log_softmax(2)
    return F.ctc_loss(log_probs, torch.tensor([[1, 2], [1, 3]]), input_lengths, target_lengths)


DYNAMIC = {
    "read by mask": (lambda: X[KEEP], "aten.index.Tensor"),
    "read by mask of one dimension": (lambda: X[:, COLUMNS], "aten.index.Tensor"),
    "read by uint8 mask": (lambda: X[KEEP.to(torch.uint8)], "aten.index.Tensor"),
    "read by mask into a tensor": (
        lambda: torch.ops.aten.index.Tensor_out(X, [KEEP], out=torch.empty(2, 3)),
        "aten.index.Tensor_out",
    ),
    "write rows by mask": (lambda: _written(KEEP, torch.zeros(2, 3)), "aten.index_put_.default"),
    "write by mask and integers": (lambda: _written((KEEP, ROWS), torch.zeros(2)), "aten.index_put_.default"),
    "write a scalar by two masks": (lambda: _written((KEEP, COLUMNS), 0.0), "aten.index_put_.default"),
    "add a scalar by mask": (lambda: X.index_put((KEEP,), torch.tensor(1.0), accumulate=True), "aten.index_put.default"),
    "a read by mask and its gradient": (lambda: _through(lambda x: x[KEEP]), "aten.index.Tensor aten.index_put.default"),
    "write by mask into a tensor": (
        lambda: torch.ops.aten.index_put.out(X, [KEEP], torch.zeros(2, 3), out=torch.empty(4, 3)),
        "aten.index_put.out",
    ),
    "write by mask, unchecked": (
        lambda: torch.ops.aten._index_put_impl_(X.clone(), [KEEP], torch.zeros(2, 3), unsafe=True),
        "aten._index_put_impl_.default",
    ),
    "gradient of masked_scatter's source": (_scattered, "aten.masked_scatter_backward.default"),
    "masked_select": (lambda: X.masked_select(KEEP[:, None]), "aten.masked_select.default"),
    "nonzero": (lambda: KEEP.nonzero(), "aten.nonzero.default"),
    "one-argument where": (lambda: torch.where(KEEP), "aten.nonzero.default"),
    "argwhere": (lambda: torch.argwhere(KEEP), "aten.nonzero.default"),
    "unique": (lambda: X.unique(), "aten._unique2.default"),
    "unique rows": (lambda: X.unique(dim=0), "aten.unique_dim.default"),
    "unique_consecutive": (lambda: X.unique_consecutive(), "aten.unique_consecutive.default"),
    "bincount": (lambda: COUNTS.bincount(), "aten.bincount.default"),
    "repeat_interleave by a tensor": (lambda: X.repeat_interleave(COUNTS, dim=0), "aten.repeat_interleave.Tensor"),
    "nms": (lambda: torchvision.ops.nms(BOXES, torch.rand(3), 0.5), "torchvision.nms.default"),
    "to_sparse": (lambda: X.to_sparse(), "aten._to_sparse.default"),
    "coalesce": (
        lambda: torch.sparse_coo_tensor(COUNTS[None], X[:, 0], (3,), check_invariants=True).coalesce(),
        "aten._coalesce.default",
    ),
    "pack_padded_sequence": (_packed, "aten._pack_padded_sequence.default"),
    "ctc_loss with lengths in tensors": (lambda: _ctc(torch.tensor([5, 5]), torch.tensor([2, 1])), "aten._ctc_loss.Tensor"),
}

STATIC = {
    "read by integers": lambda: X[ROWS],
    "read by integers of a dimension": lambda: X[:, ROWS],
    "gradient of a read by integers": lambda: _through(lambda x: x[ROWS]),
    "write by integers": lambda: _written(ROWS, torch.zeros(2, 3)),
    "write a scalar by mask": lambda: _written(KEEP, 0.0),
    "write one value by mask": lambda: _written(KEEP, torch.tensor(0.0)),
    "masked_fill": lambda: X.masked_fill(KEEP[:, None], 0.0),
    "masked_scatter": lambda: X.masked_scatter(KEEP[:, None], torch.zeros(12)),
    "three-argument where": lambda: torch.where(KEEP[:, None], X, 0.0),
    "topk": lambda: X.topk(2),
    "sort": lambda: X.sort(),
    "gather": lambda: X.gather(0, ROWS[None]),
    "slices": lambda: X[1:3, ::2] + 1,
    "nonzero_static": lambda: torch.nonzero_static(KEEP, size=4),
    "repeat_interleave by an int": lambda: X.repeat_interleave(2, dim=0),
    "repeat_interleave of a known length": lambda: X.repeat_interleave(COUNTS, dim=0, output_size=4),
    "randperm of a fixed length": lambda: torch.randperm(4),
    "ctc_loss with lengths in Python": lambda: _ctc((5, 5), (2, 1)),
    "roi_align": lambda: torchvision.ops.roi_align(torch.rand(1, 2, 8, 8), [BOXES], 2),
    "bucketize": lambda: torch.bucketize(X, torch.tensor([2.0, 5.0])),
}

SYNC = {
    "item": (lambda: X[0, 0].item(), "aten._local_scalar_dense.default"),
    "float()": (lambda: float(X.sum()), "aten._local_scalar_dense.default"),
    "truth of a tensor": (lambda: bool(X.sum() > 0), "aten._local_scalar_dense.default"),
    "equal": (lambda: torch.equal(X, X), "aten.equal.default"),
}


def _record(program: Callable[[], Any]) -> OpRecorder:
    recorder = OpRecorder()
    with recorder:
        program()
    return recorder


@pytest.mark.parametrize(("program", "op"), DYNAMIC.values(), ids=DYNAMIC)
def test_dynamic_form_is_found(program, op):
    assert _record(program).report().by_operator("dynamic") == dict.fromkeys(op.split(), 1)


@pytest.mark.parametrize("program", STATIC.values(), ids=STATIC)
def test_look_alike_is_not_dynamic(program):
    recorder = _record(program)
    assert recorder.report().by_operator("dynamic") == {}
    assert recorder.launches > 0


@pytest.mark.parametrize(("program", "op"), SYNC.values(), ids=SYNC)
def test_sync_is_found(program, op):
    assert _record(program).report().by_operator("sync") == {op: 1}


def test_reading_a_value_is_no_launch_and_comparing_is():
    assert _record(lambda: X.sum().item()).current.launches == 1  # the sum
    assert _record(lambda: torch.equal(X, X)).current.launches == 1


def test_every_op_that_torch_tags_is_dynamic():
    for name in ("nonzero.default", "masked_select.default", "unique_dim.default", "bincount.default", "_unique.default"):
        packet, overload = name.split(".")
        dynamic = classify(getattr(getattr(torch.ops.aten, packet), overload)).dynamic
        assert dynamic is not None and dynamic((X,), {})


VIEWS = {
    "view": lambda: X.view(3, 4),
    "transpose": lambda: X.t(),
    "expand": lambda: X[:1].expand(5, 3),
    "slice and select": lambda: X[1:, 0],
    "unbind and split": lambda: (X.unbind(), X.split(2)),
    "detach": lambda: X.detach(),
    "permute, squeeze": lambda: X.permute(1, 0).unsqueeze(0).squeeze(0),
    "as_strided": lambda: X.as_strided((2,), (1,)),
    "in-place view": lambda: X.detach().t_(),
    "sizes": lambda: (X.shape, X.size(0), X.numel(), X.stride(), X.is_contiguous()),
    "allocation": lambda: (torch.empty(3), torch.empty_like(X), X.new_empty(2), torch.empty_strided((2,), (1,))),
    "resize": lambda: torch.empty(0).resize_(4),
    "profiler mark": lambda: torch.profiler.record_function("part").__enter__(),
    "tensor from Python": lambda: torch.tensor([1, 2]),
}


@pytest.mark.parametrize("program", VIEWS.values(), ids=VIEWS)
def test_nothing_that_leaves_data_alone_is_a_launch(program):
    assert _record(program).launches == 0


@pytest.mark.parametrize(
    ("program", "launches"),
    [
        (lambda: X.clone(), 1),
        (lambda: X.contiguous(), 0),  # it is contiguous: nothing to do
        (lambda: X.t().contiguous(), 1),
        (lambda: X.t().reshape(12), 1),  # a copy, as no view can be had
        (lambda: torch.zeros(3), 1),
        (lambda: torch.zeros(3).add_(1), 2),
        (lambda: torch.add(X, X, out=torch.empty_like(X)), 1),
        (lambda: torch._foreach_add([X.clone(), X.clone()], 1.0), 3),
        (lambda: X.double(), 1),
        (lambda: torch.zeros(3).copy_(torch.ones(3)), 3),
    ],
)
def test_what_moves_data_is_a_launch(program, launches):
    assert _record(program).launches == launches


def test_where_a_copy_goes_to_and_whether_the_host_waits():
    with FakeTensorMode():  # a tensor on a device that need not be there
        there, here = torch.empty(3, device="cuda"), torch.empty(3)
    assert leaves_device((there, here), {}) == (True, False)
    assert leaves_device((here, there), {}) == (True, True)
    assert leaves_device((here, there, True), {}) == (True, False)
    assert leaves_device((here, there), {"non_blocking": True}) == (True, False)
    assert leaves_device((there, there), {}) == (False, False)
    assert leaves_device((here,), {"device": torch.device("cuda", 0)}) == (True, False)
    assert leaves_device((there,), {"device": "cpu"}) == (True, True)
    assert leaves_device((there,), {"device": "cpu", "non_blocking": True}) == (True, False)
    assert leaves_device((there,), {"dtype": torch.float64}) == (False, False)


@pytest.mark.parametrize(("waits", "syncs"), [(True, 1), (False, 0)])
def test_a_copy_to_another_device_is_no_launch_and_may_be_a_sync(monkeypatch, waits, syncs):
    assert _record(lambda: X.to("meta")).launches == 0
    assert _record(lambda: X.to(torch.float64)).launches == 1
    monkeypatch.setattr(_mode, "leaves_device", lambda args, kwargs: (True, waits))
    recorder = _record(lambda: X.to(torch.float64))
    assert (recorder.current.launches, recorder.current.syncs) == (0, syncs)
