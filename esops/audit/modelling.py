"""`esops audit modelling`: rules of thumb about the events themselves, each with its evidence and
where it comes from.

They are observations for somebody who knows the domain. docs/reference/modelling-rules.md explains
each, and when to ignore it.
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
        ("name of a person", "^(first|last|sur|given|family|full|maiden|middle)[_ -]?name$"),
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
        ("network address of a person", "^(client|remote|user)?[_ -]?ip([_ -]?address)?$"),
        ("health or belief", "(diagnosis|religion|ethnic|gender)"),
    )
)
_MOST = 10


@dataclass(frozen=True)
class Observation:
    """What a rule saw."""

    rule: str
    subject: str
    evidence: str
    value: float
    source: str

    def as_dict(self) -> dict[str, Any]:
        """Under the documented field names, with where the rule is explained."""
        return {**vars(self), "explained": f"esops docs modelling-rules {self.rule}"}


@dataclass(frozen=True)
class StoreAudit:
    """What rules look at."""

    events: EventsAudit
    streams: StreamsAudit


Check = Callable[[StoreAudit, float], Iterator[tuple[str, str, float]]]


@dataclass(frozen=True)
class Rule:
    """A rule: how it looks, from which value on it speaks, and who wrote about it."""

    check: Check
    threshold: float
    source: str


def observe(seen: StoreAudit, rules: Mapping[str, bool | float]) -> list[Observation]:
    """Ask all rules that are not switched off. Raises UsageError for one that there is not."""
    for name in rules:
        if name not in RULES:
            raise UsageError(
                f"audit.rules.{name}: there is no such rule", hint=nearest(name, RULES)
            )
    found = []
    for name, rule in RULES.items():
        asked = rules.get(name, True)
        if asked is False:
            continue
        threshold = rule.threshold if asked is True else float(asked)
        found += [Observation(name, *each, rule.source) for each in rule.check(seen, threshold)]
    return found


def words(name: str) -> list[str]:
    """The words of an event type's name, however it is written, in lower case; a version at its end
    is none.
    """
    found = [word.lower() for word in _WORD.findall(name)]
    while found and (found[-1].isdigit() or found[-1] in ("v", "event")):
        found.pop()
    return found


def is_past(name: str) -> bool:
    """Whether a name says that something happened: a word in it is a past participle."""
    return any(
        (word.endswith("ed") and len(word) > 3 and word not in _NOT_PAST) or word in _IRREGULAR
        for word in words(name)
    )


def _crud(seen: StoreAudit, threshold: float) -> Iterator[tuple[str, str, float]]:
    for kind in seen.events.types.values():
        last = words(kind.name)[-1:]
        if not last or last[0] not in _CRUD:
            continue
        keys = max((len(shape) for shape in kind.shapes), default=0)
        if keys >= threshold:
            yield (
                kind.name,
                (
                    f"{kind.events:,} events; a payload has {keys} fields, as the whole state of a "
                    "thing would"
                ),
                float(keys),
            )


def _property(seen: StoreAudit, threshold: float) -> Iterator[tuple[str, str, float]]:
    by_category: dict[str | None, list[str]] = {}
    for kind in seen.events.types.values():
        parts = words(kind.name)
        fields = [key for shape in kind.shapes for key in shape if not _IDS.search(key)]
        if parts and parts[-1] in _SETTERS and kind.shapes and len(set(fields)) <= 2:
            for category in kind.categories:
                by_category.setdefault(category, []).append(kind.name)
    for category, names in by_category.items():
        if len(names) >= threshold:
            yield (
                category or "events",
                f"{len(names)} types change one field each: {_some(names)}",
                float(len(names)),
            )


def _no_verb(seen: StoreAudit, threshold: float) -> Iterator[tuple[str, str, float]]:
    for kind in seen.events.types.values():
        if kind.events >= threshold and not kind.name.startswith("$") and not is_past(kind.name):
            yield (
                kind.name,
                f"{kind.events:,} events whose name does not say what happened",
                float(kind.events),
            )


def _huge(seen: StoreAudit, threshold: float) -> Iterator[tuple[str, str, float]]:
    for kind in seen.events.types.values():
        if kind.largest > threshold:
            yield (
                kind.name,
                f"the largest has {kind.largest:,} bytes, the mean {kind.bytes // kind.events:,}",
                float(kind.largest),
            )


def _never_closing(seen: StoreAudit, threshold: float) -> Iterator[tuple[str, str, float]]:
    known = [info for info in seen.streams.longest if info.closed is not None]
    by_category: dict[str | None, list[bool]] = {}
    for info in known:
        by_category.setdefault(info.category, []).append(bool(info.closed))
    for category, closed in by_category.items():
        still = closed.count(False) / len(closed)
        if len(closed) >= 20 and still > threshold:
            yield (
                category or "streams",
                f"{closed.count(False):,} of the {len(closed):,} longest are not closed",
                round(still, 3),
            )


def _hot(seen: StoreAudit, threshold: float) -> Iterator[tuple[str, str, float]]:
    total = seen.streams.whole.events
    for info in seen.streams.longest[:_MOST]:
        if info.length >= 1_000 and info.length / total > threshold:
            yield (
                info.name,
                f"{info.length:,} of {total:,} events are in this one stream",
                round(info.length / total, 3),
            )


def _single(seen: StoreAudit, threshold: float) -> Iterator[tuple[str, str, float]]:
    for (category, _), each in seen.streams.categories.items():
        alone = each.counts[1] / each.streams
        if each.streams >= 100 and alone > threshold:
            yield (
                category or "streams",
                f"{each.counts[1]:,} of {each.streams:,} streams have one event",
                round(alone, 3),
            )


def _share(name: str, counted: Callable[[Any], int]) -> Check:
    def check(seen: StoreAudit, threshold: float) -> Iterator[tuple[str, str, float]]:
        decoded = sum(kind.decoded for kind in seen.events.types.values())
        missing = {kind.name: counted(kind) for kind in seen.events.types.values()}
        total = sum(missing.values())
        if decoded and total / decoded > threshold:
            worst = [kind for kind, count in Counter(missing).most_common(_MOST) if count]
            yield (
                "metadata",
                (
                    f"{total:,} of {decoded:,} events that were looked at have no {name}: "
                    f"{_some(worst)}"
                ),
                round(total / decoded, 3),
            )

    return check


def _backwards(seen: StoreAudit, threshold: float) -> Iterator[tuple[str, str, float]]:
    count = seen.events.backwards_count
    if count > threshold:
        yield (
            "clocks",
            (
                f"{count:,} events were recorded before the one before them in their stream, as in "
                f"{_some(seen.events.backwards)}"
            ),
            float(count),
        )


def _duplicates(seen: StoreAudit, threshold: float) -> Iterator[tuple[str, str, float]]:
    count = seen.events.duplicates_count
    if count > threshold:
        share = seen.events.ids_looked_at
        sample = "" if share == 1 else f" among {share:.1%} of all"
        yield (
            "ids",
            f"{count:,} ids occur again{sample}, as {_some(seen.events.duplicates)}",
            float(count),
        )


def _personal(seen: StoreAudit, threshold: float) -> Iterator[tuple[str, str, float]]:
    for what, pattern in _PERSONAL:
        for key, kinds in seen.events.keys.items():
            if pattern.search(key) and kinds.total() >= threshold:
                yield (
                    key,
                    (
                        f"may be the {what}; in "
                        f"{_some([kind for kind, _ in kinds.most_common(_MOST)])}"
                    ),
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
