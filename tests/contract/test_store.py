"""What every event store has to do, run on every layout in every variant that can be read."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import orjson
import psycopg
import pytest

from esops.backends import open_store
from esops.backends.base import EventStore, WrongExpectedVersion
from esops.config import StoreSettings
from esops.errors import Refused
from esops.events import EventFilter, NewEvent, Position
from tests.support import emmett, eventsourcing, marten, messagedb


@dataclass
class Kit:
    """A store and what a test does with it. Only what this test wrote is seen, so that the store may be in use by others."""

    store: EventStore
    connection: psycopg.Connection | None
    archive: object
    text_ids: bool
    settings: StoreSettings
    begin: Position | None = None
    more: Mapping[str, object] = field(default_factory=dict)
    """What this layout's library puts into every payload."""
    streams: set[str] = field(default_factory=set)

    def stream(self, category: str = "cart") -> str:
        name = f"{category}-{uuid.uuid4()}" if self.text_ids else str(uuid.uuid4())
        self.streams.add(name)
        return name

    def events(self, *types: str, **data) -> list[NewEvent]:
        return [NewEvent(str(uuid.uuid4()), kind, orjson.dumps({"n": n, **data, **self.more})) for n, kind in enumerate(types)]

    def read(self, after: Position | None = None, until: Position | None = None, **filter) -> list:
        batches = self.store.read_all(after or self.begin, until, EventFilter(**filter))
        return [event for batch in batches for event in batch.events if event.stream in self.streams]

    def all(self, **filter) -> list:
        return self.read(**filter)

    def after(self, count: int) -> int:
        """The version of a stream of so many events."""
        return count - 1 + self.store.capabilities.first_version


def skip_where_writers_queue(kit) -> None:
    if kit.store.layout.name == "eventsourcing":
        pytest.skip("its writers lock the table, one after the other")


def eventually(holds, patience: float = 10) -> bool:
    """Whether it comes to hold; what a store derives of its events may come a moment later."""
    deadline = time.monotonic() + patience
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


LAYOUTS = [
    *marten.VARIANTS,
    "marten-quick",
    "marten-tenant",
    "emmett",
    "emmett-by-position",
    "emmett-0.41",
    "messagedb",
    "eventsourcing",
]


@pytest.fixture(params=LAYOUTS)
def postgres_kit(request, dsn, connection):
    yield from layout_kit(request.param, dsn, connection)


@pytest.fixture(params=[*LAYOUTS, "eventstoredb", "eventstoredb-21.10", "eventstoredb-real"])
def kit(request):
    if request.param.startswith("eventstoredb"):
        yield from eventstoredb_kit(request)
    else:
        yield from layout_kit(request.param, request.getfixturevalue("dsn"), request.getfixturevalue("connection"))


def eventstoredb_kit(request):
    """On the node in tests/, in two versions, and on a real one where there is one: streams of its own, deleted afterwards."""
    if request.param == "eventstoredb-real":
        uri = os.environ.get("ESOPS_TEST_ESDB_URI")
        if not uri:
            pytest.skip("ESOPS_TEST_ESDB_URI names no real node")
    else:
        uri = request.getfixturevalue("node" if request.param == "eventstoredb" else "old_node").uri
    settings = StoreSettings(backend="eventstoredb", uri=uri)
    with open_store("s", settings) as store:
        kit = Kit(store, None, None, text_ids=True, settings=settings, begin=store.head())
        yield kit
        for stream in kit.streams:
            info = store.stream_info(stream)
            if info is not None and not info.deleted:
                store.delete(stream)


def layout_kit(name: str, dsn: str, connection):
    more = {}
    if name == "messagedb":
        messagedb.create(connection)
        settings, archive, text_ids = StoreSettings(dsn=dsn), None, True
    elif name == "eventsourcing":
        eventsourcing.create(connection)
        settings, archive, text_ids = StoreSettings(dsn=dsn), None, False
        more = {"timestamp": {"_type_": "datetime_iso", "_data_": datetime.now(UTC).isoformat()}}
    elif name.startswith("emmett"):
        emmett.create(connection, old_processors=name == "emmett-0.41")
        settings = StoreSettings(dsn=dsn, ordering="position" if name == "emmett-by-position" else "native")
        archive, text_ids = (lambda stream: emmett.archive(connection, stream)), True
    else:
        variant = marten.VARIANTS.get(name, marten.Variant(conjoined=name == "marten-tenant", text_ids=True))
        marten.create(connection, variant)
        settings = StoreSettings(
            dsn=dsn,
            append="quick" if name == "marten-quick" else "auto",
            tenant="*DEFAULT*" if name == "marten-tenant" else None,
            hole_threshold=timedelta(seconds=0.3),
        )
        archive, text_ids = (lambda stream: marten.archive(connection, variant, stream)), variant.text_ids
    with open_store("s", settings) as store:
        yield Kit(store, connection, archive, text_ids, settings, more=more)


