"""`esops audit modelling`: rules of thumb about how events are modelled.

Each observation comes with its evidence and a source. They are meant for somebody who knows the
domain; docs/reference/modelling-rules.md explains each rule and when to ignore it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from esops.audit.events import EventsAudit
from esops.audit.streams import StreamsAudit
from esops.errors import UsageError, nearest
from esops.wording import count

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_CRUD = {"created", "updated", "deleted", "inserted", "modified", "saved", "edited"}
_SETTERS = {"changed", "updated", "set", "modified", "edited", "renamed"}
_IRREGULAR = {
    "begun", "bought", "broken", "built", "caught", "chosen", "cut", "done", "drawn", "driven",
    "fed", "felt", "fought", "found",
    "forgotten", "frozen", "given", "gone", "got", "gotten", "grown", "held", "hidden", "hit",
    "kept", "known", "laid", "left",
    "lent", "let", "lost", "made", "met", "paid", "put", "read", "reset", "risen", "run",
    "rung", "sent", "sold", "set", "shown",
    "shut", "sought", "spent", "split", "spoken", "stolen", "stood", "taken", "taught",
    "thrown", "told", "understood", "undone",
    "withdrawn", "withheld", "won", "worn", "written",
}  # fmt: skip
_NOT_PAST = {
    "need",
    "feed",
    "speed",
    "seed",
    "bed",
    "embed",
    "exceed",
    "proceed",
    "succeed",
    "breed",
    "shed",
    "wed",
    "bleed",
    "unneeded",
}
_IDS = re.compile(
    r"(^|[a-z_])(id|ids|uuid|key|at|on|date|time|timestamp|by|version)$", re.IGNORECASE
)
_PERSONAL = tuple(
    (what, re.compile(pattern, re.IGNORECASE))
    for what, pattern in (
        ("person's name", "^(first|last|sur|given|family|full|maiden|middle)[_ -]?name$"),
        ("mail address", "e[-_]?mail"),
        ("phone number", "(phone|mobile|msisdn)"),
        ("date of birth", "(birth|^dob$)"),
        (
            "postal address",
            (
                r"^(postal|home|billing|shipping)?[_ -]?"
                r"(address|street|zip|zip[_ -]?code|postcode)(line)?\d?$"
            ),
        ),
        (
            "number of an identity document",
            "(^ssn$|social[_ -]?security|passport|national[_ -]?id|driving[_ -]?licen|tax[_ -]?id)",
        ),
        ("bank or card number", "(^iban$|^bic$|card[_ -]?number|^pan$|account[_ -]?holder)"),
        ("person's network address", "^(client|remote|user)?[_ -]?ip([_ -]?address)?$"),
        ("statement about health or belief", "(diagnosis|religion|ethnic|gender)"),
    )
)
_MOST = 10

_Seen = tuple[str, str, float]
"""What an observation is about, its evidence, and the value that is above the threshold."""


@dataclass(frozen=True)
class Observation:
    """One thing that a rule noticed."""

    rule: str
    subject: str
    evidence: str
    value: float
    source: str

    def as_dict(self) -> dict[str, Any]:
        """The observation under the documented field names, with where its rule is explained."""
        return {**vars(self), "explained": f"esops docs modelling-rules {self.rule}"}


@dataclass(frozen=True)
class StoreAudit:
    """What the rules look at."""

    events: EventsAudit
    streams: StreamsAudit


Check = Callable[[StoreAudit, float], Iterator[_Seen]]


@dataclass(frozen=True)
class Rule:
    """A rule: its check, the default threshold, and who wrote about it."""

    check: Check
    threshold: float
    source: str


def observe(audit: StoreAudit, rules: Mapping[str, bool | float]) -> list[Observation]:
    """Apply all rules that are not switched off.

    `rules`: [audit.rules], which switches a rule off (false) or sets its threshold. Raises
    UsageError for a rule that does not exist.
    """
    for name in rules:
        if name not in RULES:
            raise UsageError(
                f"audit.rules.{name}: there is no such rule", hint=nearest(name, RULES)
            )
    found = []
    for name, rule in RULES.items():
        setting = rules.get(name, True)
        if setting is False:
            continue
        threshold = rule.threshold if setting is True else float(setting)
        found += [Observation(name, *each, rule.source) for each in rule.check(audit, threshold)]
    return found


def words(name: str) -> list[str]:
    """The words of an event type's name in lower case, without a version or "event" at its end."""
    found = [word.lower() for word in _WORD.findall(name)]
    # OrderPlacedV2, order_placed_event: the version and "event" say nothing about what happened.
    while found and (found[-1].isdigit() or found[-1] in ("v", "event")):
        found.pop()
    return found


