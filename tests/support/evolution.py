"""Eight years of a shop's events: 30 types whose payloads change over time, 120 shapes in all, and
which event was the first of each change. Also run by benchmarks.

Each type follows one of six plans, of four shapes each. A change is deployed while the old code
still runs: for a while, both write, in any order.
"""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import psycopg

from esops.demo import store

TYPES, SHAPES = 30, 120
CATEGORIES = ("order", "customer", "invoice", "shipment", "product", "return")
VERBS = ("opened", "changed", "confirmed", "corrected", "closed")
BEGAN, YEARS = datetime(2018, 3, 1, 8, tzinfo=UTC), 8
BOTH_WRITE = 0.004
"""For this share of the log after a change, old and new code write side by side."""
LIVE_STREAMS, EVENTS_OF_STREAM = 40, 12

Payload = dict[str, Any]


class Event(NamedTuple):
    """One event of the history."""

    position: int
    stream: str
    version: int
    type: str
    data: Payload
    metadata: Payload
    at: datetime


class Change(NamedTuple):
    """What `esops schema show` calls a change, and the event that it must find."""

    type: str
    """Without a suffix for its version."""
    kind: str
    path: str
    position: int
    stream: str
    version: int


@dataclass
class _Step:
    """One deployment."""

    make: Callable[[Payload, random.Random], None]
    """Makes a payload of the new code out of one of the code before."""
    changes: tuple[tuple[str, str], ...]
    """Kind and path of what it changes."""
    suffix: str = ""
    """What the name of the type gets."""
    shows: Callable[[Payload], bool] = lambda _: True
    """Whether a payload of the new code shows the change."""


def _put(
    path: str, value: Callable[[random.Random], Any]
) -> Callable[[Payload, random.Random], None]:
    def make(payload: Payload, chance: random.Random) -> None:
        *above, name = path.split(".")
        for each in above:
            payload = payload[each]
        payload[name] = value(chance)

    return make


def _drop(*path: str) -> Callable[[Payload, random.Random], None]:
    def make(payload: Payload, _: random.Random) -> None:
        for each in path[:-1]:
            payload = payload[each]
        del payload[path[-1]]

    return make


def _renamed(payload: Payload, _: random.Random) -> None:
    payload["comment"] = payload.pop("note")


def _discounts(payload: Payload, chance: random.Random) -> None:
    for item in payload["items"]:
        item["discount"] = chance.randrange(5)


def _sometimes_null(payload: Payload, chance: random.Random) -> None:
    if chance.random() < 0.3:
        payload["note"] = None


def _escalated(payload: Payload, chance: random.Random) -> None:
    if chance.random() < 0.3:
        payload["status"] = "escalated"


RENAMED = (("removed", "$.note"), ("added", "$.comment"))
PLANS: tuple[tuple[_Step, ...], ...] = (
    (
        _Step(_put("currency", lambda _: "EUR"), (("added", "$.currency"),)),
        _Step(_put("customer.phone", lambda _: "+49 30 1234"), (("added", "$.customer.phone"),)),
        _Step(_discounts, (("added", "$.items[*].discount"),)),
    ),
    (
        _Step(_drop("note"), (("removed", "$.note"),)),
        _Step(_drop("customer", "email"), (("removed", "$.customer.email"),)),
        _Step(_put("channel", lambda chance: chance.choice(["web", "app"])),
              (("added", "$.channel"),)),
    ),
    (
        _Step(_renamed, RENAMED),
        _Step(_put("amount", lambda chance: f"{chance.randrange(1000) / 10:.2f}"),
              (("type", "$.amount"),)),
        _Step(_put("tags", lambda chance: ["gift", "fast"][: chance.randrange(1, 3)]),
              (("added", "$.tags"),)),
    ),
    (
        _Step(_sometimes_null, (("nullable", "$.note"),), shows=lambda made: made["note"] is None),
        _Step(_escalated, (("values", "$.status"),),
              shows=lambda made: made["status"] == "escalated"),
        _Step(_put("priority", lambda chance: chance.randrange(3)), (("added", "$.priority"),)),
    ),
    (
        _Step(_put("currency", lambda _: "EUR"), (("added", "$.currency"),)),
        _Step(_renamed, RENAMED, suffix="_v2"),
        _Step(_put("channel", lambda _: "web"), (("added", "$.channel"),)),
    ),
    (
        _Step(_put("reference", lambda _: "R-17"), (("type", "$.reference"),)),
        _Step(_put("address", lambda _: {"street": "Main St 1", "city": "Bern"}),
              (("type", "$.address"),)),
        _Step(_put("source.system", lambda _: "erp"), (("added", "$.source.system"),)),
    ),
)  # fmt: skip
IN_METADATA = 5
"""The plan whose code writes the version of the schema into the metadata."""


