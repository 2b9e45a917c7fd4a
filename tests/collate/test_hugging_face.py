"""PadPixelValues, held against transformers' own image processor, and what it refuses."""

from __future__ import annotations

import pickle
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from fixshape.collate import PadPixelValues, PadSequences, make_loader
from fixshape.errors import BucketError, DtypeError, ShapeError, TargetError
from fixshape.plan import Bucket, ShapePlan
from tests.collate.samples import Samples

with pytest.MonkeyPatch.context() as patch:
    # transformers imports torch-npu where it is installed, and that fails where the vendor's driver is missing.
    patch.setitem(sys.modules, "torch_npu", None)
    from transformers import BertConfig, BertForTokenClassification
    from transformers.models.detr.image_processing_detr import DetrImageProcessor

HEIGHT, WIDTH = 24, 32
PROCESSOR = DetrImageProcessor()
EVERYTHING = ("area", "iscrowd", "masks", "image_id", "orig_size", "size")


def make_sample(height=20, width=30, boxes=2, seed=0, keys=EVERYTHING):
    """A sample as an image processor leaves it, without zeros in the image, so that padding shows."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.rand(boxes, 2, generator=generator) * 0.5 + 0.25
    every = {
        "area": torch.rand(boxes, generator=generator) * height * width,
        "iscrowd": torch.zeros(boxes, dtype=torch.int64),
        "masks": torch.ones(boxes, height, width, dtype=torch.bool),
        "image_id": torch.tensor([seed]),
        "orig_size": torch.tensor([2 * height, 2 * width]),
        "size": torch.tensor([height, width]),
    }
    labels = {
        "class_labels": torch.randint(1, 90, (boxes,), generator=generator),
        "boxes": torch.cat([centres, torch.rand(boxes, 2, generator=generator) / 2], dim=1),
    }
    labels |= {key: every[key] for key in keys}
    return {"pixel_values": torch.rand(3, height, width, generator=generator) + 0.5, "labels": labels}


a_sample = st.builds(make_sample, st.integers(1, HEIGHT), st.integers(1, WIDTH), st.integers(0, 4), st.integers(0, 999))
some_samples = st.lists(a_sample, min_size=1, max_size=3)


def padded_by_transformers(samples, height, width):
    """The oracle: ``pad`` of the image processor for each image, then its stacking."""
    images, masks, labels = [], [], []
    for sample in samples:
        annotation = {key: value.clone() for key, value in sample["labels"].items()}
        image, mask, annotation = PROCESSOR.pad(sample["pixel_values"], (height, width), annotation=annotation)
        images.append(image)
        masks.append(mask)
        labels.append({**annotation, "size": torch.as_tensor(annotation["size"])})
    return {"pixel_values": torch.stack(images), "pixel_mask": torch.stack(masks), "labels": labels}


def assert_is_transformers(pad, samples):
    """The batch of ``pad`` is the oracle's, bit for bit."""
    got, wanted = pad(samples), padded_by_transformers(samples, HEIGHT, WIDTH)
    assert got.keys() == wanted.keys() and len(got["labels"]) == len(samples)
    for key in ("pixel_values", "pixel_mask"):
        assert got[key].dtype == wanted[key].dtype and torch.equal(got[key], wanted[key]), key
    for own, others in zip(got["labels"], wanted["labels"], strict=True):
        assert own.keys() == others.keys()
        for key, value in others.items():
            assert own[key].dtype == value.dtype and torch.equal(own[key], value), key


@settings(deadline=None, max_examples=80)
@given(some_samples)
def test_a_batch_is_what_the_image_processor_pads(samples):
    assert_is_transformers(PadPixelValues((HEIGHT, WIDTH)), samples)


class _BoxesLeftAlone(PadPixelValues):
    """Wrong on purpose: boxes stay fractions of their image."""

    def __call__(self, samples):
        batch = super().__call__(samples)
        for own, sample in zip(batch["labels"], samples, strict=True):
            own["boxes"] = sample["labels"]["boxes"]
        return batch


