"""What does a trtexec command say? Its flags as the program itself reads them, and the same command written again.

How trtexec reads, after samples/common/sampleOptions.cpp of NVIDIA/TensorRT: a flag and its value are one word with ``=``;
shapes are ``name:1x3x224x224`` with commas between them, and the last colon ends the name; the shapes of a profile stand
right after its ``--profile``; of ``--minShapes``, ``--optShapes`` and ``--maxShapes`` one that is missing is taken from another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from fixshape._check import shown
from fixshape.errors import UsageError
from fixshape.export._command_line import hyphened, narrow, quoted, read_call
from fixshape.export._trt_flags import SHAPES
from fixshape.export._trt_profiles import Shape, written

_LOST = re.compile(r":\d+(?:x\d+)*[;\s]")  # another sign than a comma ended a shape
_SIZE = re.compile(r"-?\d{1,18}", re.ASCII)

Ranges = dict[str, Shape]  # of one flag: a shape for each name
MIN, OPT, MAX = SHAPES


@dataclass(frozen=True, slots=True)
class Flag:
    """One argument.

    Args:
        name: with its dashes, ``"--onnx"``; a word that is no flag is all name.
        value: after ``=``; ``None`` where there is none.
    """

    name: str
    value: str | None = None

    def __str__(self) -> str:
        return self.name if self.value is None else f"{self.name}={self.value}"


@dataclass(frozen=True, slots=True)
class Trtexec:
    """A command.

    Args:
        before: what stands before its flags, as it was written.
        flags: those that were meant, also those of ``cut``.
        after: what the shell does with the output, as it was written.
        cut: what the shell takes for another command.
        variables: what only the shell can fill in.
        windows: it is a line for the shell of Windows.
    """

    before: str
    flags: tuple[Flag, ...]
    after: str = ""
    cut: str = ""
    variables: frozenset[str] = frozenset()
    windows: bool = False

    def __str__(self) -> str:
        words = [self.before, *(quoted(str(flag), self.variables, windows=self.windows) for flag in self.flags)]
        return " ".join([*words, self.after] if self.after else words)

    def all(self, name: str) -> list[Flag]:
        """The flags of one name."""
        return [flag for flag in self.flags if flag.name == name]

    def value(self, name: str) -> str | None:
        """The value of the first flag of a name; ``""`` where it has none, ``None`` where there is no such flag."""
        return next((flag.value or "" for flag in self.flags if flag.name == name), None)


@dataclass(slots=True)
class WrittenProfile:
    """The shapes of one profile as they are written: for each of the three flags that is there, a shape for each name."""

    number: int
    shapes: dict[str, Ranges] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Every name, once."""
        return tuple(dict.fromkeys(name for ranges in self.shapes.values() for name in ranges))

    def filled(self) -> dict[str, Ranges]:
        """All three flags, the missing ones taken from where trtexec takes them."""
        given = self.shapes
        sources = {MIN: (MIN, OPT, MAX), OPT: (OPT, MAX, MIN), MAX: (MAX, OPT, MIN)}
        return {flag: dict(next((given[other] for other in order if other in given), {})) for flag, order in sources.items()}

    def flags(self) -> list[Flag]:
        """Its three flags."""
        return [Flag(name, shapes_text(ranges)) for name, ranges in self.filled().items()]


def parse_trtexec(text: str) -> Trtexec:
    """Reads a trtexec command as a shell would, and keeps what the shell cuts off.

    Args:
        text: the command, with whatever stands around it: settings, which are put in where the command has their variables, sudo,
            docker, a prompt, other commands. A line for the shell of Windows is one, too.

    Raises:
        UsageError: it does not call trtexec or does so more than once, a quotation mark is not closed, a shape is a variable of
            the shell, or it is longer than a command can be.

    Example:
        >>> command = parse_trtexec("CUDA_VISIBLE_DEVICES=1 trtexec --onnx=m.onnx --verbose > log.txt")
        >>> command.before, [flag.name for flag in command.flags], command.after
        ('CUDA_VISIBLE_DEVICES=1 trtexec', ['--onnx', '--verbose'], '> log.txt')
    """
    call = read_call(text, "trtexec", example="trtexec --onnx=model.onnx")
    flags = []
    for word in call.meant:
        name, equals, value = word.partition("=")
        flag = Flag(name, value if equals else None)
        variable = next((variable for variable in sorted(call.variables) if variable in value), None)
        if variable and hyphened(name) in (*SHAPES, "--shapes"):
            raise UsageError(
                f"trtexec: {shown(word)} has a size that only the shell knows. Say what it holds before the command:"
                f" '{re.sub('[^A-Za-z0-9_]', '', variable)}=...; trtexec ...'."
            )
        flags.append(flag)
    return Trtexec(call.before, tuple(flags), call.after, call.cut, call.variables, call.windows)


