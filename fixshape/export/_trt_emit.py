"""How are the profiles said to TensorRT? As a trtexec command, as a Python program, as options of ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from fixshape._check import shown
from fixshape.errors import UsageError
from fixshape.export._trt_profiles import Profile, Shape, written
from fixshape.export._trtexec import MAX, MIN, OPT, Flag, Ranges, Trtexec, with_profiles

_COMMAS = "In trtexec and in ONNX Runtime a comma ends an entry: rename the input (fixshape onnx rename model.onnx OLD=NEW)."


def trtexec_command(profiles: Sequence[Profile], *, onnx: str | os.PathLike[str], engine: str | os.PathLike[str]) -> str:
    """The command that builds an engine with these profiles, in the flags of TensorRT 10 and 11.

    It only builds: a run would time the first profile alone.

    Args:
        profiles: of :func:`plan_profiles`; none for a model without dynamic axes.
        onnx: the file to build from.
        engine: the file to write.

    Returns:
        One line for a shell. Names with a colon stand in the single quotes that trtexec asks for.

    Raises:
        UsageError: the name of an input cannot be written: it has a comma, a quote, an asterisk, or a space at its ends.

    Example:
        >>> from fixshape.export import Gears, parse_inputs, plan_profiles
        >>> gears = Gears(parse_inputs("x:N,3"), ({"N": 1}, {"N": 8}))
        >>> trtexec_command(plan_profiles(gears, ranges=1), onnx="m.onnx", engine="m.plan")
        'trtexec --onnx=m.onnx --minShapes=x:1x3 --optShapes=x:8x3 --maxShapes=x:8x3 --saveEngine=m.plan --skipInference'
    """
    _check_names(profiles, ",'*")
    flags = (Flag("--onnx", os.fspath(onnx)), Flag("--saveEngine", os.fspath(engine)), Flag("--skipInference"))
    command = with_profiles(Trtexec("trtexec", flags[:1]), map(_flags, profiles))
    return str(Trtexec(command.before, (*command.flags, *flags[1:])))


def builder_code(profiles: Sequence[Profile], *, onnx: str | os.PathLike[str], engine: str | os.PathLike[str]) -> str:
    r"""A Python program that builds the engine with TensorRT's own package, 10 or newer.

    Args:
        profiles: of :func:`plan_profiles`.
        onnx: the file to build from.
        engine: the file to write.

    Returns:
        The program. It imports tensorrt alone, and ends with a message where the file cannot be parsed, a profile is refused or
        the build fails.

    Example:
        >>> from fixshape.export import Gears, parse_inputs, plan_profiles
        >>> gears = Gears(parse_inputs("x:N,3"), ({"N": 1}, {"N": 8}))
        >>> print(builder_code(plan_profiles(gears), onnx="m.onnx", engine="m.plan").split("\n\n")[2])
        PROFILES = [  # of each input: smallest, opt, largest
            {"x": ((1, 3), (1, 3), (1, 3))},
            {"x": ((8, 3), (8, 3), (8, 3))},
        ]
    """
    rows = "".join(f"    {_row(profile)},\n" for profile in profiles)
    return _BUILDER.format(profiles=rows, onnx=_literal(os.fspath(onnx)), engine=_literal(os.fspath(engine)))


def onnxruntime_options(profiles: Sequence[Profile]) -> dict[str, str]:
    """Options of ONNX Runtime's TensorRT provider, for ``providers=[("TensorrtExecutionProvider", options)]``.

    Args:
        profiles: of ``plan_profiles(gears, ranges=1)``: the provider runs one range, and does not change profiles between
            calls (microsoft/onnxruntime#31624).

    Returns:
        ``trt_profile_min_shapes``, ``trt_profile_opt_shapes`` and ``trt_profile_max_shapes``; nothing where no input is dynamic.

    Raises:
        UsageError: there is more than one profile, or the provider cannot read the name of an input: it ends a name at the
            first colon (MakeInputNameShapePair of its tensorrt_execution_provider_utils.h).

    Example:
        >>> from fixshape.export import Gears, parse_inputs, plan_profiles
        >>> gears = Gears(parse_inputs("x:N,3"), ({"N": 1}, {"N": 8}))
        >>> onnxruntime_options(plan_profiles(gears, ranges=1))["trt_profile_max_shapes"]
        'x:8x3'
    """
    if len(profiles) > 1:
        raise UsageError(
            f"onnxruntime_options: got {len(profiles)} profiles, expected one: the provider does not change profiles between"
            " calls. Join them: plan_profiles(gears, ranges=1) (on the command line --ranges 1)."
        )
    _check_names(profiles, ",:")
    keys = {"trt_profile_min_shapes": MIN, "trt_profile_opt_shapes": OPT, "trt_profile_max_shapes": MAX}
    return {
        key: ",".join(f"{name}:{written(shape)}" for name, shape in _flags(profile)[flag].items())
        for profile in profiles
        for key, flag in keys.items()
    }


def _flags(profile: Profile) -> dict[str, Ranges]:
    spans = profile.ranges.items()
    return {
        MIN: {name: span.smallest for name, span in spans},
        OPT: {name: span.opt for name, span in spans},
        MAX: {name: span.largest for name, span in spans},
    }


def _check_names(profiles: Sequence[Profile], forbidden: str) -> None:
    for name in {name: None for profile in profiles for name in profile.ranges}:
        found = [sign for sign in forbidden if sign in name]
        if found or name != name.strip() or "\n" in name:
            sign = repr(found[0]) if found else "a space or a line end"
            way = _COMMAS if found == [","] else "Rename the input (fixshape onnx rename model.onnx OLD=NEW)."
            raise UsageError(f"input {shown(name)}: the name has {sign}, and cannot be written in the list of shapes. {way}")


def _row(profile: Profile) -> str:
    spans: Mapping[str, tuple[Shape, Shape, Shape]] = {
        name: (span.smallest, span.opt, span.largest) for name, span in profile.ranges.items()
    }
    entries = [f"{_literal(name)}: {three}" for name, three in spans.items()]
    line = "{" + ", ".join(entries) + "}"
    return line if len(line) <= _WIDTH else "{" + "".join(f"\n        {entry}," for entry in entries) + "\n    }"


def _literal(text: str) -> str:
    """A string as Python, in double quotes where that needs no escapes."""
    plain = repr(text)
    return f'"{plain[1:-1]}"' if plain[0] == "'" and '"' not in text else plain


_WIDTH = 110  # of a profile on one line
_BUILDER = '''"""Builds a TensorRT engine from an ONNX file, with one optimization profile for each range of shapes."""

import tensorrt as trt

PROFILES = [  # of each input: smallest, opt, largest
{profiles}]

logger = trt.Logger(trt.Logger.WARNING)
builder = trt.Builder(logger)
network = builder.create_network()
parser = trt.OnnxParser(network, logger)
if not parser.parse_from_file({onnx}):
    raise SystemExit("\\n".join(str(parser.get_error(index)) for index in range(parser.num_errors)))

config = builder.create_builder_config()
for number, ranges in enumerate(PROFILES):
    profile = builder.create_optimization_profile()
    for name, (smallest, opt, largest) in ranges.items():
        profile.set_shape(name, smallest, opt, largest)
    if config.add_optimization_profile(profile) != number:
        raise SystemExit(f"TensorRT refuses profile {{number}}: {{ranges}}")

engine = builder.build_serialized_network(network, config)
if engine is None:
    raise SystemExit("TensorRT did not build the engine; its log above says why")
with open({engine}, "wb") as file:
    file.write(engine)
'''
