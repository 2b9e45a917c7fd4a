"""Which functions does a shared library want of others? Read from its ELF file, without a tool of the system's."""

from __future__ import annotations

import struct
from pathlib import Path

from fixshape.errors import BackendError

_MAGIC = b"\x7fELF\x02\x01"  # 64 bits, little-endian: what there are wheels for
_DYNAMIC_SYMBOLS = 11
_SYMBOL_BYTES = 24


def undefined_symbols(path: Path) -> set[str]:
    """Names in the library's dynamic symbol table that another library must define, versions (``@GLIBC_2.2.5``) left off.

    Args:
        path: a 64-bit little-endian ELF file with section headers, as compilers write it.

    Returns:
        The names.

    Raises:
        BackendError: it is not such a file, or its tables point outside of it.
        OSError: it cannot be read.
    """
    data = path.read_bytes()
    try:
        return _undefined(data)
    except (struct.error, ValueError) as error:
        raise BackendError(f"{path} cannot be read as a 64-bit ELF library: {error}. Install its package again.") from None


def _undefined(data: bytes) -> set[str]:
    if not data.startswith(_MAGIC):
        raise ValueError(f"it begins with {data[:6]!r}, expected {_MAGIC!r}")
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    if size < 64:
        raise ValueError(f"its section headers have {size} bytes, expected 64 or more")
    names: set[str] = set()
    for index in range(count):
        section = _section(data, table + index * size)
        if section.kind == _DYNAMIC_SYMBOLS:
            if section.link >= count:
                raise ValueError(f"its symbols have their names in section {section.link} of {count}")
            texts = _section(data, table + section.link * size).content
            names |= _without_section(section.content, texts)
    return names


def _without_section(symbols: bytes, texts: bytes) -> set[str]:
    """Names of the symbols that no section of the file defines."""
    names = set()
    for at in range(0, len(symbols) - _SYMBOL_BYTES + 1, _SYMBOL_BYTES):
        name, _, _, section = struct.unpack_from("<IBBH", symbols, at)
        if section == 0 and name:
            end = texts.find(b"\0", name)
            if end < 0:
                raise ValueError(f"the name of symbol {at // _SYMBOL_BYTES} has no end")
            names.add(texts[name:end].decode("ascii", "replace"))
    return names


class _Section:
    """A header of a section, with what the section holds."""

    def __init__(self, kind: int, link: int, content: bytes) -> None:
        self.kind, self.link, self.content = kind, link, content


def _section(data: bytes, at: int) -> _Section:
    _, kind, _, _, offset, size, link = struct.unpack_from("<IIQQQQI", data, at)
    if kind not in (_DYNAMIC_SYMBOLS, 3):  # 3: a table of texts
        return _Section(kind, link, b"")
    if offset + size > len(data):
        raise ValueError(f"a section ends at byte {offset + size:,} of {len(data):,}")
    return _Section(kind, link, data[offset : offset + size])
