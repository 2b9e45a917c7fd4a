"""PadSequences and its masks: for torch, transformers and torchaudio, at any length."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import pad_sequence, unpad_sequence
from torch.utils.data import DataLoader

from fixshape.collate import PadSequences, key_padding_mask, valid_mask
from fixshape.errors import BucketError, DtypeError, ShapeError, TargetError
from tests.collate.samples import Samples

ENDS = (4, 9, 16)
lengths_of_a_batch = st.lists(st.integers(0, ENDS[-1]), min_size=1, max_size=5)


def smallest(lengths):
    return min(end for end in ENDS if end >= max(lengths))


def made(lengths, *trailing, dtype=torch.float32):
    """Sequences without zeros, so that padding shows."""
    return [(torch.rand(length, *trailing) * 50 + 1).to(dtype) for length in lengths]


@settings(deadline=None, max_examples=60)
@given(lengths_of_a_batch, st.sampled_from([torch.int64, torch.float32, torch.float16, torch.uint8]), st.booleans())
def test_values_are_those_of_pad_sequence_at_the_smallest_end_that_covers(lengths, dtype, features):
    samples = made(lengths, *([3] if features else []), dtype=dtype)
    values, got = PadSequences(ENDS, padding_value=7)(samples)
    end = smallest(lengths)
    # torch pads to the longest: one more sequence as long as the bucket makes it pad to that.
    wanted = pad_sequence([*samples, samples[0].new_zeros(end, *samples[0].shape[1:])], batch_first=True, padding_value=7)[:-1]
    assert values.dtype == dtype and values.shape[1] == end
    assert torch.equal(values, wanted)
    assert got.dtype == torch.int64 and got.tolist() == lengths


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, ENDS[-1]), min_size=1, max_size=5))
def test_unpadding_gives_the_samples_back(lengths):
    samples = made(lengths, 2)
    for again, sample in zip(unpad_sequence(*PadSequences(ENDS)(samples), batch_first=True), samples, strict=True):
        assert torch.equal(again, sample)


@settings(deadline=None, max_examples=40)
@given(lengths_of_a_batch, st.integers(1, 3))
def test_waveforms_have_their_time_last(lengths, channels):
    samples = [torch.rand(channels, length) + 1 for length in lengths]
    values, got = PadSequences(ENDS, dim=-1)(samples)
    assert values.shape == (len(lengths), channels, smallest(lengths))
    for row, sample in enumerate(samples):
        assert torch.equal(values[row, :, : got[row]], sample) and not values[row, :, got[row] :].any()


def test_an_aligned_batch_comes_out_as_it_went_in():
    samples = made([9, 9], 2)
    assert torch.equal(PadSequences(ENDS)(samples)[0], torch.stack(samples))


def test_there_are_as_many_shapes_as_ends():
    shapes = {PadSequences(ENDS)(made([length, 1]))[0].shape for length in range(ENDS[-1] + 1)}
    assert shapes == {(2, end) for end in ENDS}


def test_a_sequence_above_the_largest_end_is_named_with_the_way_out():
    message = (
        r"^PadSequences: sample 1 has size 17, larger than every planned one \(4, 9, 16\)\. Cut it in the data set, or plan an"
        r" end that covers it \(fixshape\.plan\.plan_lengths\)\.$"
    )
    with pytest.raises(BucketError, match=message):
        PadSequences(ENDS)(made([3, 17]))
    with pytest.raises(BucketError, match=r"sample 0: input_ids has size 17"):
        PadSequences(ENDS, padding_value={"input_ids": 0})([{"input_ids": [1] * 17}])


def test_one_length_is_fine_and_fillers_complete_the_batch():
    values, lengths = PadSequences(5, batch_size=3, padding_value=-1)(made([2], 3))
    assert values.shape == (3, 5, 3) and (values[0, 2:] == -1).all() and (values[1:] == -1).all()
    assert lengths.tolist() == [2, 0, 0]


ROWS = [
    {"input_ids": [5, 6, 7, 8, 9], "labels": [5, -100, 7, 8, 9], "weight": 0.5, "text": "five"},
    {"input_ids": [1], "labels": [1], "weight": 2.0, "text": "one"},
    {"input_ids": [], "labels": [], "weight": 1.0, "text": ""},
]


def test_dicts_become_what_a_transformers_model_takes():
    batch = PadSequences(ENDS, padding_value={"input_ids": 3, "labels": -100})(ROWS)
    assert list(batch) == ["input_ids", "labels", "weight", "text", "attention_mask"]
    assert batch["input_ids"].dtype == batch["labels"].dtype == batch["attention_mask"].dtype == torch.int64
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9, 3, 3, 3, 3], [1] + [3] * 8, [3] * 9]
    assert batch["labels"].tolist() == [[5, -100, 7, 8, 9] + [-100] * 4, [1] + [-100] * 8, [-100] * 9]
    assert batch["attention_mask"].tolist() == [[1] * 5 + [0] * 4, [1] + [0] * 8, [0] * 9]
    assert batch["weight"].tolist() == [0.5, 2.0, 1.0] and batch["text"] == ["five", "one", ""]


def test_ignored_labels_make_the_loss_of_the_unpadded_rows():
    torch.manual_seed(0)
    table = torch.rand(10, 10, dtype=torch.float64)
    batch = PadSequences(ENDS, batch_size=4, padding_value={"input_ids": 0, "labels": -100})(ROWS[:2])
    loss = nn.functional.cross_entropy(table[batch["input_ids"]].flatten(0, 1), batch["labels"].flatten())
    ids, labels = (torch.tensor(ROWS[0][key] + ROWS[1][key]) for key in ("input_ids", "labels"))
    torch.testing.assert_close(loss, nn.functional.cross_entropy(table[ids], labels), rtol=1e-12, atol=0)


def test_an_attention_mask_of_the_samples_is_kept():
    rows = [{"input_ids": [0, 0, 5], "attention_mask": [0, 0, 1]}, {"input_ids": [5], "attention_mask": [1]}]
    batch = PadSequences(4, padding_value={"input_ids": 9}, batch_size=3)(rows)
    assert batch["attention_mask"].tolist() == [[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]


def test_dicts_of_waveforms_get_their_mask_over_time():
    batch = PadSequences((8, 16), dim=-1, padding_value={"input_values": 0})([{"input_values": np.ones((2, 9), np.float32)}])
    assert batch["input_values"].shape == (1, 2, 16) and batch["attention_mask"].sum() == 9


def test_sequences_of_one_sample_have_one_length():
    message = (
        r"^PadSequences: sample 1 has 2 positions of input_ids, but 3 of labels, expected one length\."
        r" Where each key has its own, use pad_ragged with a rule for each\.$"
    )
    rows = [{"input_ids": [1], "labels": [1]}, {"input_ids": [1, 2], "labels": [1, 2, 3]}]
    with pytest.raises(ShapeError, match=message):
        PadSequences(ENDS, padding_value={"input_ids": 0, "labels": -100})(rows)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lengths": 0}, ShapeError, r"^Pad: size is 0, expected a whole number of at least 1\."),
        ({"lengths": ()}, ShapeError, r"^Pad: size is \(\), expected a whole number, or several\."),
        ({"lengths": 4, "batch_size": 0}, ShapeError, r"^PadSequences: batch_size is 0, expected a whole number of at least 1\."),
        ({"lengths": 4, "dim": 0.5}, ShapeError, r"^PadSequences: dim is 0\.5, expected a whole number\."),
        ({"lengths": 4, "padding_value": {}}, ShapeError, r"^PadSequences: padding_value is empty, expected the keys"),
        ({"lengths": 4, "padding_value": "0"}, DtypeError, r"^Pad: fill_value is '0', expected a number\."),
    ],
)
def test_a_wrong_argument_is_named(options, error, message):
    with pytest.raises(error, match=message):
        PadSequences(**options)


def test_what_samples_are_must_fit_the_padding_value():
    with pytest.raises(TargetError, match=r"^PadSequences: got an empty batch, expected at least one sample\."):
        PadSequences(4)([])
    with pytest.raises(TargetError, match=r"sample 0 is a dict, and padding_value does not say which keys are sequences\. Give"):
        PadSequences(4)(ROWS)
    with pytest.raises(
        TargetError, match=r"PadSequences: there is a rule for 'ids', which sample 0 does not have \(it has \['input_ids',"
    ):
        PadSequences(4, padding_value={"ids": 0})(ROWS)
    with pytest.raises(ShapeError, match=r"PadSequences: got 3 samples, expected at most batch_size=2\."):
        PadSequences(4, batch_size=2)(made([1, 1, 1]))
    with pytest.raises(ShapeError, match=r"sample 0: labels has shape \(5,\), sample 1: labels \(1,\), and no rule says"):
        PadSequences(9, padding_value={"input_ids": 0})([{"input_ids": torch.ones(n), "labels": torch.ones(n)} for n in (5, 1)])
    with pytest.raises(DtypeError, match=r"sample 0 is uint8, which cannot hold the fill value -100\. Convert it"):
        PadSequences(4, padding_value=-100)(made([1], dtype=torch.uint8))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=4))
def test_the_masks_say_which_positions_are_real(lengths):
    valid, padding = valid_mask(torch.tensor(lengths), 6), key_padding_mask(torch.tensor(lengths), 6)
    assert valid.dtype == padding.dtype == torch.bool
    for row, length in enumerate(lengths):
        assert valid[row].tolist() == [True] * length + [False] * (6 - length)
        assert padding[row].tolist() == [False] * max(length, 1) + [True] * (6 - max(length, 1))


@pytest.mark.parametrize("mask", [valid_mask, key_padding_mask])
def test_a_mask_takes_one_length_per_row(mask):
    with pytest.raises(ShapeError, match=rf"^{mask.__name__}: lengths has shape \(2, 1\), expected \(B,\)\."):
        mask(torch.ones(2, 1), 4)
    with pytest.raises(ShapeError, match=r"size is 0, expected a whole number of at least 1\."):
        mask(torch.ones(2), 0)


def test_attention_over_padded_rows_is_that_of_the_rows_alone_and_fillers_leave_no_nan():
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(4, 2, batch_first=True, dtype=torch.float64)
    samples = [torch.rand(length, 4, dtype=torch.float64) for length in (3, 5)]
    values, lengths = PadSequences(8, batch_size=3)(samples)
    out, _ = attention(values, values, values, key_padding_mask=key_padding_mask(lengths, 8))
    for row, sample in enumerate(samples):
        alone, _ = attention(sample[None], sample[None], sample[None])
        torch.testing.assert_close(out[row, : len(sample)], alone[0], rtol=1e-12, atol=1e-12)
    out[valid_mask(lengths, 8)].sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in attention.parameters())
    attention.zero_grad()
    naive, _ = attention(values, values, values, key_padding_mask=~valid_mask(lengths, 8))
    naive[valid_mask(lengths, 8)].sum().backward()
    assert any(parameter.grad.isnan().any() for parameter in attention.parameters())  # what the kept position is for


class Told:
    """A collate function, and whether its tensors lay in shared memory before they were sent."""

    def __init__(self, collate):
        self.collate = collate

    def __call__(self, samples):
        batch = self.collate(samples)
        return batch, [value.is_shared() for value in batch.values() if isinstance(value, torch.Tensor)]


def test_workers_make_the_same_batches_in_shared_memory():
    told = Told(PadSequences(ENDS, padding_value={"input_ids": 0, "labels": -100}, batch_size=2))
    options = {"batch_size": 2, "collate_fn": told}
    alone = list(DataLoader(Samples(ROWS), **options))
    helped = list(DataLoader(Samples(ROWS), num_workers=1, multiprocessing_context="fork", **options))
    for (batch, _), (other, shared) in zip(alone, helped, strict=True):
        assert batch.keys() == other.keys() and shared[:2] == [True, True]
        for key, value in batch.items():
            assert torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key]


def test_a_pickled_copy_makes_the_same_batch():
    pad = PadSequences(ENDS, batch_size=3)
    assert repr(pad).startswith("PadSequences(Pad(sizes=((4,), (9,), (16,)), dims=(0,), fill_value=0")
    samples = made([2, 3])
    assert torch.equal(pickle.loads(pickle.dumps(pad))(samples)[0], pad(samples)[0])
