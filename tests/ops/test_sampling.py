"""The sampler: its counts, its law, and torchvision's own choice where both draw the same."""

from __future__ import annotations

import math
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from fixshape.errors import DtypeError, ShapeError
from fixshape.ops import balanced_sample

SEEDS = st.integers(0, 2**31)
FRACTIONS = st.sampled_from([0.0, 0.25, 0.5, 1.0, 1 / 3])


def draw(seed, *shape):
    """Labels of every kind, an anchor or proposal being real more often than not."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(3, generator=generator) + 0.02
    labels = torch.multinomial(share, math.prod(shape), replacement=True, generator=generator).reshape(shape) - 1
    labels = torch.where(labels > 0, torch.randint(1, 5, shape, generator=generator), labels)
    return labels, torch.rand(shape, generator=generator) < 0.8, generator


def dynamic_sample(labels, keys, size, fraction):
    """torchvision's own sampler on one image; its permutations are the orders of the keys, so that the smallest ones win."""
    orders = iter([keys[labels >= 1].argsort(), keys[labels == 0].argsort()])
    with mock.patch("torch.randperm", lambda n, device: next(orders)):
        (positive,), (negative,) = BalancedPositiveNegativeSampler(size, fraction)([labels])
    return positive.nonzero()[:, 0].tolist(), negative.nonzero()[:, 0].tolist()


def check_counts(labels, valid, size, fraction, sample):
    """Asserts what holds for every choice; gives the chosen entries of each image."""
    indices, positive, chosen = sample
    assert indices.shape == positive.shape == chosen.shape == (*labels.shape[:-1], size)
    assert (indices.dtype, positive.dtype, chosen.dtype) == (torch.int64, torch.bool, torch.bool)
    result = []
    for row_labels, row_valid, row_indices, row_positive, row_chosen in zip(labels, valid, *sample, strict=True):
        positives = min(int(((row_labels >= 1) & row_valid).sum()), int(size * fraction))
        negatives = min(int(((row_labels == 0) & row_valid).sum()), size - positives)
        missing = size - positives - negatives
        assert row_positive.tolist() == [True] * positives + [False] * (size - positives)
        assert row_chosen.tolist() == [True] * (positives + negatives) + [False] * missing
        taken = row_indices[row_chosen]
        assert row_valid[taken].all() and len(taken.unique()) == len(taken)
        assert (row_labels[taken[:positives]] >= 1).all() and (row_labels[taken[positives:]] == 0).all()
        assert row_indices[~row_chosen].tolist() == [0] * missing
        result.append((sorted(taken[:positives].tolist()), sorted(taken[positives:].tolist())))
    return result


@given(st.integers(1, 40), st.integers(1, 30), FRACTIONS, SEEDS)
def test_the_choice_is_torchvisions_with_the_same_keys(entries, size, fraction, seed):
    labels, valid, generator = draw(seed, 3, entries)
    keys = torch.stack([torch.randperm(entries, generator=generator) for _ in range(3)]).float()
    sample = balanced_sample(labels, size, fraction, valid_mask=valid, keys=keys)
    want = [
        dynamic_sample(torch.where(row_valid, row_labels, -1), row_keys, size, fraction)
        for row_labels, row_valid, row_keys in zip(labels, valid, keys, strict=True)
    ]
    assert check_counts(labels, valid, size, fraction, sample) == want


def test_the_comparison_fails_for_the_largest_keys():
    """The oracle at work."""
    labels, keys = torch.tensor([0, 1, 1, 0, 0]), torch.arange(5.0)
    for broken in (False, True):
        sample = balanced_sample(labels[None], 2, 0.5, keys=-keys[None] if broken else keys[None])
        found = check_counts(labels[None], labels[None] > -1, 2, 0.5, sample)
        assert (found == [dynamic_sample(labels, keys, 2, 0.5)]) is not broken


@given(st.integers(1, 40), st.integers(1, 30), FRACTIONS, SEEDS, st.integers(1, 4))
def test_counts_are_exact_where_keys_collide(entries, size, fraction, seed, kinds):
    labels, valid, generator = draw(seed, 3, entries)
    keys = torch.randint(0, kinds, (3, entries), generator=generator).double()
    check_counts(labels, valid, size, fraction, balanced_sample(labels, size, fraction, valid_mask=valid, keys=keys))


@given(st.integers(1, 40), st.integers(1, 30), FRACTIONS, SEEDS)
def test_counts_are_exact_for_drawn_keys(entries, size, fraction, seed):
    labels, valid, generator = draw(seed, 3, entries)
    sample = balanced_sample(labels.float(), size, fraction, valid_mask=valid, generator=generator)
    check_counts(labels, valid, size, fraction, sample)


def test_fewer_candidates_than_slots_are_all_taken():
    labels = torch.tensor([[1, 0, -1, 0], [-1, -1, -1, -1]])
    sample = balanced_sample(labels, 8, 0.5)
    assert check_counts(labels, labels > -9, 8, 0.5, sample) == [([0], [1, 3]), ([], [])]


