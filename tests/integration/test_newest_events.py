"""The newest events, and those of some time, of what each real library wrote: the same as a read of
the whole log gives.
"""

from __future__ import annotations

import json
from datetime import timedelta
from itertools import accumulate

import psycopg
import pytest

from esops.events import EventFilter
from esops.settings import PostgresSettings
from esops.stores import open_store
from esops.trace.conditions import parse_condition
from esops.trace.log import LogReader, LogRequest
from tests.support import emmett
from tests.support.cases import thorough_but, thorough_in
from tests.support.databases import database

DUMPS = {
    "marten": ("marten-9.58-v1", {}),
    "marten-tenants": ("marten-9.58-v2", {}),
    "marten-partitioned": ("marten-9.58-v3", {}),
    "marten-partitioned-by-tenant": ("marten-9.58-v5t", {"tenant": "acme"}),
    "emmett": ("emmett-0.43.0-beta.39", {}),
    "emmett-without-index": ("emmett-0.42.0", {}),
    "emmett-by-position": ("emmett-0.42.0", {"ordering": "position"}),
    "message-db": ("message-db-1.3.1", {}),
    "eventsourcing": ("eventsourcing-9.5.6", {}),
}

FEWER = ("marten-tenants", "marten-partitioned", "emmett-by-position")
EACH = thorough_in(DUMPS, FEWER)


def restore(connection, dumps, dump: str) -> None:
    emmett.restore(connection, (dumps / f"{dump}.sql").read_text())


@pytest.fixture(scope="module", params=EACH)
def written(request, dumps, server):
    """What a library wrote, for tests that only read it: the store, and its address."""
    dump, settings = DUMPS[request.param]
    with database(server) as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            restore(connection, dumps, dump)
        with open_store("shop", PostgresSettings(dsn=dsn, **settings)) as opened:
            yield opened, dsn


@pytest.fixture
def store(written):
    return written[0]


@pytest.fixture(params=EACH)
def own_store(request, dumps, dsn, connection):
    """The same, to be changed."""
    dump, settings = DUMPS[request.param]
    restore(connection, dumps, dump)
    with open_store("shop", PostgresSettings(dsn=dsn, **settings)) as opened:
        yield opened


def read(store, filter=EventFilter(), **request):  # noqa: B008 - frozen
    return list(LogReader(store, LogRequest(filter, **request)))