def test_an_empty_store_has_no_head_and_no_events(postgres_kit):
    assert postgres_kit.store.head() is None
    assert postgres_kit.all() == []
    assert list(postgres_kit.store.streams()) == []
    assert postgres_kit.store.count_between(None, None) == 0


def test_ping_says_what_it_is(kit):
    info = kit.store.ping()
    assert info.backend == kit.settings.backend
    assert info.layout in {"marten", "emmett", "messagedb", "eventsourcing", "eventstoredb"}
    assert abs(info.clock - datetime.now(UTC)) < timedelta(minutes=1)
    assert list(info.warnings) == []


def test_what_is_appended_is_read_back_in_order(kit):
    first, second = kit.stream(), kit.stream()
    a = kit.store.append(first, kit.events("opened", "added"), kit.after(0))
    b = kit.store.append(second, kit.events("opened"), kit.after(0))
    c = kit.store.append(first, kit.events("confirmed", text="ü\u2028\\"), kit.after(2))
    assert a < b < c <= kit.store.head()
    events = kit.all()
    assert [(e.stream, e.version, e.type) for e in events] == [
        (first, kit.after(1), "opened"),
        (first, kit.after(2), "added"),
        (second, kit.after(1), "opened"),
        (first, kit.after(3), "confirmed"),
    ]
    payload = events[-1].json()
    assert {**payload, **kit.more} == {"n": 0, "text": "ü\u2028\\", **kit.more}
    assert not kit.more or isinstance(payload["timestamp"], str)
    assert [e.position for e in events] == sorted(e.position for e in events)
    assert all(e.recorded_at.tzinfo is UTC for e in events)
    assert all(abs(e.recorded_at - datetime.now(UTC)) < timedelta(minutes=1) for e in events)
    assert len({e.id for e in events}) == 4
    assert all(uuid.UUID(e.id) for e in events)


def test_reading_between_positions_takes_the_upper_bound_in_and_the_lower_out(kit):
    stream = kit.stream()
    positions = [kit.store.append(stream, kit.events("x")) for _ in range(6)]
    found = [e.version for e in kit.read(positions[1], positions[4])]
    assert found == [kit.after(3), kit.after(4), kit.after(5)]
    assert kit.read(positions[5]) == []
    assert kit.store.count_between(positions[1], positions[4]) == 3
    assert kit.store.count_between(kit.begin, positions[5]) == 6


def test_positions_are_text_and_back(kit):
    position = kit.store.append(kit.stream(), kit.events("x"))
    assert Position.parse(str(position)) == position


def test_filters_by_type_and_stream(kit):
    first, second = kit.stream(), kit.stream()
    kit.store.append(first, kit.events("opened", "added", "confirmed"))
    kit.store.append(second, kit.events("opened", "added"))
    assert [(e.stream, e.type) for e in kit.all(types=("opened",))] == [(first, "opened"), (second, "opened")]
    assert [e.type for e in kit.all(types=("opened", "confirmed"), stream=first)] == ["opened", "confirmed"]
    assert kit.all(stream="no such stream") == []
    assert kit.all(types=("it's none",)) == []


def test_filter_by_category(kit):
    if not kit.text_ids:
        pytest.skip("a uuid has no category; Marten's stream type is tested below")
    kit.store.append(kit.stream("cart"), kit.events("a"))
    kit.store.append(kit.stream("cartel"), kit.events("b"))
    kit.store.append(kit.stream("order"), kit.events("c"))
    assert [e.type for e in kit.all(category="cart")] == ["a"]
    assert [e.category for e in kit.all(category="order")] == ["order"]


def test_a_stream_is_read_both_ways(kit):
    stream = kit.stream()
    kit.store.append(stream, kit.events(*"abcde"))
    assert [e.type for e in kit.store.read_stream(stream)] == list("abcde")
    assert [e.type for e in kit.store.read_stream(stream, backwards=True)] == list("edcba")
    assert [e.type for e in kit.store.read_stream(stream, after_version=kit.after(2), limit=2)] == ["c", "d"]
    assert [e.type for e in kit.store.read_stream(stream, after_version=kit.after(3), backwards=True)] == ["b", "a"]
    assert list(kit.store.read_stream(kit.stream())) == []


