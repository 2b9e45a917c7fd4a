"""Which flags of a command would trtexec refuse? Rules T1 to T5."""

from __future__ import annotations

from collections.abc import Iterator

from fixshape.export._trt_flags import CURRENT, REPEATED, RETIRED, SHAPES, VALUED
from fixshape.export._trt_read import Read, nearest, plain, replacement, tail, typographic
from fixshape.export._trtexec import Flag, Trtexec
from fixshape.export._violation import Violation


def form(command: Trtexec) -> Iterator[Violation]:
    """T1: is each word ``--flag`` or ``--flag=value``? The other rules look at what is meant by the words."""
    words: tuple[Flag | None, ...] = (None, *command.flags, None)
    for before, flag, after in zip(words, command.flags, words[2:], strict=False):
        if typographic(flag.name):
            yield Violation(
                "T1", None, f"{flag} begins with a typographic dash, expected two hyphens",
                "text processors turn -- into a dash, and trtexec then knows no such option", plain(flag.name) + tail(flag),
            )  # fmt: skip
        elif not flag.name.startswith("-"):
            owner = f"{plain(before.name)}={flag}" if before and before.value is None and plain(before.name) in VALUED else ""
            yield Violation(
                "T1", None, f"{str(flag)!r} stands by itself, expected --flag=value",
                "a flag and its value are one word with =; trtexec takes any other word for an option that it does not know",
                owner or "leave it out",
            )  # fmt: skip
        elif flag.name in VALUED and not flag.value and (after is None or after.name.startswith("-") or typographic(after.name)):
            message = f"{flag.name} has no value"
            yield Violation("T1", None, message, "its value stands in the same word after =", f"{flag.name}=...")


def _retired(read: Read) -> Iterator[Violation]:
    for flag in read.command.flags:
        if (gone := RETIRED.get(flag.name)) is None:
            continue
        way_out = replacement(flag) or gone.way_out
        if gone.sure:
            yield Violation("T2", None, f"{flag} is gone: trtexec does not know it", gone.why, way_out)
        else:
            message = f"{flag} is deprecated or gone, which depends on the version"
            yield Violation("T2", None, message, gone.why, way_out, level="warning", doubtful=True)


def _unknown(read: Read) -> Iterator[Violation]:
    for flag in read.command.flags:
        if flag.name.startswith("-") and flag.name not in CURRENT and flag.name not in RETIRED:
            near = nearest(flag.name)
            yield Violation(
                "T3", None, f"{flag.name} is not an option that is known here" + (f"; near it: {near}" if near else ""),
                "trtexec refuses what it does not know; a newer one may know more than this list",
                near + tail(flag) if near else "leave it out, or look for it in trtexec --help", level="warning", doubtful=True,
            )  # fmt: skip


def _twice(read: Read) -> Iterator[Violation]:
    seen: dict[str, Flag] = {}
    for flag in read.command.flags:
        if flag.name not in CURRENT or flag.name in REPEATED or flag.name in (*SHAPES, "--profile"):
            continue
        if flag.name in seen:
            yield Violation(
                "T4", None, f"{seen[flag.name]} and {flag}: the flag comes twice, expected once",
                "trtexec takes one of them and then does not know the other", str(flag),
            )  # fmt: skip
        seen.setdefault(flag.name, flag)


def _model(read: Read) -> Iterator[Violation]:
    command = read.command
    if command.value("--help") is not None or command.value("-h") is not None:
        return
    if command.value("--onnx") is None and command.value("--loadEngine") is None:
        yield Violation("T5", None, "no model is given", "trtexec needs one to build or to load", "--onnx=model.onnx")
    if command.value("--loadEngine") is not None and command.value("--saveEngine") is not None:
        message = "--loadEngine and --saveEngine are both given, expected one of them"
        yield Violation("T5", None, message, "a loaded engine is not built again", "leave --loadEngine out, or --saveEngine")


RULES = (_retired, _unknown, _twice, _model)