def test_the_newest_events_are_the_end_of_the_whole_log(store):
    every = [event for batch in store.read_all() for event in batch.events]
    assert read(store, last=20) == every[-20:]
    assert read(store, last=20, reverse=True) == every[:-21:-1]
    assert read(store, reverse=True) == every[::-1]
    assert read(store, last=10**6) == every
    kind = every[len(every) // 2].type
    of_kind = [event for event in every if event.type == kind]
    assert read(store, EventFilter(types=(kind,)), last=3) == of_kind[-3:]
    assert read(store, last=5, after=every[-3].position) == every[-2:]
    stream = every[0].stream
    own = [event for event in store.read_stream(stream) if event.stream == stream]
    assert read(store, EventFilter(stream=stream), last=2) == own[-2:]


def test_events_of_a_time_are_all_that_bear_it(store):
    every = [event for batch in store.read_all() for event in batch.events]
    times = sorted(event.moment for event in every)
    since, before = times[len(times) // 3], times[2 * len(times) // 3]
    wanted = EventFilter(since=since, before=before)
    within = [event for event in every if since <= event.moment < before]
    assert within
    assert read(store, wanted) == within
    assert read(store, wanted, last=4) == within[-4:]
    assert read(store, wanted, reverse=True) == within[::-1]
    assert read(store, wanted, limit=4) == within[:4]
    assert read(store, EventFilter(before=since), last=1)[0].moment < since
    # By how much times are out of order in this log: with that, no event is left out either.
    latest = accumulate((event.moment for event in every), max)
    skew = max(before - event.moment for before, event in zip(latest, every, strict=True))
    assert read(store, wanted, skew=skew) == within
    assert read(store, EventFilter(since=times[-1] + timedelta(days=1))) == []


def test_an_index_on_the_time_leads_to_an_old_date_at_a_new_position(own_store, connection):
    store = own_store
    column = {"marten": "timestamp", "emmett": "created", "messagedb": "time"}.get(
        store.layout.name
    )
    if column is None:
        return  # its times are in the payloads
    table = store.layout.events.as_string(None)
    every = [event for batch in store.read_all() for event in batch.events]
    newest, oldest = every[-1], min(event.moment for event in every)
    assert store.times.positions_between(oldest, None) is None
    number = store.layout.order_columns[-1].as_string(None)
    # An import, or a clock that was wrong, dates the newest event before all others.
    connection.execute(
        f"UPDATE {table} SET {column} = {column} - interval '30 years' WHERE {number} = %s",
        (newest.position[-1],),
    )
    since, before = oldest - timedelta(days=20_000), oldest
    wanted = EventFilter(since=since, before=before)
    assert [event.id for event in read(store, wanted)] == [newest.id]
    connection.execute(f"CREATE INDEX ON {table} ({column})")
    first, last = store.times.positions_between(since, before)
    assert first < newest.position == last
    assert [event.id for event in read(store, wanted)] == [newest.id]
    assert read(store, EventFilter(since=oldest)) == every[:-1]


def test_events_with_a_value_in_data_or_metadata(store):
    every = [event for batch in store.read_all() for event in batch.events]
    some = next(event for event in every if isinstance(event.json(), dict) and event.json())
    key, value = next(
        (key, value) for key, value in some.json().items() if isinstance(value, str | int)
    )
    text = value if isinstance(value, str) else json.dumps(value)
    found = read(store, where=(parse_condition(f"['{key}'] = {text}"),))
    assert some in found
    assert found == [
        event
        for event in every
        if isinstance(event.json(), dict)
        and event.json().get(key) == value
        and type(event.json()[key]) is type(value)
    ]
    assert read(store, where=(parse_condition("no.such.key = 1"),), last=3) == []


@pytest.mark.parametrize(
    "written",
    [each for each in DUMPS if each not in FEWER and DUMPS[each][0] != "emmett-0.42.0"]
    + thorough_but(FEWER[:2]),
    indirect=True,
)
def test_the_newest_events_are_read_by_the_index(written):
    """Nothing sorts, and nothing reads the whole table."""
    from esops.stores.postgres.layouts.base import TRUE
    from esops.stores.postgres.reading import PagedReader

    store, dsn = written
    head, layout = store.head().position, store.layout
    with psycopg.connect(dsn) as connection:
        select = PagedReader(layout, dsn, lambda: connection).select
        ordered = layout.descending + psycopg.sql.SQL(" LIMIT 20")
        statement = select(TRUE, layout.where(EventFilter()), layout.up_to(head), ordered)
        for way in ("seqscan", "bitmapscan", "sort"):  # the tables are small
            connection.execute(f"SET enable_{way} = off")
        plan = "\n".join(row[0] for row in connection.execute("EXPLAIN " + statement))
    assert "Index Scan Backward" in plan
    assert "Sort  (cost" not in plan


def test_the_command_says_of_what_there_is_nothing(project, dumps, dsn, connection):
    restore(connection, dumps, "marten-9.58-v1")
    project.write("esops.toml", f"[stores.shop]\ndsn = {json.dumps(dsn)}\n")
    for options, code, words in (
        (("--stream", "nope"), 1, "no stream 'nope'"),
        (("--type", "shopping_cart_opned"), 1, "Did you mean 'shopping_cart_opened'?"),
        (("--category", "nope", "--type", "Foo"), 1, "of type 'Foo'"),
        (("--type", "Foo", "--last", "3", "--since", "1m"), 1, "of type 'Foo'"),
        (("--type", "account_opened", "--category", "shopping_cart"), 1, "together"),
        (("--tenant", "acme"), 1, "no tenant 'acme'"),
        (("--since", "1s", "--last", "3"), 0, "store shop has no event in that time"),
        (("--where", "ClientId = nobody"), 0, "store shop has no event with that value"),
        (("--limit", "1", "--last", "1"), 2, "--last from the end"),
    ):
        found = project.run("events", *options)
        assert (found.code, found.out, words in found.err) == (code, "", True), found.err
        assert found.err.count("store shop has no") <= 1
    shown = project.ok("events", "--last", "2", "--output", "table").out
    assert "Z " in shown
    assert " ago  " in shown