class _MaskOfTheCanvas(PadPixelValues):
    """Wrong on purpose: padding counts as real."""

    def __call__(self, samples):
        batch = super().__call__(samples)
        batch["pixel_mask"].fill_(1)
        return batch


@pytest.mark.parametrize("broken", [_BoxesLeftAlone, _MaskOfTheCanvas])
def test_the_oracle_sees_a_broken_implementation(broken):
    with pytest.raises(AssertionError):
        assert_is_transformers(broken((HEIGHT, WIDTH)), [make_sample()])


@pytest.mark.parametrize("dtype", [torch.float16, torch.uint8])
def test_the_dtype_of_pixels_is_kept(dtype):
    samples = [make_sample(seed=seed) for seed in range(2)]
    for sample in samples:
        sample["pixel_values"] = (sample["pixel_values"] * 100).to(dtype)
    assert_is_transformers(PadPixelValues((HEIGHT, WIDTH)), samples)


@settings(deadline=None, max_examples=40)
@given(some_samples)
def test_cutting_the_padding_off_gives_the_samples_back(samples):
    batch = PadPixelValues((HEIGHT, WIDTH))(samples)
    for row, sample in enumerate(samples):
        own, labels = sample["labels"], batch["labels"][row]
        height, width = (int(batch["pixel_mask"][row].any(dim).sum()) for dim in (1, 0))
        assert torch.equal(batch["pixel_values"][row, :, :height, :width], sample["pixel_values"])
        assert torch.equal(labels["masks"][:, :height, :width], own["masks"])
        pixels = own["boxes"] * torch.tensor([width, height, width, height])
        torch.testing.assert_close(labels["boxes"] * torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT]), pixels)


def test_an_aligned_batch_comes_out_as_it_went_in():
    samples = [make_sample(HEIGHT, WIDTH, seed=seed) for seed in range(2)]
    batch = PadPixelValues((HEIGHT, WIDTH))(samples)
    assert torch.equal(batch["pixel_values"], torch.stack([sample["pixel_values"] for sample in samples]))
    assert batch["pixel_mask"].all()
    for own, sample in zip(batch["labels"], samples, strict=True):
        assert all(torch.equal(own[key], value) for key, value in sample["labels"].items())


def test_what_a_processor_returns_for_one_image_is_a_sample():
    image = np.full((50, 40, 3), 200, np.uint8)
    annotation = {"image_id": 3, "annotations": [{"bbox": [4, 5, 20, 30], "category_id": 2, "area": 600, "iscrowd": 0}]}
    encoded = DetrImageProcessor(size={"shortest_edge": 16, "longest_edge": 24}, pad_size={"height": 22, "width": 22})(
        images=image, annotations=annotation, return_tensors="pt"
    )
    sample = {"pixel_values": encoded["pixel_values"][0], "pixel_mask": encoded["pixel_mask"][0], "labels": encoded["labels"][0]}
    batch = PadPixelValues((HEIGHT, WIDTH))([sample])
    direct = DetrImageProcessor(size={"shortest_edge": 16, "longest_edge": 24}, pad_size={"height": HEIGHT, "width": WIDTH})(
        images=image, annotations=annotation, return_tensors="pt"
    )
    assert torch.equal(batch["pixel_values"], direct["pixel_values"]) and torch.equal(batch["pixel_mask"], direct["pixel_mask"])
    torch.testing.assert_close(batch["labels"][0]["boxes"], direct["labels"][0]["boxes"])
    assert torch.equal(batch["labels"][0]["size"], direct["labels"][0]["size"])


PLAN = ShapePlan([Bucket(16, 32, 1), Bucket(HEIGHT, WIDTH, 1)], fallback=Bucket(40, 40, 1))


@pytest.mark.parametrize(("size", "canvas"), [((16, 32), (16, 32)), ((17, 1), (24, 32)), ((25, 5), (40, 40))])
def test_a_plan_gives_the_smallest_bucket_that_covers_and_the_fallback_last(size, canvas):
    assert PadPixelValues(PLAN)([make_sample(*size), make_sample(1, 1)])["pixel_values"].shape[2:] == canvas


