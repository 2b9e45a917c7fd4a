"""What TorchAir makes of the gears, each of its limits, and a program that says the gears to it."""

import sys
import types
from contextlib import nullcontext
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixshape.errors import UsageError
from fixshape.export import DimGears, Gears, Input, check_dim_gears, check_torchair, dim_gears, parse_inputs, torchair_code

INPUTS = parse_inputs("images:N,3,H,W;image_sizes:N,2")
TWO = Gears(INPUTS, ({"N": 2, "H": 320, "W": 480}, {"N": 4, "H": 320, "W": 320}))

CASES = [
    ("A1", DimGears((("x", {0: tuple(range(2, 103))}),)), "101 gears in all with the policy zip, expected at most 100"),
    (
        "A1",
        DimGears((("x", {0: tuple(range(2, 13)), 1: tuple(range(2, 12))}),), "product"),
        "110 gears in all with the policy product",
    ),
    ("A2", DimGears((("x", {0: (1, 2)}),)), "axis 0 of x has the gear 1, expected 2 or more"),
    ("A2", DimGears((("x", {2: (4, 0)}),)), "axis 2 of x has the gear 0"),
    ("A3", DimGears((("x", {0: (4,)}),)), "axis 0 of x has 1 gears, expected at least two"),
    ("A4", DimGears((("x", {0: (2, 4)}), ("y", {0: (2, 4, 8)}))), "2 for axis 0 of x, 3 for axis 0 of y"),
    ("A5", DimGears((("x", {0: (2, 4)}), ("y", {0: (2, 4)})), "product"), "each size of x goes with each of y"),
    ("A6", DimGears((("x", {0: (2, 4)}), ("x", {1: (2, 4)}))), "x has 2 different settings, expected one"),
    ("A7", DimGears((("x", {0: (2, 4, 2)}),)), "the gear 2 comes twice"),
]


@pytest.mark.parametrize(("rule", "settings", "message"), CASES)
def test_each_limit(rule, settings, message):
    (found,) = [violation for violation in check_dim_gears(settings) if violation.rule == rule]
    assert message in found.message and found.why and found.way_out
    assert (found.level == "error") == (rule not in ("A5", "A7"))


def test_two_settings_of_one_tensor_are_joined_into_one():
    (found,) = check_dim_gears(DimGears((("x", {0: (2, 4)}), ("x", {1: (6, 8)}))))
    assert found.way_out == "torchair.inference.set_dim_gears(x, {0: [2, 4], 1: [6, 8]})"
    assert check_dim_gears(DimGears((("x", {0: (2, 4)}), ("x", {0: (2, 4)})))) == (), "the same again is one setting"


def test_a_gear_of_one_is_legal_for_atc_and_not_here():
    gears = Gears(parse_inputs("x:N,3"), tuple({"N": batch} for batch in (1, 2, 4, 8)))
    (found,) = check_torchair(gears)
    assert (found.rule, found.message) == ("A2", "N has a gear of 1, expected 2 or more")
    assert found.way_out.startswith("N 2, 4, 8 as gears, and a second torch.compile with dynamic=False")
    with pytest.raises(UsageError, match=r"TorchAir: N has a gear of 1, .* Instead: N 2, 4, 8 as gears"):
        torchair_code(gears)


def test_one_shape_needs_no_gears():
    (found,) = check_torchair(Gears(parse_inputs("x:N,3"), ({"N": 4},)))
    assert (found.rule, found.way_out) == ("A3", "torch.compile(model, backend=backend, dynamic=False), without gears")


def test_more_than_a_hundred_gears():
    gears = Gears(parse_inputs("x:N,3"), tuple({"N": batch} for batch in range(2, 103)))
    assert [violation.rule for violation in check_torchair(gears)] == ["A1"]


def test_a_gear_that_comes_twice_is_said_once():
    gears = Gears(parse_inputs("x:N,3"), ({"N": 2}, {"N": 4}, {"N": 2}))
    assert dim_gears(gears).settings == (("x", {0: (2, 4)}),)


def test_a_size_that_stays_is_left_out():
    assert dim_gears(TWO).settings == (("images", {0: (2, 4), 3: (480, 320)}), ("image_sizes", {0: (2, 4)}))
    assert check_torchair(TWO) == ()