def _first(chance: random.Random) -> Payload:
    """What the first code of every type writes."""
    return {
        "id": str(uuid.UUID(int=chance.getrandbits(128), version=4)),
        "amount": chance.randrange(10_000) / 100,
        "note": f"note {chance.randrange(1000)}",
        "status": chance.choice(["new", "paid", "sent"]),
        "reference": chance.randrange(1000),
        "address": "Main St 1, Bern",
        "customer": {"name": "Ann", "email": f"ann{chance.randrange(500)}@example.com"},
        "source": {"host": "web-1"},
        "items": [
            {"sku": f"sku-{chance.randrange(200)}", "quantity": chance.randrange(1, 5)}
            for _ in range(chance.randrange(1, 3))
        ],
    }


@dataclass
class Evolution:
    """A history, which is made as it is read, and then what changed in it."""

    events: int
    seed: int = 1
    changes: dict[tuple[str, str, str], Change] = field(default_factory=dict)
    """By type, kind and path, once all events were read."""
    counts: dict[str, int] = field(default_factory=dict)
    """Events of each stored type."""

    def made(self) -> Iterator[Event]:
        """All events, in the order of the log."""
        chance = random.Random(self.seed)
        types = [f"{c}_{verb}" for c in CATEGORIES for verb in VERBS]
        plans = {name: number % len(PLANS) for number, name in enumerate(sorted(types))}
        starts = {
            name: sorted(0.1 + 0.25 * step + chance.random() * 0.2 for step in range(3))
            for name in types
        }
        live: dict[str, list[tuple[str, int]]] = {each: [] for each in CATEGORIES}
        streams = dict.fromkeys(CATEGORIES, 0)
        span = timedelta(days=365.25 * YEARS)
        for number in range(1, self.events + 1):
            part = number / self.events
            name = chance.choice(types)
            category = name.partition("_")[0]
            old = sum(start + BOTH_WRITE <= part for start in starts[name])
            new = sum(start <= part for start in starts[name])
            done = old if old == new else chance.choice([old, new])
            steps = PLANS[plans[name]][:done]
            data, metadata = _first(chance), {}
            for step in steps:
                step.make(data, chance)
            if plans[name] == IN_METADATA:
                metadata["schemaVersion"] = str(done + 1)
            if len(live[category]) < LIVE_STREAMS:
                streams[category] += 1
                live[category].append((f"{category}-{streams[category]:07}", 0))
            at = chance.randrange(len(live[category]))
            stream, version = live[category][at]
            live[category][at] = (stream, version + 1)
            if version + 1 == EVENTS_OF_STREAM:
                del live[category][at]
            stored = name + "".join(step.suffix for step in steps)
            event = Event(number, stream, version + 1, stored, data, metadata, BEGAN + span * part)
            self.counts[stored] = self.counts.get(stored, 0) + 1
            self._note(name, PLANS[plans[name]], done, event)
            yield event

    def _note(self, name: str, plan: tuple[_Step, ...], done: int, event: Event) -> None:
        for number, step in enumerate(plan, 1):
            for kind, path in step.changes:
                key = (name, kind, path)
                if number > done:
                    if kind == "removed":  # the old code is still there
                        self.changes.pop(key, None)
                elif key not in self.changes and step.shows(event.data):
                    self.changes[key] = Change(
                        name, kind, path, event.position, event.stream, event.version
                    )


def load(connection: psycopg.Connection, evolution: Evolution, schema: str = "evolved") -> None:
    """Write a history into a store as Marten lays it out. The connection commits by itself."""
    store.create(connection, schema)
    connection.execute(f"ALTER TABLE {schema}.mt_events ADD COLUMN headers jsonb".encode())
    # Their foreign key is looked at once, not for each event.
    key = "mt_events_stream_id_fkey"
    connection.execute(f"ALTER TABLE {schema}.mt_events DROP CONSTRAINT {key}".encode())
    streams: dict[str, tuple[int, datetime]] = {}
    chance = random.Random(2)
    columns = "seq_id, id, stream_id, version, data, type, timestamp, headers"
    with connection.transaction():
        with (
            connection.cursor() as cursor,
            cursor.copy(f"COPY {schema}.mt_events ({columns}) FROM STDIN".encode()) as copy,
        ):
            for event in evolution.made():
                copy.write_row(
                    (
                        event.position,
                        uuid.UUID(int=chance.getrandbits(128), version=4),
                        event.stream,
                        event.version,
                        json.dumps(event.data),
                        event.type,
                        event.at,
                        json.dumps(event.metadata),
                    )
                )
                streams[event.stream] = (event.version, event.at)
        with (
            connection.cursor() as cursor,
            cursor.copy(
                f"COPY {schema}.mt_streams (id, version, timestamp) FROM STDIN".encode()
            ) as copy,
        ):
            for stream, (version, at) in streams.items():
                copy.write_row((stream, version, at))
        connection.execute(
            f"SELECT setval('{schema}.mt_events_sequence', {evolution.events})".encode()
        )
        connection.execute(
            f"ALTER TABLE {schema}.mt_events ADD CONSTRAINT {key} FOREIGN KEY (stream_id) "
            f"REFERENCES {schema}.mt_streams (id) ON DELETE CASCADE".encode()
        )
    connection.execute(f"VACUUM ANALYZE {schema}.mt_events, {schema}.mt_streams".encode())
