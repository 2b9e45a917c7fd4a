"""Sizes of COCO annotation files: those of pycocotools, in bounded memory, and every way a file can be wrong."""

import json
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixshape.collate import coco_sizes
from fixshape.detection import CocoSamples
from fixshape.errors import DatasetError


@pytest.mark.parametrize("name", ["instances.json", "person_keypoints.json"])
def test_real_annotations(data_folder, name):
    folder = data_folder / "coco_permissive"
    assert coco_sizes(folder / name).tolist() == [list(row) for row in CocoSamples(folder / "images", folder / name).sizes()]


IMAGES = [
    {"id": 9, "file_name": "b.jpg", "height": 10, "width": 20},
    {"id": 2, "file_name": "a.jpg", "height": 30, "width": 40},
]
ANNOTATIONS = [{"image_id": 9}, {"image_id": 9, "iscrowd": 1}, {"image_id": 9, "iscrowd": 0}]


def _write(folder, content):
    path = folder / "a.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize("turned", [False, True])
def test_rows_are_by_id_and_without_crowds_wherever_the_lists_stand(tmp_path, turned):
    parts = [("images", IMAGES), ("info", {"images": 3}), ("annotations", ANNOTATIONS), ("more", [[1], "]"]), ("n", None)]
    path = _write(tmp_path, dict(reversed(parts) if turned else parts))
    assert coco_sizes(path).tolist() == [[30, 40, 0], [10, 20, 2]]


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(st.integers(-(2**63), 2**63 - 1), st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=9),
    st.data(),
)
def test_every_annotation_is_counted_once(tmp_path_factory, sizes, data):
    of = data.draw(st.lists(st.sampled_from(sorted(sizes)), max_size=30))
    content = {
        "annotations": [{"image_id": image} for image in of],
        "images": [{"id": image, "height": height, "width": width} for image, (height, width) in sizes.items()],
    }
    path = _write(tmp_path_factory.mktemp("coco"), content)
    assert coco_sizes(path).tolist() == [[*sizes[image], of.count(image)] for image in sorted(sizes)]


def _image(**changes):
    return {"images": [IMAGES[0], {**IMAGES[1], **changes}], "annotations": ANNOTATIONS}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{", r"not JSON \(Expecting a key in double quotes at character 1\)\. Give a COCO annotation file"),
        ("", "not COCO: expected an object with images and annotations"),
        ("[]", r"not COCO: expected an object with images and annotations\. Give an instances_\*\.json"),
        ("[" * 100_000, "not COCO: expected an object"),
        ('{"images": ' + "[" * 100_000, r"not JSON \(lists within lists too deep at character"),
        ('{"info": ' + '{"a":' * 100_000, r"not JSON \(lists within lists too deep at character"),
        ('{"images": [], "annotations": []} more', r"not JSON \(Extra data at character 34\)"),
        ('{"images": [{"id": ' + "9" * 5000 + "}]}", r"not JSON \(Exceeds the limit"),
        (b'{"images": "\xff"}', r"not JSON \('utf-8' codec can't decode"),
        ({}, "not COCO: there is no list 'images' in it"),
        ({"images": IMAGES}, "not COCO: there is no list 'annotations' in it"),
        ({"images": {"id": 1}, "annotations": []}, r"not COCO: 'images' is \{'id': 1\}, expected a list"),
        ('{"images": [], "images": []}', "not COCO: it has 'images' twice"),
        ({"images": [], "annotations": []}, "there is no image in it, expected at least one"),
        ({"images": [3], "annotations": []}, r"not COCO: images\[0\]\['id'\] is 3, expected a whole number"),
        (_image(id="2"), r"not COCO: images\[1\]\['id'\] is '2', expected a whole number"),
        (_image(id=True), r"images\[1\]\['id'\] is True"),
        (_image(id=1 << 63), r"images\[1\]\['id'\] is 9223372036854775808"),
        (_image(id=9), r"not COCO: images\[1\] has the id 9 of images\[0\]"),
        (
            _image(height=0),
            r"image 'a.jpg' \(images\[1\], id 2\) is 0 x 40 \(height x width\), expected whole numbers of pixels from 1 to"
            r" 1,048,576\. Correct it, or leave it out\.",
        ),
        (_image(width=None), r"image 'a.jpg' \(images\[1\], id 2\) is 30 x missing"),
        (_image(width=40.0), r"is 30 x 40\.0"),
        (_image(width=True), r"is 30 x True"),
        (_image(height=-1), r"is -1 x 40"),
        (_image(height=1 << 40), r"is 1099511627776 x 40"),
        (_image(file_name=["x" * 500], height="w" * 500), r"image \['x+\.\.\. \(images\[1\], id 2\) is 'w+ x 40"),
        ({"images": IMAGES, "annotations": [{}]}, r"not COCO: annotations\[0\]\['image_id'\] is None"),
        ({"images": IMAGES, "annotations": ["a"]}, r"not COCO: annotations\[0\]\['image_id'\] is 'a'"),
        (
            {"images": IMAGES, "annotations": [*ANNOTATIONS, {"image_id": 5}, {"image_id": 10}]},
            r"annotations\[3\] is of image 5, which the file does not list",
        ),
        (
            {"images": IMAGES, "annotations": [{"image_id": 2, "iscrowd": "no"}]},
            r"not COCO: annotations\[0\]\['iscrowd'\] is 'no', expected 0 or 1",
        ),
    ],
)
def test_a_broken_file_is_a_clear_error(tmp_path, content, text):
    path = _write(tmp_path, "" if isinstance(content, bytes) else content)
    if isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"coco_sizes: .*a\.json: .*" + text) as raised:
        coco_sizes(path)
    assert len(str(raised.value)) < 600