class FakeTorchAir:
    """Reads settings as torchair/inference/_gear_utils.py does, and gives the gears that would be compiled."""

    def __init__(self):
        self.settings, self.policy = {}, None
        torchair = types.ModuleType("torchair")
        torchair.CompilerConfig = lambda: types.SimpleNamespace(inference_config=types.SimpleNamespace())
        torchair.get_npu_backend = self.backend
        torchair.inference = types.SimpleNamespace(set_dim_gears=self.set_dim_gears)
        torch = types.ModuleType("torch")
        torch.compile = lambda model, *, backend, dynamic, fullgraph: (dynamic and fullgraph and backend == "npu") and model
        torch.no_grad = nullcontext
        self.modules = {"torchair": torchair, "torch": torch, "torch_npu": types.ModuleType("torch_npu")}

    def backend(self, *, compiler_config):
        self.policy = compiler_config.inference_config.dynamic_gears_merge_policy
        return "npu"

    def set_dim_gears(self, tensor, gears):
        assert all(len(sizes) >= 2 for sizes in gears.values()), "refused by set_dim_gears"
        assert all(size >= 2 for sizes in gears.values() for size in sizes), "torch makes no symbol of it"
        assert self.settings.setdefault(tensor, gears) == gears, "one setting for each tensor"

    def gears(self):
        lists = [sizes for gears in self.settings.values() for sizes in gears.values()]
        assert len({len(sizes) for sizes in lists}) == 1 if self.policy == "zip" else True
        return list(zip(*lists, strict=True) if self.policy == "zip" else product(*lists))


def run(code, fake, inputs, monkeypatch):
    with monkeypatch.context() as patch:
        for name, module in fake.modules.items():
            patch.setitem(sys.modules, name, module)
        scope: dict = {}
        exec(compile(code, "torchair_gears.py", "exec"), scope)
        called = []
        scope["compile_with_gears"](lambda *tensors: called.append(tensors), *inputs)
    assert called == [tuple(inputs)]


SIZE = st.integers(2, 9)


@given(
    st.lists(
        st.fixed_dictionaries({"N": SIZE, "H": SIZE, "W": SIZE}),
        min_size=1,
        max_size=8,
        unique_by=lambda gear: (gear["N"], gear["H"], gear["W"]),
    )
)
def test_the_program_sets_exactly_these_gears(values):
    gears = Gears(INPUTS, tuple(values))
    if check_torchair(gears):
        assert len(gears) == 1
        return
    fake = FakeTorchAir()
    with pytest.MonkeyPatch.context() as patch:
        run(torchair_code(gears), fake, ["images", "image_sizes"], patch)
    symbols = [
        INPUTS[index].dims[axis] for index, name in enumerate(("images", "image_sizes")) for axis in fake.settings.get(name, {})
    ]
    assert fake.gears() == [tuple(gear[symbol] for symbol in symbols) for gear in gears.values]
    assert list(dim_gears(gears).gears()) == fake.gears()


def test_the_property_fails_for_the_other_policy(monkeypatch):
    fake = FakeTorchAir()
    run(torchair_code(TWO).replace('"zip"', '"product"'), fake, ["images", "image_sizes"], monkeypatch)
    assert len(fake.gears()) == 8 != len(TWO)


NAMES = st.text(min_size=1) | st.sampled_from(["model", "config", "backend", "compiled", "torch", "torchair", "class"])


@given(st.lists(NAMES, min_size=1, max_size=4, unique=True))
def test_every_name_becomes_an_argument_of_its_own(names):
    gears = Gears(tuple(Input(name, ("N", 3)) for name in names), ({"N": 2}, {"N": 3}))
    fake = FakeTorchAir()
    with pytest.MonkeyPatch.context() as patch:
        run(torchair_code(gears), fake, list(map(str, range(len(names)))), patch)
    assert len(fake.settings) == len(names)


def test_many_arguments_stand_on_lines_of_their_own(monkeypatch):
    names = [f"a_rather_long_name_of_input_{i}" for i in range(5)]
    code = torchair_code(Gears(tuple(Input(name, ("N", 3)) for name in names), ({"N": 2}, {"N": 3})))
    assert max(map(len, code.splitlines())) <= 120
    fake = FakeTorchAir()
    run(code, fake, names, monkeypatch)
    assert list(fake.settings) == names
