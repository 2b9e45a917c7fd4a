"""Buckets, plans, and plan files: what is chosen, what is written, and every way a file can be wrong."""

import json
import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixshape.errors import BucketError, PlanError, ShapeError
from fixshape.plan import Bucket, ShapePlan, cover_all

_sizes = st.tuples(st.integers(1, 2000), st.integers(1, 2000), st.integers(0, 99))
_buckets = st.builds(Bucket, st.integers(1, 2000), st.integers(1, 2000), st.integers(1, 99))


def test_bucket_is_frozen_ordered_and_hashable():
    assert Bucket(1, 2, 3) < Bucket(1, 2, 4) < Bucket(2, 1, 1)
    assert len({Bucket(1, 2, 3), Bucket(1, 2, 3)}) == 1
    with pytest.raises(AttributeError):
        Bucket(1, 2, 3).height = 5


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((0, 5, 5), "Bucket: height is 0, expected a whole number of at least 1"),
        ((5, 5.0, 5), "Bucket: width is 5.0"),
        ((5, 5, True), "Bucket: max_boxes is True"),
    ],
)
def test_bucket_refuses_what_is_no_size(arguments, text):
    with pytest.raises(ShapeError, match=text):
        Bucket(*arguments)


@given(st.lists(_buckets, min_size=1, max_size=8), _sizes)
def test_bucket_for_is_the_smallest_that_covers(buckets, size):
    plan = ShapePlan(buckets)
    covering = [bucket for bucket in plan.buckets if bucket.covers(*size)]
    if not covering:
        with pytest.raises(BucketError):
            plan.bucket_for(*size)
        return
    chosen = plan.buckets[plan.bucket_for(*size)]
    assert chosen.covers(*size)
    assert (chosen.area, chosen.max_boxes) == min((bucket.area, bucket.max_boxes) for bucket in covering)


@given(st.lists(_buckets, min_size=1, max_size=8), st.randoms())
def test_order_and_duplicates_do_not_matter(buckets, random):
    shuffled = buckets + buckets[:2]
    random.shuffle(shuffled)
    assert ShapePlan(shuffled) == ShapePlan(buckets)
    assert ShapePlan(shuffled).digest == ShapePlan(buckets).digest


def test_errors_say_whether_pixels_or_boxes_are_too_many():
    plan = ShapePlan([Bucket(320, 320, 8), Bucket(640, 480, 4)])
    with pytest.raises(
        BucketError, match=r"image of 641x10 \(height x width\), larger than every bucket \(320x320, 8 boxes; 640x480"
    ):
        plan.bucket_for(641, 10)
    with pytest.raises(BucketError, match=r"got 9 boxes, but .* 320x320 pixels have at most 8 box slots .*max_boxes=9"):
        plan.bucket_for(320, 320, 9)
    with pytest.raises(PlanError, match="got no bucket, expected at least one"):
        ShapePlan([])


@given(st.lists(_sizes, min_size=1, max_size=20), st.integers(1, 64))
def test_cover_all_covers_all_in_one_aligned_bucket(sizes, multiple_of):
    (bucket,) = cover_all(sizes, multiple_of=multiple_of).buckets
    assert all(bucket.covers(*size) for size in sizes)
    assert bucket.height % multiple_of == bucket.width % multiple_of == 0
    assert bucket.height - max(size[0] for size in sizes) < multiple_of


def test_cover_all_refuses_what_it_cannot_cover():
    with pytest.raises(PlanError, match="got no sizes"):
        cover_all([])
    with pytest.raises(ShapeError, match="got a size of 1 numbers"):
        cover_all([(3,)])
    assert cover_all([(3, 4)], max_boxes=7, multiple_of=1).buckets == (Bucket(3, 4, 7),)


def test_a_saved_plan_comes_back_whole(tmp_path):
    plan = ShapePlan([Bucket(320, 320, 8), Bucket(640, 480, 4)])
    plan.save(tmp_path / "plan.json")
    assert ShapePlan.load(tmp_path / "plan.json") == plan
    assert [file.name for file in tmp_path.iterdir()] == ["plan.json"]
    assert stat.S_IMODE((tmp_path / "plan.json").stat().st_mode) & 0o077 == 0o066 & ~_umask()


def test_a_failed_save_leaves_the_old_plan(tmp_path, monkeypatch):
    ShapePlan([Bucket(1, 1, 1)]).save(tmp_path / "plan.json")
    monkeypatch.setattr(os, "replace", _no_space)
    with pytest.raises(OSError, match="no space"):
        ShapePlan([Bucket(2, 2, 2)]).save(tmp_path / "plan.json")
    assert ShapePlan.load(tmp_path / "plan.json").buckets == (Bucket(1, 1, 1),)
    assert [file.name for file in tmp_path.iterdir()] == ["plan.json"]


_GOOD = {"schema_version": 1, "digest": ShapePlan([Bucket(3, 4, 5)]).digest, "buckets": [[3, 4, 5]]}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"{", "not a plan"),
        (b"\xff\xfe", "not a plan"),
        (b"[" * 100_000, "not a plan"),
        (b" " * (1 << 21), "larger than 1,048,576 bytes"),
        (json.dumps([1]), r"expected a JSON object with a schema_version, got \[1\]"),
        (json.dumps({**_GOOD, "schema_version": 2}), "schema_version is 2, this fixshape reads up to 1. Update fixshape"),
        (json.dumps({**_GOOD, "schema_version": True}), "expected a JSON object with a schema_version"),
        (json.dumps({**_GOOD, "buckets": []}), r"buckets is \[\], expected a list"),
        (json.dumps({**_GOOD, "buckets": [[3, 4]]}), r"bucket 0 is \[3, 4\], expected \[height, width, max_boxes\]"),
        (json.dumps({**_GOOD, "buckets": [[3, 4, 5.0]]}), "bucket 0 is"),
        (json.dumps({**_GOOD, "buckets": [[3, 4, 5], [10**9, 10**9, 1]]}), "bucket 1 is"),
        (json.dumps({**_GOOD, "buckets": [[3, 4, 6]]}), "the file was changed"),
    ],
)
def test_a_broken_or_newer_file_is_a_clear_error(tmp_path, content, text):
    path = tmp_path / "plan.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(PlanError, match=text) as caught:
        ShapePlan.load(path)
    assert "plan.json" in str(caught.value)


def test_a_missing_file_or_a_folder_is_a_clear_error(tmp_path):
    with pytest.raises(PlanError, match="there is no such file"):
        ShapePlan.load(tmp_path / "none.json")
    with pytest.raises(PlanError, match="cannot be read"):
        ShapePlan.load(tmp_path)


def _no_space(*_):
    raise OSError("no space left")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
