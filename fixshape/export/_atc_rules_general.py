"""Which rules hold for any atc command: required options, paths, values, options that exclude one another, products.

Numbers G1 to G9, G13, G15, G16 and 3g. Sources: the open GE sources, ``api/atc/main_impl.cc`` and ``cmd_flag_info.cc``, and the
atc manual (CANN 8.5).
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator

from fixshape._check import shown
from fixshape.export._atc_case import DIMS_OPTION, Case, instead
from fixshape.export._atc_options import GEAR_OPTIONS, OPTIONS, AtcCommand
from fixshape.export._violation import Violation

_MOST_PATH = 4096  # PATH_MAX of Linux
_FRAMEWORKS = "0 (Caffe), 1 (MindSpore), 3 (TensorFlow), 5 (ONNX)"
_FORMATS = {
    "0": ("NCHW", "ND"),
    "3": ("NCHW", "NHWC", "ND", "NCDHW", "NDHWC"),
    "5": ("NCHW", "NCDHW", "ND"),
}
_SUFFIXES = {".onnx": "5", ".pb": "3", ".air": "1", ".prototxt": "0"}
_CLASHES = (("precision_mode", "precision_mode_v2"),)
_VALUE_CODES = {
    **dict.fromkeys(("atomic_clean_policy", "deterministic", "disable_reuse_memory", "display_model_info"), "E10006"),
    **dict.fromkeys(("dump_mode", "external_weight", "sparsity", "status_check"), "E10006"),
    "log": "E10010",
    "framework": "E10007",
}


def options(case: Case) -> Iterator[Violation]:
    """G15: names and values that atc does not have, and options that need one another."""
    command = case.command
    for name, value in command.options:
        if name not in OPTIONS:
            near = difflib.get_close_matches(name, OPTIONS, n=1, cutoff=0.8)  # lower, and a retired option looks like a slip
            may_be = not near and re.fullmatch("[a-z][a-z0-9_]*", name) is not None
            fixed = command.with_options(**{name: None}, **({near[0]: value} if near and not command.get(near[0]) else {}))
            yield Violation(
                "G15",
                None,
                f"--{name} is no option of atc, expected {f'--{near[0]}' if near else 'one that is'}",
                "atc stops at an option that it does not know. Options that a newer CANN has brought are not known here.",
                instead(fixed),
                level="warning" if may_be else "error",
                doubtful=may_be,
            )
        elif (
            (choices := OPTIONS[name]) is not None and value not in choices and not (name == "framework" or command.is_open(name))
        ):
            yield Violation(
                "G15",
                _VALUE_CODES.get(name, "E10001"),
                f"--{name} is {shown(value)}, expected one of {', '.join(choices)}",
                "atc compares the value with its list, letter by letter.",
                _with_choice(command, name, value, choices),
            )
    for name in (*GEAR_OPTIONS, "input_shape", "input_shape_range"):
        if (name, "") in command.options:
            yield Violation(
                "G15",
                "E10058" if name == DIMS_OPTION else None,
                f"--{name} is empty, expected a value or no such option",
                "An empty value counts as none, as where a variable of a script is not set.",
                instead(command.with_options(**{name: None}), "or with its value"),
                level="warning",
                doubtful=True,
            )
    for name in command.unfinished:
        yield Violation(
            "G15", None, f"--{name} has no value, expected --{name}=VALUE", "atc stops at an option whose value is missing.",
            instead(command),
        )  # fmt: skip
    if case.get("auto_tune_mode"):
        yield Violation(
            "G15",
            "E10060",
            "--auto_tune_mode is set, expected no such option",
            "Tuning has become a tool of its own, aoe. Newer CANN may refuse the option.",
            instead(command.with_options(auto_tune_mode=None), "and aoe before, where it is wanted"),
            level="warning",
            doubtful=True,
        )
    for first, second in _CLASHES:
        if case.get(first) and case.get(second):
            yield Violation(
                "G15",
                "E10056",
                f"--{first} and --{second} are both set, expected one of them",
                "They say the same thing in an old and in a new way.",
                instead(command.with_options(**{first: None})),
            )
    both = {name: case.get(name) or f"{_stem(case)}.{name}" for name in ("om", "json")}
    for name in both if case.get("mode") in ("1", "5") else ():
        if not case.get(name):
            yield Violation(
                "G15", "E10004", f"--mode={case.get('mode')} without --{name}, expected both --om and --json",
                "It writes what the model in --om holds to the file in --json.",
                instead(command.with_options(**both)),
            )  # fmt: skip
            break
    if case.get("mode") == "6" and not case.get("om"):
        yield Violation(
            "G15", "E10057", "--mode=6 without --om, expected both", "Mode 6 shows what a finished .om holds.",
            instead(command.with_options(om=f"{_stem(case)}.om")),
        )  # fmt: skip


def _with_choice(command: AtcCommand, name: str, value: str, choices: tuple[str, ...]) -> str:
    """The command with a value that there is: that of the option's newer form, the nearest, or none."""
    newer = f"{name}_v2"
    if value in (OPTIONS.get(newer) or ()):
        return instead(command.with_options(**{name: None, newer: command.get(newer) or value}))
    near = difflib.get_close_matches(value, choices, n=1)
    return instead(command.with_options(**{name: near[0] if near else None}), "" if near else "its default then holds")