def test_a_batch_stays_in_the_bucket_that_its_samples_carry():
    small, labelled = make_sample(4, 4), make_sample(5, 5)
    labelled["labels"]["bucket"] = torch.tensor(1)
    batch = PadPixelValues(PLAN)([{**small, "bucket": 1}, labelled])
    assert batch["pixel_values"].shape[2:] == (HEIGHT, WIDTH)
    assert "bucket" not in batch["labels"][1] and labelled["labels"]["bucket"] == 1
    sizes = [(16, 32), (20, 20), (10, 10), (3, 30)]
    dataset = [make_sample(*size) for size in sizes]
    loader = make_loader(dataset, PLAN, 3, sizes=sizes, drop_last=False, collate=PadPixelValues(PLAN))
    assert {tuple(batch["pixel_values"].shape[2:]) for batch in loader} == {(16, 32), (HEIGHT, WIDTH)}


@pytest.mark.parametrize(
    ("buckets", "message"),
    [
        ((0, 1), r"sample 0 carries bucket 0, sample 1 1, expected one bucket in a batch\. Take batches from"),
        ((0, None), r"sample 0 carries bucket 0, sample 1 None, expected one"),
        ((None, 0), r"sample 0 carries bucket None, sample 1 0, expected one"),
        ((3, 3), r"the samples carry bucket 3, but the plan has shapes 0 to 2\. Collate with the plan that the sampler has\."),
        ((0, 0), r"the image of sample 1 has size 20x30, larger than the bucket that its batch was given \(16x32\)\. Give the"),
    ],
)
def test_a_bucket_that_does_not_hold_the_batch_is_an_error(buckets, message):
    samples = [make_sample(4, 4), make_sample()]
    with pytest.raises(BucketError, match=f"^PadPixelValues: {message}"):
        PadPixelValues(PLAN)([{**sample, "bucket": bucket} for sample, bucket in zip(samples, buckets, strict=True)])


def test_max_boxes_pads_the_rows_in_one_dict():
    samples = [make_sample(boxes=2, seed=1), make_sample(boxes=0, seed=2)]
    samples[0]["labels"]["file"] = samples[1]["labels"]["file"] = "a.jpg"
    listed = PadPixelValues((HEIGHT, WIDTH))(samples)["labels"]
    labels = PadPixelValues((HEIGHT, WIDTH), max_boxes=3, batch_size=3)(samples)["labels"]
    assert labels["valid_mask"].tolist() == [[True, True, False], [False] * 3, [False] * 3]
    assert labels["image_valid"].tolist() == [True, True, False]
    assert {key: tuple(value.shape) for key, value in labels.items() if isinstance(value, torch.Tensor)} == {
        "class_labels": (3, 3), "boxes": (3, 3, 4), "area": (3, 3), "iscrowd": (3, 3), "masks": (3, 3, HEIGHT, WIDTH),
        "image_id": (3, 1), "orig_size": (3, 2), "size": (3, 2), "valid_mask": (3, 3), "image_valid": (3,),
    }  # fmt: skip
    for key in ("class_labels", "boxes", "area", "iscrowd", "masks"):
        assert torch.equal(labels[key][0, :2], listed[0][key]) and not labels[key][~labels["valid_mask"]].any(), key
        assert labels[key].dtype == listed[0][key].dtype
    assert labels["image_id"].tolist() == [[1], [2], [-1]] and labels["orig_size"][2].tolist() == [0, 0]
    assert labels["size"].tolist() == [[HEIGHT, WIDTH]] * 3 and labels["file"] == ["a.jpg", "a.jpg", None]


def test_fillers_are_black_images_without_boxes():
    batch = PadPixelValues((HEIGHT, WIDTH), batch_size=3)([make_sample(seed=7)])
    assert not batch["pixel_values"][1:].any() and batch["pixel_mask"][1:].all() and len(batch["labels"]) == 3
    for filler in batch["labels"][1:]:
        assert filler.keys() == batch["labels"][0].keys()
        assert (
            filler["boxes"].shape == (0, 4)
            and filler["masks"].shape == (0, HEIGHT, WIDTH)
            and filler["image_id"].tolist() == [-1]
        )
        assert filler["class_labels"].dtype == torch.int64 and filler["size"].tolist() == [HEIGHT, WIDTH]
    given = (7, np.array([7]), np.int64(7), [7], torch.tensor(7))
    ids = [PadPixelValues((HEIGHT, WIDTH), batch_size=2)([with_label("image_id", own)])["labels"][1]["image_id"] for own in given]
    assert ids == [-1, torch.tensor([-1]), torch.tensor(-1), [-1], torch.tensor(-1)]
    assert "image_id" not in PadPixelValues((HEIGHT, WIDTH), batch_size=2)([make_sample(keys=())])["labels"][1]


