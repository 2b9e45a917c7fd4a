"""Compiles of torch.compile: what Dynamo hands to a backend that counts, step by step, against what is predicted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from fixshape.audit import OpRecorder, predict
from tests.detection import reduced
from tests.detection.pairs import Pair, random_batch

ROWS = torch.arange(1.0, 7.0)
BOUNDS = (2.0, 3.0, 3.0, 4.0, 2.0, 5.0)  # of these 4, 3, 3, 2, 4 and 1 rows are above
BATCHES = [(ROWS, torch.tensor(bound), int((ROWS > bound).sum())) for bound in BOUNDS]
NEW_SIZES, NONE_NEW = [1, 1, 0, 1, 0, 1], [1, 0, 0, 0, 0, 0]

Program = Callable[..., Any]


def truth_of(program: Program, batches: Sequence[tuple[Any, ...]], *, backward: bool = False) -> list[int]:
    """Graphs that Dynamo makes in each step."""
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    counts = []
    with torch._dynamo.config.patch(recompile_limit=1000, accumulated_recompile_limit=10_000):
        compiled = torch.compile(program, backend=backend, dynamic=False)
        for batch in batches:
            before = len(graphs)
            result = compiled(*batch)
            if backward:
                result.backward()
            counts.append(len(graphs) - before)
    torch._dynamo.reset()
    return counts


def predicted(program: Program, batches: Sequence[tuple[Any, ...]], *, backward: bool = False) -> list[int]:
    recorder = OpRecorder()
    for batch in batches:
        with recorder:
            result = program(*batch)
            if backward:
                result.backward()
        recorder.step()
    return list(predict(recorder)["torch.compile"])


def both(program: Program, batches: Sequence[tuple[Any, ...]] = BATCHES, **options: Any) -> list[int]:
    """What is predicted, once it is what Dynamo does."""
    found = predicted(program, batches, **options)
    assert found == truth_of(program, batches, **options)
    return found


def one_more(first: Sequence[int]) -> list[int]:
    """With a piece before the one that varies."""
    return [first[0] + 1, *first[1:]]


# -- equal --------------------------------------------------------------------------------------------------------------------


def test_static():
    assert both(lambda rows, bound, number: (rows.sin() + bound).sum()) == NONE_NEW


def test_rows_that_vary():
    batches = [(rows[:number],) for rows, _, number in BATCHES]
    assert both(lambda rows: (rows * 2).sum(), batches) == NEW_SIZES


def test_a_boolean_index():
    assert both(lambda rows, bound, number: rows[rows > bound].exp().sum()) == one_more(NEW_SIZES)


def test_nonzero_and_an_index():
    def program(rows, bound, number):
        index = (rows > bound).nonzero()[:, 0]
        return rows[index].sum()

    assert both(program) == one_more(NEW_SIZES)


def test_a_python_branch_on_a_value():
    def program(rows, bound, number):
        doubled = rows * bound
        if doubled.sum() > 75:
            return doubled.exp()
        return doubled.sin().cos()

    assert both(program) == [2, 0, 0, 1, 0, 0]


def test_a_python_int_that_varies():
    assert both(lambda rows, bound, number: rows[:number].sum()) == NEW_SIZES
    assert both(lambda rows, bound, number: (rows * number).sum()) == NEW_SIZES


def test_a_python_float_that_varies():
    def program(rows, bound, number):
        return rows / (rows * bound).sum().item()

    assert both(program) == one_more(NEW_SIZES)


def test_two_reads_make_three_pieces():
    def program(rows, bound, number):
        total = rows.sum().item()
        mean = rows.sum().item() / 6  # the same op: another piece, as it begins elsewhere
        return rows.sin() * (total * mean)

    assert both(program) == [3, 0, 0, 0, 0, 0]


def test_a_write_by_a_mask_and_a_copy_cut_nothing():
    def program(rows, bound, number):
        written = rows.clone()
        written[rows > bound] = 0.0
        return written.cpu() + 1

    assert both(program) == NONE_NEW


def test_what_a_cut_makes_besides_is_no_piece():
    def program(rows, bound, number):
        (index,) = torch.where(rows > 3)
        return index.sum()

    assert both(program) == [2, 0, 0, 0, 0, 0]


def _cut(rows):
    halves = rows / 2
    return halves * halves.sum().item()


def test_a_read_in_a_function_cuts_its_callers():
    def program(rows, bound, number):
        return _cut(rows.sin()).cos() + 1

    assert both(program) == [4, 0, 0, 0, 0, 0]


def test_a_function_that_is_cut_in_a_loop_is_left_to_python():
    def program(rows, bound, number):
        rows = rows + 1
        for _ in range(3):
            rows = rows * 2
            rows.sum().item()
        return rows.sin()

    assert both(program) == [0] * 6


def test_what_is_called_in_such_a_loop_is_not():
    def called(rows):
        return rows.relu() + 1

    def program(rows, bound, number):
        for _ in range(number):
            rows = called(rows)
            rows.sum().item()
        return rows.sin()

    assert both(program) == NONE_NEW


def test_a_loop_that_is_not_cut_is_unrolled():
    def program(rows, bound, number):
        for _ in range(number):
            rows = rows * 2
        return rows

    assert both(program) == NEW_SIZES


class _Half(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(6, 6)

    def forward(self, rows):
        rows = self.inner(rows)
        return rows[rows < 100].sum() * rows


def test_modules_with_a_read_inside():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.ReLU(), _Half(), torch.nn.Linear(6, 6))
    # torch's own modules run as they are where a function is left to Python.
    assert both(lambda rows, bound, number: model(rows).sum(), backward=True) == [3, 0, 0, 0, 0, 0]
    half = _Half()
    # The second call has an input that wants a gradient.
    assert both(lambda rows, bound, number: half(half(rows) + 1).sum(), backward=True) == [5, 0, 0, 0, 0, 0]


def test_a_module_with_a_static_loss():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten())
    batches = [(torch.rand(2, 3, 8, 8), torch.randint(144, (2,))) for _ in range(3)]
    program = lambda images, labels: torch.nn.functional.cross_entropy(model(images), labels)  # noqa: E731
    assert both(program, batches, backward=True) == [1, 0, 0]


@pytest.mark.slow
def test_a_static_detector_is_one_graph():
    pair = Pair("retinanet")
    batches = [pair.pad(*pair.random(counts, seed=seed), 9) for seed, counts in enumerate(([7, 1], [2, 9], [0, 4]))]
    program = lambda images, targets: sum(pair.twin(images, targets).values())  # noqa: E731
    assert both(program, batches, backward=True) == [1, 0, 0]


# -- not equal, as the docstring of ``predict`` says ----------------------------------------------------------------------------


def test_an_int_that_is_only_compared():
    def program(rows, bound, number):
        if (rows > bound).sum().item() > 3:
            return rows.exp()
        return rows.sin()

    assert predicted(program, BATCHES) == [2, 1, 0, 0, 0, 0]
    assert truth_of(program, BATCHES) == [2, 1, 0, 1, 0, 1]


def test_an_assert_is_taken_into_the_graph():
    space: dict[str, Any] = {}  # out of pytest's sight, which rewrites an assert
    exec("def program(rows, bound, number):\n    rows = rows + 1\n    assert rows.sum() > 0\n    return rows * 2\n", space)
    program = space["program"]
    assert predicted(program, BATCHES) == [2, 0, 0, 0, 0, 0]
    assert truth_of(program, BATCHES) == NONE_NEW


def test_a_function_that_is_cut_in_a_try_is_left_to_python():
    def program(rows, bound, number):
        try:
            rows.sum().item()
        except ValueError:
            pass
        return rows * 2

    assert predicted(program, BATCHES) == [2, 0, 0, 0, 0, 0]
    assert sum(truth_of(program, BATCHES)) < 2


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [("retinanet", 0.9), ("fasterrcnn", 0.9), ("fcos", 0.65)])
def test_torchvisions_detectors(name, least):
    model = reduced.build(name)
    kinds = {"classes": reduced.CLASSES, "masks": False, "keypoints": 0}
    batches = [random_batch(counts, seed=seed, **kinds) for seed, counts in enumerate(([7, 1], [2, 9], [3, 4]))]
    program = lambda images, targets: sum(model(images, targets).values())  # noqa: E731
    torch.manual_seed(0)  # of the samplers
    found = sum(predicted(program, batches, backward=True))
    torch.manual_seed(0)
    truth = sum(truth_of(program, batches, backward=True))
    assert truth > 20 and least <= found / truth <= 1.1


# -- what belongs to the function ---------------------------------------------------------------------------------------------


def test_what_follows_the_backward_pass_is_not_of_the_function():
    weight = torch.ones(6, requires_grad=True)

    def program(rows, bound, number):
        loss = (rows * weight).sum()
        loss.item()
        loss.backward()  # makes the gradient of 1, which is no piece
        return weight.grad.norm().item()

    assert predicted(program, BATCHES) == NONE_NEW


def test_each_backward_pass_ends_a_function():
    weight = torch.ones(6, requires_grad=True)

    def program(rows, bound, number):
        for length in (6, number):
            (rows[:length] * weight[:length]).sum().backward()

    assert predicted(program, BATCHES) == one_more(NEW_SIZES)


def test_an_open_step_and_more_ops_than_are_kept(monkeypatch):
    with OpRecorder() as recorder:
        ROWS.sin()
        assert predict(recorder)["torch.compile"] == (1,)
    monkeypatch.setattr("fixshape.audit._pieces._MOST_OPS", 4)
    assert sum(predicted(lambda: [ROWS.sin() for _ in range(12)], [()])) == 1
