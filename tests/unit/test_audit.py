"""Percentiles, histograms, budgets and the rules of modelling, on data made up here."""

from __future__ import annotations

import random
from collections import Counter
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esops.audit.budgets import BudgetBreach, Budgets
from esops.audit.distribution import Distribution
from esops.audit.estimate import estimate_from
from esops.audit.events import EventsAudit, EventType, _Ids
from esops.audit.modelling import RULES, StoreAudit, is_past, observe, words
from esops.audit.streams import StreamsAudit
from esops.cli.audit_text import _of_breach
from esops.errors import UsageError
from esops.settings import AuditSettings
from esops.stores.lengths import (
    LengthSample,
    SampledPage,
)

LENGTHS = st.lists(st.integers(1, 100_000), min_size=1, max_size=300)


def distribution(lengths) -> Distribution:
    found = Distribution()
    for length in lengths:
        found.add(length)
    return found


@given(
    LENGTHS,
    st.lists(st.sampled_from([0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0]), min_size=1),
)
def test_percentiles_are_those_of_numpy(lengths, shares):
    expected = [int(np.percentile(lengths, share * 100, method="inverted_cdf")) for share in shares]
    assert distribution(lengths).percentiles(shares) == expected


@given(LENGTHS)
def test_a_histogram_is_that_of_numpy_and_loses_nothing(lengths):
    found = distribution(lengths).histogram()
    edges = [low for low, *_ in found] + [found[-1][1] + 1]
    counts, _ = np.histogram(lengths, bins=edges)
    assert [streams for *_, streams, _ in found] == list(counts)
    assert sum(events for *_, events in found) == sum(lengths)
    assert all(high + 1 == low for (_, high, *_), (low, *_) in pairwise(found))


