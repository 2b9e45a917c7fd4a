"""Buckets, plans, and plan files: what is chosen, what is written, and every way a file can be wrong."""

import json
import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixshape.errors import BucketError, PlanError, ShapeError
from fixshape.plan import Bucket, Certificate, ShapePlan, cover_all

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
    with pytest.raises(ShapeError, match=r"cover_all: row 0 is \(3,\), expected \(height, width\) or"):
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
_NEW = {
    "schema_version": 2,
    "digest": ShapePlan([Bucket(3, 4, 5)], fallback=Bucket(9, 9, 9), batch_sizes=[2, 1]).digest,
    "buckets": [[3, 4, 5]],
    "fallback": [9, 9, 9],
    "batch_sizes": [2, 1],
    "certificate": None,
}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"{", "not a plan"),
        (b"\xff\xfe", "not a plan"),
        (b"[" * 100_000, "not a plan"),
        (b" " * (1 << 21), "larger than 1,048,576 bytes"),
        (json.dumps([1]), r"expected a JSON object with a schema_version, got \[1\]"),
        (json.dumps({**_GOOD, "schema_version": 3}), "schema_version is 3, this fixshape reads up to 2. Update fixshape"),
        (json.dumps({**_GOOD, "schema_version": True}), "expected a JSON object with a schema_version"),
        (json.dumps({**_GOOD, "buckets": []}), r"buckets is \[\], expected a list"),
        (json.dumps({**_GOOD, "buckets": [[3, 4]]}), r"bucket 0 is \[3, 4\], expected \[height, width, max_boxes\]"),
        (json.dumps({**_GOOD, "buckets": [[3, 4, 5.0]]}), "bucket 0 is"),
        (json.dumps({**_GOOD, "buckets": [[3, 4, 5], [10**9, 10**9, 1]]}), "bucket 1 is"),
        (json.dumps({**_GOOD, "buckets": [[3, 4, 6]]}), "the file was changed"),
        (json.dumps({**_NEW, "fallback": [10**6, 10**6, 1]}), r"fallback is \[1000000, 1000000, 1\], expected \[height"),
        (json.dumps({**_NEW, "fallback": None, "batch_sizes": [2]}), "the file was changed"),
        (json.dumps({**_NEW, "batch_sizes": [0, 1]}), r"batch_sizes is \[0, 1\], expected a whole number of at least 1 for each"),
        (json.dumps({**_NEW, "batch_sizes": [True, 1]}), "batch_sizes is"),
        (json.dumps({**_NEW, "batch_sizes": [1, 2, 3]}), "got 3 batch sizes for 1 buckets"),
        (json.dumps({**_NEW, "certificate": [1]}), r"certificate is \[1\], expected an object of waste, lower_bound and buckets"),
        (json.dumps({**_NEW, "certificate": {"waste": 0.1, "lower_bound": 0.2, "buckets": 1}}), "certificate is"),
        (json.dumps({**_NEW, "certificate": {"waste": float("nan"), "lower_bound": 0, "buckets": 1}}), "certificate is"),
        (json.dumps({**_NEW, "certificate": {"waste": 0.1, "more": 0, "buckets": 1}}), "certificate is"),
    ],
)
def test_a_broken_or_newer_file_is_a_clear_error(tmp_path, content, text):
    path = tmp_path / "plan.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(PlanError, match=text) as caught:
        ShapePlan.load(path)
    assert "plan.json" in str(caught.value)


def test_a_plan_of_buckets_only_keeps_its_file_and_its_digest(tmp_path):
    plan = ShapePlan([Bucket(320, 320, 8), Bucket(640, 480, 4)])
    plan.save(tmp_path / "plan.json")
    body = json.loads((tmp_path / "plan.json").read_text())
    assert body == {"schema_version": 1, "digest": "589f3d6f703fd841", "buckets": [[320, 320, 8], [640, 480, 4]]}


