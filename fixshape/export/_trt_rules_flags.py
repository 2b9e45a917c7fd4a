"""Which flags of a command would trtexec refuse? Rules T1 to T5."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from difflib import get_close_matches

from fixshape._check import shown
from fixshape.export._command_line import hyphened, is_dashed
from fixshape.export._trt_flags import CHOICES, CURRENT, REPEATED, RETIRED, SHAPES, VALUED
from fixshape.export._trt_read import Read, nearest, replacement, tail
from fixshape.export._trtexec import Flag, Trtexec
from fixshape.export._violation import Violation


def form(command: Trtexec) -> Iterator[Violation]:
    """T1: is each word ``--flag`` or ``--flag=value``? The other rules look at what is meant by the words."""
    if command.cut:
        yield Violation(
            "T1", None, f"the shell ends the command before {shown(command.cut)}, expected it in the same command",
            "An unquoted ; and the end of a line end a command, unless \\ is the last sign of the line; the rest is another.",
            str(replace(command, cut="")),
        )  # fmt: skip
    words: tuple[Flag | None, ...] = (None, *command.flags, None)
    for before, flag, after in zip(words, command.flags, words[2:], strict=False):
        if is_dashed(flag.name):
            yield Violation(
                "T1", None, f"{flag} begins with a typographic dash, expected two hyphens",
                "Text processors turn -- into a dash, and trtexec then knows no such option.", hyphened(flag.name) + tail(flag),
            )  # fmt: skip
        elif not flag.name.startswith("-"):
            owner = (
                f"{hyphened(before.name)}={flag}" if before and before.value is None and hyphened(before.name) in VALUED else ""
            )
            yield Violation(
                "T1", None, f"{str(flag)!r} stands by itself, expected --flag=value",
                "A flag and its value are one word with =; trtexec takes any other word for an option that it does not know.",
                owner or "leave it out",
            )  # fmt: skip
        elif flag.name in VALUED and not flag.value and (after is None or after.name.startswith("-") or is_dashed(after.name)):
            message = f"{flag.name} has no value"
            yield Violation("T1", None, message, "Its value stands in the same word after =.", f"{flag.name}=...")


def _retired(read: Read) -> Iterator[Violation]:
    for flag in read.command.flags:
        if (gone := RETIRED.get(flag.name)) is None:
            continue
        way_out = replacement(flag) or gone.way_out
        if gone.sure:
            message = f"{flag} is gone: the trtexec of TensorRT {gone.since} and later does not know it"
            yield Violation("T2", None, message, gone.why, way_out)
        else:
            message = f"{flag} is deprecated or gone, which depends on the version"
            yield Violation("T2", None, message, gone.why, way_out, level="warning", doubtful=True)


def _unknown(read: Read) -> Iterator[Violation]:
    for flag in read.command.flags:
        if flag.name.startswith("-") and flag.name not in CURRENT and flag.name not in RETIRED:
            near = nearest(flag.name)
            yield Violation(
                "T3", None, f"{flag.name} is not an option that is known here" + (f"; near it: {near}" if near else ""),
                "trtexec refuses what it does not know; a newer one may know more than this list.",
                near + tail(flag) if near else "leave it out, or look for it in trtexec --help",
                level="error" if near else "warning", doubtful=not near,
            )  # fmt: skip
        elif (choices := CHOICES.get(flag.name)) and flag.value not in choices:
            near = next(iter(get_close_matches(flag.value or "", choices, 1)), choices[0])
            yield Violation(
                "T3", None, f"{flag}: expected one of {', '.join(choices)}", "trtexec stops at a value that it does not know.",
                f"{flag.name}={near}",
            )  # fmt: skip


def _twice(read: Read) -> Iterator[Violation]:
    seen: dict[str, Flag] = {}
    for flag in read.command.flags:
        if flag.name not in CURRENT or flag.name in REPEATED or flag.name in (*SHAPES, "--profile"):
            continue
        if flag.name in seen:
            yield Violation(
                "T4", None, f"{seen[flag.name]} and {flag}: the flag comes twice, expected once",
                "trtexec takes one of them and then does not know the other.", str(flag),
            )  # fmt: skip
        seen.setdefault(flag.name, flag)


def _model(read: Read) -> Iterator[Violation]:
    command = read.command
    if command.value("--help") is not None or command.value("-h") is not None:
        return
    if command.value("--onnx") is None and command.value("--loadEngine") is None:
        yield Violation("T5", None, "no model is given", "trtexec needs one to build or to load.", "--onnx=model.onnx")
    if command.value("--loadEngine") is not None and command.value("--saveEngine") is not None:
        message = "--loadEngine and --saveEngine are both given, expected one of them"
        yield Violation("T5", None, message, "A loaded engine is not built again.", "leave --loadEngine out, or --saveEngine")


RULES = (_retired, _unknown, _twice, _model)
