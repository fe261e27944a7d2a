"""What a sample of keys has in it, and what it would have found: computed and simulated."""

from __future__ import annotations

import random

import pytest

from esops.check.sample import Amount, Draw, amount, chance, in_words
from esops.errors import UsageError


@pytest.mark.parametrize(("keys", "share"), [(20_000, 0.01), (3_000, 0.2), (50_000, 0.02)])
def test_the_stated_probability_is_what_simulated_samples_find(keys, share):
    draws = random.Random(4)
    number = round(keys * share)
    rate = 0.001
    wrong = set(draws.sample(range(keys), max(1, round(rate * keys))))
    found = sum(not wrong.isdisjoint(draws.sample(range(keys), number)) for _ in range(200)) / 200
    stated = chance(rate, number, keys)
    deviation = (stated * (1 - stated) / 200) ** 0.5
    assert abs(found - stated) <= 4 * deviation + 1e-9


def test_the_samples_that_are_drawn_find_what_is_stated():
    keys = 5_000
    wrong = [(f"key-{each}",) for each in random.Random(5).sample(range(keys), 5)]
    found = sum(any(Draw(f"s{run}", 0.2).has(key) for key in wrong) for run in range(200)) / 200
    stated = chance(0.001, keys // 5, keys)
    assert abs(found - stated) <= 4 * (stated * (1 - stated) / 200) ** 0.5


def test_a_sample_has_about_its_share_and_the_same_keys_again():
    keys = [("tenant", str(each)) for each in range(20_000)]
    drawn = [key for key in keys if Draw("a", 0.01).has(key)]
    assert 140 < len(drawn) < 260
    assert drawn == [key for key in keys if Draw("a", 0.01).has(key)]
    assert drawn != [key for key in keys if Draw("b", 0.01).has(key)]
    assert all(Draw("a", 1.0).has(key) for key in keys)


def test_the_chance_at_the_ends():
    assert chance(0.001, 0, 1_000) == 0.0
    assert chance(0.001, 1_000, 1_000) == 1.0
    assert chance(0.001, 1, 1_000) == pytest.approx(0.001)
    assert chance(0.001, 1_000, None) == pytest.approx(1 - 0.999**1_000)
    assert chance(0.001, 10_000, 10**9) == pytest.approx(1 - 0.999**10_000, rel=1e-6)
    assert in_words(0.001, 0.999_999) == (
        "if 1 of 1,000 rows were wrong, this sample would have found one with a probability of "
        "99.99%"
    )


def test_the_amount_is_a_number_a_share_or_all():
    assert amount("1%", 10) == Amount(0.01)
    assert amount("all", 10**9) == Amount(1.0)
    assert amount("500", 1_000).of(1_000) == 0.5
    assert (amount(None, 100_000), amount(None, 100_001)) == (Amount(1.0), Amount(0.01))
    for wrong in ("0", "0%", "101%", "-1", "x", ""):
        with pytest.raises(UsageError, match="--sample"):
            amount(wrong, 10)
