"""Undefined symbols of a library, and what a broken one says."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixshape.backend._elf import undefined_symbols
from fixshape.errors import BackendError
from tests.backend.elf import HEADER_BYTES, library

names = st.lists(st.text(alphabet="abcXYZ_09", min_size=1, max_size=30), unique=True, max_size=20)


@given(undefined=names, defined=names)
def test_names_that_the_library_does_not_define(tmp_path_factory, undefined, defined):
    file = tmp_path_factory.mktemp("elf") / "lib.so"
    file.write_bytes(library(undefined, defined))
    assert undefined_symbols(file) == set(undefined)


def _broken(tmp_path, data):
    file = tmp_path / "lib.so"
    file.write_bytes(data)
    with pytest.raises(BackendError) as raised:
        undefined_symbols(file)
    text = str(raised.value)
    assert text.startswith(f"{file} cannot be read as a 64-bit ELF library: ")
    assert text.endswith(". Install its package again.")
    return text


def test_another_file(tmp_path):
    assert "it begins with b'#!/bin', expected" in _broken(tmp_path, b"#!/bin/sh\n")


def test_a_table_beyond_the_end(tmp_path):
    data = bytearray(library(["aclInit"]))
    (table,) = struct.unpack_from("<Q", data, 40)
    struct.pack_into("<Q", data, table + 64 + 32, 10**6)  # the size of the symbols
    assert "a section ends at byte 1,000,064 of " in _broken(tmp_path, bytes(data))


def test_names_in_a_section_that_is_not_there(tmp_path):
    data = bytearray(library(["aclInit"]))
    (table,) = struct.unpack_from("<Q", data, 40)
    struct.pack_into("<I", data, table + 64 + 40, 77)
    assert "its symbols have their names in section 77 of 3" in _broken(tmp_path, bytes(data))


def test_a_name_without_an_end(tmp_path):
    data = bytearray(library(["aclInit"]))
    struct.pack_into("<I", data, HEADER_BYTES + 24, 5000)
    assert "the name of symbol 1 has no end" in _broken(tmp_path, bytes(data))


def test_headers_too_short(tmp_path):
    data = bytearray(library(["aclInit"]))
    struct.pack_into("<H", data, 58, 8)
    assert "its section headers have 8 bytes, expected 64 or more" in _broken(tmp_path, bytes(data))


@given(
    cut=st.integers(min_value=0, max_value=500), flips=st.lists(st.tuples(st.integers(0, 499), st.integers(0, 255)), max_size=8)
)
def test_any_damage_is_an_error_of_ours_or_none(tmp_path_factory, cut, flips):
    data = bytearray(library(["aclInit", "aclFinalize"], ["x"]))
    for place, value in flips:
        if place < len(data):
            data[place] = value
    file = tmp_path_factory.mktemp("elf") / "lib.so"
    file.write_bytes(bytes(data[: len(data) - cut]))
    try:
        undefined_symbols(file)
    except BackendError:
        pass
