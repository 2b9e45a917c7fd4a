"""Logs of atc: codes in old and new wordings, their values, and files that are too large or no text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixshape.errors import UsageError
from fixshape.export import read_atc_log
from fixshape.export._atc_codes import ATC_CODES, explain_atc_code
from fixshape.export._atc_log import MOST_BYTES, entries_of
from tests.export.test_atc_rules import ROWS

OLD = "E10018: [PID: 200452] 2023-06-16-13:02:36.801.136 Value [-1] for shape [2] is invalid."
NEW = "[PID: 7] 2026-02-01-09:00:00.000.100 Invalid_Argument_Tensor_Dynamic_Shape(E10018): Value -1 for shape 2 is invalid."
LOG = f"""ATC start working now, please wait for a moment.
ATC run failed, Please check the detail log, Try 'atc --help' for more information
E19999: Inner Error!
{OLD}
        Solution: ...
E19999: Inner Error!
"""


@pytest.mark.parametrize("line", [OLD, NEW, OLD.split("[PID")[0] + "Value [-1] for shape [2]"])
def test_the_wordings_of_one_code(line):
    (entry,) = entries_of(line)
    assert (entry.code, entry.values) == ("E10018", ("-1", "2"))
    assert entry.explained is ATC_CODES["E10018"]


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("E10001: Value [NHWC] for parameter [--format] is bad. Reason: It is odd.", ("NHWC", "--format", "It is odd")),
        ("E10001: Value NHWC for parameter --format is bad. Reason: It is odd.", ("NHWC", "--format", "It is odd")),
        ("E10016: Opname x0 specified in --input_shape is not found in the model.", ("x0", "--input_shape")),
        ("E10035: --dynamic_dims has 1 profiles, which is less than the minimum 2.", ("1", "2")),
        ("E20001: Failed to compile Op [/Slice_ascend_mbatch_batch_5]. (optype: [S])", ("/Slice_ascend_mbatch_batch_5", "S")),
        ("EZ3003: No supported Ops kernel and engine are found for [AddDsl], optype [AddDsl].", ("AddDsl",)),
        ("E10041: Failed to load the model from ./m.onnx.", ()),
    ],
)  # fmt: skip
def test_values_are_taken_out(line, values):
    (entry,) = entries_of(line)
    assert entry.values == values


def test_a_log_is_told_once_and_inner_errors_last():
    entries = entries_of(LOG)
    assert [(entry.code, entry.line, entry.times) for entry in entries] == [("E10018", 4, 1), ("E19999", 3, 2)]


def test_what_atc_prints_without_a_code():
    for line, name in (
        ("ERROR: unknown command line flag 'dynamic_bach'", "dynamic_bach"),
        ("ERROR: flag '--log' is missing its argument; flag description: level", "--log"),
        ("ERROR: Non-option parameter: 3,64,64", "3,64,64"),
    ):
        (entry,) = entries_of(line)
        assert (entry.code, entry.values) == (None, (name,))


def test_codes_at_run_time_and_codes_that_are_not_known():
    runtime, unknown, other = entries_of("acl execute failed, ret = 145013\nEE1001: bad\nE41234: odd")
    assert (runtime.code, runtime.explained) == ("145013", ATC_CODES["145013"])
    assert (unknown.code, unknown.explained, unknown.family) == ("EE1001", None, "the runtime")
    assert other.family == "another part of CANN"


def test_a_code_within_a_sentence():
    assert [entry.code for entry in entries_of("see E10041.\n(E10042)\n[EZ3003]")] == ["E10041", "E10042", "EZ3003"]


def test_numbers_that_are_no_codes():
    assert entries_of("took 145013.5 ms, at 2026-145013, pid 1450130, E100181, XE10018, E1001, 0.145013") == ()
    assert entries_of("ATC run success, welcome to the next use.") == ()


def test_hostile_logs(tmp_path):
    path = tmp_path / "atc.log"
    path.write_bytes(b"\xff\x00E10018: Value [" + b"x" * 100_000 + b"\x1b[2J] odd\n" * 3)
    (entry,) = read_atc_log(path)[:1]
    assert len(entry.text) <= 600
    assert "\x1b" not in "".join([entry.text, *entry.values])
    path.write_text("".join(f"E10016: Opname n{i} is not found\n" for i in range(5000)))
    assert len(read_atc_log(path)) == 1000
    with open(path, "wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(UsageError, match=r"atc.log: it is larger than 67,108,864 bytes. Cut it: tail -c 1000000"):
        read_atc_log(path)
    with pytest.raises(UsageError, match=r"it cannot be read \(Is a directory\). Give the file of atc's output."):
        read_atc_log(tmp_path)


def test_an_inner_error_says_what_it_is_on_the_line_below():
    (flat,) = entries_of("EZ9999: Inner Error!\n        The device(3), core list[0-0][FUNC:A][FILE:b.cc][LINE:461]\n")
    assert (flat.line, flat.text) == (1, "The device(3), core list[0-0][FUNC:A][FILE:b.cc][LINE:461]")
    stamped = "EZ9999[PID: 24481] 2025-10-29-03:18:08.948.444 (EZ9999):  The first dim should be 128.[FUNC:C][FILE:d.cpp][LINE:1]"
    (twice,) = entries_of(f"EZ9999: Inner Error!\n{stamped}\n        TraceBack (most recent call last):")
    assert (twice.line, twice.times, twice.text) == (1, 2, "The first dim should be 128.[FUNC:C][FILE:d.cpp][LINE:1]")
    assert twice.explained.title == "an inner error below the graph engine"
    assert entries_of("E19999: Inner Error!\nsomething else")[0].text == "Inner Error!"


def test_a_page_without_its_line_ends():
    (entry,) = entries_of(
        "for more informationE10001: Value [-1] for parameter [x] is invalid. Reason: odd shapeSolution: Try again."
    )
    assert (entry.code, entry.values) == ("E10001", ("-1", "x", "odd shape"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "gbk"])
def test_any_encoding_colours_and_line_ends(tmp_path, encoding):
    path = tmp_path / "atc.log"
    path.write_bytes(f"\u5931\u8d25\r\n\x1b[31mE10018\x1b[0m: {OLD[8:]}\r\nE10035: 1\r\n".encode(encoding))
    assert [(entry.code, entry.line) for entry in read_atc_log(path)] == [("E10018", 2), ("E10035", 3)]
    assert read_atc_log(path)[0].text == "Value [-1] for shape [2] is invalid."


def test_no_text_at_all(tmp_path):
    path = tmp_path / "atc.log"
    for data in (b"", b"\n", b"\0" * 1000, bytes(range(256)) * 50, b"\xff\xfe"):
        path.write_bytes(data)
        assert read_atc_log(path) == ()


@given(st.text())
def test_any_text_is_read(text):
    for entry in entries_of(text + "\nE10018: " + text):
        assert entry.text.isprintable() or not entry.text


def test_every_code_of_a_rule_is_explained():
    assert {row.code for row in ROWS} - {None} <= set(ATC_CODES)


@pytest.mark.parametrize("code", ATC_CODES)
def test_a_code_is_explained_whole(code):
    entry = ATC_CODES[code]
    assert not entry.title.endswith(".")
    for text in (entry.what, entry.why, entry.do):
        assert text[-1] in ".'"
    assert explain_atc_code(code).startswith(f"{code}: {entry.title}\n\n")
    assert entry.do.split()[0] in explain_atc_code(code)
