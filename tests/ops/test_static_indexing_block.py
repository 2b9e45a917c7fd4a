"""``static_indexing`` as a block and as a decorator, and what it promises beside equal numbers."""

from __future__ import annotations

import builtins
import copy
import math
import threading
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fixshape
from fixshape.errors import StaticIndexingError
from fixshape.ops import static_indexing
from tests.ops.rows_programs import MASKS, inputs, run

pytestmark = pytest.mark.filterwarnings("ignore:.*degrees of freedom is <= 0")  # the variance of no rows


def test_nothing_gives_a_nan_only_where_torch_does():
    with torch.autograd.set_detect_anomaly(True):  # fails where a NaN is on the way back, even if it is hidden later
        value, gradients = run(
            "((x[m] + 1).log() / y[m]).sqrt().sum() / len(x[m]).clamp(min=1) + w.sum()", "empty", static_indexing()
        )
    assert value == inputs("empty")["w"].sum()
    assert [gradient.abs().sum() for gradient in gradients] == [0, 0, 4, 0, 0]


def test_a_count_takes_part_in_what_python_cannot_decide():
    for mask in MASKS:
        want, got = (
            run(f"n = {n}; x[m].sum() / {clamped} + {chosen}", mask, block)
            for n, clamped, chosen, block in (
                ("len(x[m])", "max(1, n)", "(x[m].sum() if n > 2 else w.sum()) * (0 if n == 0 else 2)", nullcontext()),
                (
                    "len(x[m])",
                    "n.clamp(min=1)",
                    "torch.where(n > 2, x[m].sum(), w.sum()) * torch.where(n == 0, 0, 2)",
                    static_indexing(),
                ),
            )
        )
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize(
    "least",
    [
        "max(1, n)",
        "max(n, 1)",
        "max(n, 1.5)",
        "max(n, m.sum(), 2)",
        "max(1, m.sum())",
        "min(n, 2)",
        "min(m.sum(), n)",
        "max(1, min(n, 2))",
    ],
)
@pytest.mark.parametrize("mask", MASKS)
def test_max_and_min_of_counts_are_taken_on_the_device(least, mask):
    with fixshape.OpRecorder(lines=False) as recorder:
        got = run(f"n = len(x[m]); (x[m].sum() + w.sum()) / (1 + {least})", mask, static_indexing())
    assert recorder.report().total().syncs == 0
    torch.testing.assert_close(got, run(f"n = len(x[m]); (x[m].sum() + w.sum()) / (1 + {least})", mask, nullcontext()))


def test_max_and_min_are_pythons_own_for_all_else():
    a, nan = torch.tensor(2.5), torch.tensor(float("nan"))
    with static_indexing():
        assert max(3, 1, 2) == 3 and min([4, 2]) == 2 and max("ab", "b") == "b" and min((), default=7) == 7
        assert max([1, -5], key=abs) == -5 and max(a, 1) is a and max(1, nan) == 1 and min(torch.tensor(True), 5) is not None
        with pytest.raises(TypeError):
            max(1)


def test_the_fill_of_an_empty_selection_differs_from_tensor_to_tensor_and_column_to_column():
    x, m = torch.zeros(6, 4), torch.zeros(6, dtype=torch.bool)
    with static_indexing():
        first, second = (x[m]._data for _ in range(2))
    assert ((first > 0) & (first < 1) & (first != second)).all()
    assert (first.diff(dim=1) > 0).all()


def test_a_mask_that_is_written_to_is_another_mask():
    x, m = torch.arange(6.0), torch.tensor(MASKS["some"])
    with static_indexing():
        before = x[m]
        m[0] = False
        after = x[m]
        assert before.sum() == 7 and after.sum() == 7
        m[1] = True
        assert before.sum() == 7 and x[m].sum() == 8
        with pytest.raises(StaticIndexingError, match="two different selections"):
            before + x[m]


def test_indices_that_are_written_to_are_other_indices():
    x, m = torch.arange(7.0), torch.tensor((*MASKS["some"], False))
    with static_indexing():
        i = torch.where(m)[0]
        i += 1
        assert x[i].sum() == 10
        assert x[torch.where(m)[0]].sum() == 7


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_without_gradients(mode):
    x, m = torch.arange(6.0), torch.tensor(MASKS["some"])
    with mode(), static_indexing():
        y = x * 1
        own = y > 0
        rows = y[own]
        assert (rows * x[own]).sum() == 55
        own[5] = False
        with pytest.raises(StaticIndexingError, match="two different selections"):
            rows * x[own]
        assert (y[m] * x[m]).sum() == 25


def test_a_weight_that_torch_hides_from_modes_counts():
    x, y, weight = torch.ones(3), torch.zeros(3), torch.tensor([1.0, 2.0, 3.0])
    with static_indexing():
        assert F.l1_loss(x, 2 * y, weight=weight, reduction="sum") == F.l1_loss(x, 2 * y, reduction="sum") * 2


