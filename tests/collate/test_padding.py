"""How much of a batch is padding, counted."""

from __future__ import annotations

import pytest

from fixshape.collate import PaddingCounts, PadToBucket, padding_fractions
from fixshape.plan import Bucket
from tests.collate.samples import make_sample


def test_fillers_and_strips_and_empty_slots_are_padding():
    counts = padding_fractions(*PadToBucket(Bucket(24, 32, 4), batch_size=3)([make_sample(20, 30, 2), make_sample(24, 32, 4)]))
    assert counts == PaddingCounts(20 * 30 + 24 * 32, 3 * 24 * 32, 6, 12)
    assert counts.pixels == pytest.approx(1 - 1368 / 2304)
    assert counts.slots == 0.5


def test_an_exact_fit_has_no_padding():
    counts = padding_fractions(*PadToBucket((20, 30), max_boxes=2)([make_sample(20, 30, 2)]))
    assert (counts.pixels, counts.slots) == (0, 0)


def test_the_sum_of_no_batches_is_a_number():
    assert (PaddingCounts(0, 0, 0, 0).pixels, PaddingCounts(0, 0, 0, 0).slots) == (0, 0)