@given(LENGTHS)
def test_the_share_of_the_longest_is_counted_stream_by_stream(lengths):
    top = sorted(lengths, reverse=True)[: -(-len(lengths) // 100)]
    assert distribution(lengths).share_of_longest() == pytest.approx(sum(top) / sum(lengths))
    assert distribution(lengths).over(50) == sum(length > 50 for length in lengths)


def test_nothing_has_no_length():
    assert Distribution().as_dict(full=True)["histogram"] == []
    assert Distribution().as_dict(full=False)["p99"] == 0


def test_the_most_specific_budget_counts():
    settings = AuditSettings.model_validate(
        {"budgets": {"*": 1000, "cart*": {"length": 10}, "cart_old": {"bytes": 5}}}
    )
    budgets = Budgets(settings, "s")
    assert (
        budgets.budget_for("order").length,
        budgets.budget_for("cart_new").length,
        budgets.budget_for("cart_old").length,
    ) == (1000, 10, None)
    assert budgets.budget_for(None).length == 1000
    with pytest.raises(UsageError, match="open_for"):
        Budgets(AuditSettings.model_validate({"budgets": {"*": {"open_for": "30d"}}}), "s")


def test_a_budget_of_time_is_shown_as_a_time():
    month = timedelta(days=30).total_seconds()
    breach = BudgetBreach("cart-1", "cart", "open_for", month, month + 7200)
    assert (_of_breach(breach, "limit"), _of_breach(breach, "value")) == ("30 d", "30 d 2 h")
    longer = BudgetBreach("cart-1", "cart", "length", 1000, 1001)
    assert _of_breach(longer, "value") == 1001


@pytest.mark.parametrize(
    "name",
    [
        "OrderPlaced",
        "order-placed.v2",
        "shopping_cart_confirmed",
        "MoneyWithdrawn",
        "InvoicePaidEvent",
        "SMSSent",
    ],
)
def test_names_that_say_what_happened(name):
    assert is_past(name), words(name)


@pytest.mark.parametrize("name", ["PlaceOrder", "CustomerData", "NewsFeed", "Deposit", "cart"])
def test_names_that_do_not(name):
    assert not is_past(name), words(name)


def test_duplicates_are_found_also_when_only_a_share_of_ids_can_be_kept(monkeypatch):
    monkeypatch.setattr("esops.audit.events._IDS", 1_000)
    ids = _Ids()
    again = sum(ids.seen(f"id-{number % 4_000}") for number in range(8_000))
    assert ids.modulus >= 4
    assert again == pytest.approx(4_000 / ids.modulus, rel=0.35)
    assert not any(_Ids().seen(f"x{number}") for number in range(1_000))


def seen(*kinds: EventType, keys=None) -> StoreAudit:
    events = EventsAudit(
        "s",
        sum(kind.events for kind in kinds),
        {kind.name: kind for kind in kinds},
        keys=keys or {},
    )
    return StoreAudit(events, StreamsAudit("s", "", timedelta(days=7)))


def kind(name: str, *keys: str, **more) -> EventType:
    found = EventType(name, events=10, bytes=1_000, decoded=10, **more)
    found.shapes[tuple(sorted(keys))] = 10
    found.categories["customer"] = 10
    return found


def test_each_rule_of_names_and_payloads_sees_what_it_is_for_and_nothing_else():
    good = kind("OrderPlaced", "order_id", "lines", "total")
    bad = {
        "crud-events": [kind("CustomerUpdated", "id", "first", "last", "email", "phone", "vat")],
        "property-events": [
            kind(f"{name}Changed", "customer_id", name) for name in ("name", "email", "phone")
        ],
        "no-business-verb": [kind("CustomerData", "a")],
        "huge-payloads": [kind("PictureTaken", "a", largest=100_000)],
        "missing-correlation": [kind("OrderPlaced", "a", uncorrelated=10)],
        "missing-causation": [kind("OrderPlaced", "a", uncaused=10)],
    }
    assert observe(seen(good), {}) == []
    for rule, kinds in bad.items():
        found = {each.rule for each in observe(seen(*kinds), {})}
        assert found == {rule}, rule
        assert observe(seen(*kinds), {rule: False}) == []
    with pytest.raises(UsageError, match="no such rule"):
        observe(seen(good), {"crud-event": False})


def test_keys_that_may_be_personal():
    keys = {
        key: Counter({"OrderPlaced": 3})
        for key in ("email", "firstName", "iban", "street", "total", "sku", "ipAddress")
    }
    found = {
        each.subject
        for each in observe(seen(kind("OrderPlaced", "a"), keys=keys), {})
        if each.rule == "personal-data"
    }
    assert found == {"email", "firstName", "iban", "street", "ipAddress"}


def test_every_rule_says_who_wrote_about_it_and_is_explained():
    page = (Path(__file__).parents[2] / "docs/reference/modelling-rules.md").read_text()
    for name, rule in RULES.items():
        assert rule.source.startswith("https://")
        assert f"## {name}\n" in page
        assert rule.source in page


def test_estimates_hold_the_truth_as_often_as_they_say():
    """Over tables at random: streams of all lengths, their events anywhere; pages drawn as
    TABLESAMPLE does.
    """
    chance = random.Random(8)
    held = dict.fromkeys(("streams", "events", "p50", "p90"), 0)
    rounds = 60
    for _ in range(rounds):
        lengths = [max(1, int(chance.lognormvariate(1.5, 1.1))) for _ in range(2_000)]
        rows = [stream for stream, length in enumerate(lengths) for _ in range(length)]
        chance.shuffle(rows)
        pages = [rows[at : at + 20] for at in range(0, len(rows), 20)]
        drawn = [page for page in pages if chance.random() < 0.25]
        sample = [SampledPage("c", "", len(page), lengths[chance.choice(page)]) for page in drawn]
        guessed = estimate_from("s", LengthSample(0.25, sample, "")).summary
        truth = Distribution()
        for length in lengths:
            truth.add(length)
        p50, p90 = truth.percentiles([0.5, 0.9])
        for name, value in (
            ("streams", truth.streams),
            ("events", truth.events),
            ("p50", p50),
            ("p90", p90),
        ):
            held[name] += guessed[name].low <= value <= guessed[name].high
    assert all(count >= 0.87 * rounds for count in held.values()), held


def test_an_estimate_of_nothing_is_nothing():
    told = estimate_from("s", LengthSample(0.1, [], "a sample")).as_dict()
    assert told["summary"]["streams"] == {"value": 0, "low": 0, "high": 0}
    assert told["categories"] == []
