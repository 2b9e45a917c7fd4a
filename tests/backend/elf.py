"""The smallest shared libraries that have a symbol table, as bytes."""

import struct
from pathlib import Path

HEADER_BYTES = 64


def library(undefined: list[str], defined: list[str] = (), data: bytes = b"") -> bytes:
    """A 64-bit ELF file with these symbols, and ``data`` behind them."""
    texts, symbols = b"\0", bytes(24)
    for section, names in ((0, undefined), (1, defined)):
        for name in names:
            symbols += struct.pack("<IBBHQQ", len(texts), 0x12, 0, section, 0, 0)
            texts += name.encode() + b"\0"
    body = symbols + texts + data
    table = HEADER_BYTES + len(body)
    headers = bytes(64)  # section 0 is no section
    headers += struct.pack("<IIQQQQIIQQ", 0, 11, 0, 0, HEADER_BYTES, len(symbols), 2, 0, 8, 24)
    headers += struct.pack("<IIQQQQIIQQ", 0, 3, 0, 0, HEADER_BYTES + len(symbols), len(texts), 0, 0, 1, 0)
    start = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    return start + struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 0, table, 0, 64, 0, 0, 64, 3, 0) + body + headers


def package(folder: Path, undefined: list[str], operators: list[str]) -> Path:
    """A folder such as torch-npu's, whose library wants these functions and knows these operators."""
    names = b"".join(b"\0%s\0%sGetWorkspaceSize\0" % (name.encode(), name.encode()) for name in operators)
    (folder / "lib").mkdir(parents=True)
    (folder / "lib" / "libtorch_npu.so").write_bytes(library(undefined, data=names))
    return folder
