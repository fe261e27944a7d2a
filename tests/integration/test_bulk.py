"""The reader of bulk reads: one at a time, and none that is cut short looks complete."""

from __future__ import annotations

import gc
import pickle
import weakref
from contextlib import closing
from copy import copy

import psycopg
import pyarrow as pa
import pytest

from esops.events import PlacedEvent, Position, RecordedEvent, last_position
from esops.stores.arrow_events import ColumnsInUse, rows_of, to_events
from esops.stores.postgres.bulk import BulkReader
from esops.stores.postgres.light import Few

EACH_TYPE = """
    SELECT 'id' || position, stream::varchar, version::bigint, moment::timestamptz,
        identifier::uuid, short > 1, plain::timestamp, document::jsonb, json::json, bytes::bytea, short::smallint, position
    FROM (VALUES
        (1, 'a', 1, '2026-11-27 10:00:00.123456+01', NULL, '{"a": [1, null]}', '{"b":  1 }',
         '\\x00ff', 1, '0192c5a0-0000-7000-8000-0000000000ff'),
        (2, 'ö\U0001f600', -5, 'infinity', '-infinity', '[]', 'null', '\\x', -32768, NULL),
        (3, '', 9007199254740993, '-infinity', 'infinity', '"ß"', '1e3', NULL, NULL, NULL),
        (4, NULL, NULL, NULL, '4713-01-01 BC', NULL, NULL, '\\x30', 2,
         '00000000-0000-0000-0000-000000000000'),
        (5, 'x', 0, '294276-12-31 23:59:59.999999+00', '294276-12-31 23:59:59.999999', '0', '0',
         '\\x31', 3, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
    ) AS rows (position, stream, version, moment, plain, document, json, bytes, short,
        identifier)
    ORDER BY position
"""


def read(reader: BulkReader, statement: str | Few) -> list[list]:
    """The columns that a statement gives, each value as `to_events` sees it."""
    columns: list[list] = []
    for batch in reader.read(iter([statement])):
        for number, column in enumerate(batch.columns):
            plain = column.storage if isinstance(column, pa.ExtensionArray) else column
            form = pa.int64() if pa.types.is_timestamp(plain.type) else plain.type
            text = pa.types.is_string(plain.type) or pa.types.is_binary(plain.type)
            values = plain.view(pa.binary() if text else form).to_pylist()
            columns += [[]] * (number + 1 - len(columns))
            columns[number] = columns[number] + values
    return columns


def test_a_short_read_gives_what_a_long_one_gives(dsn):
    with closing(BulkReader(dsn)) as light, closing(BulkReader(dsn)) as adbc:
        found = read(light, Few(EACH_TYPE))
        assert found == read(adbc, EACH_TYPE)
        assert len(found) == 12
        assert found[1][1] == "ö\U0001f600".encode()
        # A type that only the other way knows, also after a first read; and no row at all.
        assert read(light, Few("SELECT '1 day'::interval")) == read(
            adbc, "SELECT '1 day'::interval"
        )
        assert read(light, Few("SELECT 1 WHERE false")) == []
        with pytest.raises(psycopg.errors.DivisionByZero):
            read(BulkReader(dsn), Few("SELECT 1 / (3 - n) FROM generate_series(1, 5) n"))


def test_a_short_read_of_long_rows_is_given_in_pieces(dsn):
    """And it can be left in the middle, as any other."""
    long = Few("SELECT repeat('x', 100000), n FROM generate_series(1, 100) n")
    with closing(BulkReader(dsn, 1 << 20)) as reader:
        batches = reader.read(iter([long]))
        assert next(batches).num_rows == 11
        batches.close()
        assert sum(batch.num_rows for batch in reader.read(iter([long]))) == 100


def test_a_read_that_another_one_ended_says_so_and_ends_no_other(dsn):
    """As when what a search found is left half read and dropped later, while something else is
    read.
    """
    with closing(BulkReader(dsn, 1 << 10)) as reader:
        numbers = "SELECT generate_series(1, 100000)"
        first = reader.read(iter([numbers]))
        next(first)
        second = reader.read(iter([numbers]))
        next(second)
        with pytest.raises(RuntimeError, match="ended by another"):
            list(first)
        third = reader.read(iter([numbers]))
        rows = next(third).num_rows
        del first
        second.close()
        assert rows + sum(batch.num_rows for batch in third) == 100_000
        last = reader.read(iter([numbers]))
        next(last)
        reader.close()
        with pytest.raises(RuntimeError, match="ended by another"):
            list(last)
        assert sum(batch.num_rows for batch in reader.read(iter([numbers]))) == 100_000