def test_the_plan_s_batch_size_comes_first():
    plan = ShapePlan([Bucket(16, 32, 1), Bucket(HEIGHT, WIDTH, 1)], batch_sizes=[4, 2])
    assert [len(PadPixelValues(plan, batch_size=8)([make_sample(*size)])["labels"]) for size in ((4, 4), (20, 4))] == [4, 2]


def test_samples_without_labels_are_pixels_alone():
    batch = PadPixelValues((HEIGHT, WIDTH))([{"pixel_values": np.ones((3, 4, 5), np.float32)}])
    assert list(batch) == ["pixel_values", "pixel_mask"] and batch["pixel_mask"].sum() == 20


def without(sample, key):
    return {**sample, "labels": {name: value for name, value in sample["labels"].items() if name != key}}


def with_label(key, value):
    sample = make_sample()
    return {**sample, "labels": {**sample["labels"], key: value}}


@pytest.mark.parametrize(
    ("samples", "error", "message"),
    [
        ([], TargetError, r"got an empty batch, expected at least one sample\."),
        (
            [(1, 2)],
            TargetError,
            r"sample 0 is a tuple, expected a dict with pixel_values and labels\. For pairs, use PadToBucket\.",
        ),
        ([{"image": 1}], TargetError, r"sample 0 is a dict of \['image'\], expected"),
        ([{"pixel_values": "x"}], DtypeError, r"sample 0: pixel_values is a str that does not make a tensor"),
        (
            [{"pixel_values": torch.ones(1, 3, 4, 4)}],
            ShapeError,
            r"sample 0: pixel_values has shape \(1, 3, 4, 4\), expected \[C, h",
        ),
        (
            [{**make_sample(), "pixel_mask": torch.ones(2, 2)}],
            ShapeError,
            r"sample 0: pixel_mask has shape \(2, 2\), expected that of the image, \(20, 30\)",
        ),
        (
            [{**make_sample(), "labels": [1]}],
            TargetError,
            r"sample 0: labels is a list, expected a dict with class_labels and boxes",
        ),
        ([without(make_sample(), "boxes")], TargetError, r"sample 0: labels has no boxes \(it has \['class_labels', 'area'"),
        ([without(make_sample(), "class_labels")], TargetError, r"sample 0: labels has no class_labels"),
        (
            [with_label("boxes", torch.zeros(0))],
            ShapeError,
            r"sample 0: boxes are float32 of shape \(0,\), expected floating-point",
        ),
        ([with_label("boxes", torch.ones(2, 4).long())], ShapeError, r"sample 0: boxes are int64 of shape \(2, 4\), expected"),
        (
            [with_label("boxes", torch.full((2, 4), 9.0))],
            TargetError,
            r"sample 0: boxes reach 9, expected fractions of the image",
        ),
        (
            [with_label("area", torch.ones(3))],
            TargetError,
            r"sample 0: area has shape \(3,\) for 2 boxes, expected \[n\]: one entry",
        ),
        (
            [with_label("masks", torch.ones(2, 3, 3))],
            TargetError,
            r"sample 0: masks has shape \(2, 3, 3\), expected \[n, 20, 30\]",
        ),
        ([make_sample(), make_sample(25, 5)], BucketError, r"the image of sample 1 has size 25x5, larger than every planned one"),
        (
            [make_sample(), {**make_sample(), "pixel_values": torch.ones(1, 20, 30)}],
            ShapeError,
            r"the image of sample 0 has 3 channel\(s\), that of sample 1 1, expected one count in a batch\.",
        ),
        (
            [make_sample(), {**make_sample(), "pixel_values": torch.ones(3, 20, 30).double()}],
            DtypeError,
            r"the image of sample 0 is float32, that of sample 1 float64, expected one dtype",
        ),
        (
            [{"pixel_values": torch.ones(3, 2, 2)}, make_sample()],
            TargetError,
            r"sample 1 has labels, sample 0 has none\. Give them for all samples, or for none\.",
        ),
        ([make_sample()] * 4, ShapeError, r"got 4 samples, expected at most batch_size=3\."),
        (
            [make_sample(boxes=9)],
            BucketError,
            r"sample 0 has 9 boxes, expected at most max_boxes=8\. Give more slots, or drop boxes",
        ),
        ([make_sample(), without(make_sample(), "area")], TargetError, r"labels: sample 0 has 'area', sample 1 has not\."),
    ],
)
def test_what_cannot_be_padded_is_named(samples, error, message):
    with pytest.raises(error, match=f"^PadPixelValues: {message}"):
        PadPixelValues((HEIGHT, WIDTH), max_boxes=8, batch_size=3)(samples)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"plan": 320}, r"PadPixelValues: plan is 320, expected a ShapePlan, a Bucket or \(height, width\)\."),
        ({"plan": (0, 5)}, r"Bucket: height is 0, expected a whole number of at least 1\."),
        ({"plan": PLAN, "max_boxes": 0}, r"PadPixelValues: max_boxes is 0, expected a whole number of at least 1\."),
        ({"plan": PLAN, "batch_size": 0}, r"PadPixelValues: batch_size is 0, expected"),
    ],
)
def test_a_wrong_argument_is_named(options, message):
    with pytest.raises(ShapeError, match=f"^{message}"):
        PadPixelValues(**options)


