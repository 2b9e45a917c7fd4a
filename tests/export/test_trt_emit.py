"""What is written for TensorRT: a program that runs, options that ONNX Runtime reads, and names that can be written."""

import os
import sys
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixshape.errors import UsageError
from fixshape.export import (
    Gears,
    Input,
    Profile,
    ShapeRange,
    builder_code,
    onnxruntime_options,
    parse_inputs,
    plan_profiles,
    trtexec_command,
)

GEARS = Gears(parse_inputs("images:N,3,H,W;sizes:N,2"), ({"N": 1, "H": 320, "W": 480}, {"N": 4, "H": 480, "W": 320}))


class FakeTensorRT:
    """Records what is called, and refuses what TensorRT would: a profile that is not in order."""

    def __init__(self, *, parses: bool = True, builds: bool = True) -> None:
        self.calls: list[tuple] = []
        self.profiles: list[dict] = []
        self.parses, self.builds = parses, builds
        self.module = types.ModuleType("tensorrt")
        self.module.Logger = type("Logger", (), {"WARNING": 1, "__init__": lambda _, level: None})
        self.module.Builder = lambda logger: self
        self.module.OnnxParser = lambda network, logger: self

    def create_network(self):
        return "network"

    def parse_from_file(self, path):
        self.calls.append(("parse", path))
        return self.parses

    num_errors = 1

    def get_error(self, index):
        return "no such operator"

    def create_builder_config(self):
        return self

    def create_optimization_profile(self):
        profile: dict = {}
        return types.SimpleNamespace(shapes=profile, set_shape=lambda name, *three: profile.__setitem__(name, three))

    def add_optimization_profile(self, profile):
        for three in profile.shapes.values():
            if not all(low <= opt <= high for low, opt, high in zip(*three, strict=True)):
                return -1
        self.profiles.append(profile.shapes)
        return len(self.profiles) - 1

    def build_serialized_network(self, network, config):
        return b"engine" if self.builds else None


def execute(code, fake, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", fake.module)
    exec(compile(code, "build.py", "exec"), {})


@pytest.mark.parametrize("ranges", [None, 1])
def test_the_program_makes_these_profiles(tmp_path, monkeypatch, ranges):
    profiles = plan_profiles(GEARS, ranges=ranges)
    fake = FakeTensorRT()
    execute(builder_code(profiles, onnx='my "m".onnx', engine=tmp_path / "m.plan"), fake, monkeypatch)
    assert fake.calls == [("parse", 'my "m".onnx')]
    assert fake.profiles == [
        {name: (span.smallest, span.opt, span.largest) for name, span in profile.ranges.items()} for profile in profiles
    ]
    assert (tmp_path / "m.plan").read_bytes() == b"engine"


@pytest.mark.parametrize(
    ("fake", "swap", "message"),
    [
        (FakeTensorRT(parses=False), False, "no such operator"),
        (FakeTensorRT(builds=False), False, "its log above says why"),
        (FakeTensorRT(), True, "TensorRT refuses profile 0"),
    ],
)
def test_the_program_says_what_failed(tmp_path, monkeypatch, fake, swap, message):
    (profile,) = plan_profiles(GEARS, ranges=1)
    if swap:  # as a tutorial had it: opt above max
        span = profile.ranges["images"]
        broken = object.__new__(ShapeRange)
        for name, value in (("smallest", span.smallest), ("opt", (9, 9, 999, 999)), ("largest", span.largest)):
            object.__setattr__(broken, name, value)
        profile = Profile({"images": broken})
    with pytest.raises(SystemExit, match=message):
        execute(builder_code([profile], onnx="m.onnx", engine=tmp_path / "m.plan"), fake, monkeypatch)
    assert not (tmp_path / "m.plan").exists()


@given(st.text(min_size=1), st.text())
def test_every_name_and_path_comes_back_from_the_program(name, path):
    gears = Gears((Input(name, ("N", 3)),), ({"N": 1}, {"N": 2}))
    fake = FakeTensorRT()
    with pytest.MonkeyPatch.context() as patch:
        execute(builder_code(plan_profiles(gears), onnx=path, engine=os.devnull), fake, patch)
    assert fake.calls == [("parse", path)]
    assert fake.profiles == [{name: ((1, 3),) * 3}, {name: ((2, 3),) * 3}]


def read_by_onnxruntime(text):
    """How its provider reads a list of shapes: the first colon ends the name."""
    found = {}
    for entry in text.split(","):
        name, shape = entry.split(":")[:2]
        found.setdefault(name, []).append(tuple(map(int, shape.split("x"))))
    return found


def test_the_options_are_read_as_the_same_range():
    profiles = plan_profiles(GEARS, ranges=1)
    options = onnxruntime_options(profiles)
    (images, sizes) = profiles[0].ranges.values()
    for key, field in (("min", "smallest"), ("opt", "opt"), ("max", "largest")):
        assert read_by_onnxruntime(options.pop(f"trt_profile_{key}_shapes")) == {
            "images": [getattr(images, field)], "sizes": [getattr(sizes, field)]
        }  # fmt: skip
    assert not options
    assert onnxruntime_options(()) == {}


def test_onnxruntime_takes_one_profile_and_no_colon():
    with pytest.raises(UsageError, match=r"got 2 profiles, expected one: .*ranges=1"):
        onnxruntime_options(plan_profiles(GEARS))
    colon = Gears((Input("in:0", ("N",)),), ({"N": 2},))
    with pytest.raises(UsageError, match="input 'in:0': the name has ':', and cannot be written"):
        onnxruntime_options(plan_profiles(colon))
    assert read_by_onnxruntime("in:0:2") == {"in": [(0,)]}, "what the provider would take for it"


@pytest.mark.parametrize("name", ["a,b", "a'b", "a*", " a", "a\nb"])
def test_names_that_trtexec_cannot_be_told(name):
    gears = Gears((Input(name, ("N",)),), ({"N": 2},))
    with pytest.raises(UsageError, match=r"cannot be written in the list of shapes\..*onnx rename"):
        trtexec_command(plan_profiles(gears), onnx="m.onnx", engine="m.plan")


def test_a_static_model_has_a_command_without_shapes():
    assert (
        trtexec_command((), onnx="a b.onnx", engine="m.plan") == 'trtexec --onnx="a b.onnx" --saveEngine=m.plan --skipInference'
    )