def shape_entries(value: str) -> Iterator[tuple[str, str, Shape | None]]:
    """The shapes in the value of a flag: entry as it is written, name, and sizes; ``None`` where they are none."""
    for entry in value.split(",") if value else []:
        name, colon, dims = entry.rpartition(":")
        sizes = [] if dims == "scalar" else dims.split("x")
        plain = entry.startswith("'") or (name == name.strip() and not _LOST.search(name))
        right = colon and name.replace("'", "") and plain and all(_SIZE.fullmatch(size) for size in sizes)
        yield entry, name.replace("'", ""), tuple(map(int, sizes)) if right else None


def with_crosses(value: str) -> str:
    """``images:1,3,8,8; y:1*2`` with the signs that are meant, ``images:1x3x8x8,y:1x2``; what can be read stays as it is."""
    if all(sizes is not None for *_, sizes in shape_entries(value)):
        return value
    entries = re.sub(r"(?<=[0-9])[ \t]*;[ \t]*(?=[^,;]+:)", ",", narrow(value))
    entries = re.sub(r"(?<=[0-9])[ \t]*(?:[X*]|,)[ \t]*(?=[0-9]+[ \t]*(?:[xX*,]|$))", "x", entries)
    return ",".join(entry.strip() for entry in entries.split(","))


def shapes_of(value: str | None) -> Ranges:
    """The shapes in the value of a flag, without those that cannot be read."""
    return {name: sizes for _, name, sizes in shape_entries(value or "") if sizes is not None}


def shapes_text(shapes: Mapping[str, Shape]) -> str:
    """The value of a flag; names with a colon in the single quotes that trtexec asks for."""
    return ",".join(f"{name_text(name)}:{written(sizes)}" for name, sizes in shapes.items())


def name_text(name: str) -> str:
    """A name as trtexec's help wants it written."""
    return f"'{name}'" if ":" in name else name


def profiles_of(command: Trtexec) -> tuple[list[WrittenProfile], list[Flag]]:
    """The profiles of a command in the order they are written, and the shapes that belong to none."""
    profiles: list[WrittenProfile] = []
    apart: list[Flag] = []
    current: WrittenProfile | None = None
    numbered = bool(command.all("--profile"))
    if not numbered:
        current = WrittenProfile(0)
        profiles.append(current)
    for flag in command.flags:
        if flag.name == "--profile":
            current = WrittenProfile(int(flag.value) if flag.value and flag.value.isdecimal() else -1)
            profiles.append(current)
        elif flag.name in SHAPES:
            if current is not None and flag.name not in current.shapes:
                current.shapes[flag.name] = shapes_of(flag.value)
            else:
                apart.append(flag)
        elif numbered:
            current = None
    return [profile for profile in profiles if numbered or profile.shapes], apart


def with_profiles(command: Trtexec, profiles: Iterable[Mapping[str, Ranges]]) -> Trtexec:
    """The command with other profiles, where its own stood; one alone needs no number."""
    entries = list(profiles)
    own = {*SHAPES, "--profile"}
    place = next((index for index, flag in enumerate(command.flags) if flag.name in own), len(command.flags))
    new: list[Flag] = []
    for number, shapes in enumerate(entries):
        new += [Flag("--profile", str(number))] if len(entries) > 1 else []
        new += WrittenProfile(number, dict(shapes)).flags()
    kept = [flag for flag in command.flags if flag.name not in own]
    before = sum(flag.name not in own for flag in command.flags[:place])
    return replace(command, flags=(*kept[:before], *new, *kept[before:]))
