"""Reading JSON piece by piece: the same values as ``json``, wherever the text is cut, and clear words for what is no JSON."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixshape.collate import _json_stream
from fixshape.collate._json_stream import JsonStream

_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


class _Dripping(io.BytesIO):
    """A file that gives a few bytes at a time, as a pipe may: characters and numbers are cut everywhere."""

    def __init__(self, data: bytes, step: int) -> None:
        super().__init__(data)
        self._step = step

    def read(self, size: int = -1) -> bytes:
        return super().read(self._step)


@given(st.dictionaries(st.text(), _values, max_size=4), st.integers(1, 9), st.sampled_from([None, 1]), st.booleans())
def test_members_are_what_json_reads(content, step, indent, ascii_only):
    text = json.dumps(content, indent=indent, ensure_ascii=ascii_only)
    stream = JsonStream(_Dripping(text.encode("utf-8", "surrogatepass" if ascii_only else "strict"), step))
    assert {key: stream.value() for key in stream.members()} == content
    stream.finish()


@given(st.lists(_values, max_size=6), st.integers(1, 9))
def test_elements_are_what_json_reads(content, step):
    stream = JsonStream(_Dripping(json.dumps(content).encode(), step))
    assert list(stream.elements()) == content
    stream.finish()


@given(st.lists(_values, min_size=1, max_size=4), st.integers(1, 9))
def test_what_is_skipped_is_passed_over(content, step):
    stream = JsonStream(_Dripping(json.dumps({"a": content, "b": content[0], "c": 3}).encode(), step))
    found = {}
    for key in stream.members():
        if key == "c":
            found[key] = stream.value()
        else:
            stream.skip()
    stream.finish()
    assert found == {"c": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value at character 0"),
        ("[1, 2", "Expecting ',' at character 5"),
        ("[1 2]", "Expecting ',' at character 3"),
        ("[1,]", "Expecting value at character 3"),
        ("[1] 2", "Extra data at character 4"),
        ('["a', "Unterminated string starting at at character 1"),
        ("[" * 100_000, "lists within lists too deep at character 1"),
        ("[" + "9" * 5000 + "]", "Exceeds the limit"),
    ],
)
def test_what_is_no_json_is_an_error_that_says_where(text, message):
    stream = JsonStream(io.BytesIO(text.encode()))
    with pytest.raises(ValueError, match=message):
        if text.startswith("["):
            list(stream.elements())
            stream.finish()
        else:
            stream.value()


def test_the_place_is_counted_from_the_beginning_of_the_file(monkeypatch):
    monkeypatch.setattr(_json_stream, "_CHUNK", 8)
    text = "[" + "1234, " * 50 + "oh]"
    stream = JsonStream(io.BytesIO(text.encode()))
    with pytest.raises(ValueError, match=f"Expecting value at character {text.index('oh')}"):
        list(stream.elements())


def test_a_value_larger_than_the_limit_is_refused(monkeypatch):
    monkeypatch.setattr(_json_stream, "_LARGEST_VALUE", 100)
    monkeypatch.setattr(_json_stream, "_CHUNK", 10)
    assert list(JsonStream(io.BytesIO(b"[[" + b"1, " * 15 + b"1]]")).elements()) == [[1] * 16]
    stream = JsonStream(io.BytesIO(b"[[" + b"1, " * 1000 + b"1]]"))
    with pytest.raises(ValueError, match="a value that is broken, or larger than 100 characters, at character 1"):
        list(stream.elements())
    assert stream._file.tell() < 1000  # it gave up soon


def test_a_byte_order_mark_is_no_part_of_the_text():
    assert JsonStream(io.BytesIO(b"\xef\xbb\xbf[1]")).value() == [1]