@pytest.mark.parametrize("garbage", [math.nan, math.inf, 1.0, 0.0, 0.5])
def test_padding_may_hold_anything(garbage):
    labels, valid, generator = draw(1, 2, 50)
    keys = torch.rand(2, 50, generator=generator)
    want = balanced_sample(labels.float(), 9, 0.5, valid_mask=valid, keys=keys)
    poisoned = torch.where(valid, labels.float(), garbage), torch.where(valid, keys, garbage)
    got = balanced_sample(poisoned[0], 9, 0.5, valid_mask=valid, keys=poisoned[1])
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_a_number_between_negative_and_positive_is_ignored_as_in_torchvision():
    labels = torch.tensor([0.5, 1.0, 0.0, -0.5, math.nan])
    assert balanced_sample(labels, 5, 0.5, keys=torch.zeros(5)).indices.tolist() == [1, 2, 0, 0, 0]
    assert dynamic_sample(labels, torch.zeros(5), 5, 0.5) == ([1], [2])


def chi_square(sample):
    """Of the joint choice of 2 of 5 positives and 4 of 6 negatives against all 150 being equally likely."""
    chosen = torch.zeros(len(sample.indices), 11).scatter(1, sample.indices, 1)
    _, counts = chosen.unique(dim=0, return_counts=True)
    expected = len(chosen) / 150
    return ((counts - expected).square().sum().item() + (150 - len(counts)) * expected**2) / expected


def test_every_choice_is_equally_likely():
    """208 is what chance exceeds once in a thousand with 149 degrees of freedom; the seed is fixed."""
    labels = torch.tensor([0, 1, 0, 1, 0, 1, 1, 0, 0, 1, 0]).expand(30000, 11)
    assert chi_square(balanced_sample(labels, 6, 1 / 3, generator=torch.Generator().manual_seed(0))) < 208
    uneven = torch.rand(30000, 11, generator=torch.Generator().manual_seed(0)) ** torch.linspace(1, 1.2, 11)
    assert chi_square(balanced_sample(labels, 6, 1 / 3, keys=uneven)) > 208  # the oracle at work


def test_a_generator_repeats_the_choice_and_leaves_the_default_one_alone():
    labels = torch.zeros(2, 1000, dtype=torch.int64)
    state = torch.get_rng_state()
    first, second, other = (
        balanced_sample(labels, 20, 0.5, generator=torch.Generator().manual_seed(seed)).indices for seed in (3, 3, 4)
    )
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first[0], first[1])  # images draw apart


def test_without_a_generator_the_default_one_draws():
    labels = torch.zeros(1000, dtype=torch.int64)
    torch.manual_seed(3)
    first = balanced_sample(labels, 20, 0.5)
    torch.manual_seed(3)
    assert torch.equal(balanced_sample(labels, 20, 0.5).indices, first.indices)


def test_drawing_the_keys_is_static_too():
    def draw_sample(labels):
        return balanced_sample(labels, 6, 0.5)

    labels, valid, _ = draw(0, 2, 30)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert draw_sample(mode.from_tensor(labels)).indices.shape == (2, 6)
    torch._dynamo.reset()
    compiled = torch.compile(draw_sample, fullgraph=True, dynamic=False, backend="aot_eager")
    first, second = compiled(labels), compiled(labels)
    torch._dynamo.reset()
    check_counts(labels, torch.ones_like(valid), 6, 0.5, first)
    assert not torch.equal(first.indices, second.indices)  # the draw is not frozen into the graph


def test_wrong_arguments_are_named():
    labels, keys = torch.zeros(2, 3), torch.zeros(2, 3)
    with pytest.raises(ShapeError, match=r"^balanced_sample: labels has shape \(\), expected \(N,\)\.$"):
        balanced_sample(torch.tensor(1), 4, 0.5)
    with pytest.raises(ShapeError, match=r"^balanced_sample: N is 0, expected a whole number of at least 1\.$"):
        balanced_sample(labels[:, :0], 4, 0.5)
    with pytest.raises(ShapeError, match=r"^balanced_sample: size is 0, expected a whole number of at least 1\.$"):
        balanced_sample(labels, 0, 0.5)
    with pytest.raises(ShapeError, match=r"^balanced_sample: positive_fraction is 1\.5, expected a number in \[0, 1\]\.$"):
        balanced_sample(labels, 4, 1.5)
    with pytest.raises(ShapeError, match=r"^balanced_sample: valid_mask has shape \(3,\), expected \(2, 3\)\. It must"):
        balanced_sample(labels, 4, 0.5, valid_mask=torch.ones(3, dtype=torch.bool))
    with pytest.raises(DtypeError, match=r"^balanced_sample: valid_mask has dtype torch\.float32, expected torch\.bool\."):
        balanced_sample(labels, 4, 0.5, valid_mask=torch.ones(2, 3))
    with pytest.raises(ShapeError, match=r"^balanced_sample: keys has shape \(3,\), expected \(2, 3\)\. It must"):
        balanced_sample(labels, 4, 0.5, keys=keys[0])
    with pytest.raises(DtypeError, match=r"^balanced_sample: keys has dtype torch\.int64, expected floating point\. Use keys\."):
        balanced_sample(labels, 4, 0.5, keys=keys.long())
    with pytest.raises(ShapeError, match=r"^balanced_sample: both keys and generator are given, expected one: keys are what"):
        balanced_sample(labels, 4, 0.5, keys=keys, generator=torch.Generator())