def test_random_rows_keep_their_shape_and_their_padding_equal():
    x, m = torch.ones(1000, 2), torch.arange(1000) % 2 == 0
    with static_indexing():
        rows = F.dropout(x[m], 0.5)
        assert 0.8 < rows.mean() < 1.2
        assert (rows._data[~m] == rows._data[0]).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_has_room_for_many_rows(dtype):
    x, m = torch.full((80_000,), 2.0, dtype=dtype), torch.arange(80_000) > 5_000
    with static_indexing():
        rows = x[m]
        small = rows * 1e-3
        for value, wanted in (
            (rows.mean(), 2),
            (small.sum() / len(rows), 2e-3),
            (F.mse_loss(rows, -rows), 16),
            (rows.std(correction=0), 0),
            ((rows / len(rows)).sum(), 2),
        ):
            assert value.dtype == dtype
            torch.testing.assert_close(float(value), float(wanted), rtol=0.02, atol=1e-5)


def test_counts_among_tensors():
    x, m = torch.ones(6, 4), torch.tensor(MASKS["some"])
    with static_indexing():
        n = len(x[m])
        assert torch.tensor([n, n * 2]).tolist() == [3, 6] and torch.as_tensor([[n, 1.5]]).tolist() == [[3, 1.5]]
        assert torch.tensor(n).dtype == torch.int64 and torch.tensor(n / 2).dtype == torch.float32
        assert max([n, 4, n * 2]) == torch.tensor(6) and [int(torch.as_tensor(part)) for part in divmod(n, 2)] == [1, 1]
        assert x.new_tensor([n, 1]).dtype == x.dtype and torch.as_tensor([n], dtype=torch.float64).tolist() == [3]
        assert torch.tensor([n.clamp(min=4), round(n / 2), math.ceil(n / 2), math.floor(n / 2)]).tolist() == [4, 2, 2, 1]
        assert (n.float() / 2).sum() == 1.5 and n.reshape(1).tolist() == [3]
        whole = torch.zeros(6, dtype=torch.int64)
        whole[m] = 1.5
        assert whole.sum() == n * torch.ones(())


def test_quantiles_along_an_ordinary_dimension():
    """Of which torch before 2.10 itself looks at the probabilities on the host."""
    code = "x[m].quantile(0.5, dim=1).sum() + x[m].quantile(torch.tensor([0.1, 0.9]).double(), dim=1).square().sum()"
    for mask in ("some", "late", "single", "full"):
        want, got = run(code, mask, nullcontext()), run(code, mask, static_indexing())
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_a_quantile_beside_infinite_entries_is_a_number():
    x = torch.tensor([1.0, 2.0, math.inf, -5.0, -math.inf, math.nan])
    for chosen in ([0, 1, 2], [0, 1, 3, 4], [0, 1, 2, 3, 4], [0, 2, 5]):
        mask = torch.zeros(6, dtype=torch.bool)
        mask[chosen] = True
        for q in (0.0, 0.25, 0.5):
            with static_indexing():
                got = torch.quantile(x[mask], q)
            torch.testing.assert_close(got, torch.quantile(x[mask], q), equal_nan=True)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_ctc_loss_of_selected_samples(reduction):
    """Which itself looks at the lengths on the host."""
    code = (
        "s = F.log_softmax(x.nan_to_num(0, 0, 0), 1).expand(5, 6, 4)[:, m]; "
        f"F.ctc_loss(s, 1 + c[m][:, None] % 3, 0 * c[m] + 5, 0 * c[m] + 1, reduction={reduction!r}).sum()"
    )
    for mask in ("some", "late", "single", "full"):
        want, got = run(code, mask, nullcontext()), run(code, mask, static_indexing())
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    value, gradients = run(code, "empty", static_indexing())
    assert not any(gradient.any() for gradient in gradients)
    assert value.isnan() if reduction == "mean" else value == 0


# -- the block ----------------------------------------------------------------------------------------------------------------


def plain_loss(x, m):
    return x[m].square().sum() / len(x[m])


def test_as_a_decorator():
    x, m = torch.arange(6.0), torch.tensor(MASKS["some"])
    for decorated in (static_indexing(plain_loss), static_indexing()(plain_loss), static_indexing(strict=False)(plain_loss)):
        assert decorated.__name__ == "plain_loss"
        assert decorated(x, m) == plain_loss(x, m)


class Criterion(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x, m):
        return (x[m] * self.weight).sum() / len(x[m])


def test_a_module_stays_one_with_the_same_parameters():
    criterion = Criterion()
    static = static_indexing(criterion)
    assert isinstance(static, Criterion) and static.weight is criterion.weight
    x, m = torch.ones(6, 4), torch.zeros(6, dtype=torch.bool)
    with pytest.raises(TypeError, match="not callable"):
        static_indexing(1)(x)
    assert static(x, ~m) == criterion(x, ~m) == copy.deepcopy(static)(x, ~m)
    with fixshape.OpRecorder(lines=False) as recorder:
        static(x, m)
    assert recorder.report().total().dynamic == 0
    with fixshape.OpRecorder(lines=False) as recorder:
        criterion(x, m)
    assert recorder.report().total().dynamic > 0


