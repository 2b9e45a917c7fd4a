"""Files of sizes: three formats, the same rows, and clear words for every way one can be wrong. A file is taken as hostile."""

import json
import resource
import struct

import numpy as np
import pytest

from fixshape.collate import coco_sizes, read_sizes
from fixshape.errors import DatasetError

ROWS = [[480, 640, 7], [427, 640, 0], [1, 1048576, 63]]


def _csv(rows, head=""):
    return head + "".join(",".join(map(str, row)) + "\n" for row in rows)


@pytest.mark.parametrize("columns", [2, 3])
def test_every_format_gives_the_same_rows(tmp_path, columns):
    rows = [row[:columns] for row in ROWS]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "a.csv").write_text(_csv(rows))
    (tmp_path / "b.csv").write_text(_csv(rows, "height,width,boxes\n" if columns == 3 else "Height, Width\n"))
    for name, array in (
        ("a", np.array(rows, np.int64)),
        ("b", np.array(rows, np.uint32, order="F")),
        ("c", np.array(rows, ">i4")),
    ):
        np.save(tmp_path / f"{name}.npy", array)
    for name in ("a.json", "a.csv", "b.csv", "a.npy", "b.npy", "c.npy"):
        found = read_sizes(tmp_path / name)
        assert found.dtype == np.int64 and found.flags.c_contiguous and found.flags.writeable
        assert found.tolist() == rows


def test_real_sizes_and_real_annotations(data_folder):
    assert read_sizes(data_folder / "coco_shapes.json").shape == (5000, 3)
    path = data_folder / "coco_permissive" / "instances.json"
    assert np.array_equal(read_sizes(path), coco_sizes(path))


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("\ufeffwidth,id,boxes,height\n640,a,7,480\n\n427, b ,1,300\n", [[480, 640, 7], [300, 427, 1]]),
        ('"height","width"\r\n"480","640"\r\n', [[480, 640]]),
        ("480,640", [[480, 640]]),
    ],
)
def test_tables_as_spreadsheets_write_them(tmp_path, text, rows):
    (tmp_path / "a.csv").write_text(text, newline="")
    assert read_sizes(tmp_path / "a.csv").tolist() == rows


