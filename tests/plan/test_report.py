"""What a plan does to sizes: the counts, and that text and JSON say the same."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixshape.errors import BucketError
from fixshape.plan import Bucket, Certificate, ShapePlan, as_json, as_text, describe, plan_buckets

_rows = st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300), st.integers(0, 40)), min_size=1, max_size=30)


@pytest.mark.filterwarnings("ignore::fixshape.errors.FixshapeWarning")
@settings(max_examples=40, deadline=None)
@given(_rows, st.integers(1, 5))
def test_the_rows_add_up(sizes, k):
    plan = plan_buckets(sizes, k)
    report = describe(plan, sizes)
    assert report.waste == plan.certificate.waste
    assert report.images == sum(row.images for row in report.rows) == len(sizes)
    assert sum(row.share for row in report.rows) == pytest.approx(1)
    assert report.over == 0
    assert [row.bucket for row in report.rows] == list(plan.shapes)


def test_too_many_boxes_are_counted_where_the_padder_takes_them():
    plan = ShapePlan([Bucket(32, 32, 2), Bucket(64, 64, 5), Bucket(96, 96, 5)])
    report = describe(plan, [(32, 32, 1), (32, 32, 4), (32, 32, 9), (70, 70, 6)])
    assert [(row.images, row.most_boxes, row.over) for row in report.rows] == [(1, 1, 0), (2, 9, 1), (1, 6, 1)]
    assert (report.over, report.most_boxes) == (2, 9)
    with pytest.raises(BucketError, match="sample 0: got an image of 97x1"):
        describe(plan, [(97, 1, 0)])


def test_text_and_json():
    plan = ShapePlan(
        [Bucket(32, 64, 2), Bucket(96, 96, 5)],
        fallback=Bucket(128, 128, 9),
        batch_sizes=[1000, 4],
        certificate=Certificate(0.5, 0.25, 2),
    )
    report = describe(plan, np.array([[32, 64, 1]] * 1500 + [[48, 96, 3]] * 500))
    assert as_text(report) == (
        "bucket              slots  batch  images   share    waste  most boxes  over\n"
        "32x64                   2   1000   1,500   75.0%    0.00%           1     0\n"
        "96x96                   5      4     500   25.0%  100.00%           3     0\n"
        "128x128 (fallback)      9              0    0.0%    0.00%           0     0\n"
        "all                                2,000  100.0%   42.86%           3     0\n"
        "50.00 % padding; no plan with 2 buckets has less than 25.00 %\n"
    )
    data = json.loads(json.dumps(as_json(report)))
    assert data["schema_version"] == 1
    assert data["certificate"] == {"waste": 0.5, "lower_bound": 0.25, "buckets": 2}
    assert [row["images"] for row in data["rows"]] == [row.images for row in report.rows]
    assert data["rows"][2] == {
        "height": 128, "width": 128, "max_boxes": 9, "fallback": True, "batch_size": None,
        "images": 0, "share": 0.0, "waste": 0.0, "most_boxes": 0, "over": 0,
    }  # fmt: skip


def test_no_certificate_is_no_sentence():
    report = describe(ShapePlan([Bucket(32, 64, 2)]), [(32, 64)])
    assert as_text(report).count("\n") == 3
    assert as_json(report)["certificate"] is None
