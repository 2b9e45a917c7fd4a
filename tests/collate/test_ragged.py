"""pad_ragged: samples of any structure, one rule per value, one choice per set of sizes."""

from __future__ import annotations

import pickle
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from torchvision import tv_tensors

from fixshape.collate import Pad, make_loader, pad_ragged
from fixshape.errors import BucketError, DtypeError, ShapeError, TargetError
from fixshape.plan import Bucket, ShapePlan
from tests.collate.samples import Samples

CANVASES = [(8, 12), (12, 8), (12, 12)]
ENDS = (3, 6)
RULES = {
    "image": Pad(CANVASES, dim=(-2, -1)),
    "target": ({"map": Pad(CANVASES, dim=(-2, -1), fill_value=255), "words": Pad(ENDS)}, None),
}


def make_sample(height, width, words, seed=0):
    """A nested sample: an image and its segmentation map, a text of its own length, a class, a name."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "image": torch.rand(3, height, width, generator=generator) + 1,
        "target": ({"map": torch.randint(0, 9, (height, width), generator=generator), "words": [7] * words}, seed),
        "name": f"sample {seed}",
    }


a_sample = st.builds(make_sample, st.integers(1, 12), st.integers(1, 12), st.integers(0, 6), st.integers(0, 99))
some_samples = st.lists(a_sample, min_size=1, max_size=4)


def smallest(samples):
    """The canvas and the end that a batch takes."""
    heights, widths = zip(*(sample["image"].shape[1:] for sample in samples), strict=True)
    canvas = next(size for size in CANVASES if size[0] >= max(heights) and size[1] >= max(widths))
    return canvas, next(end for end in ENDS if end >= max(len(sample["target"][0]["words"]) for sample in samples))


@settings(deadline=None, max_examples=60)
@given(some_samples)
def test_each_value_is_padded_by_its_rule_and_lengths_cut_it_back(samples):
    batch, lengths = pad_ragged(RULES)(samples)
    canvas, end = smallest(samples)
    assert batch["image"].shape == (len(samples), 3, *canvas)
    assert batch["target"][0]["map"].shape == (len(samples), *canvas)
    assert batch["target"][0]["words"].shape == (len(samples), end)
    assert batch["target"][1].tolist() == [sample["target"][1] for sample in samples]
    assert batch["name"] == [sample["name"] for sample in samples]
    for row, sample in enumerate(samples):
        (own, _), (target, _) = sample["target"], batch["target"]
        height, width = lengths["image"][row].tolist()
        assert lengths["target"][0]["map"][row].tolist() == [height, width] == list(sample["image"].shape[1:])
        room = (0, canvas[1] - width, 0, canvas[0] - height)
        assert torch.equal(batch["image"][row], F.pad(sample["image"], room))
        assert torch.equal(target["map"][row], F.pad(own["map"], room, value=255))
        words = int(lengths["target"][0]["words"][row])
        assert target["words"][row, :words].tolist() == own["words"] and not target["words"][row, words:].any()
        assert torch.equal(batch["image"][row, :, :height, :width], sample["image"])
    assert target["map"].dtype == torch.int64 and lengths["target"][1] is None


@settings(deadline=None, max_examples=30)
@given(some_samples)
def test_aligned_values_come_out_as_they_went_in(samples):
    height, width = CANVASES[0]
    aligned = [make_sample(height, width, ENDS[0], seed) for seed in range(len(samples))]
    batch, _ = pad_ragged(RULES)(aligned)
    assert torch.equal(batch["image"], torch.stack([sample["image"] for sample in aligned]))


@settings(deadline=None, max_examples=60)
@given(st.lists(some_samples, min_size=6, max_size=6))
def test_there_are_no_more_shapes_than_sizes(batches):
    padded = [pad_ragged(RULES)(samples)[0] for samples in batches]
    shapes = {(batch["image"].shape[2:], batch["target"][0]["map"].shape[1:]) for batch in padded}
    assert shapes <= {(canvas, canvas) for canvas in CANVASES}


def test_rules_with_equal_sizes_share_one_choice_and_others_do_not():
    rules = {"question": Pad((4, 8)), "answer": Pad([8, 4], fill_value=-1), "notes": Pad((4, 8, 16))}
    batch, lengths = pad_ragged(rules)([{"question": [1] * 5, "answer": [1], "notes": [1]}])
    assert [batch[key].shape[1] for key in rules] == [8, 8, 4]
    assert {key: value.tolist() for key, value in lengths.items()} == {"question": [5], "answer": [1], "notes": [1]}


def test_a_map_padded_with_the_ignored_index_leaves_the_loss_as_it_was():
    torch.manual_seed(0)
    maps = [torch.randint(0, 4, size) for size in ((5, 7), (8, 3))]
    scores = torch.rand(2, 4, 8, 12, dtype=torch.float64)
    padded, sizes = pad_ragged(Pad((8, 12), dim=(0, 1), fill_value=255))(maps)
    loss = F.cross_entropy(scores, padded, ignore_index=255)
    real = [scores[row, :, :height, :width].flatten(1).T for row, (height, width) in enumerate(sizes.tolist())]
    wanted = F.cross_entropy(torch.cat(real), torch.cat([own.flatten() for own in maps]))
    torch.testing.assert_close(loss, wanted, rtol=1e-12, atol=0)


class Pair(NamedTuple):
    first: torch.Tensor
    second: int


def test_structures_keep_their_types_and_values_what_they_are():
    sample = {
        "pair": Pair(np.arange(3), 1),
        "list": [True, 2.5, None],
        "image": tv_tensors.Image(torch.rand(1, 2, 2).requires_grad_()),
        "array": np.float64(0.5),
        "text": np.str_("t"),
        "nothing": {},
    }
    batch, lengths = pad_ragged({"pair": (Pad(4), None)})([sample, sample])
    assert isinstance(batch["pair"], Pair) and batch["pair"].first.tolist() == [[0, 1, 2, 0]] * 2
    assert batch["pair"].second.tolist() == [1, 1] and lengths["pair"][0].tolist() == [3, 3]
    assert [value if isinstance(value, list) else value.dtype for value in batch["list"]] == [
        torch.bool,
        torch.float32,
        [None] * 2,
    ]
    assert type(batch["image"]) is torch.Tensor and not batch["image"].requires_grad and batch["image"].shape == (2, 1, 2, 2)
    assert batch["array"].dtype == torch.float64 and batch["text"] == ["t", "t"] and batch["nothing"] == {}


def test_without_rules_a_batch_is_stacked():
    batch, lengths = pad_ragged(None)([(torch.ones(2), "a"), (torch.zeros(2), "b")])
    assert batch[0].tolist() == [[1, 1], [0, 0]] and batch[1] == ["a", "b"] and lengths is None


def test_fillers_complete_the_batch():
    batch, lengths = pad_ragged(RULES, batch_size=3)([make_sample(3, 4, 2, seed=5)])
    assert batch["name"] == ["sample 5", None, None] and batch["target"][1].tolist() == [5, 0, 0]
    assert (batch["target"][0]["map"][1:] == 255).all() and not batch["image"][1:].any()
    assert lengths["image"].tolist() == [[3, 4], [0, 0], [0, 0]]


def test_an_empty_list_has_the_dtype_of_the_others():
    assert pad_ragged(Pad(2))([[], [0.5]])[0].dtype == torch.float32
    assert pad_ragged(Pad(2))([[], [1]])[0].dtype == torch.int64
    assert pad_ragged(Pad(2))([[], []])[0].dtype == torch.int64


def test_a_plan_is_a_rule_for_images_and_its_fallback_is_taken_last():
    plan = ShapePlan([Bucket(8, 8, 1), Bucket(16, 16, 1)], fallback=Bucket(16, 17, 1))
    collate = pad_ragged(Pad(plan, dim=(-2, -1)))
    assert [collate([torch.ones(3, *size)])[0].shape[2:] for size in ((8, 8), (9, 1), (2, 17))] == [(8, 8), (16, 16), (16, 17)]
    assert pad_ragged(Pad(Bucket(8, 9, 1), dim=(1, 2)))([torch.ones(1, 2, 3)])[0].shape == (1, 1, 8, 9)


PLAN = ShapePlan([Bucket(8, 12, 1), Bucket(12, 12, 1)])
PLANNED = {"image": Pad(PLAN, dim=(-2, -1)), "map": Pad(PLAN, dim=(-2, -1), fill_value=255)}


def planned(height, width, bucket=None):
    sample = {"image": torch.ones(3, height, width), "map": torch.ones(height, width, dtype=torch.int64)}
    return sample if bucket is None else {**sample, "bucket": bucket}


def test_a_batch_stays_in_the_bucket_that_its_samples_carry():
    batch, _ = pad_ragged(PLANNED)([planned(4, 4, 1), planned(8, 12, 1)])
    assert batch["image"].shape[2:] == batch["map"].shape[1:] == (12, 12)
    pair = (torch.ones(3, 4, 4), {"bucket": 1})
    assert pad_ragged((Pad(PLAN, dim=(-2, -1)), None))([pair])[0][0].shape[2:] == (12, 12)
    fixed = pad_ragged({"image": Pad((8, 12), dim=(-2, -1)), "map": Pad((8, 12), dim=(-2, -1))})([planned(4, 4, 1)])[0]
    assert fixed["image"].shape[2:] == (8, 12)  # a bucket says nothing where there is no plan


def test_make_loader_gives_the_bucket_to_any_dict():
    sizes = [(8, 12), (7, 3), (12, 12), (4, 4), (9, 9)]
    dataset = [planned(*size) for size in sizes]
    loader = make_loader(dataset, PLAN, 2, sizes=sizes, drop_last=False, collate=pad_ragged(PLANNED))
    batches = [batch for batch, _ in loader]
    assert {int(batch["bucket"][0]) for batch in batches} == {0, 1}
    for batch in batches:
        wanted = PLAN.shapes[int(batch["bucket"][0])]
        assert batch["image"].shape[2:] == batch["map"].shape[1:] == (wanted.height, wanted.width)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([planned(4, 4, 0), planned(4, 4, 1)], r"sample 0 carries bucket 0, sample 1 1, expected one bucket in a batch\. Take"),
        ([planned(4, 4, 0), planned(4, 4)], r"sample 0 has 'bucket', sample 1 has not\. Give it for every sample, or for none\."),
        ([planned(4, 4, 2)], r"the samples carry bucket 2, but the plan has shapes 0 to 1\. Collate with the plan"),
        ([planned(9, 4, 0)], r"sample 0: image has size 9x4, larger than the bucket that its batch was given \(8x12\)\. Give"),
    ],
)
def test_a_bucket_that_does_not_hold_the_batch_is_an_error(samples, message):
    with pytest.raises((BucketError, TargetError), match=f"^pad_ragged: {message}"):
        pad_ragged(PLANNED)(samples)


A, B = {"a": torch.ones(3)}, {"a": torch.ones(4)}


@pytest.mark.parametrize(
    ("rules", "samples", "error", "message"),
    [
        (None, [], TargetError, r"got an empty batch, expected at least one sample\. Check the batch sampler\."),
        (None, [A, B], ShapeError, r"sample 0: a has shape \(3,\), sample 1: a \(4,\), and no rule says how to pad it\. Give it"),
        (None, [{"t": (A,)}, {"t": (B,)}], ShapeError, r"sample 0: t\.0\.a has shape \(3,\), sample 1: t\.0\.a \(4,\), and"),
        (
            {"a": Pad(2)},
            [A],
            BucketError,
            r"sample 0: a has size 3, larger than every planned one \(2\)\. Cut it in the data set",
        ),
        (
            Pad([(4, 8), (8, 4)], (0, 1)),
            [torch.ones(9, 3)],
            BucketError,
            r"sample 0 has size 9x3, larger than every planned one \(4x8, 8x4\)\. Resize it in the data set, or plan a size",
        ),
        (
            Pad([(4, 8), (8, 4)], (0, 1)),
            [torch.ones(2, 7), torch.ones(7, 2)],
            BucketError,
            r"sample 1 has size 7x2 and sample 0 has size 2x7, and no planned size \(4x8, 8x4\) covers all of this batch\."
            r" Batch samples of one size together, or plan one of at least 7x7\.",
        ),
        (
            Pad(4),
            [torch.ones(2, 3), torch.ones(2, 4)],
            ShapeError,
            r"sample 0 has shape \(2, 3\), sample 1 \(2, 4\), expected equal",
        ),
        (Pad(4, 2), [torch.ones(2, 3)], ShapeError, r"sample 0 has shape \(2, 3\), but its rule pads dim 2\. Give Pad the dim="),
        (Pad((4, 4), (1, -1)), [torch.ones(2, 3)], ShapeError, r"sample 0 has shape \(2, 3\), but its rule pads dim 1, -1\."),
        (
            Pad(4),
            [torch.ones(2), torch.ones(2).long()],
            DtypeError,
            r"sample 0 is float32, sample 1 int64, expected one dtype in",
        ),
        (
            Pad(4, 0, 256),
            [torch.ones(2, dtype=torch.uint8)],
            DtypeError,
            r"sample 0 is uint8, which cannot hold the fill value 256",
        ),
        (Pad(4, 0, 0.5), [torch.ones(2).long()], DtypeError, r"sample 0 is int64, which cannot hold the fill value 0\.5\."),
        (Pad(4, 0, float("nan")), [[1]], DtypeError, r"sample 0 is int64, which cannot hold the fill value nan\."),
        (Pad(4, 0, 2), [torch.ones(2).bool()], DtypeError, r"sample 0 is bool, which cannot hold the fill value 2\."),
        (Pad(4, 0, 1e6), [torch.ones(2).half()], DtypeError, r"sample 0 is float16, which cannot hold the fill value 1000000"),
        (Pad(4), ["text"], DtypeError, r"sample 0 is a str that does not make a tensor \(.+\), expected a tensor, an array or a"),
        ({"a": Pad(4)}, [A, {}], TargetError, r"sample 0 has 'a', sample 1 has not\. Give it for every sample, or for none\."),
        ({}, [{"t": A}, {"t": {**A, "b": 1}}], TargetError, r"sample 1: t has 't\.b', sample 0: t has not\."),
        (
            {"b": Pad(4)},
            [A],
            TargetError,
            r"there is a rule for 'b', which sample 0 does not have \(it has \['a'\]\)\. Correct the rule's",
        ),
        ((Pad(4),), [(1, 2)], TargetError, r"sample 0 has 2 entries, its rules 1, expected one rule for each\. Give None for an"),
        ((), [(1, 2)], TargetError, r"sample 0 has 2 entries, its rules 0, expected one rule for each\."),
        (
            None,
            [(1, 2), (1,)],
            TargetError,
            r"sample 0 has 2 entries, sample 1 1, expected one count in a batch\. If it is a list",
        ),
        (None, [A, 3], TargetError, r"sample 0 is a dict, sample 1 a int, expected one structure in a batch\."),
        (None, [1, "x"], TargetError, r"sample 0 is a int, sample 1 a str, expected one type in a batch\."),
        (
            (Pad(4),),
            [A],
            TargetError,
            r"sample 0 is a dict, but the rules have a tuple there\. Rules have the structure of a sample",
        ),
        ({"a": Pad(4)}, [3], TargetError, r"sample 0 is a int, but the rules have a dict there\."),
    ],
)
def test_what_does_not_fit_is_named(rules, samples, error, message):
    with pytest.raises(error, match=f"^pad_ragged: {message}"):
        pad_ragged(rules)(samples)


def test_more_samples_than_the_batch_size_are_an_error():
    with pytest.raises(ShapeError, match=r"^pad_ragged: got 2 samples, expected at most batch_size=1\."):
        pad_ragged(None, batch_size=1)([1, 2])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: pad_ragged({"a": 4}), DtypeError, r"pad_ragged: a rule is 4, expected a Pad, or a dict or a tuple of them\."),
        (
            lambda: pad_ragged(None, batch_size=0),
            ShapeError,
            r"pad_ragged: batch_size is 0, expected a whole number of at least 1",
        ),
        (lambda: Pad(4, dim=()), ShapeError, r"Pad: dim is \(\), expected a whole number, or a tuple of different ones\."),
        (lambda: Pad(4, dim=(0, 0)), ShapeError, r"Pad: dim is \(0, 0\), expected"),
        (
            lambda: Pad((1, 2, 3), dim=(0, 1)),
            ShapeError,
            r"Pad: size is \(1, 2, 3\), expected a tuple of 2 whole numbers, or several",
        ),
        (lambda: Pad([(1, 2), 3], dim=(0, 1)), ShapeError, r"Pad: size is \[\(1, 2\), 3\], expected a tuple of 2"),
        (lambda: Pad((4, 0)), ShapeError, r"Pad: size is 0, expected a whole number of at least 1\."),
        (lambda: Pad(PLAN), ShapeError, r"Pad: size is a ShapePlan, which has two dimensions, but dim names 1\."),
    ],
)
def test_a_wrong_rule_is_named(make, error, message):
    with pytest.raises(error, match=f"^{message}"):
        make()


def test_the_caller_s_values_are_left_alone():
    sample = make_sample(8, 12, 3)
    before = pickle.dumps(sample)
    batch, _ = pad_ragged(RULES)([sample])
    batch["image"].zero_()
    batch["target"][0]["map"].zero_()
    assert pickle.dumps(sample) == before


def test_workers_make_the_same_batches():
    samples = Samples([make_sample(3 + n, 12 - n, n, seed=n) for n in range(5)])
    options = {"batch_size": 2, "collate_fn": pickle.loads(pickle.dumps(pad_ragged(RULES, batch_size=2)))}
    alone = list(DataLoader(samples, **options))
    helped = list(DataLoader(samples, num_workers=1, multiprocessing_context="fork", **options))
    for (batch, sizes), (other, other_sizes) in zip(alone, helped, strict=True):
        assert torch.equal(batch["image"], other["image"]) and other["image"].is_shared()
        assert torch.equal(batch["target"][0]["map"], other["target"][0]["map"])
        assert torch.equal(sizes["image"], other_sizes["image"]) and batch["name"] == other["name"]