def required(case: Case) -> Iterator[Violation]:
    """G1."""
    if case.get("mode") in ("1", "5", "6", "7"):
        return
    stands_in = {"soc_version": "Ascend310P3", "output": _stem(case), "model": "model.onnx"}
    if case.get("singleop"):  # operators from a file, and no model
        del stands_in["model"]
    if case.get("mode") == "3":  # it checks, and writes no .om
        del stands_in["output"]
    missing = {name: value for name, value in stands_in.items() if not case.get(name)}
    if missing:
        yield Violation(
            "G1",
            "E10054",
            f"{' and '.join(f'--{name}' for name in missing)} {'is' if len(missing) == 1 else 'are'} empty, expected a value"
            + (" each" if len(missing) > 1 else ""),
            "atc cannot build without it; it names the first that it misses.",
            instead(case.command.with_options(**missing), "put your own values for " + ", ".join(missing)),
        )


def paths(case: Case) -> Iterator[Violation]:
    """G4."""
    output = case.get("output")
    if not case.builds or not output:
        return
    if len(output) > _MOST_PATH:
        yield Violation(
            "G4", "E10021", f"--output has {len(output):,} characters, expected at most {_MOST_PATH:,}",
            "The system opens no longer path.", instead(case.command.with_options(output=_stem(case))),
        )  # fmt: skip
    elif output.endswith(("/", "\\")):
        yield Violation(
            "G4", "E10022", f"--output is {shown(output)}, a folder, expected a path that ends with a file's name",
            "atc puts .om after the name; it does not make one up.",
            instead(case.command.with_options(output=output + _stem(case))),
        )  # fmt: skip


def framework(case: Case) -> Iterator[Violation]:
    """G2 and G3, and of G13 what the name of the file tells."""
    given, model = case.get("framework"), case.get("model")
    if not case.builds or case.command.is_open("framework"):
        return
    suffix = os.path.splitext(model)[1].lower()
    told = "5" if case.header else _SUFFIXES.get(suffix)
    if given not in ("0", "1", "3", "5"):
        got = f"is {shown(given)}" if given else "is not given"
        yield Violation(
            "G2", "E10007", f"--framework {got}, expected one of {_FRAMEWORKS}",
            "atc does not tell the kind of a model from its file.",
            instead(case.command.with_options(framework=told or "5")),
        )  # fmt: skip
        return
    if told and told != given:
        yield Violation(
            "G13",
            "E10041",
            f"--framework={given}, but {'the model is an ONNX file' if case.header else f'{shown(model)} ends in {suffix}'}:"
            f" expected {told}; the values are {_FRAMEWORKS}",
            "atc reads the file with the parser of the framework that is named, and cannot load it.",
            instead(case.command.with_options(framework=told, weight=None if told == "5" else case.get("weight") or None)),
        )
    elif given == "0" and not case.get("weight"):
        yield Violation(
            "G3",
            "E10008",
            "--framework=0 without --weight, expected the .caffemodel",
            "A Caffe model is two files: the graph, and the weights.",
            instead(case.command.with_options(weight=f"{os.path.splitext(model)[0]}.caffemodel")),
        )


