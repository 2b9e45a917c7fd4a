"""Which words does a shell hand to a program, in lines that somebody posted? And which were meant for it and never arrive?

What is posted is seldom one clean line: settings and ``source`` stand before it, a prompt, sudo or docker; lines end in a
backslash or should; ``;`` stands outside of quotation marks. It is read as a shell reads it, and what the shell cuts off is kept.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from fixshape._check import shown
from fixshape.errors import UsageError

MOST_CHARACTERS = 1 << 20
DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212"  # what a text processor makes of "-"
_WIDE = "\uff1a\uff0c\uff1b\uff5e\uff0d\uff0e\uff1d\u3000\u201c\u201d\u2018\u2019\u00d7\u3001"  # of an input method
_NARROW = dict(zip(map(ord, _WIDE), (*":,;~-.=", "", "", "", "", "", "x", ","), strict=True))
_NARROW |= {0xFF10 + digit: str(digit) for digit in range(10)}

_TOKEN = re.compile(
    r"""(?P<lost>\\[ \t]+(?:\#[^\n]*)?(?=\n))          # a backslash that has something after it joins no lines
      | (?P<space>(?:[ \t]|\\(?:\n|\Z))+)
      | (?P<stop>;;?|\n|&&|\|\|?&?|&(?![<>]))
      | (?P<redirect>(?:\d+|&)?(?:<<?<?|>>?)&?[ \t]*(?:"[^"]*"|'[^']*'|[^\s;&|<>"']*))
      | (?P<comment>\#[^\n]*)""",
    re.VERBOSE,
)
_PART = re.compile(
    r"""(?P<joined>\\(?:\n|\Z))
      | (?P<escaped>\\[^\n])
      | '(?P<single>[^']*)'
      | "(?P<double>(?:[^"\\]|\\.)*)"
      | (?P<plain>\$\([^()]*\)|`[^`]*`|<[A-Za-z][\w -]*>|[^\s;&|<>"'\\]+)""",
    re.VERBOSE | re.DOTALL,
)
_WINDOWS_PART = re.compile(r'"(?P<double>[^"]*)"|(?P<plain>[^\s;&|<>"]+)')
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\}|\([^()]*\))|`[^`]+`")
_IN_DOUBLE = re.compile(r'\\([$`"\\])|\\\n')
_SAFE = re.compile(r"[\w@%+=:,./-]+", re.ASCII)
_OPTION = re.compile(rf"[-{DASHES}]{{1,2}}[A-Za-z]")
_SHAPE = re.compile(r"[^=\s]*:[-\d,~x]*|[-\d,~]+")  # what an unquoted ; takes off the value before it
_PROMPT = re.compile(r"(?m)^[ \t]*(?:(?:\(\w+\) )?\[?\w[\w.-]*@[^\s#$]*(?: [^\s#$]*)?[#$]|\$|&&&& RUNNING [^#\n]*#)[ \t]+")
_HASH = re.compile(r"(?m)^[ \t]*#[ \t]+")
_PLACEHOLDER = re.compile(r"<[A-Za-z][\w -]*>")
_WINDOWS = re.compile(r"\^\n|(?:^|[\s\"=])[A-Za-z]:\\|\.\\|\.exe\b")


@dataclass(frozen=True, slots=True)
class Call:
    """A program that is called.

    Args:
        before: what stands before its arguments, up to its name, as it was written.
        words: what the shell hands to it.
        after: what the shell does with its output, as it was written.
        cut: what the shell takes for another command, and was most likely meant for this one.
        meant: the words with those of ``cut``.
        variables: what in the words only the shell can fill in, as it was written: ``$MODEL``, ``${bs}``, ``$(nproc)``.
        windows: it is a line for the shell of Windows.
    """

    before: str
    words: tuple[str, ...]
    after: str = ""
    cut: str = ""
    meant: tuple[str, ...] = ()
    variables: frozenset[str] = frozenset()
    windows: bool = False


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # "word", "stop" or "redirect"
    text: str
    start: int
    end: int


