"""What is the same trtexec command in the flags of the current version, with its profiles in order?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from difflib import get_close_matches
from pathlib import PurePath

from fixshape.export._onnx_header import OnnxHeader, Port
from fixshape.export._trt_flags import CHOICES, CURRENT, OTHER_MODELS, REPEATED, RETIRED, SHAPES
from fixshape.export._trt_profiles import Shape, in_order, is_dynamic, settled, within
from fixshape.export._trt_read import meant, nearest, replacement
from fixshape.export._trt_rules import check_trtexec
from fixshape.export._trtexec import (
    MAX,
    MIN,
    OPT,
    Flag,
    Ranges,
    Trtexec,
    WrittenProfile,
    parse_trtexec,
    profiles_of,
    shape_entries,
    shapes_of,
    shapes_text,
    with_crosses,
    with_profiles,
)
from fixshape.export._violation import has_errors


def correct_trtexec(text: str, *, header: OnnxHeader | None = None) -> str | None:
    """The command with every rule kept that can be kept without knowing more.

    Retired flags are translated, profiles are numbered, completed and put in order, names and fixed sizes are those of the file,
    and an input that was left out gets the sizes that other inputs have for the same symbols. What a precision flag asked for
    is lost: it belongs in the file now, and :func:`check_trtexec` says how.

    Args:
        text: the command.
        header: of its ONNX file.

    Returns:
        A command that :func:`check_trtexec` finds no error in; ``None`` where only its author knows what is meant.

    Raises:
        UsageError: it is no command that calls trtexec.

    Example:
        >>> correct_trtexec("trtexec --onnx=m.onnx --fp16 --workspace=4096 --explicitBatch --buildOnly")
        'trtexec --onnx=m.onnx --memPoolSize=workspace:4096 --skipInference'
        >>> correct_trtexec("trtexec --onnx=m.onnx --minShapes=x:1x512 --optShapes=x:1x1600 --maxShapes=x:1x1024")
        'trtexec --onnx=m.onnx --minShapes=x:1x512 --optShapes=x:1x1024 --maxShapes=x:1x1600'
    """
    given = replace(meant(parse_trtexec(text)), cut="")
    header = None if header is None else settled(header)
    command = replace(given, flags=tuple(_once(_current(given.flags))))
    if any(
        sizes is None
        for flag in command.flags
        if flag.name in (*SHAPES, "--shapes")
        for *_, sizes in shape_entries(flag.value or "")
    ):
        return None  # a shape that cannot be read would be lost
    profiles = [_complete(shapes) for shapes in _grouped(command)]
    if header is not None:
        batch = [flag.value for flag in given.flags if flag.name in ("--batch", "--maxBatch")]
        profiles = [_to_file(shapes, header) for shapes in profiles] or _batches(batch, header)
        if not any(map(is_dynamic, header.inputs)) and all(port.dims is not None for port in header.inputs):
            profiles = []
            command = replace(
                command, flags=tuple(flag for flag in command.flags if flag.name not in ("--shapes", "--useProfile"))
            )
    command = with_profiles(command, profiles)
    command = _inference(command, profiles, header)
    corrected = str(command)
    return None if has_errors(check_trtexec(corrected, header=header)) else corrected


def _current(flags: tuple[Flag, ...]) -> Iterator[Flag]:
    """Flags of the current version."""
    has_model = any(flag.name in ("--onnx", "--loadEngine") for flag in flags)
    pools = next((flag.value for flag in flags if flag.name == "--memPoolSize"), None)
    for flag in flags:
        if flag.name in (*SHAPES, "--shapes"):
            yield replace(flag, value=with_crosses(flag.value or ""))
        elif flag.name in CHOICES and flag.value not in CHOICES[flag.name]:
            yield from (Flag(flag.name, near) for near in get_close_matches(flag.value or "", CHOICES[flag.name], 1))
        elif flag.name in CURRENT:
            yield flag
        elif flag.name in OTHER_MODELS and not has_model and flag.value:
            has_model = True
            yield Flag("--onnx", str(PurePath(flag.value).with_suffix(".onnx")))
        elif flag.name == "--workspace" and pools is not None:
            continue  # the pool that is given already is the newer word
        elif flag.name in RETIRED:
            if new := replacement(flag):
                name, equals, value = new.partition("=")
                yield Flag(name, value if equals else None)
        else:
            near = nearest(flag.name)
            yield replace(flag, name=near) if near else flag


def _once(flags: Iterator[Flag]) -> Iterator[Flag]:
    """Flags without those that come again."""
    seen: set[str] = set()
    for flag in flags:
        if flag.name in (*SHAPES, "--profile") or flag.name in REPEATED or flag.name not in seen:
            seen.add(flag.name)
            yield flag


def _grouped(command: Trtexec) -> list[dict[str, Ranges]]:
    """The shapes of each profile: by number, and where there are none the first of each flag, the second of each, and so on."""
    profiles, apart = profiles_of(command)
    ordered = sorted(profiles, key=lambda profile: profile.number)
    groups = [profile.shapes for profile in ordered]
    for flag in apart:
        home = next((group for group in groups if flag.name not in group), None)
        if home is None:
            groups.append(home := {})
        home[flag.name] = shapes_of(flag.value)
    return [group for group in groups if any(group.values())]


def _complete(shapes: dict[str, Ranges]) -> dict[str, Ranges]:
    """All three flags with all names, in order on every axis."""
    profile = WrittenProfile(0, shapes)
    filled = profile.filled()
    for name in profile.names:
        known = [filled[flag][name] for flag in SHAPES if name in filled[flag]]
        three = tuple(filled[flag].get(name, known[0]) for flag in SHAPES)
        if len({len(shape) for shape in three}) == 1:
            three = in_order((three[0], three[1], three[2]))
        for flag, shape in zip(SHAPES, three, strict=True):
            filled[flag][name] = shape
    return filled


def _to_file(shapes: dict[str, Ranges], header: OnnxHeader) -> dict[str, Ranges]:
    """The shapes under the names of the file, with its fixed sizes; a missing input has those of the same symbols."""
    ports = {port.name: port for port in header.inputs}
    found: dict[str, Ranges] = {}
    for flag, ranges in shapes.items():
        found[flag] = {}
        for name, shape in ranges.items():
            near = get_close_matches(name, [other for other in ports if other not in ranges], 1, 0.5)
            known = name if name in ports or "*" in name or not near else near[0]
            found[flag][known] = _fixed(shape, ports[known]) if known in ports else shape
        sizes: dict[str, int] = {}
        for name, shape in found[flag].items():
            dims = ports[name].dims if name in ports else None
            if dims is not None and len(dims) == len(shape):
                sizes |= {dim: size for dim, size in zip(dims, shape, strict=True) if isinstance(dim, str)}
        for port in header.inputs:
            if is_dynamic(port) and port.dims and port.name not in found[flag] and not any("*" in name for name in ranges):
                complete = [dim if isinstance(dim, int) else sizes.get(dim or "") for dim in port.dims]
                if None not in complete:
                    found[flag][port.name] = tuple(size for size in complete if size is not None)
    return found


def _fixed(shape: Shape, port: Port) -> Shape:
    if port.dims is None or len(port.dims) != len(shape):
        return shape
    return tuple(want if isinstance(want, int) else got for got, want in zip(shape, port.dims, strict=True))


def _batches(values: list[str | None], header: OnnxHeader) -> list[dict[str, Ranges]]:
    """The profile that --batch and --maxBatch asked for, where the batch is all that is dynamic."""
    sizes = [int(value) for value in values if value and value.isdecimal()]
    dynamic = [port for port in header.inputs if is_dynamic(port)]
    if not sizes or not dynamic or any(is_dynamic(replace(port, dims=port.dims[1:])) for port in dynamic if port.dims):
        return []
    three = {MIN: 1, OPT: min(sizes), MAX: max(sizes)}
    return [
        {
            flag: {port.name: (size, *(dim for dim in (port.dims or ())[1:] if isinstance(dim, int))) for port in dynamic}
            for flag, size in three.items()
        }
    ]


def _inference(command: Trtexec, profiles: list[dict[str, Ranges]], header: OnnxHeader | None) -> Trtexec:
    """The profile and the shapes that are run, within what is built."""
    flags = list(command.flags)
    text = command.value("--useProfile")
    last = max(len(profiles), 1) - 1
    used = min(int(text), last) if text and text.isdecimal() else 0
    ranges = profiles[used] if profiles else {}
    ports = {port.name: port for port in header.inputs} if header else {}
    for index, flag in enumerate(flags):
        if flag.name == "--useProfile":
            flags[index] = Flag(flag.name, str(used))
        elif flag.name == "--shapes":
            shapes = {
                name: _fixed(shape, ports[name]) if name in ports else shape for name, shape in shapes_of(flag.value).items()
            }
            for name, shape in shapes.items():
                if name in ranges.get(OPT, {}) and not within(shape, ranges[MIN][name], ranges[MAX][name]):
                    shapes[name] = ranges[OPT][name]
            flags[index] = Flag(flag.name, shapes_text(shapes))
    return replace(command, flags=tuple(flags))