NO_SIZE = r"\(height x width\)( with .* boxes)?, expected whole numbers of pixels from 1 to 1,048,576"


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.txt", "", r"expected a file that ends in \.json, \.csv, \.npy\."),
        ("a.json", "[]", "there is no image in it, expected at least one"),
        ("a.json", "[[1, 2], 3]", r"row 1 is 3, expected \[height, width\] or \[height, width, boxes\]"),
        ("a.json", "[[1, 2], [1, 2, 3]]", r"row 1 is \[1, 2, 3\], expected"),
        ("a.json", "[[1]]", r"row 0 is \[1\], expected"),
        ("a.json", "[[1, 2], [1, 0]]", "row 1 is 1 x 0 " + NO_SIZE),
        ("a.json", "[[1, 2, -1]]", "row 0 is 1 x 2 .*with -1 boxes.*and of boxes from 0"),
        ("a.json", "[[1, 2.5]]", r"row 0 is 1 x 2\.5 " + NO_SIZE),
        ("a.json", "[[1, true]]", "row 0 is 1 x True"),
        ("a.json", "[[1, NaN]]", "row 0 is 1 x nan"),
        ("a.json", "[[1, 1e400]]", "row 0 is 1 x inf"),
        ("a.json", "[[1, 99999999999999999999]]", "row 0 is 1 x 99999999999999999999"),
        ("a.json", '[["' + "x" * 1000 + '", 1]]', "row 0 is 'x+ x 1"),
        ("a.json", "[[1, 2]", r"not JSON \(Expecting ',' at character 7\)\. Give COCO annotations, or a list of"),
        ("a.json", "[[1, 2]]]", r"not JSON \(Extra data at character 8\)"),
        ("a.json", "[" * 100_000, r"not JSON \(lists within lists too deep"),
        ("a.json", "{}", "not COCO: there is no list 'images' in it"),
        ("a.json", "3", "not COCO: expected an object with images and annotations"),
        ("a.csv", "", "there is no image in it"),
        ("a.csv", "height,width\n", "there is no image in it"),
        (
            "a.csv",
            "a,b\n1,2\n",
            "the first line is 'a,b', expected whole numbers, or names: one height, one width and at most one",
        ),
        ("a.csv", "height,height,width\n1,2,3\n", "the first line is 'height,height,width'"),
        ("a.csv", "1\n", "line 1 has 1 columns, expected height,width or height,width,boxes"),
        ("a.csv", "1,2,3,4\n", "line 1 has 4 columns, expected"),
        ("a.csv", "1,2\n3\n", "line 2 has 1 columns, the first has 2"),
        ("a.csv", "1,2\n3,0\n", "line 2 is 3 x 0 " + NO_SIZE),
        ("a.csv", "1,2\n3,-4\n", "line 2 is 3 x -4 " + NO_SIZE),
        ("a.csv", "1,2\n3,--4\n", "line 2 is '3' x '--4' " + NO_SIZE),
        ("a.csv", "1,2\n3,²\n", "line 2 is '3' x '²' " + NO_SIZE),
        ("a.csv", "1,2\n3,4.0\n", r"line 2 is '3' x '4\.0' " + NO_SIZE),
        ("a.csv", "1,2\n3," + "9" * 3000 + "\n", "line 2 is '3' x '9{,60}"),
        ("a.csv", "1,2\n" + "1" * 5000, "line 2 has more than 4,096 characters"),
        ("a.csv", b"1,2\n\xff,3\n", r"not a table \('utf-8' codec can't decode .*\)\. Give lines of height,width,boxes"),
        ("a.csv", b"1,2\n3,4\0\n", "(line 2 is|not a table)"),
        ("a.npy", b"", "not an array of numpy.save"),
        ("a.npy", b"PK\x03\x04 a zip file", "not an array of numpy.save"),
        ("a.npy", b"\x93NUMPY\x09\x00v\x00", r"not an array of numpy.save \(its format is version 9\.0\)"),
    ],
)
def test_a_broken_file_is_a_clear_error(tmp_path, name, content, text):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DatasetError, match=rf"read_sizes: .*{name}: .*{text}") as raised:
        read_sizes(tmp_path / name)
    assert len(str(raised.value)) < 600


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.zeros((0, 3), np.int64), "there is no image in it"),
        (np.ones((4, 4), np.int64), r"the array is \(4, 4\) int64, expected \[N, 2\] or \[N, 3\] whole numbers"),
        (np.ones(4, np.int64), r"the array is \(4,\) int64"),
        (np.ones((4, 2)), r"the array is \(4, 2\) float64"),
        (np.ones((4, 2), bool), r"the array is \(4, 2\) bool"),
        (np.ones((4, 2), "m8[s]"), r"the array is \(4, 2\) timedelta64\[s\]"),
        (np.array([[1, 2], [3, 0]]), "row 1 is 3 x 0 " + NO_SIZE),
        (np.array([[1, 2, 3], [3, 4, -5]]), "row 1 is 3 x 4 .* with -5 boxes"),
        (np.array([[1, 2**64 - 1]], np.uint64), "row 0 is 1 x 18446744073709551615"),
    ],
)
def test_an_array_that_is_no_sizes_is_a_clear_error(tmp_path, array, text):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DatasetError, match=rf"read_sizes: .*a\.npy: {text}"):
        read_sizes(tmp_path / "a.npy")


def _npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode("latin1") + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


@pytest.mark.parametrize(
    ("content", "text"),
    [
        # 24 TB, of which nothing is there
        (
            _npy("{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000, 3), }"),
            "its header promises 24,000,000,000,000 bytes, 0 follow",
        ),
        (_npy("{'descr': '<i8', 'fortran_order': False, 'shape': (2, 2), }", bytes(31)), "promises 32 bytes, 31 follow"),
        (_npy("{'descr': '<i8', 'fortran_order': False, 'shape': (2, 2), }", bytes(33)), "promises 32 bytes, 33 follow"),
        (_npy("{'descr': '<i8', 'fortran_order': False, 'shape': (-1, 2), }"), "promises -16 bytes, 0 follow"),
        (_npy("{'descr': '|O', 'fortran_order': False, 'shape': (2, 2), }"), r"the array is \(2, 2\) object"),
        (_npy("{'descr': '<i8', 'fortran_order': False, 'shape': 2, }"), "not an array of numpy.save"),
        (_npy("(" * 5000 + ")" * 5000), "not an array of numpy.save"),
        (_npy("__import__('os')"), "not an array of numpy.save"),
        (_npy("x" * 20000), "not an array of numpy.save"),
    ],
)
def test_a_hostile_array_takes_no_memory_and_runs_nothing(tmp_path, content, text):
    (tmp_path / "a.npy").write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DatasetError, match=text):
        read_sizes(tmp_path / "a.npy")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024


def test_a_pickle_in_an_array_is_not_opened(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[print, 2]], object), allow_pickle=True)
    with pytest.raises(DatasetError, match=r"the array is \(1, 2\) object"):
        read_sizes(tmp_path / "a.npy")


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(DatasetError, match=r"none.csv: the file cannot be read \(No such file or directory\)\. Give its path"):
        read_sizes(tmp_path / "none.csv")
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(DatasetError, match=r"folder.npy: the file cannot be read \(Is a directory\)"):
        read_sizes(tmp_path / "folder.npy")