def test_all_is_restored_when_the_last_block_closes_and_after_an_exception():
    x, m = torch.arange(6.0), torch.tensor(MASKS["some"])
    builtin = len
    with pytest.raises(KeyError), static_indexing():
        assert builtins.len is not builtin
        with static_indexing():
            raise KeyError
    assert builtins.len is builtin
    assert x[m].shape == (3,)
    with static_indexing():
        with static_indexing(strict=False):
            rows = x[m]
        assert builtins.len is not builtin
        assert rows.sum() + x[m].sum() == 14
        assert len([1, 2]) == 2 and len(x) == 6
    assert builtins.len is builtin


def test_a_block_is_of_its_thread_and_len_is_restored_by_the_last_one():
    x, m, builtin = torch.arange(6.0), torch.tensor(MASKS["some"]), len
    inside, go_on, seen = threading.Event(), threading.Event(), []

    def other():
        with static_indexing():
            inside.set()
            go_on.wait(10)
            seen.append(float(x[m].sum() / len(x[m])))

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(10)
    assert x[m].shape == (3,) and len(x[m]) == 3
    with static_indexing():
        pass
    assert builtins.len is not builtin
    go_on.set()
    thread.join()
    assert builtins.len is builtin
    assert seen == [float(x[m].mean())]


def test_rows_look_like_a_tensor_and_are_none():
    x, m = torch.ones(6, 4), torch.tensor(MASKS["some"])
    with static_indexing():
        rows = x[m]
        for some in (rows, rows[1:], m.nonzero()):
            assert isinstance(some, torch.Tensor) and isinstance(some, (list, torch.Tensor)) and torch.is_tensor(some)
            assert not isinstance(some, (list, nn.Parameter))
        n = len(m.nonzero())
        assert isinstance(n, int) and isinstance(n / 2, (float, str)) and isinstance(n > 2, bool)
        assert not isinstance(n, (float, torch.Tensor)) and not isinstance(n / 2, int)
        assert (rows.ndim, rows.dim(), rows.dtype, rows.device) == (2, 2, x.dtype, x.device)
        assert rows.shape == x[m].shape and rows.shape[1] == 4 and rows.size(-1) == 4
        assert rows.is_floating_point() and not rows.requires_grad
        assert repr(rows) == "Rows((n of 6, 4), torch.float32)"
        assert repr(len(rows)) == "Count()"
        assert not hasattr(rows, "nothing") and not hasattr(len(rows), "nothing")
        assert (len(rows) != None) and not (len(rows) == None)  # noqa: E711
        assert int(torch.as_tensor(len(rows))) == 3
    assert type(rows) is not torch.Tensor and not isinstance(rows, torch.Tensor)


# -- strict=False -------------------------------------------------------------------------------------------------------------


def test_what_cannot_be_followed_is_dynamic_if_not_strict():
    x, m = torch.arange(12.0).view(6, 2), torch.tensor(MASKS["some"])
    with fixshape.OpRecorder(lines=False) as recorder, static_indexing(strict=False):
        assert x[m].sum() == x[m].sum()
    assert recorder.report().total().dynamic == 0
    with fixshape.OpRecorder(lines=False) as recorder, static_indexing(strict=False):
        distinct = x[m].unique()
        assert distinct.shape == (6,)
        both = x[m] + x[~m]
        assert isinstance(both, torch.Tensor) and both.shape == (3, 2)
        assert max(1, len(x[m])) == 3 and [len(x[m])] == [3] and list(range(len(x[m]))) == [0, 1, 2]
        assert (x[m] * both).shape == (3, 2)
        assert x[m].tolist() == [[0, 1], [6, 7], [8, 9]]
    total = recorder.report().total()
    assert total.dynamic > 0 and total.syncs > 0


def test_rows_that_a_decorated_function_returns_are_tensors_if_not_strict():
    x, m = torch.arange(6.0), torch.tensor(MASKS["some"])
    rows, count = static_indexing(lambda: {"rows": x[m], "count": [len(x[m]), (1, x)]}, strict=False)().values()
    assert isinstance(rows, torch.Tensor) and rows.tolist() == [0, 3, 4]
    assert count[0] == torch.tensor(3) and count[1][1] is x


def test_writing_to_rows_is_refused_even_if_not_strict():
    x, m = torch.arange(6.0), torch.tensor(MASKS["some"])
    with static_indexing(strict=False), pytest.raises(StaticIndexingError, match=r"^static_indexing: index_reduce_ of "):
        x[m].index_reduce_(0, torch.tensor([0]), torch.ones(1), "mean")