def input_format(case: Case) -> Iterator[Violation]:
    """G5."""
    given, choices = case.get("input_format"), _FORMATS.get(case.get("framework"))
    if case.builds and given and choices and given not in choices and not case.command.is_open("input_format"):
        if given == "NHWC" and case.get("framework") == "5":
            why = "ONNX models are NCHW; a model whose own input is NHWC is given as ND."
        else:
            why = "Each framework has its own list, and one format holds for all inputs."
        format_ = "ND" if DIMS_OPTION in case.gear_options or (given == "NHWC" and not case.gear_options) else "NCHW"
        yield Violation(
            "G5", "E10001", f"--input_format is {shown(given)}, expected one of {', '.join(choices)}", why,
            instead(case.command.with_options(input_format=format_)),
        )  # fmt: skip


def hint_shape(case: Case) -> Iterator[Violation]:
    """G9."""
    if case.get("input_hint_shape") and case.gear_options:
        yield Violation(
            "G9",
            "E10001",
            f"--input_hint_shape and --{case.gear_options[0]} are both set, expected one of them",
            "A hint is for a model whose shapes stay unknown; gears make them known.",
            instead(case.command.with_options(input_hint_shape=None)),
        )


def exclusion(case: Case) -> Iterator[Violation]:
    """G6."""
    given = [name for name in (*GEAR_OPTIONS, "input_shape_range") if case.get(name)]
    if len(given) > 1:
        kept = _kept(case, given)
        yield Violation(
            "G6",
            "E10009",
            f"{' and '.join(f'--{name}' for name in given)} are set, expected at most one of them",
            "A model has one kind of gears, or ranges. Batch and sizes that both vary are --dynamic_dims, with a number"
            " for each -1.",
            instead(
                case.command.with_options(
                    **{name: None for name in given if name != kept}, **({"input_format": "ND"} if kept == DIMS_OPTION else {})
                ),
                f"--{kept} is the one that is kept",
            ),
        )


def _kept(case: Case, given: list[str]) -> str:
    """The option that fits the -1s best; dims fit any."""
    for name in (DIMS_OPTION, *GEAR_OPTIONS):
        if name not in given:
            continue
        alone = Case(case.command.with_options(**{other: None for other in given if other != name}), case.header)
        widths = {len(gear) for gear in alone.clean_gears}
        first = bool(alone.free_axes) and all(axis == 0 for _, axis in alone.free_axes)
        images = [shape for shape in alone.shapes if shape.free]
        sides = bool(images) and all(shape.free == list(case.sides) and len(shape.dims) == 4 for shape in images)
        if {DIMS_OPTION: widths == {len(alone.free_axes)}, GEAR_OPTIONS[0]: first, GEAR_OPTIONS[1]: sides}[name]:
            return name
    return given[0]


def gears_without_shape(case: Case) -> Iterator[Violation]:
    """G7."""
    if len(case.gear_options) == 1 and not case.parts and not case.get("input_shape_range"):
        option = case.gear_options[0]
        known = case.header and case.header.inputs and all(port.dims is not None for port in case.header.inputs)
        if known:
            fixed = instead(case.command.with_options(input_shape=_open_shapes(case)), "check that each -1 is meant")
        else:
            axes = {"dynamic_batch_size": "-1,3,640,640", "dynamic_image_size": "1,3,-1,-1"}.get(option)
            axes = axes or ",".join(["-1"] * max(map(len, case.gears), default=1))
            fixed = instead(case.command.with_options(input_shape=f"images:{axes}"), "put your own names and sizes")
        yield Violation(
            "G7",
            "E10004",
            f"--{option} is set and --input_shape is empty, expected the shape of each input, with -1 where the gears go",
            "The gears are numbers only: --input_shape says which axes take them.",
            fixed,
        )


def _open_shapes(case: Case) -> str:
    """The model's inputs with -1 at the axes that the gear option is about."""
    assert case.header is not None
    option, parts = case.gear_options[0], []
    for port in case.header.inputs:
        dims = port.dims or ()
        open_axes = {axis for axis, dim in enumerate(dims) if not isinstance(dim, int) or dim < 1}
        if option == "dynamic_batch_size":
            open_axes &= {0}
        elif option == "dynamic_image_size":
            open_axes = set(case.sides) if len(dims) == 4 else set()
        sizes = ["-1" if axis in open_axes else case.size(port.name, axis, len(dims)) for axis in range(len(dims))]
        parts.append(f"{port.name}:{','.join(sizes)}")
    return ";".join(parts)


