"""Streams without their first events, drawn at random, as the server finds them: in all variants of
a layout that compacts, where a stream's name may stand for one in each tenant, and for an archived
one beside another; and in a layout that does not.
"""

from __future__ import annotations

import json
import random
import uuid
from collections import defaultdict

import pytest

from esops.events import EventFilter, Position
from esops.settings import PostgresSettings
from esops.stores import open_store
from tests.support import marten, messagedb
from tests.support.cases import thorough_but

SNAPSHOT = "compacted<cart>"
NONE = ("compacted", "xcompacted<cart>", "a < compacted<b")
"""Types of events that are no snapshots."""
VARIANTS = {
    "plain": marten.Variant(),
    "text": marten.Variant(text_ids=True),
    "conjoined": marten.Variant(text_ids=True, conjoined=True),
    "partitioned": marten.Variant(partitioned=True),
    "both": marten.Variant(text_ids=True, conjoined=True, partitioned=True),
}


def drawn(chance: random.Random, numbers, v: marten.Variant):
    """Some streams: tenant, name, whether archived, and (position, version, type) of each event."""
    for number in range(chance.choice([0, 1, 12])):
        stream = f"cart-{number}" if v.text_ids else str(uuid.UUID(int=number + 1))
        tenants = ["a", "b"] if v.conjoined else ["*DEFAULT*"]
        lives = [True, False] if v.partitioned else [False]
        for tenant in tenants:
            for archived in lives:
                if chance.random() < 0.3:
                    continue
                first = chance.choice([1, 1, 1, 1, 3])
                events = []
                for version in range(first, first + chance.randrange(1, 5)):
                    kind = chance.choice(["opened", "added", *NONE])
                    if version == first and chance.random() < 0.2:
                        kind = chance.choice([SNAPSHOT, "JasperFx.Events.Compacted<Shop.Cart>"])
                    events.append((next(numbers), version, kind))
                yield tenant, stream, archived, events


def expected(streams, after: int = 0) -> list[tuple[str, int, int, str]]:
    groups = defaultdict(list)
    for _, stream, archived, events in streams:
        at, version, kind = events[0]
        late = version > 1 or kind == SNAPSHOT or kind.startswith("JasperFx")
        if late and not archived and at > after:
            groups[kind].append((version - 1, stream))
    found = [(k, len(of), sum(n for n, _ in of), min(s for _, s in of)) for k, of in groups.items()]
    return sorted(found, key=lambda each: (-each[1], each[0]))


@pytest.mark.parametrize("analysed", thorough_but([False, True], False))
@pytest.mark.parametrize("variant", VARIANTS)
def test_late_streams_are_found_in_each_variant(dsn, connection, variant, analysed):
    v = VARIANTS[variant]
    marten.create(connection, v)
    chance = random.Random(f"{variant}{analysed}")
    with open_store("s", PostgresSettings(dsn=dsn, append="quick")) as store:
        for _ in range(12):
            connection.execute("TRUNCATE mt_events, mt_streams")
            numbers = iter(range(1, 10_000))
            streams = list(drawn(chance, numbers, v))
            for tenant, stream, archived, events in streams:
                connection.execute(
                    "INSERT INTO mt_streams (id, version, tenant_id, is_archived) "
                    "VALUES (%s, %s, %s, %s)",
                    (stream, events[-1][1], tenant, archived),
                )
                for at, version, kind in events:
                    connection.execute(
                        "INSERT INTO mt_events (seq_id, id, stream_id, version, data, type, "
                        "timestamp, tenant_id, is_archived) VALUES (%s, gen_random_uuid(), %s, %s, "
                        "'{}', %s, now(), %s, %s)",
                        (at, stream, version, kind, tenant, archived),
                    )
            if analysed:
                connection.execute("ANALYZE")
            assert store.losses.shortened() == expected(streams), json.dumps(streams)
            newest = max((at for *_, events in streams for at, *_ in events), default=0)
            for after in (0, newest // 2, newest):
                found = store.losses.shortened(EventFilter(), Position((after,)))
                assert found == expected(streams, after), json.dumps(streams)


def test_late_streams_are_found_where_versions_begin_at_0(dsn, connection):
    messagedb.create(connection)
    chance = random.Random(7)
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        for _ in range(12):
            connection.execute("TRUNCATE message_store.messages")
            whole, late = {"cart-x": 0}, dict[str, int]()
            for number in range(chance.choice([0, 1, 9])):
                first = chance.choice([0, 0, 2])
                (late if first else whole)[f"cart-{number}"] = first
            for stream, first in (whole | late).items():
                for version in range(first, first + chance.randrange(1, 4)):
                    connection.execute(
                        "INSERT INTO message_store.messages (id, stream_name, type, position) "
                        "VALUES (gen_random_uuid(), %s, 'added', %s)",
                        (stream, version),
                    )
            many = len(late)
            assert store.losses.shortened() == (
                [("added", many, 2 * many, min(late))] if late else []
            )