def test_a_wrong_expectation_appends_nothing(kit):
    stream = kit.stream()
    kit.store.append(stream, kit.events("a", "b"), kit.after(0))
    for wrong in (kit.after(0), kit.after(1), kit.after(3)):
        with pytest.raises(WrongExpectedVersion, match=f"version {kit.after(2)}"):
            kit.store.append(stream, kit.events("c"), wrong)
    assert kit.store.append(stream, kit.events("c"), kit.after(2))
    assert [e.type for e in kit.all()] == ["a", "b", "c"]


def test_an_event_is_found_by_its_id_and_its_metadata(kit):
    correlation, causation = str(uuid.uuid4()), str(uuid.uuid4())
    about = orjson.dumps({"$correlationId": correlation, "$causationId": causation})
    event = kit.events("placed")[0]._replace(metadata=about)
    kit.store.append(kit.stream(), [event, *kit.events("other")])
    (first, _) = kit.all()

    def found(**ids) -> list[str]:
        return [e.type for e in kit.store.find(**ids).events]

    assert found(event_id=first.id) == ["placed"]
    assert found(event_id=str(uuid.uuid4())) == []
    assert "index" in kit.store.find(event_id=first.id).how or "scan" in kit.store.find(event_id=first.id).how
    if first.meta():
        assert eventually(lambda: found(correlation_id=correlation) == ["placed"])
        assert found(causation_id=causation) == ["placed"]
    assert found(correlation_id="none") == []
    with pytest.raises(ValueError, match="one of"):
        kit.store.find()


def test_stream_info_counts_what_is_there(kit):
    category = f"c{uuid.uuid4().hex}"
    first, second = sorted([kit.stream(category), kit.stream(category)])
    kit.store.append(first, kit.events("a", "b", "c"))
    kit.store.append(second, kit.events("a"))
    info = kit.store.stream_info(first)
    assert (info.name, info.length, info.first_version, info.last_version, info.archived) == (
        first,
        3,
        kit.after(1),
        kit.after(3),
        False,
    )
    assert info.first_at is None or info.first_at <= info.last_at
    mine = EventFilter(category=category if kit.text_ids else None)
    assert eventually(lambda: [s.name for s in kit.store.streams(mine)] == [first, second])
    assert [s.name for s in kit.store.streams(mine, limit=1)] == [first]
    assert kit.store.stream_info(kit.stream()) is None


def test_archived_streams_are_out_of_sight_unless_asked_for(postgres_kit):
    if postgres_kit.archive is None:
        pytest.skip("this library archives no streams")
    gone, stays = postgres_kit.stream(), postgres_kit.stream()
    postgres_kit.store.append(gone, postgres_kit.events("a", "b"))
    postgres_kit.store.append(stays, postgres_kit.events("c"))
    postgres_kit.archive(gone)
    assert [e.type for e in postgres_kit.all()] == ["c"]
    assert [e.type for e in postgres_kit.all(archived=True)] == ["a", "b", "c"]
    assert postgres_kit.store.stream_info(gone).archived
    with pytest.raises(Refused, match="archived"):
        postgres_kit.store.append(gone, postgres_kit.events("d"))


def test_follow_goes_on_as_events_come_and_loses_none(kit):
    stream = kit.stream()
    kit.store.append(stream, kit.events("first"))
    seen, stop = [], threading.Event()

    def write():
        with open_store("writer", kit.settings.model_copy(update={"tenant": None})) as other:
            for n in range(20):
                other.append(kit.stream(), kit.events(f"n{n}"))
                time.sleep(0.01)

    writer = threading.Thread(target=write)
    writer.start()
    deadline = time.monotonic() + 20
    last = None
    for batch in kit.store.follow(kit.begin, stop=lambda: stop.is_set() or time.monotonic() > deadline):
        seen += [e.type for e in batch.events if e.stream in kit.streams]
        assert last is None or batch.position >= last
        last = batch.position
        if len(seen) == 21:
            stop.set()
    writer.join()
    assert seen == ["first", *(f"n{n}" for n in range(20))]


