"""Which launches share a key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from fixshape.audit import OpRecorder
from fixshape.audit._key import describe, op_key

X = torch.zeros(4, 3)


def _compiles(*programs: Callable[[], Any]) -> int:
    recorder = OpRecorder()
    with recorder:
        for program in programs:
            program()
    assert recorder.launches == len(programs)
    return recorder.compiles


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lambda: X + 1.5, lambda: X + 2.5),
        (lambda: torch.full((2,), 0.1), lambda: torch.full((2,), 0.2)),
        (lambda: X.addcdiv(X, X, value=0.1), lambda: X.addcdiv(X, X, value=0.2)),
        (lambda: torch._foreach_mul([X, X], 0.5), lambda: torch._foreach_mul([X, X], 0.25)),
        (lambda: torch._foreach_addcdiv([X], [X], [X], [0.5]), lambda: torch._foreach_addcdiv([X], [X], [X], [0.25])),
        (lambda: X.sin(), lambda: X.detach().sin()),
        (lambda: X.normal_(generator=torch.Generator()), lambda: X.normal_(generator=torch.Generator())),
        (X.t().sin, torch.zeros(3, 4).sin),  # strides
    ],
)
def test_same_key(first, second):
    assert _compiles(first, second) == 1


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lambda: X.sin(), lambda: X[:2].sin()),
        (lambda: X.sin(), lambda: X.cos()),
        (lambda: X.sin(), torch.empty(4, 3, dtype=torch.float64).sin),
        (lambda: X + 1, lambda: X + 2),
        (lambda: X + 1, lambda: X + 1.0),
        (lambda: X + 1, lambda: X + True),
        (lambda: X.sum(0), lambda: X.sum(1)),
        (lambda: X.sum(-1), lambda: X.sum(-2)),  # hash(-1) == hash(-2)
        (lambda: X.sum(0), lambda: X.sum(0, keepdim=True)),
        (lambda: X.sum(0), lambda: X.sum(0, dtype=torch.float64)),
        (lambda: X.div(2.0, rounding_mode="floor"), lambda: X.div(2.0, rounding_mode="trunc")),
        (lambda: torch.cat([X, X]), lambda: torch.cat([X, X, X])),
        (lambda: torch.cat([X, X[:1]]), lambda: torch.cat([X[:1], X])),
        (lambda: torch.zeros(3), lambda: torch.zeros(4)),
        (lambda: torch.zeros(3), lambda: torch.zeros(3, device="meta")),
        (lambda: X.clone(), lambda: X.clone(memory_format=torch.contiguous_format)),
        (lambda: X[torch.empty(0, dtype=torch.int64)], lambda: X[:, torch.empty(0, dtype=torch.int64)]),
    ],
)
def test_different_key(first, second):
    assert _compiles(first, second) == 2


def test_lists_cannot_run_into_each_other():
    assert op_key(([1, 2], [3]), {}) != op_key(([1], [2, 3]), {})
    assert op_key(([X, None],), {}) != op_key(([X], None), {})


def test_symbolic_sizes_have_keys():
    context = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC, DimDynamic.STATIC])
    recorder = OpRecorder()
    with FakeTensorMode(shape_env=ShapeEnv()) as fake:
        rows = fake.from_tensor(X, symbolic_context=context)
        with recorder:
            for _ in range(2):
                torch.zeros(rows.shape[0] * 2).sin()
                rows.cos()
    assert (recorder.launches, recorder.compiles) == (6, 3)
    assert any("s" in shape for event in recorder.report().events for shape in event.shapes)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_have_keys():
    recorder = OpRecorder()
    for layout in (torch.strided, torch.jagged):
        short, long = (torch.nested.nested_tensor([X[:2], X[:rows]], layout=layout) for rows in (3, 4))
        with recorder:
            for nested in (short, short, long):
                nested * 2.0
    assert recorder.compiles == 4


def test_texts():
    shapes, arguments = describe((X, [X.bool(), None], 2, True, 0.5, None, [1, 2]), {"dtype": torch.float16, "value": 0.1})
    assert shapes == ("f32[4, 3]", "[bool[4, 3], NoneType]")
    assert arguments == ("2", "True", "[1, 2]", "dtype=torch.float16")


def test_long_lists_say_how_much_is_not_shown():
    (shape,), _ = describe(([X[0]] * 200,), {})
    assert shape == "[" + "f32[3], " * 8 + "and 192 more]"
