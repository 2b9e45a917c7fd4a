"""What does a trtexec command say? Its flags as the program itself reads them, and the same command written again.

How trtexec reads, after samples/common/sampleOptions.cpp of NVIDIA/TensorRT: a flag and its value are one word with ``=``;
shapes are ``name:1x3x224x224`` with commas between them, and the last colon ends the name; the shapes of a profile stand
right after its ``--profile``; of ``--minShapes``, ``--optShapes`` and ``--maxShapes`` one that is missing is taken from another.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePath

from fixshape._check import shown
from fixshape.errors import UsageError
from fixshape.export._trt_flags import SHAPES
from fixshape.export._trt_profiles import Shape, written

LONGEST = 1 << 20  # characters of a command
_END = re.compile(r"[|;&]+|\d?>.*|<.*")  # what is the shell's, and no argument
_SIMPLE = re.compile(r"[\w@%+=:,./-]+", re.ASCII)
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
    """A command: what stands before the flags, the flags, and what the shell does with the output."""

    before: tuple[str, ...]
    flags: tuple[Flag, ...]
    after: str = ""

    def __str__(self) -> str:
        words = [*map(quoted, self.before), *(quoted(str(flag)) for flag in self.flags)]
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
    """Reads a trtexec command as a shell would, and no further than to the end of the command.

    Args:
        text: the command; lines that end in a backslash are one. Variables and other commands in it are not expanded.

    Raises:
        UsageError: it does not call trtexec, a quote is not closed, or it is longer than a command can be.

    Example:
        >>> command = parse_trtexec("CUDA_VISIBLE_DEVICES=1 trtexec --onnx=m.onnx --verbose > log.txt")
        >>> command.before, [flag.name for flag in command.flags], command.after
        (('CUDA_VISIBLE_DEVICES=1', 'trtexec'), ['--onnx', '--verbose'], '> log.txt')
    """
    if len(text) > LONGEST:
        raise UsageError(f"trtexec: the command has {len(text):,} characters, expected at most {LONGEST:,}.")
    joined = re.sub(r"\\\r?\n", " ", text).replace("\n", " ").strip().removeprefix("$ ")
    try:
        words = shlex.split(joined)
    except ValueError as error:
        raise UsageError(
            f"trtexec: the command cannot be split into words ({error}). Close the quote in {shown(text)}."
        ) from None
    start = next((index for index, word in enumerate(words) if PurePath(word).name in ("trtexec", "trtexec.exe")), None)
    if start is None:
        raise UsageError(f"trtexec: {shown(text)} does not call trtexec. Write for example 'trtexec --onnx=model.onnx'.")
    rest = words[start + 1 :]
    stop = next((index for index, word in enumerate(rest) if _END.fullmatch(word)), len(rest))
    flags = []
    for word in rest[:stop]:
        name, equals, value = word.partition("=")
        flags.append(Flag(name, value if equals else None))
    # Signs of the shell stay as they are: quoted, they would be arguments.
    after = " ".join(word if _END.fullmatch(word) else quoted(word) for word in rest[stop:])
    return Trtexec(tuple(words[: start + 1]), tuple(flags), after)


def quoted(word: str) -> str:
    """A word so that a shell gives it back; the single quotes that trtexec wants round some names stay readable."""
    if _SIMPLE.fullmatch(word):
        return word
    name, equals, value = word.partition("=")
    if equals and _SIMPLE.fullmatch(name) and not re.search(r"[\\\"$`!\n]", value):
        return f'{name}="{value}"'
    return shlex.quote(word)


def shape_entries(value: str) -> Iterator[tuple[str, str, Shape | None]]:
    """The shapes in the value of a flag: entry as it is written, name, and sizes; ``None`` where they are none."""
    for entry in value.split(",") if value else []:
        name, colon, dims = entry.rpartition(":")
        sizes = [] if dims == "scalar" else dims.split("x")
        right = colon and name.replace("'", "") and all(_SIZE.fullmatch(size) for size in sizes)
        yield entry, name.replace("'", ""), tuple(map(int, sizes)) if right else None


def with_crosses(value: str) -> str:
    """``images:1,3,8,8`` with the signs that are meant, ``images:1x3x8x8``."""
    return re.sub(r"(?<=[0-9]),(?=[0-9]+(?:,|$))", "x", value)


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