def test_an_uncommitted_event_holds_the_head_and_is_never_skipped(postgres_kit):
    """The heart of it: a writer draws a number, another one commits a higher number first."""
    skip_where_writers_queue(postgres_kit)
    postgres_kit.store.append(postgres_kit.stream(), postgres_kit.events("before"))
    settled = postgres_kit.store.head(timedelta(seconds=3))
    with open_store("slow", StoreSettings(dsn=postgres_kit.connection.info.dsn)) as slow:
        control = slow._control()
        with control.transaction():
            slow.layout.append(control, postgres_kit.stream(), postgres_kit.events("slow"), None)
            postgres_kit.store.append(postgres_kit.stream("order"), postgres_kit.events("fast"))
            held = postgres_kit.store.head(timedelta(milliseconds=100))
            assert [e.type for b in postgres_kit.store.read_all(settled, held) for e in b.events] == []
            assert postgres_kit.store.held_back_by()
            assert str(control.info.backend_pid) in postgres_kit.store.held_back_by()[0].who
    after = postgres_kit.store.head(timedelta(seconds=3))
    assert [e.type for b in postgres_kit.store.read_all(held, after) for e in b.events] == ["slow", "fast"]


def test_a_prepared_transaction_holds_the_head(postgres_kit):
    skip_where_writers_queue(postgres_kit)
    postgres_kit.store.append(postgres_kit.stream(), postgres_kit.events("before"))
    settled = postgres_kit.store.head(timedelta(seconds=3))
    with open_store("two-phase", StoreSettings(dsn=postgres_kit.connection.info.dsn)) as slow:
        control = slow._control()
        control.autocommit = False
        slow.layout.append(control, postgres_kit.stream(), postgres_kit.events("prepared"), None)
        postgres_kit.store.head(timedelta(0))
        control.execute("PREPARE TRANSACTION 'later'")
        control.rollback()
    postgres_kit.store.append(postgres_kit.stream("order"), postgres_kit.events("fast"))
    held = postgres_kit.store.head(timedelta(milliseconds=300))
    assert [e.type for b in postgres_kit.store.read_all(settled, held) for e in b.events] == []
    postgres_kit.connection.execute("COMMIT PREPARED 'later'")
    assert [
        e.type for b in postgres_kit.store.read_all(held, postgres_kit.store.head(timedelta(seconds=3))) for e in b.events
    ] == [
        "prepared",
        "fast",
    ]


def test_a_rolled_back_writer_leaves_no_gap_behind_that_holds_readers(postgres_kit):
    postgres_kit.store.append(postgres_kit.stream(), postgres_kit.events("a"))
    with open_store("fails", StoreSettings(dsn=postgres_kit.connection.info.dsn)) as failing:
        control = failing._control()
        with control.transaction(force_rollback=True):
            failing.layout.append(control, postgres_kit.stream(), postgres_kit.events("never", "never"), None)
    last = postgres_kit.store.append(postgres_kit.stream(), postgres_kit.events("b"))
    assert postgres_kit.store.head(timedelta(seconds=5)) >= last
    assert [e.type for e in postgres_kit.all()] == ["a", "b"]


def test_reading_leaves_no_transaction_open_and_takes_no_lock_that_blocks(postgres_kit):
    postgres_kit.store.append(postgres_kit.stream(), postgres_kit.events(*"abc"))
    reader = iter(postgres_kit.store.read_all())
    next(reader)
    rows = postgres_kit.connection.execute(
        "SELECT a.state, l.mode FROM pg_stat_activity a LEFT JOIN pg_locks l USING (pid) "
        "WHERE a.application_name LIKE 'esops %%' AND l.locktype = 'relation' AND l.mode NOT IN ('AccessShareLock')"
    ).fetchall()
    reader.close()
    assert rows == []
    time.sleep(0.05)
    idle = postgres_kit.connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'esops %%' AND state = 'idle in transaction'"
    ).fetchone()
    assert idle == (0,)


def test_a_read_left_in_the_middle_does_not_break_the_next(kit):
    kit.store.append(kit.stream(), kit.events(*"abcdef"))
    reader = iter(kit.store.read_all(kit.begin))
    next(reader)
    del reader
    assert len(kit.all()) == 6


def test_memory_stays_flat_over_large_payloads(kit):
    stream = kit.stream()
    for _ in range(12):
        kit.store.append(stream, kit.events("big", text="x" * 1_000_000))
    sizes = [sum(len(e.data) for e in batch.events) for batch in kit.store.read_all(kit.begin)]
    assert sum(sizes) > 12_000_000
    assert max(sizes) < 6_000_000


def test_checkpoints_of_the_application(postgres_kit):
    assert postgres_kit.store.checkpoints() == []