def is_past(name: str) -> bool:
    """Whether a name says that something happened: one of its words is a past participle."""
    return any(
        (word.endswith("ed") and len(word) > 3 and word not in _NOT_PAST) or word in _IRREGULAR
        for word in words(name)
    )


def _crud(audit: StoreAudit, threshold: float) -> Iterator[_Seen]:
    for kind in audit.events.types.values():
        # CustomerUpdated with three fields may well be a fact of the domain. One with the whole
        # customer in it is a row of a table.
        last = words(kind.name)[-1:]
        if not last or last[0] not in _CRUD:
            continue
        keys = max((len(shape) for shape in kind.shapes), default=0)
        if keys >= threshold:
            yield (
                kind.name,
                (
                    f"{count(kind.events, 'event')}; a payload has {count(keys, 'field')}, which "
                    "looks like the whole state of an object"
                ),
                float(keys),
            )


def _property(audit: StoreAudit, threshold: float) -> Iterator[_Seen]:
    by_category: dict[str | None, list[str]] = {}
    for kind in audit.events.types.values():
        parts = words(kind.name)
        # Ids, times and versions accompany every event, and are not what it changes.
        fields = [key for shape in kind.shapes for key in shape if not _IDS.search(key)]
        if parts and parts[-1] in _SETTERS and kind.shapes and len(set(fields)) <= 2:
            for category in kind.categories:
                by_category.setdefault(category, []).append(kind.name)
    for category, names in by_category.items():
        if len(names) >= threshold:
            yield (
                category or "events",
                f"{count(len(names), 'type')} that change one field each: {_some(names)}",
                float(len(names)),
            )


def _no_verb(audit: StoreAudit, threshold: float) -> Iterator[_Seen]:
    for kind in audit.events.types.values():
        if kind.events >= threshold and not kind.name.startswith("$") and not is_past(kind.name):
            yield (
                kind.name,
                f"{count(kind.events, 'event')}; the name does not say what happened",
                float(kind.events),
            )


def _huge(audit: StoreAudit, threshold: float) -> Iterator[_Seen]:
    for kind in audit.events.types.values():
        if kind.largest > threshold:
            yield (
                kind.name,
                (
                    f"the largest payload has {kind.largest:,} bytes, the average "
                    f"{kind.bytes // kind.events:,}"
                ),
                float(kind.largest),
            )


def _never_closing(audit: StoreAudit, threshold: float) -> Iterator[_Seen]:
    known = [info for info in audit.streams.longest if info.closed is not None]
    by_category: dict[str | None, list[bool]] = {}
    for info in known:
        by_category.setdefault(info.category, []).append(bool(info.closed))
    for category, closed in by_category.items():
        still = closed.count(False) / len(closed)
        # Among a few streams, a share says nothing.
        if len(closed) >= 20 and still > threshold:
            yield (
                category or "streams",
                f"{closed.count(False):,} of the {len(closed):,} longest streams are not closed",
                round(still, 3),
            )


def _hot(audit: StoreAudit, threshold: float) -> Iterator[_Seen]:
    total = audit.streams.whole.events
    for info in audit.streams.longest[:_MOST]:
        # In a small store, a normal stream can be a tenth of all events.
        if info.length >= 1_000 and info.length / total > threshold:
            yield (
                f"{info.tenant}/{info.name}" if info.tenant else info.name,
                f"{info.length:,} of {total:,} events are in this one stream",
                round(info.length / total, 3),
            )