def test_a_missing_file(tmp_path):
    with pytest.raises(DatasetError, match=r"none.json: the annotation file cannot be read \(No such file"):
        coco_sizes(tmp_path / "none.json")


def _write_large(path, images: int, annotations: int) -> None:
    """A file as COCO's own: outlines of 3 to 150 points with two digits after the point, half a kilobyte per annotation."""
    draw = random.Random(0)
    pool = []
    for _ in range(500):
        points = min(150, max(3, int(draw.lognormvariate(3.05, 0.6))))
        pool.append(json.dumps([[round(draw.uniform(0, 640), 2) for _ in range(2 * points)]]))
    with open(path, "w") as file:
        file.write('{"info": {"year": 2017}, "images": [')
        for index in range(images):
            entry = {
                "license": 3,
                "file_name": f"{index:012d}.jpg",
                "coco_url": f"http://images.cocodataset.org/train2017/{index:012d}.jpg",
                "height": 400 + index % 200,
                "width": 640 - index % 300,
                "date_captured": "2013-11-14 11:18:45",
                "flickr_url": "http://farm9.staticflickr.com/8186/8119368305_4e622c8349_z.jpg",
                "id": 5 * index + 9,
            }
            file.write((", " if index else "") + json.dumps(entry))
        file.write('], "annotations": [')
        for index in range(annotations):
            file.write(
                f'{", " if index else ""}{{"segmentation": {pool[index % 500]},"area": 702.1057499999998,"iscrowd": 0,"image_id":'
                f' {5 * (index % images) + 9},"bbox": [473.07,395.93,38.65,28.67],"category_id": 18,"id": {index + 1}}}'
            )
        file.write('], "categories": [{"supercategory": "person","id": 1,"name": "person"}]}')


_MEASURE = """
import resource, sys, time
from fixshape.collate import coco_sizes
coco_sizes(sys.argv[1])  # what is imported late is there now
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
begun = time.process_time()
rows = coco_sizes(sys.argv[2])
seconds = time.process_time() - begun
print(len(rows), rows[:, 2].sum(), seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def _measured(tmp_path, images: int, annotations: int) -> tuple[int, float, float]:
    """Bytes of the file, seconds of the processor, and MB that a process of its own took more at its peak."""
    _write_large(tmp_path / "small.json", 10, 10)
    _write_large(tmp_path / "large.json", images, annotations)
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(tmp_path / "small.json"), str(tmp_path / "large.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows, boxes, seconds, peak = done.stdout.split()
    assert (int(rows), int(boxes)) == (images, annotations)
    return (tmp_path / "large.json").stat().st_size, float(seconds), float(peak)


def test_memory_does_not_grow_with_the_file(tmp_path):
    """A twentieth of COCO: 25 MB, of which ``json.load`` would make 150."""
    size, _, peak = _measured(tmp_path, 5_900, 43_000)
    assert size > 20e6
    assert peak < 15


@pytest.mark.slow
def test_all_of_coco_takes_seconds_and_little_memory(tmp_path):
    size, seconds, peak = _measured(tmp_path, 118_287, 860_001)
    print(f"{size / 1e6:.0f} MB, {seconds:.1f} s, {peak:.0f} MB more at the peak")
    assert size > 400e6
    assert seconds < 30  # 5 on one idle core
    assert peak < 60


def test_rows_are_int64_and_own_their_memory(tmp_path):
    rows = coco_sizes(_write(tmp_path, {"images": IMAGES, "annotations": ANNOTATIONS}))
    assert rows.dtype == np.int64 and rows.flags.c_contiguous and rows.flags.writeable
