"""What every event store has to do, as a pytest kit: a store or layout of a package of your own
proves itself with it.

    from esops.testing import Kit, StoreContract

    class TestMyStore(StoreContract):
        @pytest.fixture
        def kit(self):
            settings = MySettings(backend="mine", address="…")
            with open_store("mine", settings) as store:
                yield Kit(store, settings)

Nothing is skipped: what a store claims in its capabilities, or by having a part, it has to do. A
kit sees only what its test wrote, so that a store that others use will do.
"""

from __future__ import annotations

import threading
import time
import uuid
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import orjson
import pytest

from esops.events import (
    EventFilter,
    Position,
    RecordedEvent,
    StreamKey,
)
from esops.stores import open_store
from esops.stores.archiving import StreamPart
from esops.stores.base import WrongExpectedVersion
from esops.stores.capabilities import MissingCapability
from esops.testing.claims import StoreClaims
from esops.testing.kit import PATIENCE, Kit, eventually


class StoreContract(StoreClaims):
    """The tests. A subclass gives the fixture `kit`."""

    def test_ping_says_what_it_is(self, kit: Kit) -> None:
        """Backend and clock are right, and a healthy store warns of nothing."""
        info = kit.store.ping()
        assert info.backend == kit.settings.backend
        assert info.layout
        assert abs(info.clock - datetime.now(UTC)) < timedelta(minutes=1)
        assert list(info.warnings) == []

    def test_what_is_appended_is_read_back_in_order(self, kit: Kit) -> None:
        """Streams, versions, types, payloads, times and ids come back, positions grow."""
        first, second = kit.stream(), kit.stream()
        a = kit.store.append(first, kit.events("opened", "added"), kit.after(0))
        b = kit.store.append(second, kit.events("opened"), kit.after(0))
        # A text that breaks readers which split lines, escape twice or count bytes as characters.
        c = kit.store.append(first, kit.events("confirmed", text="ü\u2028\\"), kit.after(2))
        # The head may be beyond: others may write to a shared store.
        head = kit.store.head().position
        assert head is not None
        assert a < b < c <= head
        events = kit.read()
        assert [(e.stream, e.version, e.type) for e in events] == [
            (first, kit.after(1), "opened"),
            (first, kit.after(2), "added"),
            (second, kit.after(1), "opened"),
            (first, kit.after(3), "confirmed"),
        ]
        assert {**events[-1].json(), **kit.more} == {"n": 0, "text": "ü\u2028\\", **kit.more}
        assert [e.position for e in events] == sorted(e.position for e in events)
        times = [e.recorded_at for e in events if e.recorded_at is not None]
        assert all(at.tzinfo is UTC for at in times)
        if kit.timed:
            assert len(times) == len(events)
            assert all(abs(at - datetime.now(UTC)) < timedelta(minutes=1) for at in times)
        assert len({e.id for e in events}) == 4
        assert all(uuid.UUID(e.id) for e in events)

    def test_reading_between_positions_takes_the_upper_bound_in_and_the_lower_out(
        self, kit: Kit
    ) -> None:
        """So that a checkpoint is where the next read begins."""
        stream = kit.stream()
        positions = [kit.store.append(stream, kit.events("x")) for _ in range(6)]
        assert [e.version for e in kit.read(positions[1], positions[4])] == [
            kit.after(3),
            kit.after(4),
            kit.after(5),
        ]
        assert kit.read(positions[5]) == []
        counts = (
            kit.store.counts.between(positions[1], positions[4]),
            kit.store.counts.between(kit.begin, positions[5]),
        )
        # An estimate may be wrong, but says 0 only where there is nothing.
        assert counts == (3, 6) if kit.store.capabilities.count_between else all(counts)

    def test_its_parts_say_what_its_events_say(self, kit: Kit) -> None:
        """A store's own answers are those that reading its events would give."""
        store, streams = kit.store, [kit.stream(), kit.stream()]
        for name in streams:
            store.append(name, kit.events("opened", "added", "closed"))
        events = kit.read()
        end, opened = events[-1].position, EventFilter(types=("opened",))
        keys = sorted({StreamKey(event.stream, event.tenant) for event in events})
        # A server may list a new stream a moment later.
        assert eventually(lambda: set(keys) <= set(store.many_streams.keys()))
        parts = [StreamPart(key, kit.after(2), kit.after(9)) for key in keys]
        assert store.many_streams.count_parts(parts) == [2, 2]
        assert store.many_streams.has_events(events) == [True] * 6
        whole = store.many_streams.whole(keys, end, opened)
        assert [each.id for each in whole.events] == [e.id for e in events if e.type == "opened"]
        assert not whole.lacking
        assert store.many_streams.categories_of(keys).keys() == set(keys)
        assert store.counts.passing(opened, end, 9, kit.begin) >= 2
        assert store.names.any_passes(EventFilter(stream=streams[0])) is not False
        assert set(keys).isdisjoint(each.key for each in store.losses.late_beginnings())
        assert set(keys).isdisjoint(store.archived.streams())

    def test_a_batch_says_how_far_everything_has_been_seen(self, kit: Kit) -> None:
        """Positions of batches grow, and no event lies beyond its batch's."""
        stream = kit.stream()
        for _ in range(3):
            kit.store.append(stream, kit.events(*"abc"))
        last = kit.begin
        for events, position in kit.store.read_all(kit.begin):
            assert position is not None
            assert all(event.position <= position for event in events)
            assert last is None or position >= last
            last = position

    def test_reading_backwards_gives_the_same_events_from_the_newest(self, kit: Kit) -> None:
        """Between positions, by filters and up to a limit. A store that cannot says so."""
        first, second = kit.stream(), kit.stream()
        for kind in ("opened", "added", "added", "closed"):
            kit.store.append(first, kit.events(kind))
            kit.store.append(second, kit.events(kind))
        head = kit.store.head().position
        found = kit.store.read_all(kit.begin, head)
        forwards = [event for batch in found for event in batch.events]

        def backwards(
            until: Position | None, limit: int | None = None, **filter: Any
        ) -> list[RecordedEvent]:
            found = kit.store.read_backwards(until, kit.begin, EventFilter(**filter), limit)
            events: list[RecordedEvent] = []
            for batch in found:
                events += batch.events
                assert batch.position == events[-1].position
            return events

        assert backwards(head, 3) == forwards[:-4:-1]
        try:
            assert backwards(head) == forwards[::-1]
        except MissingCapability:
            return
        middle = forwards[3].position
        assert backwards(middle) == forwards[3::-1]
        added = [event for event in forwards if event.type == "added"]
        assert backwards(head, types=("added",)) == added[::-1]
        assert backwards(head, 1, types=("added",)) == added[:-2:-1]
        own = [event for event in forwards if event.stream == first]
        assert backwards(None, stream=first) == own[::-1]
        assert backwards(None, 2, stream=first) == own[:-3:-1]
        assert backwards(None, stream="no such stream") == []

    def test_positions_are_text_and_back(self, kit: Kit) -> None:
        """What is printed can be given again."""
        position = kit.store.append(kit.stream(), kit.events("x"))
        assert Position.parse(str(position)) == position

    def test_filters_by_type_and_stream(self, kit: Kit) -> None:
        """Everything given must hold."""
        first, second = kit.stream(), kit.stream()
        kit.store.append(first, kit.events("opened", "added", "confirmed"))
        kit.store.append(second, kit.events("opened", "added"))
        assert [(e.stream, e.type) for e in kit.read(types=("opened",))] == [
            (first, "opened"),
            (second, "opened"),
        ]
        assert [e.type for e in kit.read(types=("opened", "confirmed"), stream=first)] == [
            "opened",
            "confirmed",
        ]
        assert kit.read(stream="no such stream") == []
        # A quote must not end a literal of the store's query language.
        assert kit.read(types=("it's none",)) == []

    def test_filter_by_category(self, kit: Kit) -> None:
        """A category is what stands before the first `-`."""
        if not kit.text_ids:
            return  # a uuid has no category
        kit.store.append(kit.stream("cart"), kit.events("a"))
        # A category that another one begins with, so that a test by prefix would be noticed.
        kit.store.append(kit.stream("cartel"), kit.events("b"))
        kit.store.append(kit.stream("order"), kit.events("c"))
        assert [e.type for e in kit.read(category="cart")] == ["a"]
        assert [e.category for e in kit.read(category="order")] == ["order"]

    def test_a_stream_is_read_both_ways(self, kit: Kit) -> None:
        """From a version on, with a limit, and nothing where there is none."""
        stream = kit.stream()
        kit.store.append(stream, kit.events(*"abcde"))
        assert [e.type for e in kit.store.read_stream(stream)] == list("abcde")
        assert [e.type for e in kit.store.read_stream(stream, backwards=True)] == list("edcba")
        assert [
            e.type for e in kit.store.read_stream(stream, after_version=kit.after(2), limit=2)
        ] == ["c", "d"]
        assert [
            e.type
            for e in kit.store.read_stream(stream, after_version=kit.after(3), backwards=True)
        ] == ["b", "a"]
        assert list(kit.store.read_stream(kit.stream())) == []

    def test_a_wrong_expectation_appends_nothing(self, kit: Kit) -> None:
        """And says at which version the stream is."""
        stream = kit.stream()
        kit.store.append(stream, kit.events("a", "b"), kit.after(0))
        # New, too old, and from the future.
        for wrong in (kit.after(0), kit.after(1), kit.after(3)):
            with pytest.raises(WrongExpectedVersion, match=f"version {kit.after(2)}"):
                kit.store.append(stream, kit.events("c"), wrong)
        assert kit.store.append(stream, kit.events("c"), kit.after(2))
        assert [e.type for e in kit.read()] == ["a", "b", "c"]

    def test_an_event_is_found_by_its_id_and_its_metadata(self, kit: Kit) -> None:
        """By one kind of id at a time, and the result says how."""
        search = kit.store.search
        if search is None:
            return
        correlation, causation = str(uuid.uuid4()), str(uuid.uuid4())
        about = orjson.dumps({"$correlationId": correlation, "$causationId": causation})
        event = kit.events("placed")[0]._replace(metadata=about)
        kit.store.append(kit.stream(), [event, *kit.events("other")])
        (first, _) = kit.read()

        def found(**ids: Any) -> list[str]:
            return [e.type for e in search.find(**ids).events]

        assert found(event_id=first.id) == ["placed"]
        assert found(event_id=str(uuid.uuid4())) == []
        assert search.find(event_id=first.id).how
        # Not every layout keeps metadata.
        if first.meta():
            assert eventually(lambda: found(correlation_id=correlation) == ["placed"])
            assert found(causation_id=causation) == ["placed"]
        assert found(correlation_id="none") == []
        (other,) = [e for e in kit.read() if e.type == "other"]
        assert found(event_id=[first.id, other.id, str(uuid.uuid4())]) == ["placed", "other"]
        with pytest.raises(ValueError, match="one of"):
            search.find()

    def test_lengths_are_counted_and_the_longest_found(self, kit: Kit) -> None:
        """By category where names have one, since a node may hold other tests' streams; from a list
        of streams, or from the events.
        """
        lengths = kit.store.lengths
        if lengths is None:
            return
        category = f"c{uuid.uuid4().hex}"
        wanted = EventFilter(category=category) if kit.text_ids else EventFilter()
        long, short, middle = kit.stream(category), kit.stream(category), kit.stream(category)
        for stream, types in ((long, "abcde"), (short, "ab"), (middle, "xyz")):
            kit.store.append(stream, kit.events(*types))
        if kit.text_ids:
            kit.store.append(kit.stream("other"), kit.events(*"abcdef"))

        def counted(of_events: bool) -> bool:
            counts = lengths.counts(wanted, counted=of_events).counts
            return sorted((each.length, each.streams) for each in counts) == [
                (2, 1),
                (3, 1),
                (5, 1),
            ]

        for of_events in (False, True):
            assert eventually(partial(counted, of_events))
            assert lengths.counts(wanted, counted=of_events).how
            longest = lengths.longest(5, wanted, counted=of_events)
            assert [info.name for info in longest] == [long, middle, short]
            assert not kit.text_ids or {info.category for info in longest} == {category}
        began = datetime.now(UTC) - timedelta(hours=1)
        longest = lengths.longest(2, wanted, since=began)
        ends = [(info.name, info.length, info.last_version) for info in longest]
        assert ends == [(long, 5, kit.after(5)), (middle, 3, kit.after(3))]
        assert [info.name for info in lengths.longest(9, wanted, over=4)] == [long]
        # Growth needs the times of events, which not every store has.
        if longest[0].first_at is not None:
            assert longest[0].recent == 5
            grown = [(info.name, recent) for info, recent in lengths.grown(began, 2, wanted)]
            assert sorted(grown) == sorted([(long, 5), (middle, 3)])
            assert list(lengths.grown(datetime.now(UTC) + timedelta(hours=1), 0, wanted)) == []
            months = lengths.monthly(wanted)
            assert sum(each.events for each in months) == 10
            assert {each.month for each in months} <= {
                f"{at:%Y-%m}" for at in (began, datetime.now(UTC))
            }
            assert not kit.text_ids or {each.category for each in months} == {category}
        assert lengths.sample(10, wanted) is None, "so few are counted"

    def test_stream_info_counts_what_is_there(self, kit: Kit) -> None:
        """Streams are listed by name."""
        category = f"c{uuid.uuid4().hex}"
        first, second = sorted([kit.stream(category), kit.stream(category)])
        kit.store.append(first, kit.events("a", "b", "c"))
        kit.store.append(second, kit.events("a"))
        info = kit.store.stream_info(first)
        assert info is not None
        assert (info.name, info.length, info.first_version, info.last_version) == (
            first,
            3,
            kit.after(1),
            kit.after(3),
        )
        assert not info.archived
        assert info.first_at is None or info.last_at is None or info.first_at <= info.last_at
        mine = EventFilter(category=category if kit.text_ids else None)
        assert eventually(
            lambda: (
                [s.name for s in kit.store.streams(mine) if s.name in kit.streams]
                == [first, second]
            )
        )
        if kit.text_ids:
            assert [s.name for s in kit.store.streams(mine, limit=1)] == [first]
        assert kit.store.stream_info(kit.stream()) is None

    def test_follow_goes_on_as_events_come_and_loses_none(self, kit: Kit) -> None:
        """With a writer of its own connection beside it."""
        kit.store.append(kit.stream(), kit.events("first"))
        seen: list[str] = []
        stop = threading.Event()

        def write() -> None:
            # A connection of its own, as the application has one.
            with open_store("writer", kit.settings) as other:
                for n in range(20):
                    other.append(kit.stream(), kit.events(f"n{n}"))
                    time.sleep(0.01)

        writer = threading.Thread(target=write)
        writer.start()
        deadline = time.monotonic() + 2 * PATIENCE
        last: Position | None = None
        for batch in kit.store.follow(
            kit.begin, stop=lambda: stop.is_set() or time.monotonic() > deadline
        ):
            seen += [e.type for e in batch.events if e.stream in kit.streams]
            assert last is None or (batch.position is not None and batch.position >= last)
            last = batch.position
            if len(seen) == 21:
                stop.set()
        writer.join()
        assert seen == ["first", *(f"n{n}" for n in range(20))]

    def test_a_read_left_in_the_middle_does_not_break_the_next(self, kit: Kit) -> None:
        """A reader that stops early leaves nothing behind."""
        kit.store.append(kit.stream(), kit.events(*"abcdef"))
        reader = iter(kit.store.read_all(kit.begin))
        next(reader)
        # Not closed: that is how a reader ends whose loop was left by `break`.
        del reader
        assert len(kit.read()) == 6

    def test_memory_stays_flat_over_large_payloads(self, kit: Kit) -> None:
        """No batch holds more than some megabytes."""
        stream = kit.stream()
        for _ in range(12):
            kit.store.append(stream, kit.events("big", text="x" * 1_000_000))
        sizes = [sum(len(e.data) for e in batch.events) for batch in kit.store.read_all(kit.begin)]
        assert sum(sizes) > 12_000_000
        # Half of all that was written: a store that reads everything at once is over it.
        assert max(sizes) < 6_000_000