def _single(audit: StoreAudit, threshold: float) -> Iterator[_Seen]:
    for (category, _), each in audit.streams.categories.items():
        share = each.counts[1] / each.streams
        # Among a few streams, a share says nothing.
        if each.streams >= 100 and share > threshold:
            yield (
                category or "streams",
                f"{each.counts[1]:,} of {each.streams:,} streams have a single event",
                round(share, 3),
            )


def _share(name: str, counted: Callable[[Any], int]) -> Check:
    """A rule about the share of sampled events that lack an id; `counted` counts one type's."""

    def check(audit: StoreAudit, threshold: float) -> Iterator[_Seen]:
        decoded = sum(kind.decoded for kind in audit.events.types.values())
        missing = {kind.name: counted(kind) for kind in audit.events.types.values()}
        total = sum(missing.values())
        if decoded and total / decoded > threshold:
            worst = [kind for kind, number in Counter(missing).most_common(_MOST) if number]
            yield (
                "metadata",
                f"{total:,} of {decoded:,} sampled events have no {name}: {_some(worst)}",
                round(total / decoded, 3),
            )

    return check


def _backwards(audit: StoreAudit, threshold: float) -> Iterator[_Seen]:
    number = audit.events.backwards_count
    if number > threshold:
        yield (
            "clocks",
            (
                f"{count(number, 'event was', 'events were')} recorded earlier than the event "
                f"before in the same stream, for example in {_some(audit.events.backwards)}"
            ),
            float(number),
        )


def _duplicates(audit: StoreAudit, threshold: float) -> Iterator[_Seen]:
    number = audit.events.duplicates_count
    if number > threshold:
        share = audit.events.ids_looked_at
        sample = "" if share == 1 else f" in a sample of {share:.1%} of all ids"
        yield (
            "ids",
            (
                f"{count(number, 'id occurs', 'ids occur')} more than once{sample}, for example "
                f"{_some(audit.events.duplicates)}"
            ),
            float(number),
        )


def _personal(audit: StoreAudit, threshold: float) -> Iterator[_Seen]:
    for what, pattern in _PERSONAL:
        for key, kinds in audit.events.keys.items():
            if pattern.search(key) and kinds.total() >= threshold:
                yield (
                    key,
                    f"may be a {what}; in {_some([kind for kind, _ in kinds.most_common(_MOST)])}",
                    float(kinds.total()),
                )


def _some(names: list[str]) -> str:
    more = len(names) - 5
    return ", ".join(names[:5]) + (f" and {more} more" if more > 0 else "")


_DUDYCZ = "https://event-driven.io/en"
RULES: dict[str, Rule] = {
    "crud-events": Rule(_crud, 5, f"{_DUDYCZ}/state-obsession/"),
    "property-events": Rule(_property, 3, f"{_DUDYCZ}/property-sourcing/"),
    "no-business-verb": Rule(_no_verb, 1, f"{_DUDYCZ}/anti-patterns"),
    "huge-payloads": Rule(_huge, 65_536, f"{_DUDYCZ}/anti-patterns"),
    "never-closing": Rule(_never_closing, 0.9, f"{_DUDYCZ}/should_you_always_keep_streams_short/"),
    "hot-streams": Rule(_hot, 0.1, f"{_DUDYCZ}/should_you_always_keep_streams_short/"),
    "single-event-streams": Rule(_single, 0.5, f"{_DUDYCZ}/should_you_always_keep_streams_short/"),
    "missing-correlation": Rule(
        _share("correlation id", lambda kind: kind.uncorrelated),
        0.5,
        "https://www.w3.org/TR/trace-context/",
    ),
    "missing-causation": Rule(
        _share("causation id", lambda kind: kind.uncaused),
        0.5,
        "https://www.w3.org/TR/trace-context/",
    ),
    "clock-backwards": Rule(_backwards, 0, "https://martinfowler.com/eaaDev/EventSourcing.html"),
    "duplicate-ids": Rule(_duplicates, 0, "https://martinfowler.com/eaaDev/EventSourcing.html"),
    "personal-data": Rule(
        _personal, 1, "https://www.michielrook.nl/2017/11/forget-me-please-event-sourcing-gdpr/"
    ),
}
