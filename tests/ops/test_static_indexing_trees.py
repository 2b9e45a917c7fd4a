"""Any expression over rows has the number, and the gradients, that it has without ``static_indexing``.

hypothesis writes small programs: selections, what goes through them, and an end. Each is Python, printed as it is where it fails.

Shapes: N rows of which ``mask`` chooses R, K of those chosen again; 3 columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from fixshape.audit import OpRecorder
from fixshape.ops import static_indexing

pytestmark = pytest.mark.filterwarnings("ignore:(var|std)\\(\\). degrees of freedom is <= 0")  # of no row, or of one
EXAMPLES = 80
N = 7
EMPTY, FULL, ONE = (False,) * N, (True,) * N, (False,) * 3 + (True,) + (False,) * 3
masks = st.one_of(st.tuples(*[st.booleans()] * N), st.sampled_from([EMPTY, FULL, ONE]))

# -- the language: strings of Python, by what they give -----------------------------------------------------------------------

CHOSEN = ["{}[mask]", "{}[index]", "{}[torch.where(mask)[0]]", "{}[mask.nonzero().squeeze(1)]", "{}[mask, :]"]
CHOSEN += ["{}.index_select(0, index)", "{}.T[:, mask].T"]
matrices = st.builds(str.format, st.sampled_from(CHOSEN), st.sampled_from(["a", "b"]))  # [R, 3]
vectors = st.one_of(  # [R]
    st.builds(
        str.format, st.sampled_from(["{}[mask]", "{}[index]", "torch.masked_select({}, mask)"]), st.sampled_from(["u", "v"])
    ),
    st.sampled_from(["a[mask, 1]", "a[mask, c[mask]]", "b[index, c[index]]", "a[:, 2][mask]"]),
)
labels = st.sampled_from(["c[mask]", "c[index]"])  # [R], int64

# Written so that no value is out of a function's domain, and none so large that a rounding is above the tolerance.
POINTWISE = [
    "{}.sigmoid()",
    "torch.tanh({})",
    "{}.abs()",
    "{}.clamp(-1, 0.5)",
    "F.softplus({})",
    "F.relu({})",
    "(0.1 + {}.abs()).log()",
    "(0.1 + {}.abs()).sqrt()",
    "(-{}.abs()).exp()",
    "(1 - {})",
    "2 * {}",
    "{} ** 2 / 4",
    "-{}",
    "{}.detach()",
    "{}.clone()",
    "torch.where({0} > 0.1, {0}, -{0})",
    "{0}.masked_fill({0} < 0, 0.5)",
]
PAIRS = [
    "({} + {})",
    "({} - {})",
    "({} * {}).tanh()",
    "({} / (0.5 + {}.abs()))",
    "torch.maximum({}, {})",
    "torch.minimum({}, {})",
    "torch.where({0} > {1}, {0}, {1} / 2)",
    "torch.lerp({}, {}, 0.25)",
]
ROWWISE = ["{}.softmax(1)", "{}.log_softmax(-1)", "({} @ w)", "F.linear({}, w)", "{}[:, [2, 0, 1]]", "{}.cumsum(1)", "{}.flip(1)"]
ROWWISE += ["F.normalize({} + 2, dim=1)", "F.layer_norm({}, (3,))"]
TO_VECTOR = ["{}.sum(1)", "{}.mean(dim=-1)", "{}[:, 1]", "{}.max(1).values", "{}.min(dim=1)[0]", "torch.logsumexp({}, 1)"]
TO_VECTOR += ["{}.norm(dim=1)", "{}.unbind(1)[2]", "{}.var(1)"]
TO_MATRIX = ["{0}[:, None] * w[0]", "torch.stack([{0}, -{0}, {0} / 2], 1)", "{}.unsqueeze(-1).expand(-1, 3)"]


def fill(forms: list[str], *parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds(lambda form, *texts: f"({form.format(*texts)})", st.sampled_from(forms), *parts)


def grow(kind: st.SearchStrategy[str], *more: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.recursive(kind, lambda inner: st.one_of(fill(POINTWISE, inner), fill(PAIRS, inner, inner), *more), max_leaves=4)


small_matrices = st.one_of(grow(matrices), fill(ROWWISE, grow(matrices)))
small_vectors = st.one_of(grow(vectors), fill(TO_VECTOR, small_matrices))
any_matrix = st.one_of(
    small_matrices,
    fill(TO_MATRIX, small_vectors),
    fill(["({} * {}[:, None])", "({} - {}.unsqueeze(1))"], small_matrices, small_vectors),
    fill(["torch.cat([{}, {}], 1)[:, 1:4]", "torch.stack([{}, {}], 2).sum(2)"], small_matrices, small_matrices),
)
any_vector = st.one_of(small_vectors, fill(TO_VECTOR, any_matrix))
# Rows of other selections: joined, of elements, and parts; and pairs of all rows with all.
others = fill(["torch.cat([{}, {}])", "torch.cat([{}, w, {}])", "{}[{} > 0]"], any_matrix, any_matrix)
parts = fill(["{}[1:]", "{}[:2]", "{}[::2]", "{}.flatten()", "{}.reshape(-1, 1)"], any_matrix)
all_pairs = fill(["({} @ {}.T)", "torch.cdist({}, {})", "({}[:, None] - {}[None]).abs()"], small_matrices, small_matrices)
any_rows = st.one_of(any_matrix, any_vector, others, parts)

# What ends rows. The extremes of nothing are errors in torch, and have a test of their own.
ENDS = [
    "{}.sum()",
    "torch.sum({})",
    "{}.sum() / mask.sum().clamp(min=1)",
    "{0}.sum() / {0}.numel()",
    "{0}.sum() / {0}.shape[0]",
    "{}.mean()",
    "torch.mean({})",
    "{}.sum(0)",
    "{}.mean(0)",
    "{}.square().sum().add(1).sqrt()",
    "{}.var(0)",
    "{}.std()",
    "{}.norm()",
    "{}.prod(0)",
    "({} > 0.2).sum()",
    "({} > 0.2).any()",
    "({} > -0.2).all()",
    "{}.cumsum(0).sum()",
    "{}.logsumexp(0)",
    "{}.sort(stable=True, dim=0).values.cumsum(0).sum()",  # of equal values torch leaves the order open otherwise
]
SOME = [
    "{}[0]",
    "{0}[torch.argsort({0}, dim=0, stable=True).flatten()[0]]",
    "{}.max()",
    "{}.min()",
    "{}.amax(0)",
    "{}.amin(0)",
    "{}.max(0).values",
    "{}.argmax(0)",
    "{}.min(0).indices",
    "{}.sort(0)[0][0]",
]
LOSSES = [
    "F.l1_loss({}, {})",
    "F.mse_loss({}, {}, reduction='sum')",
    "F.smooth_l1_loss({}, {}, beta=0.5)",
    "F.huber_loss({}, {})",
    "F.binary_cross_entropy_with_logits({}, {}.sigmoid())",
    "F.kl_div({}.log_softmax(-1), {}.softmax(-1), reduction='batchmean')",
    "nn.MSELoss()({}, {})",
    "sigmoid_focal_loss({}, {}.sigmoid(), reduction='sum')",
]
OF_CLASSES = ["F.cross_entropy({}, {})", "F.nll_loss({}.log_softmax(1), {}, reduction='sum')", "nn.CrossEntropyLoss()({}, {})"]
OF_CLASSES += ["{}.gather(1, {}[:, None]).sum()", "({} * F.one_hot({}, 3)).sum()"]
# A selection of a selection, by a mask that is rows itself: statements before the end.
AGAIN = "rows = {}\nchosen = rows[rows.sum(1) > 0]\nresult = {}"
UNPACKED = "rows = {}\ni, j = torch.where(rows > 0)\nresult = ({}[i, j] * w[j, 0]).sum() + i.sum() + rows[i].mean()"
# A write, by the mask or by positions.
WRITES = ["y[mask] = {}", "y[index] = {}", "y[index] += {}", "y[mask] -= {}", "y = y.index_put((mask,), {})"]


def named(text: str) -> str:
    return f"result = {text}"


paired = st.one_of(
    fill(["{}.sum()", "{}.mean()", "{}.sum(1).square().sum()"], all_pairs),
    fill(["({} @ {}.T).diagonal().sum()", "torch.triu({} @ {}.T, 1).mean()"], small_matrices, small_matrices),
)
ended = st.one_of(
    fill(ENDS, any_rows),
    fill(LOSSES, any_matrix, any_matrix),
    fill(OF_CLASSES, any_matrix, labels),
    paired,
    st.builds("{} + {}".format, fill(ENDS, any_vector), fill(["{}.sum()", "{}.mean()"], any_matrix)),
).map(named)
again = st.one_of(
    st.builds(AGAIN.format, any_matrix, fill(ENDS, st.just("chosen"))),
    st.builds(UNPACKED.format, any_matrix, any_matrix),
)
written = st.builds(
    lambda write, rows: f"y = a.clone()\n{write.format(rows)}\nresult = y.square().sum()", st.sampled_from(WRITES), any_matrix
)
of_some = fill(SOME, st.one_of(any_matrix, any_vector)).map(named)

# -- both ways of running one -------------------------------------------------------------------------------------------------

NAMES = {"torch": torch, "F": F, "nn": nn, "sigmoid_focal_loss": sigmoid_focal_loss}
LEAVES = "abuvw"


def _tensors(mask: tuple[bool, ...], seed: int, *, poison: bool = False) -> dict[str, Tensor]:
    """What programs name; with ``poison`` no row outside of the mask holds anything that could be used."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    found = {"a": normal(N, 3), "b": normal(N, 3), "u": normal(N), "v": normal(N), "w": normal(3, 3)}
    found |= {"c": torch.randint(0, 3, (N,), generator=generator), "mask": torch.tensor(mask)}
    if poison:
        for name, garbage in {"a": math.nan, "b": math.inf, "u": -math.inf, "v": math.nan, "c": 99}.items():
            found[name][~found["mask"]] = garbage
    return {name: tensor.requires_grad_(name in LEAVES) for name, tensor in found.items()}