def read_call(text: str, program: str, *, example: str, bare: bool = False) -> Call:
    r"""The one call of a program in a text.

    Settings such as ``bs=4`` before it are put in where the call has ``$bs``; other variables stay as they are.

    Args:
        text: a line, or several, with whatever stands around the call.
        program: its name, a path before it may be left out.
        example: a right command, for the messages.
        bare: whether a text that begins with an option is one without the name.

    Raises:
        UsageError: the program is not called or more than once, a quotation mark is not closed, or the text is longer than a
            million characters.

    Example:
        >>> call = read_call("bs=4\nsudo atc --model=m.onnx \\\n  --output=m_$bs > log", "atc", example="atc --model=m.onnx")
        >>> call.before, call.words, call.after
        ('sudo atc', ('--model=m.onnx', '--output=m_4'), '> log')
    """
    if len(text) > MOST_CHARACTERS:
        raise UsageError(f"{program}: the command has {len(text):,} characters, expected one of at most {MOST_CHARACTERS:,}.")
    plain = _PROMPT.sub("", text.replace("\r\n", "\n")).strip()
    for attempt in dict.fromkeys((plain, _HASH.sub("", plain))):  # a line that begins with # is a comment, or root's prompt
        calls = {call.words: call for call in _calls(attempt, program, bare)}  # a line may stand in a variable, and be run
        if len(calls) > 1:
            raise UsageError(f"{program}: {len(calls)} commands call {program}, expected one. Give each by itself.")
        if calls:
            return next(iter(calls.values()))
    raise UsageError(f"{program}: {shown(text)} is not a command of {program}. Give one such as {example!r}.")


def narrow(text: str) -> str:
    """With ASCII for the punctuation and digits of an input method or text processor."""
    return text.translate(_NARROW)


def quoted(word: str, variables: Iterable[str] = (), *, windows: bool = False) -> str:
    """A word so that a shell gives it back, and fills in the variables; after ``NAME=`` only the value is quoted."""
    if _SAFE.fullmatch(word):
        return word
    if windows:
        return f'"{word}"' if re.search(r"[\s&|<>^]", word) else word
    name, equals, value = word.partition("=")
    head, body = (f"{name}=", value) if equals and _SAFE.fullmatch(name) else ("", word)
    if any(variable in body for variable in variables):
        return f'{head}"' + re.sub(r'["\\]', r"\\\g<0>", body) + '"'
    return head + (shlex.quote(body) if re.search(r'["\\$`!\n]', body) else f'"{body}"')


def is_dashed(word: str) -> bool:
    """Whether a word begins with a dash that is no hyphen, alone or after one."""
    return word.lstrip("-").startswith(tuple(DASHES))


def hyphened(word: str) -> str:
    """An option with two hyphens for its dashes."""
    return "--" + word.lstrip("-" + DASHES)


def _calls(text: str, program: str, bare: bool) -> Iterator[Call]:
    windows = bool(_WINDOWS.search(text))
    if windows:  # its prompt is D:\folder>
        text = re.sub(r"^[A-Za-z]:\\[^>\n]*>", "", text.replace("^\n", " "))
    name = re.compile(rf"(?:.*[/\\])?{program}(?:\.bin|\.exe)?")
    left: set[str] = set()
    tokens = list(_tokens(text, program, windows, left))
    first, found = 0, False  # of this command, which may be one of several
    for index, token in enumerate(tokens):
        if token.kind == "stop":
            first, found = index + 1, False
        elif token.kind != "word" or found:
            continue
        elif name.fullmatch(token.text):
            found = index == first or _begins(tokens, index + 1)  # elsewhere it may be a folder
            if found:
                yield _call(text, tokens, tokens[first].start, index + 1, left, windows)
        elif bare and index == 0 and _OPTION.match(token.text):
            found = True
            yield _call(text, tokens, 0, 0, left, windows)
        elif re.search(rf"(?:^|[\s/=]){program}\s", token.text):  # bash -c "..."
            yield from _calls(token.text.partition("=")[2] if _ASSIGNMENT.fullmatch(token.text) else token.text, program, False)


