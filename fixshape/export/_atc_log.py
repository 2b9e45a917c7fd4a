"""What went wrong in a log of atc? Its codes, the values in their lines, and what to do.

Codes are looked for, not sentences: the wording changed (values stood in brackets once, and no longer do), the numbers stayed.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from typing import NamedTuple

from fixshape._check import shown
from fixshape._files import read_limited
from fixshape.errors import UsageError
from fixshape.export._atc_codes import ATC_CODES, AtcCode, family

MOST_BYTES = 64 << 20
_MOST_CHARACTERS = 600  # of a line that are looked at and shown
_MOST_VALUES, _MOST_ENTRIES = 8, 1000
_CODE = re.compile(
    r"(?<![A-Za-z0-9_])([EW]\d{5}|E[A-Z]\d{4}|(?<![\d.:\-])1450(?:00|1[1-6]))(?![A-Za-z0-9_]|\.\d)"
    r"|(?<=[a-z])(E\d{5})(?=: )"  # a page that was copied without its line ends
)
_STAMP = re.compile(r"^[^\w\[]*(?:\[PID: ?\d+\]\s*)?(?:\d{4}-\d\d-\d\d[-T ][\d:.]+\s*)?(?:\(?[EW][A-Z0-9]\d{4}\)?:\s*)?")
_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_INNER = re.compile(r"Inner Error!?[\s.]*$")
_FOLLOWS = re.compile(r"\s+\S|E[A-Z0-9]\d{4}\W")  # lines of the same message
_BRACKETS = re.compile(r"\[([^\[\]]{1,200})\]")
_VALUE = re.compile(  # after these words whatever follows, after those only what looks like a value
    r"(?:\b(?:Value|Opname|Op|optype)\s+"
    r"|\b(?:parameter|shape|[Ff]ile|Path|Model|Type|node|has|maximum|minimum|than|size)\s+(?=\S*[\d/:._-]))"
    r"(\"[^\"]{1,200}\"|[^\s,]{1,200}?)(?=[,.;)]?(?:\s|$))"
)
_REASON = re.compile(r"Reason: ?(.{1,300}?)(?=\s*Solution:|$)")
# What atc prints without a code, since it has read no option yet (api/atc/cmd_flag_info.cc).
_UNCODED = (
    (re.compile(r"unknown command line flag '?([^'\s]+)"), "an option that atc does not have", "A slip, or another CANN."),
    (re.compile(r"flag '?([^'\s]+)'? is missing its arg"), "an option without a value", "It stands last, or a shell cut it."),
    (re.compile(r"Non-option parameter: ?(.{1,100})"), "a word that is no option", "A space in a value without quotation marks."),
)  # fmt: skip


class AtcLogEntry(NamedTuple):
    """One complaint of a log.

    Args:
        code: ``"E10018"``; ``None`` for those that atc prints without one.
        line: its number in the file, from 1, where it comes first.
        times: how often it comes.
        text: the line itself, without stamp and code, cut where it is very long.
        values: what stood in the line: sizes, names, options, and the reason where there is one.
        explained: title, what, why and what to do; ``None`` for a code that is not in the catalogue.
        family: which part of CANN the code is of, for those that are not.
    """

    code: str | None
    line: int
    times: int
    text: str
    values: tuple[str, ...]
    explained: AtcCode | None
    family: str


def read_atc_log(path: str | os.PathLike[str]) -> tuple[AtcLogEntry, ...]:
    """What a log of atc, or of a program that runs an .om, complains of.

    It finds codes and says what they mean; that a log has none does not say that the build went well.

    Args:
        path: of the file, at most 64 MB; bytes that are no text are passed over.

    Returns:
        The complaints in the order in which they first come, inner errors (E19999, EZ9999) last, since they follow from others.

    Raises:
        UsageError: the file cannot be read, or is larger.

    Example:
        >>> read_atc_log("no.log")
        Traceback (most recent call last):
            ...
        fixshape.errors.UsageError: atc: no.log: it cannot be read (No such file or directory). Give the file of atc's output.
    """
    where = os.fspath(path)
    try:
        data = read_limited(where, MOST_BYTES)
    except OSError as error:
        raise UsageError(f"atc: {where}: it cannot be read ({error.strerror}). Give the file of atc's output.") from None
    except ValueError as error:
        raise UsageError(f"atc: {where}: {error}. Cut it: tail -c 1000000 LOG > end.log.") from None
    return entries_of(_decoded(data))


def _decoded(data: bytes) -> str:
    """Text of a log; PowerShell's > writes UTF-16."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace")
    for encoding, zeros in (("utf-16-le", data[1:400:2]), ("utf-16-be", data[:400:2])):
        if len(zeros) > 1 and zeros.count(0) * 2 > len(zeros):
            return data.decode(encoding, "replace")
    return data.decode("utf-8-sig", "replace")


def entries_of(text: str) -> tuple[AtcLogEntry, ...]:
    """The same for a text."""
    first: dict[tuple[str | None, str], AtcLogEntry] = {}
    times: Counter[tuple[str | None, str]] = Counter()
    lines = _COLOUR.sub("", text).splitlines()
    for number, line in enumerate(lines, 1):
        found = _entry(line[:_MOST_CHARACTERS], number)
        if found:
            if _INNER.match(found.text) and number < len(lines) and _FOLLOWS.match(lines[number]):
                below = lines[number][:_MOST_CHARACTERS].lstrip()
                code = _CODE.match(below)
                if code is None or code[1] == found.code:  # an inner error says what it is on the line after its own
                    found = found._replace(text=_printable(_STAMP.sub("", below[code.end() if code else 0 :])) or found.text)
            key = (found.code, found.text)
            times[key] += 1
            if len(first) < _MOST_ENTRIES:
                first.setdefault(key, found)
    told = [entry._replace(times=times[key]) for key, entry in first.items()]
    return tuple(sorted(told, key=lambda entry: (entry.code or "").endswith("9999")))


def _entry(line: str, number: int) -> AtcLogEntry | None:
    for pattern, title, why in _UNCODED:
        uncoded = pattern.search(line)
        if uncoded:
            name = uncoded[1].strip()
            explained = AtcCode(
                title, f"{shown(name)} was not understood.", why, "fixshape atc --check 'atc ...' names the nearest option."
            )
            return AtcLogEntry(None, number, 1, _printable(line), (_printable(name),), explained, "")
    found = _CODE.search(line)
    if found is None:
        return None
    code, text = found[1] or found[2], _STAMP.sub("", line[found.end() :])
    return AtcLogEntry(
        code, number, 1, _printable(text), _values(text), ATC_CODES.get(code), "" if code in ATC_CODES else family(code)
    )


def _values(text: str) -> tuple[str, ...]:
    """What the line says of this very case: bracketed in the old wording, after certain words in the new."""
    reason = _REASON.search(text)
    head = text[: reason.start()] if reason else text
    found = _BRACKETS.findall(head) or [value.strip('"') for value in _VALUE.findall(head)]
    found += [option for option in re.findall(r"--\w+", head) if option not in found and len(found) < 2]
    if reason:
        found.append(reason[1].rstrip(" ."))
    return tuple(_printable(value) for value in dict.fromkeys(found))[:_MOST_VALUES]


def _printable(text: str) -> str:
    """Without what could move a terminal's cursor."""
    return "".join(character if character.isprintable() else " " for character in text).strip()