def _run(program: str, tensors: dict[str, Tensor], *, static: bool) -> tuple[Tensor, list[Tensor]]:
    names: dict[str, Any] = {**NAMES, **tensors}
    with static_indexing() if static else nullcontext():
        exec(f"index = torch.nonzero(mask).squeeze(1)\n{program}", names)
    result = names["result"]
    if result.requires_grad:
        (result * torch.arange(1, result.numel() + 1).view(result.shape)).sum().backward()
    leaves = [tensors[name] for name in LEAVES]
    return result.detach(), [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]


def check(program: str, mask: tuple[bool, ...], seed: int, *, poison: bool = True) -> None:
    """The same value, the same gradients, and no dynamic op; NaN and inf in what is not chosen change nothing."""
    want = _run(program, _tensors(mask, seed), static=False)
    for poisoned in (False, True)[: 1 + poison]:
        with OpRecorder(lines=False) as recorder:
            got = _run(program, _tensors(mask, seed, poison=poisoned), static=True)
        total = recorder.report().total()
        assert (total.dynamic, total.syncs) == (0, 0)
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12, equal_nan=True)


def programs(strategy: st.SearchStrategy[str]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return given(program=strategy, mask=masks, seed=st.integers(0, 999))


@settings(max_examples=EXAMPLES)
@programs(ended)
@example("result = ((a[mask] - b[index]).softmax(1).sum(1)).mean()", EMPTY, 0)
@example("result = F.cross_entropy(a[mask], c[mask])", ONE, 0)
def test_a_tree_that_ends_in_a_reduction_or_a_loss(program, mask, seed):
    check(program, mask, seed)


@settings(max_examples=EXAMPLES // 2)
@programs(again)
def test_a_selection_of_a_selection(program, mask, seed):
    check(program, mask, seed)


@settings(max_examples=EXAMPLES // 2)
@programs(written)
def test_a_write_of_rows(program, mask, seed):
    check(program, mask, seed, poison=False)  # the rest of what is written to is part of the result


@settings(max_examples=EXAMPLES // 2)
@programs(of_some)
def test_extremes_of_at_least_one_row(program, mask, seed):
    assume(any(mask))
    check(program, mask, seed)


@pytest.mark.slow
@settings(max_examples=1000)
@programs(st.one_of(ended, again))
def test_many_trees(program, mask, seed):
    check(program, mask, seed)


@pytest.mark.parametrize("program", ["result = (a[mask] * u[index][:, None]).sum()", "result = F.mse_loss(a[mask], b[mask])"])
def test_one_row_more_is_told_from_it(program):
    """The oracle at work."""
    mask, more = ONE, (True, *ONE[1:])
    want, got = (_run(program, _tensors(m, 0), static=static) for m, static in ((mask, False), (more, True)))
    with pytest.raises(AssertionError):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