@given(
    st.lists(st.tuples(_buckets, st.integers(1, 64)), min_size=1, max_size=6, unique_by=lambda pair: pair[0]),
    st.one_of(st.none(), _buckets),
    st.booleans(),
    st.one_of(st.none(), st.builds(lambda low, more: Certificate(low + more, low, 3), st.floats(0, 1), st.floats(0, 1))),
)
def test_what_is_new_comes_back_from_the_file(tmp_path_factory, pairs, fallback, own, certificate):
    sizes = [size for _, size in pairs] + [7] * (fallback is not None and own)
    plan = ShapePlan([bucket for bucket, _ in pairs], fallback=fallback, batch_sizes=sizes, certificate=certificate)
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    plan.save(path)
    loaded = ShapePlan.load(path)
    assert (loaded, loaded.digest, loaded.certificate) == (plan, plan.digest, certificate)
    assert json.loads(path.read_text())["schema_version"] == 2


def test_batch_sizes_go_with_their_buckets_when_they_are_sorted():
    plan = ShapePlan([Bucket(640, 640, 8), Bucket(320, 320, 8)], fallback=Bucket(900, 900, 8), batch_sizes=[2, 8])
    assert plan.batch_sizes == (8, 2)
    assert [plan.batch_size(index, 5) for index in range(3)] == [8, 2, 5]
    assert ShapePlan([Bucket(320, 320, 8)]).batch_size(0, 5) == 5
    with pytest.raises(ShapeError, match="batch_size: index is 3, expected 0 to 2"):
        plan.batch_size(3, 5)


@pytest.mark.parametrize(
    ("sizes", "error", "text"),
    [
        ([2], PlanError, "got 1 batch sizes for 2 buckets, expected one of each"),
        ([2, 0], ShapeError, r"batch_sizes\[1\] is 0"),
        ([2, 3, 4], PlanError, "got 3 batch sizes for 2 buckets"),
    ],
)
def test_batch_sizes_are_one_of_each_bucket(sizes, error, text):
    with pytest.raises(error, match=text):
        ShapePlan([Bucket(1, 2, 3), Bucket(2, 3, 4)], batch_sizes=sizes)


def test_a_bucket_given_twice_has_one_batch_size():
    assert ShapePlan([Bucket(1, 2, 3), Bucket(1, 2, 3)], batch_sizes=[4, 4]).batch_sizes == (4,)
    with pytest.raises(PlanError, match="given twice, with batch sizes 4 and 5"):
        ShapePlan([Bucket(1, 2, 3), Bucket(1, 2, 3)], batch_sizes=[4, 5])


def test_the_fallback_takes_what_no_bucket_covers_and_nothing_else():
    plan = ShapePlan([Bucket(320, 320, 8), Bucket(640, 640, 8)], fallback=Bucket(400, 400, 99))
    assert plan.shapes == (*plan.buckets, plan.fallback)
    assert plan.bucket_for(330, 330, 3) == 1  # although the fallback is smaller
    assert plan.bucket_for(330, 330, 9) == 2
    with pytest.raises(BucketError, match="641x10"):
        plan.bucket_for(641, 10)
    assert plan.digest != ShapePlan(plan.buckets).digest
    assert plan != ShapePlan(plan.buckets)


def test_a_certificate_is_no_part_of_a_plans_identity():
    with_one = ShapePlan([Bucket(3, 4, 5)], certificate=Certificate(0.2, 0.1, 1))
    without = ShapePlan([Bucket(3, 4, 5)])
    assert (with_one, with_one.digest, hash(with_one)) == (without, without.digest, hash(without))


@given(st.lists(_buckets, min_size=1, max_size=6), st.one_of(st.none(), _buckets), st.lists(_sizes, max_size=20))
def test_assign_is_bucket_for_of_every_row(buckets, fallback, sizes):
    plan = ShapePlan(buckets, fallback=fallback)
    try:
        expected = [plan.bucket_for(*size) for size in sizes]
    except BucketError as error:
        with pytest.raises(BucketError) as caught:
            plan.assign(sizes)
        assert str(caught.value).partition(": got")[2] == str(error).partition(": got")[2]
    else:
        assert plan.assign(sizes).tolist() == expected


def test_assign_names_the_first_sample_that_nothing_covers():
    with pytest.raises(BucketError, match=r"ShapePlan.assign: sample 1: got an image of 9x1 \(height x width\), larger"):
        ShapePlan([Bucket(3, 4, 5)]).assign([(1, 1), (9, 1), (1, 9)])


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
