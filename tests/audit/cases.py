"""Small steps with one known dynamic form each, and the same step without it.

Shapes: ``N`` = 8 rows of ``C`` = 4 numbers. Values, and so the number of True entries, differ from batch to batch; shapes do not.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from fixshape.ops import batched_nms, fixed_nonzero, masked_cross_entropy, masked_mean, masked_sum, nms

N, C, CLASSES = 8, 4, 5
STEPS = 4


@dataclass(frozen=True)
class Batch:
    """What a step gets."""

    x: Tensor  # [N, C]
    fresh: Tensor  # [N, C]
    loss: Tensor  # [N]
    mask: Tensor  # [N] bool
    columns: Tensor  # [C] bool
    labels: Tensor  # [N] int64, below CLASSES
    counts: Tensor  # [N] int64, below 4
    boxes: Tensor  # [N, 4]
    scores: Tensor  # [N]


def batch(step: int) -> Batch:
    """The batch of a step: another number of True entries, classes and copies each time."""
    draw = torch.Generator().manual_seed(step)
    chosen = torch.randperm(N, generator=draw)[: 2 + step]
    labels = torch.randint(0, 2 + step % 4, (N,), generator=draw)
    labels[0] = min(1 + step, CLASSES - 1)
    corners = torch.rand(N, 2, generator=draw) * 6
    return Batch(
        x=torch.randn(N, C, generator=draw),
        fresh=torch.randn(N, C, generator=draw),
        loss=torch.rand(N, generator=draw),
        mask=torch.zeros(N, dtype=torch.bool).index_fill(0, chosen, True),
        columns=torch.arange(C) <= step % C,
        labels=labels,
        counts=torch.randint(0, 4, (N,), generator=draw),
        boxes=torch.cat((corners, corners + 4), 1),
        scores=torch.rand(N, generator=draw),
    )


Step = Callable[[Batch], object]
CASES: dict[str, tuple[str, Step, Step]] = {}


def case(code: str, static: Step) -> Callable[[Step], Step]:
    """Enters a dynamic step with its code and its static twin."""

    def enter(dynamic: Step) -> Step:
        CASES[dynamic.__name__] = (code, dynamic, static)
        return dynamic

    return enter


def _rows(b: Batch) -> object:
    rows, valid, _ = fixed_nonzero(b.mask, size=N)
    return masked_sum(b.x[rows.squeeze(1)], valid_mask=valid)


def _masked(b: Batch) -> object:
    return masked_sum(b.loss, valid_mask=b.mask)


def _occurs(b: Batch) -> object:
    return torch.zeros(CLASSES, dtype=torch.int64).scatter(0, b.labels, 1).sum()


def _count(b: Batch) -> object:
    return torch.zeros(CLASSES, dtype=torch.int64).scatter_add(0, b.labels, torch.ones_like(b.labels))


@case("FS101", _rows)
def nonzero(b):
    rows = torch.nonzero(b.mask).squeeze(1)
    return b.x[rows].sum()


@case("FS101", lambda b: torch.nonzero_static(b.mask, size=N))
def nonzero_as_a_method(b):
    return b.mask.nonzero()


@case("FS101", _rows)
def nonzero_as_a_tuple(b):
    (rows,) = b.mask.nonzero(as_tuple=True)
    return b.x[rows].sum()


@case("FS101", lambda b: torch.where(b.mask, b.loss, 0))
def where_with_one_argument(b):
    rows = torch.where(b.mask)[0]
    return b.loss[rows]


@case("FS101", lambda b: fixed_nonzero(b.x > 0, size=N * C).indices)
def argwhere(b):
    return torch.argwhere(b.x > 0)


@case("FS101", lambda b: b.x.clamp(min=0).sum())
def where_in_two_dimensions(b):
    rows, columns = torch.where(b.x > 0)
    return b.x[rows, columns].sum()


@case("FS102", lambda b: b.x[b.labels])
def read_by_mask(b):
    return b.x[b.mask]


@case("FS102", _masked)
def sum_of_a_read(b):
    return b.loss[b.mask].sum()


@case("FS102", lambda b: masked_mean(b.loss, valid_mask=~b.mask))
def mean_of_a_read(b):
    return b.loss[~b.mask].mean()


@case("FS102", lambda b: b.x[:, 1:3])
def read_columns_by_mask(b):
    return b.x[:, b.columns]


@case("FS102", lambda b: torch.where(b.x > 0, b.x, 0).sum())
def read_by_comparison(b):
    return b.x[b.x > 0].sum()


@case("FS102", lambda b: b.x[b.mask.to(torch.int64)])
def read_by_uint8(b):
    return b.x[b.mask.to(torch.uint8)]


@case("FS102", lambda b: masked_cross_entropy(b.x, b.labels % C, valid_mask=b.mask))
def cross_entropy_of_reads(b):
    targets = b.labels % C
    return F.cross_entropy(b.x[b.mask], targets[b.mask])


@case("FS103", lambda b: torch.where(b.mask[:, None], b.fresh[0], b.x))
def write_by_mask(b):
    y = b.x.clone()
    y[b.mask] = b.fresh[0]
    return y


@case("FS103", lambda b: torch.where(b.mask, b.loss + b.scores, b.loss))
def add_by_mask(b):
    y = b.loss.clone()
    y[b.mask] += b.scores[b.mask]
    return y


@case("FS103", lambda b: b.loss.index_put((b.labels,), b.scores, accumulate=True))
def accumulate_by_mask(b):
    return b.loss.index_put((b.mask,), torch.tensor(1.0), accumulate=True)


@case("FS103", lambda b: masked_sum(b.x.requires_grad_(), valid_mask=b.mask).backward())
def gradient_of_a_read(b):
    b.x.requires_grad_()
    b.x[b.mask].sum().backward()


@case("FS104", lambda b: masked_sum(b.x, valid_mask=b.x > 0))
def masked_select(b):
    return torch.masked_select(b.x, b.x > 0).sum()


@case("FS104", lambda b: b.loss.masked_fill(~b.mask, 0))
def masked_select_as_a_method(b):
    return b.loss.masked_select(b.mask)


@case("FS105", _occurs)
def unique(b):
    return torch.unique(b.labels)


@case("FS105", _occurs)
def unique_rows(b):
    return b.labels[:, None].unique(dim=0)


@case("FS105", lambda b: (b.labels[1:] != b.labels[:-1]).sum())
def unique_neighbours(b):
    return torch.unique_consecutive(b.labels)


@case("FS106", lambda b: torch.repeat_interleave(b.x, 2, dim=0))
def repeat_rows(b):
    return torch.repeat_interleave(b.x, b.counts, dim=0)


@case("FS106", lambda b: torch.searchsorted(b.counts.cumsum(0), torch.arange(3 * N), right=True))
def repeat_positions(b):
    return torch.repeat_interleave(b.counts)


@case("FS107", _count)
def bincount(b):
    return torch.bincount(b.labels)


@case("FS107", _count)
def bincount_with_a_least_length(b):
    return torch.bincount(b.labels, minlength=CLASSES)


@case("FS108", lambda b: F.one_hot(b.labels, CLASSES))
def one_hot(b):
    return F.one_hot(b.labels)


@case("FS109", lambda b: torch.randperm(N))
def permutation_of_what_was_found(b):
    found = torch.nonzero(b.mask)
    return torch.randperm(found.shape[0])


@case("FS110", lambda b: nms(b.boxes, b.scores, 0.3, size=N))
def suppression(b):
    keep = torchvision.ops.nms(b.boxes, b.scores, 0.3)
    return keep


@case("FS110", lambda b: batched_nms(b.boxes, b.scores, b.labels, 0.3, size=N))
def suppression_by_class(b):
    return torchvision.ops.batched_nms(b.boxes, b.scores, b.labels, 0.3)


@case("FS111", lambda b: torch.where(b.mask[:, None], b.fresh.requires_grad_(), b.x).sum().backward())
def gradient_of_masked_scatter(b):
    source = b.fresh.requires_grad_()
    b.x.masked_scatter(b.mask[:, None], source).sum().backward()


@case("FS112", lambda b: b.x * b.mask[:, None])
def to_sparse(b):
    return (b.x * b.mask[:, None]).to_sparse()


@case("FS112", lambda b: torch.zeros(CLASSES).index_add(0, b.labels, b.loss))
def coalesce(b):
    return torch.sparse_coo_tensor(b.labels[None], b.loss, (CLASSES,), check_invariants=True).coalesce()


@case("FS113", lambda b: masked_sum(b.x, valid_mask=torch.arange(C) < (b.labels.clamp(max=3) + 1)[:, None]))
def packed_sequences(b):
    lengths = b.labels.clamp(max=3) + 1
    return torch.nn.utils.rnn.pack_padded_sequence(b.x, lengths, batch_first=True, enforce_sorted=False).data.sum()


@case("FS114", lambda b: F.ctc_loss(b.x[:, None].log_softmax(2), b.labels[None, :2] % 3 + 1, (N,), (2,)))
def ctc_loss(b):
    return F.ctc_loss(b.x[:, None].log_softmax(2), b.labels[None, :2] % 3 + 1, torch.tensor([N]), torch.tensor([2]))


@case("FS115", lambda b: torch.linalg.pinv(b.x) @ b.loss[:, None])
def least_squares(b):
    return torch.linalg.lstsq(b.x, b.loss[:, None]).solution


@case("FS201", lambda b: b.loss.mean())
def item(b):
    return b.loss.mean().item()


@case("FS201", lambda b: torch.where(b.mask.any(), b.loss, 0))
def branch_on_a_tensor(b):
    if b.mask.any():
        return b.loss
    return 0


@case("FS201", lambda b: b.loss.sum() / b.mask.sum().clamp(min=1))
def normaliser_at_least_one(b):
    return b.loss.sum() / max(1, b.mask.sum())


@case("FS201", lambda b: b.loss.gather(0, b.labels[:1]))
def index_by_one_value(b):
    return b.loss[b.labels[0]]


@case("FS201", lambda b: f"{b.loss.shape}")
def formatted(b):
    return f"{b.loss.mean():.3f}"


@case("FS201", lambda b: b.labels.tolist())  # a batch is on the host when the loader gives it
def tolist(b):
    return (b.labels + 1).tolist()


@case("FS201", lambda b: b.loss.max())
def tolist_of_one_value(b):
    return b.loss.max().tolist()


@case("FS202", lambda b: b.loss.to(torch.device("cpu")) * 2)
def cpu(b):
    return (b.loss * 2).cpu()


@case("FS202", lambda b: (b.loss * 2).to(b.x.device))
def to_cpu(b):
    return (b.loss * 2).to("cpu")


@case("FS202", lambda b: b.scores.numpy())
def numpy(b):
    return b.scores.sigmoid().numpy()


@case("FS202", lambda b: np.asarray(b.labels))
def numpys_own_way(b):
    return np.asarray(b.boxes[:, 2:] - b.boxes[:, :2], dtype=np.float64)


@case("FS202", lambda b: (b.loss * 2).to("cpu", non_blocking=True))
def cpu_and_then_anything(b):
    return (b.loss * 2).detach().cpu().double().numpy()


@case("FS202", lambda b: b.loss.to(torch.float16))
def copy_to_the_host(b):
    with FakeTensorMode():
        there = torch.empty(3, device="cuda")
        return there.cpu()


@case("FS203", lambda b: masked_sum(b.x, valid_mask=torch.arange(N) < b.mask.sum()))
def slice_by_a_count(b):
    n = int(b.mask.sum())
    return b.x[:n].sum()


@case("FS203", lambda b: torch.arange(N))
def range_of_a_count(b):
    n = b.mask.sum().item()
    return torch.arange(n)


@case("FS203", lambda b: masked_sum(b.x, valid_mask=torch.arange(N) < b.mask.sum()))
def slice_by_a_list(b):
    inside, outside = torch.stack((b.mask.sum(), (~b.mask).sum())).tolist()
    return b.x[:inside].sum() / outside


@case("FS203", lambda b: masked_sum(b.x, valid_mask=torch.arange(N) < b.mask.sum()))
def slices_of_a_loop(b):
    total = 0
    for length in b.mask.sum(0, keepdim=True).tolist():
        total += b.x[:length].sum()
    return total


@case("FS203", lambda b: b.x[:3].sum())
def slice_by_a_tensor(b):
    return b.x[: b.mask.sum()].sum()


@case("FS204", lambda b: (b.x == b.fresh).all())
def equal(b):
    return torch.equal(b.x, b.fresh)


@case("FS204", lambda b: torch.isclose(b.x, b.fresh).all())
def allclose(b):
    return torch.allclose(b.x, b.fresh)