def test_the_caller_s_tensors_are_left_alone():
    sample = make_sample(HEIGHT, WIDTH)
    before = pickle.dumps(sample)
    batch = PadPixelValues((HEIGHT, WIDTH))([sample])
    batch["pixel_values"].zero_()
    for value in batch["labels"][0].values():
        value.zero_()
    assert pickle.dumps(sample) == before


def test_workers_make_the_same_batches_in_shared_memory():
    pad = pickle.loads(pickle.dumps(PadPixelValues(Bucket(HEIGHT, WIDTH, 9), batch_size=2)))
    assert repr(pad) == "PadPixelValues(24x32; max_boxes=None, batch_size=2)"
    samples = Samples([make_sample(10 + n, 30 - n, n, seed=n) for n in range(5)])
    alone = list(DataLoader(samples, 2, collate_fn=pad))
    helped = list(DataLoader(samples, 2, collate_fn=pad, num_workers=1, multiprocessing_context="fork"))
    for batch, other in zip(alone, helped, strict=True):
        for key in ("pixel_values", "pixel_mask"):
            assert torch.equal(batch[key], other[key]) and other[key].is_shared()
        for own, others in zip(batch["labels"], other["labels"], strict=True):
            assert own.keys() == others.keys() and all(torch.equal(value, others[key]) for key, value in own.items())


def test_a_padded_batch_of_tokens_gives_a_model_the_loss_of_the_tokens_alone():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=5
    )
    model = BertForTokenClassification(config).double().eval()
    rows = [{"input_ids": [3, 5, 9], "labels": [1, 2, 0]}, {"input_ids": [7, 8, 9, 10, 11, 12], "labels": [4, 4, 0, 1, 2, 3]}]
    batch = PadSequences((4, 16), padding_value={"input_ids": 0, "labels": -100}, batch_size=4)(rows)
    alone = [model(**{key: torch.tensor([value]) for key, value in row.items()}) for row in rows]
    padded = model(**batch)
    for row, own in enumerate(alone):
        torch.testing.assert_close(padded.logits[row, : own.logits.shape[1]], own.logits[0], rtol=1e-9, atol=1e-12)
    mean = sum(own.loss * len(row["labels"]) for own, row in zip(alone, rows, strict=True)) / 9
    torch.testing.assert_close(padded.loss, mean, rtol=1e-9, atol=0)
