"""Files are written whole or not at all, and what is no file stays what it is."""

import os
import stat
import threading

import pytest

from fixshape._files import write_atomic


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "result"
    for data in (b"one", b"two"):
        write_atomic(path, data)
        assert path.read_bytes() == data
    assert os.listdir(tmp_path) == ["result"]


def test_a_link_stays_a_link_and_its_file_is_written(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "result", tmp_path / "link"
    link.symlink_to(target)
    for data in (b"one", b"two"):  # the first time it points to nothing yet
        write_atomic(link, data)
        assert link.is_symlink() and target.read_bytes() == data


def test_a_pipe_stays_a_pipe_and_is_written_to(tmp_path):
    path, got = tmp_path / "pipe", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()), daemon=True)
    reader.start()
    write_atomic(path, b"through it")
    reader.join(10)
    assert got == [b"through it"]
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(IsADirectoryError):
        write_atomic(tmp_path, b"data")
    assert tmp_path.is_dir()