def aipp(case: Case) -> Iterator[Violation]:
    """G8."""
    if case.get(DIMS_OPTION) and case.get("insert_op_conf"):
        yield Violation(
            "G8",
            "E10001",
            f"--insert_op_conf is {shown(case.get('insert_op_conf'))} with --dynamic_dims, expected no AIPP",
            "AIPP works on images, and --dynamic_dims does not say which axes an image has.",
            instead(case.command.with_options(insert_op_conf=None), "preprocess before the model, or use --dynamic_image_size"),
        )


def soc_version(case: Case) -> Iterator[Violation]:
    """G16."""
    soc = case.get("soc_version")
    if not soc or case.command.is_open("soc_version"):
        return
    if not re.fullmatch(r"Ascend[0-9A-Za-z]+(_[0-9A-Za-z]+)*", soc):
        chip = re.search(r"(?i)(?:ascend)?[\s_-]*([0-9][0-9A-Za-z]*(?:_[0-9A-Za-z]+)?)\s*$", soc)
        yield Violation(
            "G16",
            None,
            f"--soc_version is {shown(soc)}, expected Ascend and the name that npu-smi info shows: Ascend310P3",
            "atc does not look at the value at first, and fails later, when it finds no operators for that chip.",
            instead(
                case.command.with_options(soc_version=f"Ascend{chip[1]}" if chip else "Ascend310P3"),
                "" if chip else "put your own",
            ),
        )
    elif re.fullmatch(r"Ascend(910_93|950|950PR|950DT)", soc):
        yield Violation(
            "G16",
            None,
            f"--soc_version is {shown(soc)}, expected Chip Name and NPU Name of npu-smi info -t board: Ascendxxx_1234",
            "For Atlas A3 and Ascend 950 the chip's name alone is no version.",
            instead(
                case.command.with_options(soc_version=f"{soc}_9391" if soc.endswith("93") else f"{soc}_9599"), "put your own"
            ),
            level="warning",
            doubtful=True,
        )


def products(case: Case) -> Iterator[Violation]:
    """3g: what single products do not have."""
    soc, command = case.get("soc_version"), case.command
    if soc.startswith("Ascend035"):
        unwanted = [name for name in (*GEAR_OPTIONS, "input_shape_range", "insert_op_conf") if case.get(name)]
        ranges = case.has_range or any(dim == "-1" for shape in case.shapes for dim in shape.dims)
        if unwanted or ranges or case.get("mode") != "30":
            one = Case(case.single(*case.clean_gears[:1])) if case.mode else case
            shapes = [one.fixed(shape, [a for a, d in enumerate(shape.dims) if not d.isdigit()]) for shape in one.shapes]
            fixed = one.command.with_options(**dict.fromkeys(unwanted), mode="30", input_shape=";".join(map(str, shapes)) or None)
            got = ", ".join(f"--{name}" for name in unwanted) or ("ranges" if ranges else "another mode than 30")
            yield Violation(
                "3g",
                "E10055" if case.get("mode") != "30" else None,
                f"{soc} with {got}, expected fixed shapes, no AIPP and --mode=30",
                "The IPV350 runs fixed shapes only.",
                instead(fixed),
            )
    if soc.startswith("Ascend310B") and (case.has_range or (case.free_axes and not case.gear_options)):
        shapes = [case.fixed(shape, [axis for axis, dim in enumerate(shape.dims) if not dim.isdigit()]) for shape in case.shapes]
        fixed = command.with_options(input_shape_range=None, input_shape=";".join(map(str, shapes)) or None)
        yield Violation(
            "3g", None, f"{soc} with a range of shapes, expected fixed shapes or gears",
            "Atlas 200I/500 A2 has no ranges.", instead(fixed, "or -1 and a gear for each size that you run"),
        )  # fmt: skip
    if case.get("framework") == "0" and re.match("Ascend(910B|910_93|950)", soc):
        onnx = os.path.splitext(case.get("model"))[0] + ".onnx"
        yield Violation(
            "3g",
            None,
            f"{soc} with a Caffe model, expected another framework",
            "Atlas A2, A3 and Ascend 950 have no Caffe parser.",
            instead(command.with_options(framework="5", model=onnx, weight=None), "convert the model to ONNX before"),
        )


def _stem(case: Case) -> str:
    return os.path.splitext(os.path.basename(case.get("model")))[0] or "model"
