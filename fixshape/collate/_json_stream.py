"""What is in a JSON file that is larger than memory should be? A window slides over its text, one value at a time.

``json.load`` takes 3 GB for the 450 MB of COCO's annotations. Here the window holds some values and what was read ahead, and a
value that is too large or too deep is an error and not a full memory.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

_CHUNK = 1 << 20  # bytes that are read at a time
_LARGEST_VALUE = 1 << 23  # characters; the largest annotation of COCO has 30,000. Decoded, it takes 20 times as much at worst.
_SPACE = frozenset(" \t\n\r")
_AFTER_VALUE = _SPACE | frozenset(",:]}")


class JsonStream:
    """Reads one JSON text from its beginning to its end, without ever holding the whole.

    What :meth:`members` and :meth:`elements` are in the middle of must be read, by one of the methods, before they go on.

    Args:
        file: the opened file, UTF-8.

    Every method raises ``ValueError`` where the text is not JSON or a single value is larger than 8 million characters; the
    message says at which character.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()  # some editors begin a file with a byte order mark
        self._text = ""
        self._at = 0  # of the next character in the text
        self._before = 0  # characters that were dropped from the text
        self._decode = json.JSONDecoder().raw_decode

    def next_character(self) -> str:
        """The next character that is not white space, which stays the next one; ``""`` at the end."""
        while True:
            text, end = self._text, len(self._text)
            at = self._at
            while at < end and text[at] in _SPACE:
                at += 1
            self._at = at
            if at < end:
                return text[at]
            if not self._read(_CHUNK):
                return ""

    def value(self) -> Any:
        """Decodes the value that comes next, whole."""
        self.next_character()
        while True:
            size = len(self._text) - self._at
            try:
                value, end = self._decode(self._text, self._at)
                # A number may go on in what is not read yet: 1 of 10, or 1 of 1.5 after which the point is read already.
                if self._text[end : end + 1] in _AFTER_VALUE or size > _LARGEST_VALUE or not self._read(_CHUNK):
                    self._at = end
                    return value
            except json.JSONDecodeError as error:
                # What is cut off reads as broken: only with more of it can one tell. Twice as much each time, so that a large
                # value is not decoded once per chunk.
                failure = self._error(error.msg, error.pos)
                if size > _LARGEST_VALUE:
                    text = f"a value that is broken, or larger than {_LARGEST_VALUE:,} characters,"
                    raise self._error(text) from None
                if not self._read(max(_CHUNK, min(size, _LARGEST_VALUE - size))):
                    raise failure from None
            except RecursionError:
                raise self._error("lists within lists too deep") from None

    def elements(self) -> Iterator[Any]:
        """Decodes the elements of the list that comes next, one after another."""
        for _ in self._parts("[", "]"):
            yield self.value()

    def members(self) -> Iterator[str]:
        """The keys of the object that comes next; the value of each must be read before the next key."""
        for _ in self._parts("{", "}"):
            if self.next_character() != '"':
                raise self._error("Expecting a key in double quotes")
            key = self.value()
            self._take(":")
            yield key

    def skip(self) -> None:
        """Passes over the value that comes next; a list may be of any length."""
        if self.next_character() == "[":
            for _ in self.elements():
                pass
        else:
            self.value()

    def finish(self) -> None:
        """Makes sure that nothing follows."""
        if self.next_character():
            raise self._error("Extra data")

    def _parts(self, first: str, last: str) -> Iterator[None]:
        """Stops before each part of a list or an object."""
        self._take(first)
        if self.next_character() == last:
            self._at += 1
            return
        while True:
            yield
            if self.next_character() == last:
                self._at += 1
                return
            self._take(",")

    def _take(self, character: str) -> None:
        if self.next_character() != character:
            raise self._error(f"Expecting {character!r}")
        self._at += 1

    def _read(self, size: int) -> bool:
        """Drops what was taken and reads on; whether there was more."""
        read = self._file.read(size)
        more = self._decoder.decode(read, final=not read)
        if read:
            self._before += self._at
            self._text = self._text[self._at :] + more
            self._at = 0
        return bool(read)

    def _error(self, message: str, position: int | None = None) -> ValueError:
        return ValueError(f"{message} at character {self._before + (self._at if position is None else position):,}")