def _begins(tokens: Sequence[_Token], index: int) -> bool:
    """Whether what stands there begins the arguments of a program."""
    return (
        index < len(tokens)
        and tokens[index].kind == "word"
        and bool(_OPTION.match(tokens[index].text) or "=" in tokens[index].text)
    )


def _call(text: str, tokens: Sequence[_Token], start: int, first: int, left: set[str], windows: bool) -> Call:
    """The call whose arguments begin at one of the tokens."""
    before = text[start : tokens[first - 1].end if first else start]
    words: list[str] = []
    parts: list[list[str]] = []  # of each word that was meant
    after: list[str] = []
    cut: tuple[int, int] | None = None
    for index in range(first, len(tokens)):
        token, following = tokens[index], tokens[index + 1] if index + 1 < len(tokens) else None
        if token.kind == "word":
            if cut and parts and tokens[index - 1].text == ";" and not _OPTION.match(token.text):
                parts[-1] += [";", token.text]
            else:
                parts.append([token.text])
            if cut:
                cut = (cut[0], token.end)
            else:
                words.append(token.text)
        elif token.kind == "redirect":
            after.append(token.text)
        elif following and _goes_on(token, following):
            cut = cut or (following.start, following.end)
        else:
            if token.text not in (";", "\n") and not cut:
                after.append(text[token.start :].strip())
            break
    meant = tuple(map("".join, parts))
    variables = frozenset(variable for variable in left if any(variable in word for word in meant))
    return Call(before, tuple(words), " ".join(after), text[slice(*cut)] if cut else "", meant, variables, windows)


def _goes_on(stop: _Token, following: _Token) -> bool:
    """Whether what follows the end of a command was most likely meant to belong to it."""
    shape = stop.text == ";" and _SHAPE.fullmatch(following.text)
    return following.kind == "word" and bool(shape or _OPTION.match(following.text))


def _tokens(text: str, program: str, windows: bool, left: set[str]) -> Iterator[_Token]:
    """Words with their quotation marks taken off, and the signs between them; ``left`` gets the variables that are not known."""
    variables: dict[str, str] = {}
    pattern = _WINDOWS_PART if windows else _PART
    at, starts = 0, True  # whether a setting may stand here
    while at < len(text):
        found = None if _PLACEHOLDER.match(text, at) else _TOKEN.match(text, at)  # <soc_version> is no redirect
        if found:
            kind = found.lastgroup or ""
            at = found.end()
            starts = starts or kind in ("stop", "lost")
            if kind == "lost":
                at += 1  # with its line end
                yield _Token("stop", "\n", found.start(), at)
            elif kind not in ("space", "comment"):
                yield _Token(kind, found[0], found.start(), at)
            continue
        word, start = "", at
        while part := pattern.match(text, at):
            word += _unquoted(part, variables, left)
            at = part.end()
        if text[at : at + 1] in ("'", '"'):
            raise UsageError(f"{program}: the quotation mark of {shown(text[at:])} is not closed. Close it.")
        if at == start:
            word, at = text[at], at + 1  # a sign that means nothing here
        yield _Token("word", word, start, at)
        setting = _ASSIGNMENT.fullmatch(word) if starts else None
        if setting and not re.search("[$`]", setting[2]):
            variables[setting[1]] = setting[2]
        starts = starts and (setting is not None or word in ("export", "local", "set", "declare"))


def _unquoted(part: re.Match[str], variables: dict[str, str], left: set[str]) -> str:
    kind, value = part.lastgroup, part[part.lastgroup or 0]
    if kind in ("joined", "single"):
        return "" if kind == "joined" else value
    if kind == "escaped":
        return value[1:]
    if kind == "double":
        value = _IN_DOUBLE.sub(lambda found: found[1] or "", value)

    def filled(found: re.Match[str]) -> str:
        known = variables.get(found[1] or found[2] or "")
        if known is None:
            left.add(found[0])
        return found[0] if known is None else known

    return _VARIABLE.sub(filled, value)
