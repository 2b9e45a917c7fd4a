"""What does a trtexec command come to? Its shapes as trtexec completes them, and which inputs and flags are meant."""

from __future__ import annotations

from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property

from fixshape.export._command_line import hyphened, is_dashed
from fixshape.export._onnx_header import OnnxHeader, Port
from fixshape.export._trt_flags import CURRENT, RETIRED, VALUED, VALUED_ONCE
from fixshape.export._trt_profiles import Shape
from fixshape.export._trtexec import MAX, MIN, OPT, Flag, Ranges, Trtexec, WrittenProfile, profiles_of, shapes_of


@dataclass(frozen=True)
class Read:
    """A command, and the inputs of the model where the file was given."""

    command: Trtexec
    header: OnnxHeader | None

    @cached_property
    def read(self) -> tuple[list[WrittenProfile], list[Flag]]:
        """The profiles by their numbers, and the shapes that belong to none."""
        profiles, apart = profiles_of(self.command)
        return sorted(profiles, key=lambda profile: profile.number), apart

    @property
    def profiles(self) -> list[WrittenProfile]:
        """The profiles by their numbers."""
        return self.read[0]

    @cached_property
    def inference(self) -> Ranges:
        """The shapes of ``--shapes``."""
        return shapes_of(self.command.value("--shapes"))

    @cached_property
    def selected(self) -> int:
        """The profile that ``--shapes`` is of; 0 where the number is no number."""
        text = self.command.value("--useProfile") or "0"
        return int(text) if text.isdecimal() else 0

    @property
    def runs(self) -> bool:
        """Whether the engine is run after the build."""
        return self.command.value("--skipInference") is None

    @cached_property
    def effective(self) -> list[dict[str, Ranges]]:
        """The three shapes of each input and profile as trtexec completes them: ``--shapes`` is a profile too."""
        found = [profile.filled() for profile in self.profiles] or [{MIN: {}, OPT: {}, MAX: {}}]
        if self.selected < len(found):
            selected = found[self.selected]
            for name, shape in self.inference.items():
                if not any(name in ranges for ranges in selected.values()):
                    for ranges in selected.values():
                        ranges[name] = shape
        return found


def meant(command: Trtexec) -> Trtexec:
    """The command with hyphens, and with the values that stand in words of their own; stray words are left out."""
    found: list[Flag] = []
    for flag in command.flags:
        if is_dashed(flag.name):
            flag = replace(flag, name=hyphened(flag.name))
        if flag.name.startswith("-"):
            found.append(flag)
        elif found and found[-1].value is None and found[-1].name in VALUED | VALUED_ONCE:
            found[-1] = replace(found[-1], value=str(flag))
    return replace(command, flags=tuple(found))


def tail(flag: Flag) -> str:
    """What follows the name."""
    return "" if flag.value is None else f"={flag.value}"


def replacement(flag: Flag) -> str:
    """The flag that takes the place of a retired one, with its value; ``""`` where none does."""
    if flag.name == "--workspace" and flag.value:
        return f"--memPoolSize=workspace:{flag.value}"
    gone = RETIRED[flag.name]
    return gone.becomes + tail(flag) if gone.becomes else ""


def nearest(name: str) -> str:
    """The flag that was meant; ``""`` where none is near."""
    by_lower = {flag.lower(): flag for flag in sorted(CURRENT)}
    near = get_close_matches(hyphened(name).lower(), by_lower, 1, 0.8)
    return by_lower[near[0]] if near else ""


def matches(pattern: str, name: str) -> bool:
    """Whether trtexec takes a written name for an input."""
    first, star, last = pattern.partition("*")
    if not star:
        return pattern == name
    return len(name) >= len(first) + len(last) and name.startswith(first) and name.endswith(last)


def shape_for(ranges: Ranges, port: Port) -> Shape | None:
    """The shape that a flag has for an input: under its own name, else under a name with a wildcard."""
    if port.name in ranges:
        return ranges[port.name]
    return next((shape for name, shape in ranges.items() if matches(name, port.name)), None)


def fits(shape: Shape, dims: tuple[int | str | None, ...]) -> bool:
    """Whether a shape is one that the file allows."""
    return len(shape) == len(dims) and all(
        not isinstance(want, int) or got == want for got, want in zip(shape, dims, strict=True)
    )
