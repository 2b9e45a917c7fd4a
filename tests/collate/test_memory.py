"""Where a batch lies, and that it is zero where it says so."""

from __future__ import annotations

import gc
import mmap
import os

import pytest
import torch

from fixshape.collate import _memory
from fixshape.collate._memory import empty, shared_zeros, zeros


@pytest.fixture
def everything_is_large(monkeypatch):
    monkeypatch.setattr(_memory, "LARGE", 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.uint8, torch.bool, torch.int64])
def test_new_memory_of_the_system_is_a_tensor_like_any_other(everything_is_large, dtype):
    tensor = zeros((3, 5, 7), dtype)
    assert tensor.shape == (3, 5, 7) and tensor.dtype == dtype and tensor.is_contiguous() and not tensor.any()
    tensor.fill_(1)
    assert tensor.all() and tensor.clone().share_memory_().all()


def test_large_memory_outlives_the_call_and_is_writable_through_views(everything_is_large):
    memory, is_zero = empty((4, 1000), torch.float32)
    assert is_zero and not memory.any()
    view = memory[1]
    del memory
    gc.collect()
    assert view.fill_(3).sum() == 3000


def test_large_memory_is_asked_for_in_huge_pages_and_small_memory_is_torch_s(monkeypatch):
    asked = []

    class Recorded(mmap.mmap):
        def madvise(self, *arguments):
            asked.append((len(self), *arguments))
            raise OSError("a kernel without huge pages")

    monkeypatch.setattr(mmap, "mmap", Recorded)
    monkeypatch.setattr(_memory, "LARGE", 4096)
    assert not zeros((4096,), torch.uint8).any() and not asked
    assert not zeros((4097,), torch.uint8).any()
    assert asked == [(4097, mmap.MADV_HUGEPAGE)]


def test_a_system_without_huge_pages_gets_ordinary_memory(monkeypatch, everything_is_large):
    monkeypatch.setattr(_memory, "_HUGE_PAGES", False)
    assert empty((3, 5), torch.float32)[1] is False
    assert not zeros((3, 5), torch.float32).any()


def test_shared_memory_is_shared_zero_and_backed_by_the_file_it_names():
    tensor, file = shared_zeros((2, 8), torch.uint8)
    assert tensor.is_shared() and not tensor.any()
    if file is not None:  # the sharing strategy of some systems keeps no descriptor
        os.pwrite(file, b"\x05", 9)
        assert tensor.flatten().tolist() == [0] * 9 + [5] + [0] * 6


def test_nothing_to_share_is_no_error():
    tensor, file = shared_zeros((2, 0, 3), torch.float32)
    assert tensor.shape == (2, 0, 3) and file is None