EVENTS = """
    SELECT 'id-' || n, 'cart-' || n % 3, n::bigint, 'added', CASE WHEN n % 2 = 0 THEN '{"n": 1}' END,
        '2026-11-28 10:00+00'::timestamptz, 'tenant', n::bigint, '{"n": ' || n || '}'
    FROM generate_series(1, 500) AS n ORDER BY n
"""
DECODED = {"ids", "positions", "metadata", "times", "tenants"}


def test_a_column_is_decoded_when_an_event_is_asked_for_it_and_once_for_its_batch(dsn):
    with closing(BulkReader(dsn)) as reader:
        (batch,) = reader.read(iter([EVENTS]))
    events = to_events(batch, 1)
    columns = events[0].columns
    assert [(e.stream, e.version, e.type, e.json()) for e in events[:2]] == [
        ("cart-1", 1, "added", {"n": 1}), ("cart-2", 2, "added", {"n": 2}),
    ]  # fmt: skip
    assert DECODED.isdisjoint(vars(columns))
    assert last_position(events) == Position((500,))
    assert DECODED.isdisjoint(vars(columns))
    assert events[6].position == Position((7,))
    assert DECODED & vars(columns).keys() == {"positions"}
    assert events[7].position is columns.positions[7]
    alone = RecordedEvent(
        "id-2", "cart-2", 2, Position((2,)), "added", b'{"n": 2}', b'{"n": 1}',
        events[1].recorded_at, "tenant",
    )  # fmt: skip
    at = events[1].recorded_at
    assert (events[1]._replace(recorded_at=at), events[1].recorded_microseconds) == (
        alone, alone.recorded_microseconds,
    )  # fmt: skip
    assert events[0].metadata == b""
    for again in (events[1].detached(), pickle.loads(pickle.dumps(events[1]))):
        assert (again, hash(again), repr(again)) == (events[1], hash(events[1]), repr(events[1]))
        assert tuple(again) == tuple(events[1])


def test_a_detached_event_keeps_no_batch_in_memory(dsn):
    with closing(BulkReader(dsn)) as reader:
        (batch,) = reader.read(iter([EVENTS]))
    events = to_events(batch, 1)
    columns, kept = weakref.ref(events[0].columns), events[1]
    del events, batch
    gc.collect()
    assert columns() is not None
    kept = kept.detached()
    gc.collect()
    assert columns() is None
    assert (kept.id, kept.tenant, kept.position) == ("id-2", "tenant", Position((2,)))


@pytest.mark.parametrize("left_out", [set(), {3}, {0, 1}, {498, 499}, set(range(1, 499, 2))])
def test_the_rows_of_some_events_make_the_same_events(dsn, left_out):
    with closing(BulkReader(dsn)) as reader:
        (batch,) = reader.read(iter([EVENTS]))
    events = [each for n, each in enumerate(to_events(batch, 1)) if n not in left_out]
    found = rows_of(events)
    assert found is not None
    assert to_events(*found) == events
    assert rows_of([events[0].detached()]) is None
    assert rows_of([events[0], *to_events(batch, 1)[-1:]]) is None


def test_who_asks_for_positions_has_them_beside_the_events_of_the_next_batch(dsn):
    with closing(BulkReader(dsn)) as reader:
        (batch,) = reader.read(iter([EVENTS]))
    asked = ColumnsInUse()
    first = to_events(batch, 1, None, asked)
    assert {type(each) for each in [*first, *to_events(batch, 1, None, asked)]} == {RecordedEvent}
    positions = [each.position for each in first]
    second = to_events(batch, 1, None, asked)
    assert {type(each) for each in second} == {PlacedEvent}
    assert [each.position for each in second] == positions
    assert second == first
    assert second[3]._replace(type="x").position == positions[3]
    for again in (second[3]._make(second[3]), type(second[3])(*second[3]), copy(second[3])):
        assert (again, again.position, type(again)) == (first[3], positions[3], RecordedEvent)
    assert pickle.loads(pickle.dumps(second[3])) == second[3].detached() == first[3]
    assert type(second[3].detached()) is RecordedEvent
    assert tuple(second[3]._asdict().items()) == tuple(
        (name, getattr(second[3], name) if name != "recorded_at" else second[3][7])
        for name in RecordedEvent.__match_args__
    )
