"""A fold through cache, table and restarts is the plain fold, whatever the events, batches, cache
size and types.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from datetime import timedelta
from decimal import Decimal

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esops import fold
from esops.events import EventFilter, Position, RecordedEvent
from esops.readmodel import migrations, registry
from esops.readmodel.registry import Version
from esops.running.runner import Runner
from esops.running.work import Work
from esops.stores.base import Batch, Capabilities
from tests.support.cases import thorough_but
from tests.support.soak import rounds
from tests.support.waiting import DEADLINE
from tests.unit.test_building_blocks import event

PATIENCE = timedelta(seconds=DEADLINE)
"""For the server to notice that the session before has ended."""


class ListStore:
    """A store that gives out a list, in pieces."""

    capabilities = Capabilities()
    identity = None
    memory = None

    def __init__(self, events: list[RecordedEvent], pieces: int) -> None:
        self.events, self.pieces = events, pieces

    def read_all(self, after, until, filter=None, limit=None):
        wanted = [
            e for e in self.events if (after is None or e.position > after) and e.position <= until
        ]
        for start in range(0, len(wanted), self.pieces):
            part = wanted[start : start + self.pieces]
            yield Batch(part, part[-1].position)


@fold(key="stream")
def odd(row, event):
    """Counts, sums of mixed numbers, texts in typed columns, a list in json, and rows that go and
    come again.
    """
    data = event.json()
    if data["do"] == "remove":
        return None
    row = row or {"n": 0, "amount": 0, "note": None, "at": None, "tags": []}
    return {
        "n": row["n"] + 1,
        "amount": row["amount"] + data["amount"],
        "note": str(event.version),
        "at": event.recorded_at,
        "tags": [*row["tags"], data["do"]][-3:],
    }


DDL = (
    "CREATE TABLE odd__v1 (id text PRIMARY KEY, n int, amount double precision, note text, at "
    "timestamptz, tags jsonb, more text DEFAULT 'd')"
)


@pytest.fixture
def clean(connection):
    connection.execute(DDL)
    migrations.install(connection)

    def reset():
        connection.execute("TRUNCATE odd__v1, esops.versions, esops.dead_letters")
        registry.insert(
            connection,
            Version("odd", 1, "building", "s", None, 0, 0, {"odd": ("public", "odd__v1")}, "x"),
        )

    return reset


steps = st.lists(
    st.tuples(
        st.integers(0, 6),
        st.sampled_from(["add", "add", "add", "remove"]),
        st.integers(-5, 5) | st.sampled_from([0.5, 0.25]),
    ),
    max_size=60,
)


@settings(max_examples=rounds(20, 600))
@given(
    steps,
    st.integers(1, 20),
    st.sampled_from([1, 2_000, 20_000, 64 << 20]),
    st.integers(1, 30),
    st.lists(st.integers(0, 60), max_size=4),
)
def test_any_history_in_any_pieces_with_any_cache_and_restarts(
    dsn, connection, clean, history, pieces, cache, commit, stops
):
    clean()
    events = [
        event(
            stream=f"s-{stream}",
            version=n,
            position=Position((n,)),
            data=orjson.dumps({"do": do, "amount": amount}),
        )
        for n, (stream, do, amount) in enumerate(history, 1)
    ]
    expected: dict = defaultdict(lambda: None)
    for each in events:
        expected[each.stream] = odd(expected[each.stream], each)
    store = ListStore(events, pieces)
    work = Work("odd", 1, odd, EventFilter(), "stop", cache, commit)
    for stop in [*sorted(stop for stop in stops if 0 < stop < len(events)), len(events)]:
        if stop:
            runner = Runner(store, dsn, work, lock_patience=PATIENCE)
            runner.run_until(Position((stop,)))
            runner.close()
    rows = connection.execute("SELECT id, n, amount, note, at, tags, more FROM odd__v1").fetchall()
    found = {
        row[0]: dict(zip(("n", "amount", "note", "at", "tags"), row[1:6], strict=True))
        for row in rows
    }
    assert found == {key: row for key, row in expected.items() if row is not None}
    assert all(row[6] == "d" for row in rows)
    version = registry.version(connection, "odd", 1)
    assert version.rows == len(rows)
    assert version.events == len(events)
    assert version.position == (Position((len(events),)) if events else None)


TYPES = {
    "numeric": [1, 2.5, Decimal("3.25")],
    "text": ["x"],
    "uuid": [str(uuid.UUID(int=7)), uuid.UUID(int=8)],
    "timestamptz": [event().recorded_at, "2026-07-15T10:00:00+00:00"],
    "date": ["2026-07-15"],
    "boolean": [True],
    "bytea": [b"\x00\xff"],
    "text[]": [["a", 'b"', "NULL", "{"]],
    "jsonb": [{"a": [1, None]}, [1], "text", 5, True],
    "bigint": [2**60],
    "double precision": [0.1],
    "varchar(20)": ["tab\there \\N new\nline"],
}
DIFFERING = ("timestamptz", "bytea", "text[]", "jsonb")
"""Those that go between Python and the server in the most different forms."""


@pytest.mark.parametrize(
    "kind",
    thorough_but(TYPES, *DIFFERING),
)
def test_a_row_comes_back_as_the_function_wrote_it(kind, dsn, connection):
    for value in TYPES[kind]:
        connection.execute(
            "DROP TABLE IF EXISTS odd__v1; CREATE TABLE odd__v1 (id text PRIMARY KEY, value "
            f"{kind}, n int)"
        )
        connection.execute("DROP SCHEMA IF EXISTS esops CASCADE")
        migrations.install(connection)
        registry.insert(
            connection,
            Version("odd", 1, "standby", "s", None, 0, 0, {"odd": ("public", "odd__v1")}, "x"),
        )
        seen = []

        @fold()
        def keeps(row, event, seen=seen, value=value):
            seen.append(row)
            return row or {"value": value, "n": None}

        work = Work("odd", 1, keeps, EventFilter(), "stop", 100)
        events = [event(position=Position((n,))) for n in (1, 2)]
        for n in (1, 2):
            runner = Runner(ListStore(events, 10), dsn, work, lock_patience=PATIENCE)
            runner.run_until(Position((n,)))
            runner.close()
        assert seen[0] is None
        back = seen[1]["value"]
        assert back == value, f"{value!r} came back as {back!r}"
        assert type(back) is type(value)


def test_two_runners_of_a_version_exclude_each_other(dsn, connection, clean):
    from esops.errors import Busy

    clean()
    work = Work("odd", 1, odd, EventFilter(), "stop", 100)
    runner = Runner(ListStore([], 1), dsn, work)
    with pytest.raises(Busy, match="is kept fresh by"):
        Runner(ListStore([], 1), dsn, work)
    runner.close()
    Runner(ListStore([], 1), dsn, work, lock_patience=PATIENCE).close()


def test_a_checkpoint_that_somebody_else_moved_writes_nothing(dsn, connection, clean):
    from esops.errors import Busy

    clean()
    work = Work("odd", 1, odd, EventFilter(), "stop", 100)
    runner = Runner(ListStore([event(data=b'{"do": "add", "amount": 1}')], 1), dsn, work)
    connection.execute("UPDATE esops.versions SET position = '0'")
    with pytest.raises(Busy, match="moved"):
        runner.run_until(Position((1,)))
    runner.close()
    assert connection.execute("SELECT count(*) FROM odd__v1").fetchone() == (0,)
